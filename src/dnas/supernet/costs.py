"""Costs of each operation of a supernet, for cost penalties on architectures."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dnas.space.darts import Space, reduction_layers
from dnas.space.primitives import (
    PRIMITIVES,
    AvgPool,
    Chain,
    Conv,
    FactorizedReduce,
    Identity,
    MaxPool,
    Noise,
    Norm,
    Primitive,
    ReLU,
    Zero,
)


def resources(space: Space, operations: tuple[str, ...], layers: int, channels: int, image_size: int) -> Tensor:
    """Return the parameters, multiply-accumulates and memory accesses [L, E, O, 3] of each operation on each edge of
    a network of this width."""
    return _resources(space, tuple(PRIMITIVES[name] for name in operations), layers, channels, image_size)


@cache
def _resources(space: Space, operations: tuple[Primitive, ...], layers: int, channels: int, image_size: int) -> Tensor:
    rows, size, width = [], image_size, channels
    for k in range(layers):
        reduction = k in reduction_layers(layers)
        width, outer = width * (2 if reduction else 1), size
        size = -(-size // 2) if reduction else size
        for _, source in space.edges:
            outside = source < 2
            stride, pixels = (2, outer) if reduction and outside else (1, size)
            rows.append([_used(each.chain(width, stride), width, pixels) for each in operations])
    return torch.tensor(rows, dtype=torch.float64).view(layers, len(space.edges), len(operations), 3)


def _used(chain: Chain, channels: int, size: int) -> tuple[int, int, int]:
    """Return parameters, multiply-accumulates, and memory accesses (weights, inputs and outputs) of an operation.

    Counted as by the authors of SNAS: convolutions, pooling and the identity, without batch norms and activations.
    Layers of other packages report their own numbers.
    """
    params = flops = accesses = 0
    height = width = size
    for layer in chain:
        before = height * width
        height, width = layer.out_size(height, width)
        after = height * width
        match layer:
            case Conv() | FactorizedReduce():
                weights = layer.macs(1, 1)
                params += weights
                flops += layer.macs(height, width)
                # A factorized reduction consists of two convolutions, which both read all inputs.
                times = 2 if isinstance(layer, FactorizedReduce) else 1
                accesses += weights + times * layer.inputs * before + layer.outputs * after
                channels = layer.outputs
            case MaxPool() | AvgPool():
                flops += 9 * channels * after
                accesses += channels * (before + after)
            case Identity():
                accesses += channels * (before + after)
            case ReLU() | Norm() | Zero() | Noise():
                pass
            case _:
                params += layer.params()
                flops += layer.macs(height, width)
                accesses += layer.params() + channels * (before + after)
    return params, flops, accesses

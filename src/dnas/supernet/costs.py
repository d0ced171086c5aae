"""Costs of each operation of a supernet, for cost penalties on architectures."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from dnas.space.plan import plan
from dnas.space.primitives import (
    PRIMITIVES,
    AvgPool,
    Branches,
    Chain,
    Conv,
    FactorizedReduce,
    HardSwish,
    Identity,
    MaxPool,
    Noise,
    Norm,
    Primitive,
    ReLU,
    ReLU6,
    Zero,
    chain_cost,
)
from dnas.space.protocol import SearchSpace, reduction_layers
from dnas.space.sampling import sample


def resources(space: SearchSpace, operations: tuple[str, ...], layers: int, channels: int, image_size: int) -> Tensor:
    """Return the parameters, multiply-accumulates and memory accesses [L, E, O, 3] of each operation on each edge of
    a network of this width."""
    return _resources(space, operations, tuple(map(PRIMITIVES.get, operations)), layers, channels, image_size)


@cache
def _resources(
    space: SearchSpace,
    operations: tuple[str, ...],
    registered: tuple[Primitive | None, ...],  # so that the cache is not used if a name is registered again
    layers: int,
    channels: int,
    image_size: int,
) -> Tensor:
    layout = plan(sample(space, np.random.default_rng(0), layers), channels=channels, classes=2)
    rows, size, previous = [], image_size, layout.stem.width
    for k, layer in enumerate(layout.layers):
        reduction, outer = k in reduction_layers(layers), size
        size = -(-size // 2) if reduction else size
        for e in range(len(space.edges)):
            for name in operations:
                used = np.zeros(3, np.int64)
                for chain in space.operation_chains(name, e, layer, previous, reduction):
                    used += _used(chain, layer.channels, outer if chain_cost(chain, outer)[1] == size else size)
                rows.append(used.tolist())
        previous = layer.outputs
    return torch.tensor(rows, dtype=torch.float64).view(layers, len(space.edges), len(operations), 3)


def _used(chain: Chain, channels: int, size: int) -> tuple[int, int, int]:
    """Return parameters, multiply-accumulates, and memory accesses (weights, inputs and outputs) of an operation.

    Counted as by the authors of SNAS: convolutions, pooling and the identity, without batch norms and activations.
    Layers of other packages report their own numbers.
    """
    params = flops = accesses = 0
    height = width = size
    for layer in chain:
        side, before = height, height * width
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
            case Branches():
                within = np.sum([_used(part, inputs, side) for part, inputs in layer.parts], 0)
                params, flops, accesses = np.add((params, flops, accesses), within).tolist()
                channels = layer.outputs
            case ReLU() | ReLU6() | HardSwish() | Norm() | Zero() | Noise():
                pass
            case _:
                params += layer.params()
                flops += layer.macs(height, width)
                accesses += layer.params() + channels * (before + after)
    return params, flops, accesses

"""What each operation of a supernet would use, for prices on architectures."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dnas.space.darts import Space, reduction_layers
from dnas.space.primitives import PRIMITIVES, AvgPool, Chain, Conv, FactorizedReduce, Identity, MaxPool


@cache
def resources(space: Space, operations: tuple[str, ...], layers: int, channels: int, image_size: int) -> Tensor:
    """[L, E, O, 3]: what each operation uses on each edge of a network of this width: parameters,
    multiply-accumulates and memory accesses."""
    rows, size, width = [], image_size, channels
    for k in range(layers):
        reduction = k in reduction_layers(layers)
        width, outer = width * (2 if reduction else 1), size
        size = -(-size // 2) if reduction else size
        for _, source in space.edges:
            outside = source < 2
            stride, pixels = (2, outer) if reduction and outside else (1, size)
            rows.append([_used(PRIMITIVES[name].chain(width, stride), width, pixels) for name in operations])
    return torch.tensor(rows, dtype=torch.float64).view(layers, len(space.edges), len(operations), 3)


def _used(chain: Chain, channels: int, size: int) -> tuple[int, int, int]:
    """Parameters, multiply-accumulates, and memory accesses (weights, inputs and outputs) of an operation.

    As the authors of SNAS count them: convolutions, pools and the identity, without batch norms and activations.
    """
    params = flops = accesses = 0
    height = width = size
    for layer in chain:
        read = channels * height * width
        height, width = layer.out_size(height, width)
        written = channels * height * width
        match layer:
            case Conv() | FactorizedReduce():
                params += layer.macs(1, 1)
                flops += layer.macs(height, width)
                # A factorised reduction is two convolutions, which both read all inputs.
                read *= 2 if isinstance(layer, FactorizedReduce) else 1
                accesses += layer.macs(1, 1) + read + written
            case MaxPool() | AvgPool():
                flops += 9 * written
                accesses += read + written
            case Identity():
                accesses += read + written
    return params, flops, accesses

"""A supernet as numbers: what the native kernels are told of its layers, and what they keep for the way back."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dnas.kernels.structures import Separable, Source
from dnas.network.modules import FactorizedReduceModule

if TYPE_CHECKING:
    from dnas.supernet.supernet import SupernetCell


POOLS = ("max_pool_3x3", "avg_pool_3x3")  # in the order of limits.Pool


# --- what of a cell does not change --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceLayout:
    """One source: its candidates, and its structures but for the addresses of a call."""

    wide: int  # targets · c
    first: int  # the first of its targets; the others follow
    stages: list[list[tuple[nn.Conv2d, nn.Conv2d]]]  # depthwise and pointwise, of every separable candidate
    reduction: tuple[int, FactorizedReduceModule] | None  # and its column
    source: Source
    separables: ctypes.Array[Separable]


@dataclass(frozen=True)
class Layout:
    cell: SupernetCell
    channels: int
    edges: list[int]  # of each node the first
    sources: list[SourceLayout]
    weights: list[nn.Parameter]
    shapes: list[torch.Size]
    owners: list[tuple[nn.Module, str]]

    def holds(self) -> bool:
        """Whether the cell's weights are still those, as large, and contiguous."""
        return all(
            owner._parameters[name] is weight and weight.shape == shape and weight.is_contiguous()
            for (owner, name), weight, shape in zip(self.owners, self.weights, self.shapes, strict=True)
        )


# --- what a layer computed -----------------------------------------------------------------------------------------


@dataclass
class Kept:
    """What one source keeps for its backward pass."""

    moments: Tensor  # float64: of every candidate [2, 1 + c, M], then of the pools [2, 2, c]
    features: Tensor | None  # of every stage of every candidate [B, H', pitch], then the pools [B, 3, H', pitch]
    alive: Tensor | None
    scale: float


@dataclass
class Layer:
    """What one cell computed, for its backward pass."""

    layout: Layout
    inputs: tuple[Tensor, Tensor]
    entering: tuple[Tensor, Tensor]  # its first two states
    inverses: tuple[Tensor, Tensor]
    out: Tensor
    sources: list[Kept]

    def state(self, s: int) -> tuple[Tensor, int, int]:
        """The tensor that holds a state, the address of its first channel, and the numbers from pixel to pixel."""
        if s < 2:
            return self.entering[s], self.entering[s].data_ptr(), self.layout.channels
        return (
            self.out,
            self.out.data_ptr() + (s - 2) * self.layout.channels * self.out.element_size(),
            self.out.shape[3],
        )

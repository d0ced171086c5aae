"""Layout of a supernet for native kernels: sizes and weights of its cells, and results kept for the backward pass."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dnas.kernels import limits
from dnas.kernels.structures import Separable, Source

POOLS = ("max_pool_3x3", "avg_pool_3x3")  # in the order of limits.Pool


# --- constant properties of a cell ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StageLayout:
    """[ReLU, depthwise, 1×1, batch norm]: steps of the depthwise convolution, and both weights, [targets · c, …]."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    deep: Tensor
    point: Tensor


@dataclass(frozen=True, eq=False)
class SeparableLayout:
    """A candidate with depthwise convolutions; `column` is its position among the operations."""

    column: int
    stages: list[StageLayout]


@dataclass(frozen=True, eq=False)
class SourceLayout:
    """The operations that read one state of a cell.

    Attributes:
        channels: Channels c of an edge.
        first, targets: Target nodes of its operations: `targets` nodes from `first` on.
        stride: Stride of its operations.
        operations: Number of candidates per edge.
        separables: Candidates with depthwise convolutions.
        reductions: Column, even and odd weight of factorized reductions.
        pools: Columns of pools, by name.
        identity: Column of the identity, or -1.
        others: All other candidates.
    """

    channels: int
    first: int
    targets: int
    stride: int
    operations: int
    separables: list[SeparableLayout]
    reductions: list[tuple[int, Tensor, Tensor]]
    pools: dict[str, int]
    identity: int
    others: tuple[str, ...] = ()

    @property
    def wide(self) -> int:
        """Number of channels of all targets together."""
        return self.targets * self.channels

    @cached_property
    def structures(self) -> tuple[Source, ctypes.Array[Separable]]:
        """Structures without the addresses of a call."""
        count = len(self.separables)
        source = Source(targets=self.targets, stride=self.stride, count=count, operations=self.operations)
        for k, name in enumerate(POOLS):
            source.pools[k] = self.pools.get(name, -1)
        source.identity = self.identity
        firsts = [(each, each.stages[0]) for each in self.separables]
        separables = (Separable * count)(
            *(Separable(stage.kernel[0], stage.dilation[0], len(each.stages), each.column) for each, stage in firsts)
        )
        return source, separables

    def covered(self) -> bool:
        """Return True if it is within the bounds of the C code."""
        return (
            not self.others
            and len(self.separables) <= limits.SEPARABLES
            and len(self.reductions) <= 1
            and self.pools.keys() <= {*POOLS}
            and self.stride in (1, 2)
            and all(map(self._stages_covered, self.separables))
        )

    def _stages_covered(self, separable: SeparableLayout) -> bool:
        """Return True if both stages only differ in the stride, as assumed by the C code."""
        alike = None
        for n, stage in enumerate(separable.stages):
            if not limits.depthwise(stage.kernel, stage.stride, stage.dilation):
                return False
            if stage.stride[0] != (1 if n else self.stride) or alike not in (None, (stage.kernel, stage.dilation)):
                return False
            if stage.deep.shape != (self.wide, 1, *stage.kernel):
                return False
            if stage.point.shape != (self.wide, self.channels, 1, 1):
                return False
            alike = stage.kernel, stage.dilation
        return 1 <= len(separable.stages) <= limits.STAGES


@dataclass(frozen=True, eq=False)
class PreprocessLayout:
    """Preprocessing of an input: one weight [outputs, inputs, 1, 1], or those of the even and the odd grid."""

    weights: tuple[Tensor, ...]

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return self.weights[0].shape[1]

    @property
    def halves(self) -> bool:
        """Return True if it halves the resolution."""
        return len(self.weights) == 2

    @property
    def outputs(self) -> int | None:
        """Number of output channels; None if it is not a 1×1 convolution or two of them on one input."""
        alike = all(w.shape[1:] == (self.inputs, 1, 1) for w in self.weights)
        return sum(map(len, self.weights)) if alike else None


@dataclass(frozen=True, eq=False)
class CellLayout:
    """A cell of a supernet.

    Attributes:
        active: Channels c of an edge.
        partial: K; a state has K · c channels.
        nodes: Number of nodes.
        reduction: Whether it halves the resolution.
        leaving: Edges that leave each state, in node order.
        edges: First edge of each node.
        sources: Operations that read each state.
        preprocess: Preprocessing of both inputs.
        weights: All weights, in the order of the module's parameters.
    """

    active: int
    partial: int
    nodes: int
    reduction: bool
    leaving: list[list[int]]
    edges: list[int]
    sources: list[SourceLayout]
    preprocess: tuple[PreprocessLayout, PreprocessLayout]
    weights: list[nn.Parameter]

    @property
    def channels(self) -> int:
        """Number of channels of a state."""
        return self.active * self.partial

    @property
    def width(self) -> tuple[int, int]:
        """Width for which its C files are compiled."""
        return self.active, self.partial

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the weights when they were first read."""
        return [weight.shape for weight in self.weights]

    def covered(self) -> bool:
        """Return True if it is within the bounds of the C code."""
        narrow = self.active <= limits.CHANNELS and not self.active & (self.active - 1)
        return (
            narrow
            and self.partial <= limits.GROUPS
            and len(self.leaving) <= limits.STATES
            and all(source.covered() for source in self.sources)
            and all(each.outputs == self.channels for each in self.preprocess)
        )


class SupernetLayout:
    """All cells of a supernet."""

    def __init__(self, cells: Sequence[CellLayout]) -> None:
        self.cells = list(cells)

    @cached_property
    def covered(self) -> bool:
        """Return True if all cells are within the bounds of the C code, and inputs match the outputs before them."""
        before, previous = (each.inputs for each in self.cells[0].preprocess)
        for cell in self.cells:
            if not cell.covered() or [each.inputs for each in cell.preprocess] != [before, previous]:
                return False
            before, previous = previous, cell.nodes * cell.channels
        return True

    def holds(self) -> bool:
        """Return True if the weights still have the same shapes, and are contiguous."""
        return all(
            weight.shape == shape and weight.is_contiguous()
            for cell in self.cells
            for weight, shape in zip(cell.weights, cell.shapes, strict=True)
        )


# --- results of a layer --------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """Results that one source keeps for its backward pass."""

    moments: Tensor  # float64: of each candidate [2, 1 + c, M], then of the pools [2, 2, c]
    features: Tensor | None  # of each stage of each candidate [B, H', pitch], then the pools [B, 3, H', pitch]
    alive: Tensor | None
    scale: float


@dataclass
class Layer:
    """Results of one cell, for its backward pass."""

    layout: CellLayout
    inputs: tuple[Tensor, Tensor]
    entering: tuple[Tensor, Tensor]  # its first two states
    inverses: tuple[Tensor, Tensor]
    out: Tensor
    sources: list[Kept]

    def state(self, s: int) -> tuple[Tensor, int, int]:
        """Return the tensor that contains a state, the address of its first channel, and the stride between pixels."""
        if s < 2:
            return self.entering[s], self.entering[s].data_ptr(), self.layout.channels
        return (
            self.out,
            self.out.data_ptr() + (s - 2) * self.layout.channels * self.out.element_size(),
            self.out.shape[3],
        )

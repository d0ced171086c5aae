"""Plan of a discrete network as data: every chain of layers with its widths, without any tensor.

`network.py` builds the planned network and `size` counts it, so the two cannot disagree, and `dnas show` does not
need to import torch. The networks are those of DARTS (Liu et al. 2019, §3.1–3.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dnas.errors import InputError, SettingError, unknown
from dnas.settings import CHANNELS, CIFAR_STEM, HALVING_STEM, IMAGENET_STEM, TINY_IMAGENET_STEM
from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.primitives import (
    PRIMITIVES,
    Chain,
    Conv,
    Cost,
    FactorizedReduce,
    Norm,
    ReLU,
    chain_cost,
    relu_conv_norm,
)

AUXILIARY_HIDDEN = 128
AUXILIARY_FEATURES = 768


@dataclass(frozen=True)
class Stem:
    """The layers before the cells: the chains that compute states 0 and 1 of the first cell.

    If `second` is empty, both states are the output of `first`, as for CIFAR. Otherwise `second` reads the output of
    `first`, and state 0 of the first cell has twice the resolution, as in the ImageNet networks.
    """

    first: Chain
    second: Chain = ()

    @property
    def width(self) -> int:
        """Number of channels of both states."""
        last = self.first[-1]
        assert isinstance(last, Norm)
        return last.channels


def _stem_cifar(stride: int) -> Callable[[int, int], Stem]:
    def stem(inputs: int, channels: int) -> Stem:
        return Stem((Conv(inputs, 3 * channels, (3, 3), (stride, stride)), Norm(3 * channels)))

    return stem


def _stem_imagenet(stride: int) -> Callable[[int, int], Stem]:
    def stem(inputs: int, channels: int) -> Stem:
        half = channels // 2
        return Stem(
            (
                Conv(inputs, half, (3, 3), (stride, stride)),
                Norm(half),
                ReLU(),
                Conv(half, channels, (3, 3), (stride, stride)),
                Norm(channels),
            ),
            (ReLU(), Conv(channels, channels, (3, 3), (2, 2)), Norm(channels)),
        )

    return stem


# cifar: the first cell has the full resolution. halving: the same with stride 2, so 32 → 16. imagenet: 224 → 28.
# tiny-imagenet: the protocol of NASP for 64 pixels, which is the ImageNet stem without its first two strides: 64 → 32
# (cells at 32, 16 and 8 pixels).
STEMS: dict[str, Callable[[int, int], Stem]] = {
    CIFAR_STEM: _stem_cifar(1),
    HALVING_STEM: _stem_cifar(2),
    TINY_IMAGENET_STEM: _stem_imagenet(1),
    IMAGENET_STEM: _stem_imagenet(2),
}


@dataclass(frozen=True)
class Shape:
    """Parameters that determine the size of a network, apart from its architecture.

    The defaults are those for CIFAR-10 in the literature.

    Attributes:
        channels: Initial channels (width of the first cells).
        classes: Number of classes.
        image_size, image_channels: Side length in pixels, and number of channels, of an image.
        stem: As in `TrainSettings`.
        width: Channel multiplier of a reference network.
        final_norm: As in `TrainSettings`.
    """

    channels: int = CHANNELS
    classes: int = 10
    image_size: int = 32
    image_channels: int = 3
    stem: str = CIFAR_STEM
    width: float = 1.0
    final_norm: bool = False


@dataclass(frozen=True)
class EdgePlan:
    """One operation of a cell, which reads state `source` and adds its output to state `target`."""

    source: int
    target: int
    chain: Chain


@dataclass(frozen=True)
class CellPlan:
    """One layer: both preprocessing chains, its edges in node order, and the concatenated states."""

    preprocess: tuple[Chain, Chain]
    edges: tuple[EdgePlan, ...]
    concat: tuple[int, ...]
    channels: int

    @property
    def outputs(self) -> int:
        return self.channels * len(self.concat)


@dataclass(frozen=True)
class NetworkPlan:
    """The whole network. The auxiliary head reads the output of layer `auxiliary_after`."""

    stem: Stem
    cells: tuple[CellPlan, ...]
    auxiliary: Chain
    auxiliary_after: int
    features: int
    classes: int


def plan(
    architecture: Architecture,
    *,
    channels: int,
    classes: int,
    inputs: int = 3,
    stem: str = CIFAR_STEM,
) -> NetworkPlan:
    """Plan the network of an architecture.

    Args:
        channels: Initial channels C, doubled at each reduction.
        classes: Number of outputs.
        inputs: Channels of an image.
        stem: A key of `STEMS`.

    Raises:
        InputError: A width cannot be built.
    """
    check_channels(channels)
    if classes < 2:
        raise InputError(f"classes must be at least 2, got {classes}")
    if stem not in STEMS:
        raise unknown("stem", "stem", stem, STEMS)
    head = STEMS[stem](inputs, channels)
    before, previous, width, shrunk = head.width, head.width, channels, bool(head.second)
    cells = []
    for k, gene in enumerate(architecture.layers):
        reduction = k in architecture.reductions
        width *= 2 if reduction else 1
        cell = cell_plan(gene, before, previous, width, reduction, shrunk)
        cells.append(cell)
        before, previous, shrunk = previous, cell.outputs, reduction
    # After the second reduction, as in DARTS, or after the last layer if there is none.
    after = architecture.reductions[-1] if architecture.reductions else len(cells) - 1
    auxiliary: Chain = (
        Conv(cells[after].outputs, AUXILIARY_HIDDEN),
        Norm(AUXILIARY_HIDDEN),
        ReLU(),
        Conv(AUXILIARY_HIDDEN, AUXILIARY_FEATURES, (2, 2), padded=False),
        # The ImageNet head of DARTS has no batch norm here: an oversight that its authors kept for comparability.
        *(() if stem == IMAGENET_STEM else (Norm(AUXILIARY_FEATURES),)),
        ReLU(),
    )
    return NetworkPlan(head, tuple(cells), auxiliary, after, previous, classes)


def check_channels(channels: int, key: str = "channels") -> None:
    """Raise SettingError for a width that cannot be built: it must be even, since a reduction halves it.

    Args:
        key: The dotted name of the setting.
    """
    if channels < 2 or channels % 2:
        raise SettingError(key, "--channels", f" must be even and at least 2, got {channels}: a reduction halves it")


def cell_plan(gene: Cell, before: int, previous: int, width: int, reduction: bool, shrunk: bool) -> CellPlan:
    """Plan a layer that reads `before` and `previous` channels; `shrunk`: the previous layer is a reduction."""
    live = gene.live_states
    edges = tuple(
        EdgePlan(source, 2 + n, PRIMITIVES[op].chain(width, 2 if reduction and source < 2 else 1))
        for n, node in enumerate(gene.nodes)
        for op, source in node
        if source in live
    )
    return CellPlan(preprocess(before, previous, width, shrunk), edges, gene.concat, width)


def preprocess(before: int, previous: int, width: int, shrunk: bool) -> tuple[Chain, Chain]:
    """Return the chains that bring the outputs of the two previous layers to the cell's width and resolution."""
    first: Chain = (FactorizedReduce(before, width),) if shrunk else relu_conv_norm(before, width)
    return first, relu_conv_norm(previous, width)


@dataclass(frozen=True)
class Size:
    """Costs of a network: parameters, and multiply-accumulates (MACs) per image at inference."""

    params: int
    params_with_auxiliary: int
    macs: int


def size(network: NetworkPlan, image_size: int) -> Size:
    """Count the parameters and MACs of a planned network on `image_size`×`image_size` images.

    As in the literature, `params` does not include the auxiliary head (it is dropped after training), and only
    convolutions and the classifier count as MACs.
    """
    total, pixels_before = chain_cost(network.stem.first, image_size)
    pixels = pixels_before
    if network.stem.second:
        cost, pixels = chain_cost(network.stem.second, pixels_before)
        total += cost
    for cell in network.cells:
        sizes = {}
        for state, (chain, incoming) in enumerate(zip(cell.preprocess, (pixels_before, pixels), strict=True)):
            cost, sizes[state] = chain_cost(chain, incoming)
            total += cost
        for edge in cell.edges:
            cost, sizes[edge.target] = chain_cost(edge.chain, sizes[edge.source])
            total += cost
        pixels_before, pixels = pixels, sizes[cell.concat[0]]
    classifier = Cost((network.features + 1) * network.classes, network.features * network.classes)
    total += classifier
    auxiliary = chain_cost(network.auxiliary, 2)[0].params + (AUXILIARY_FEATURES + 1) * network.classes
    return Size(total.params, total.params + auxiliary, total.macs)


def check_width(channels: int, partial: int) -> None:
    """Raise InputError, with suitable widths, unless K divides C and C/K is even."""
    if partial < 1:
        raise InputError(f"partial_channels must be at least 1, got {partial}")
    if channels < 2 or channels % (2 * partial):
        step = 2 * partial
        near = sorted({max(step, channels // step * step), (channels // step + 1) * step})
        raise SettingError(
            "search.channels",
            "--channels",
            f" {channels} cannot be used with partial_channels={partial}, which requires a multiple of {step}; try "
            f"{' or '.join(map(str, near))}",
        )

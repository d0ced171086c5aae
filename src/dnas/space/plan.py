"""The discrete network as data: every chain of layers with its widths, before any tensor exists.

`network.py` builds what is planned here and `size` counts it, so the two cannot disagree, and
`dnas show` answers without importing torch. The networks are those of DARTS (Liu et al. 2019, §3.1-3.3).
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
    """What precedes the cells: the chains that give states 0 and 1 of the first cell.

    With `second` empty both states are the output of `first`, as for CIFAR; else `second` reads `first`
    and the first cell treats state 0 as twice the size, as the ImageNet networks do.
    """

    first: Chain
    second: Chain = ()

    @property
    def width(self) -> int:
        """Channels of both states."""
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


# cifar: full resolution into the first cell. halving: the same with stride 2, so 32 → 16. imagenet: 224 → 28.
# tiny-imagenet: NASP's protocol for 64 pixels, the ImageNet stem without its first two strides: 64 → 32 (methods: cells
# at 32, 16 and 8 pixels).
STEMS: dict[str, Callable[[int, int], Stem]] = {
    CIFAR_STEM: _stem_cifar(1),
    HALVING_STEM: _stem_cifar(2),
    TINY_IMAGENET_STEM: _stem_imagenet(1),
    IMAGENET_STEM: _stem_imagenet(2),
}


@dataclass(frozen=True)
class Shape:
    """What the size of a network depends on besides its architecture. Defaults are those of CIFAR-10 in the literature.

    Attributes:
        channels: Width of the first cells.
        classes: Classes of the classifier.
        image_size, image_channels: Pixels of a side, and channels, of an image.
        stem: As of `TrainSettings`.
        width: What the channels of a hand-made network are multiplied by.
        final_norm: As of `TrainSettings`.
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
    """One operation of a cell: reads state `source`, adds to state `target`."""

    source: int
    target: int
    chain: Chain


@dataclass(frozen=True)
class CellPlan:
    """One layer: both preprocessing chains, its edges in node order, and what it concatenates."""

    preprocess: tuple[Chain, Chain]
    edges: tuple[EdgePlan, ...]
    concat: tuple[int, ...]
    channels: int

    @property
    def outputs(self) -> int:
        return self.channels * len(self.concat)


@dataclass(frozen=True)
class NetworkPlan:
    """The whole network. The auxiliary head hangs on the output of layer `auxiliary_after`."""

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
    """Lay out the network of an architecture.

    Args:
        channels: Width C of the first cells; it doubles at each reduction.
        classes: Size of the output.
        inputs: Channels of an image.
        stem: A key of `STEMS`.

    Raises:
        InputError: A width that cannot be built.
    """
    check_channels(channels)
    if classes < 2:
        raise InputError(f"classes is {classes}; a classifier needs at least 2")
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
    # The second reduction, as DARTS has it; the last layer where there is none.
    after = architecture.reductions[-1] if architecture.reductions else len(cells) - 1
    auxiliary: Chain = (
        Conv(cells[after].outputs, AUXILIARY_HIDDEN),
        Norm(AUXILIARY_HIDDEN),
        ReLU(),
        Conv(AUXILIARY_HIDDEN, AUXILIARY_FEATURES, (2, 2), padded=False),
        # DARTS' ImageNet head has no norm here, by an oversight that its authors kept for comparability.
        *(() if stem == IMAGENET_STEM else (Norm(AUXILIARY_FEATURES),)),
        ReLU(),
    )
    return NetworkPlan(head, tuple(cells), auxiliary, after, previous, classes)


def check_channels(channels: int, key: str = "channels") -> None:
    """Raises SettingError for a width that cannot be built: a reduction halves it.

    Args:
        key: The dotted name of the setting.
    """
    if channels < 2 or channels % 2:
        raise SettingError(key, "--channels", f" must be even and at least 2, got {channels}: a reduction halves it")


def cell_plan(gene: Cell, before: int, previous: int, width: int, reduction: bool, shrunk: bool) -> CellPlan:
    """One layer that reads `before` and `previous` channels; `shrunk`: the previous layer was a reduction."""
    live = gene.live_states
    edges = tuple(
        EdgePlan(source, 2 + n, PRIMITIVES[op].chain(width, 2 if reduction and source < 2 else 1))
        for n, node in enumerate(gene.nodes)
        for op, source in node
        if source in live
    )
    return CellPlan(preprocess(before, previous, width, shrunk), edges, gene.concat, width)


def preprocess(before: int, previous: int, width: int, shrunk: bool) -> tuple[Chain, Chain]:
    """How a cell brings the outputs of the two previous layers to its width, and to one resolution."""
    first: Chain = (FactorizedReduce(before, width),) if shrunk else relu_conv_norm(before, width)
    return first, relu_conv_norm(previous, width)


@dataclass(frozen=True)
class Size:
    """What a network costs: parameters, and multiply-accumulates of one image at inference."""

    params: int
    params_with_auxiliary: int
    macs: int


def size(network: NetworkPlan, image_size: int) -> Size:
    """Count a planned network on `image_size`×`image_size` images.

    As in the literature, the auxiliary head is not part of `params` (it is dropped after training), and
    multiply-accumulates are those of convolutions and of the classifier.
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
    """Raises InputError unless K divides C and C/K is even, naming widths that would do."""
    if partial < 1:
        raise InputError(f"partial_channels is {partial}; K must be at least 1")
    if channels < 2 or channels % (2 * partial):
        step = 2 * partial
        near = sorted({max(step, channels // step * step), (channels // step + 1) * step})
        raise SettingError(
            "search.channels",
            "--channels",
            f" {channels} cannot be used with partial_channels={partial}, which requires a multiple of {step}; try "
            f"{' or '.join(map(str, near))}",
        )

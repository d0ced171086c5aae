"""Plan of the layers of a network of cells (Liu et al. 2019, §3.1–3.3), and of the stem before them."""

from __future__ import annotations

from collections.abc import Callable

from dnas.settings import CIFAR_STEM, HALVING_STEM, IMAGENET_STEM, TINY_IMAGENET_STEM
from dnas.space.darts_cell import Cell
from dnas.space.network_plan import EdgePlan, LayerPlan, Stem
from dnas.space.primitives import PRIMITIVES, Chain, Conv, FactorizedReduce, Identity, Norm, ReLU, relu_conv_norm


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


def cell_plan(gene: Cell, before: int, previous: int, width: int, reduction: bool, shrunk: bool) -> LayerPlan:
    """Plan a layer that reads `before` and `previous` channels; `shrunk`: the previous layer is a reduction."""
    live = gene.live_states
    edges = []
    for n, node in enumerate(gene.nodes):
        for op, source in node:
            if source in live:
                chain = PRIMITIVES[op].chain(width, 2 if reduction and source < 2 else 1)
                # DARTS drops paths of all operations except the identity, so that a node never loses all its inputs.
                edges.append(EdgePlan(source, 2 + n, chain, droppable=chain != (Identity(),)))
    return LayerPlan(preprocess(before, previous, width, shrunk), tuple(edges), gene.concat, width)


def preprocess(before: int, previous: int, width: int, shrunk: bool) -> tuple[Chain, Chain]:
    """Return the chains that bring the outputs of the two previous layers to the cell's width and resolution."""
    first: Chain = (FactorizedReduce(before, width),) if shrunk else relu_conv_norm(before, width)
    return first, relu_conv_norm(previous, width)

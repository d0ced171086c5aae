"""Plan of a discrete network as data: every chain of layers with its widths, without any tensor.

`network/` builds a planned network and `size` counts it, so the two cannot disagree, and `dnas show` does not need to
import torch. A layer has states: the outputs of the two layers before it, and sums of its edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dnas.errors import InputError, SettingError
from dnas.settings import CHANNELS, CIFAR_STEM
from dnas.space.primitives import Chain, Cost, FactorizedReduce, Norm, ReLU, chain_cost

AUXILIARY_HIDDEN = 128
AUXILIARY_FEATURES = 768


@dataclass(frozen=True)
class Stem:
    """The chains before the first layer, which compute its states 0 and 1.

    If `second` is empty, both states are the output of `first`, as for CIFAR. Otherwise `second` reads the output of
    `first`, and state 0 of the first layer has twice the resolution, as in the ImageNet networks of DARTS.
    """

    first: Chain
    second: Chain = ()

    @property
    def width(self) -> int:
        """Number of channels of both states."""
        return next(layer.channels for layer in reversed(self.first) if isinstance(layer, Norm))


@dataclass(frozen=True)
class Shape:
    """Parameters that determine the size of a network, apart from its architecture.

    The defaults are those for CIFAR-10 in the literature.

    Attributes:
        channels: Initial channels (width of the first layers).
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
    """One operation of a layer, which reads state `source` and adds its output to state `target`.

    `droppable`: drop path can leave it out in a training step, because something else reaches the output.
    """

    source: int
    target: int
    chain: Chain
    droppable: bool = True


@dataclass(frozen=True)
class LayerPlan:
    """One layer: the chains that read its inputs, its edges in the order of their targets, and the states that are
    concatenated to its output. An empty chain of `preprocess` passes its input on.

    `channels`: the width of its states.
    """

    preprocess: tuple[Chain, Chain]
    edges: tuple[EdgePlan, ...]
    concat: tuple[int, ...]
    channels: int

    @property
    def outputs(self) -> int:
        return self.channels * len(self.concat)

    @property
    def looks_back(self) -> bool:
        """True if it reads the layer before the previous one."""
        return bool(self.preprocess[0]) or any(edge.source == 0 for edge in self.edges)


@dataclass(frozen=True)
class NetworkPlan:
    """The whole network. The auxiliary head reads the output of layer `auxiliary_after`.

    `head`: what is between the last of `layers` and the mean over pixels.
    """

    stem: Stem
    layers: tuple[LayerPlan, ...]
    auxiliary: Chain
    auxiliary_after: int
    features: int
    classes: int
    head: Chain = ()

    @property
    def looks_back(self) -> bool:
        """True if a layer reads the layer before the previous one."""
        return any(layer.looks_back for layer in self.layers)

    def with_chains(self, change: Callable[[Chain], Chain]) -> NetworkPlan:
        """Return a plan whose chains of stem, layers and head are changed; they must keep their shapes."""
        stem = Stem(change(self.stem.first), change(self.stem.second))
        layers = tuple(
            replace(
                layer,
                preprocess=(change(layer.preprocess[0]), change(layer.preprocess[1])),
                edges=tuple(replace(edge, chain=change(edge.chain)) for edge in layer.edges),
            )
            for layer in self.layers
        )
        return replace(self, stem=stem, layers=layers, head=change(self.head))

    @property
    def rectifies(self) -> bool:
        """True if every reader of a layer's output starts with a ReLU, which they can share."""
        chains = [chain for layer in self.layers for chain in layer.preprocess]
        return all(chain and isinstance(chain[0], ReLU | FactorizedReduce) for chain in chains)


def check_channels(channels: int, key: str = "channels") -> None:
    """Raise SettingError for a width that cannot be built: it must be even, since a reduction halves it.

    Args:
        key: The dotted name of the setting.
    """
    if channels < 2 or channels % 2:
        raise SettingError(key, "--channels", f" must be even and at least 2, got {channels}: a reduction halves it")


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
    for layer in network.layers:
        sizes = {}
        for state, (chain, incoming) in enumerate(zip(layer.preprocess, (pixels_before, pixels), strict=True)):
            cost, sizes[state] = chain_cost(chain, incoming)
            total += cost
        for edge in layer.edges:
            cost, sizes[edge.target] = chain_cost(edge.chain, sizes[edge.source])
            total += cost
        pixels_before, pixels = pixels, sizes[layer.concat[0]]
    total += chain_cost(network.head, pixels)[0]
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

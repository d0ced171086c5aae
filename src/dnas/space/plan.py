"""Plan of the network of an architecture of any space."""

from __future__ import annotations

from dnas.errors import InputError, SettingError, unknown
from dnas.settings import CIFAR_STEM, HALVING_STEM, IMAGENET_STEM, STEMS
from dnas.space.architecture import Architecture
from dnas.space.network_plan import AUXILIARY_FEATURES, AUXILIARY_HIDDEN, NetworkPlan, check_channels
from dnas.space.primitives import Chain, Conv, Norm, ReLU
from dnas.space.registry import space_of


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
        channels: Initial channels C, doubled at each reduction; with a layout, all widths are in proportion to them.
        classes: Number of outputs.
        inputs: Channels of an image.
        stem: Name of the layers before the first.

    Raises:
        InputError: A width cannot be built, or the stem cannot be used with a layout.
    """
    check_channels(channels)
    if classes < 2:
        raise InputError(f"classes must be at least 2, got {classes}")
    if stem not in STEMS:
        raise unknown("stem", "stem", stem, STEMS)
    space = space_of(architecture.space)
    layout = None if architecture.layout is None else architecture.layout.at(channels)
    if layout is not None and stem == IMAGENET_STEM:
        text = f" {stem} has three convolutions, but a network with its own widths has one; choose {HALVING_STEM}"
        raise SettingError("stem", "stem", text)
    head = space.stem(stem, inputs, channels)
    before, previous, width, shrunk = head.width, head.width, channels, bool(head.second)
    layers = []
    for k, gene in enumerate(architecture.layers):
        reduction = k in architecture.reductions
        width = layout.widths[k] if layout is not None else 2 * width if reduction else width
        planned = space.layer_plan(gene, before, previous, width, reduction, shrunk)
        layers.append(planned)
        before, previous, shrunk = previous, planned.outputs, reduction
    # After the second reduction, as in DARTS, or after the last layer if there is none.
    after = architecture.reductions[-1] if architecture.reductions else len(layers) - 1
    auxiliary: Chain = (
        Conv(layers[after].outputs, AUXILIARY_HIDDEN),
        Norm(AUXILIARY_HIDDEN),
        ReLU(),
        Conv(AUXILIARY_HIDDEN, AUXILIARY_FEATURES, (2, 2), padded=False),
        # The ImageNet head of DARTS has no batch norm here: an oversight that its authors kept for comparability.
        *(() if stem == IMAGENET_STEM else (Norm(AUXILIARY_FEATURES),)),
        ReLU(),
    )
    ends = () if layout is None else (layout.last, layout.hidden)
    end, features = space.head(previous, *ends), space.features(previous, *ends)
    network = NetworkPlan(head, tuple(layers), auxiliary, after, features, classes, end)
    return network if layout is None else network.with_chains(layout.dressed)

"""Build the network of an architecture, with new weights."""

from __future__ import annotations

from pathlib import Path

from dnas.errors import InputError
from dnas.network import network
from dnas.network.network import Network
from dnas.pipeline.subjects import named
from dnas.settings import CHANNELS, CIFAR_STEM, HALVING_STEM, StemName
from dnas.space.architecture import Architecture


def build(
    architecture: Architecture | str | Path,
    channels: int | None = None,
    num_classes: int = 10,
    *,
    layers: int | None = None,
    inputs: int = 3,
    stem: StemName | None = None,
    auxiliary: bool = False,
    final_norm: bool = False,
    seed: int = 0,
) -> Network:
    """Build the network of an architecture, with new weights: images [B, inputs, H, W] → logits [B, num_classes].

    Args:
        architecture: An `Architecture`, an architecture file, a run folder, or a published name ("DARTS_V2").
        channels: Initial channels. [default: 36; those of an architecture with its own widths]
        num_classes: Number of classes.
        layers: Depth to which a pair of layers is stacked. [default: that of the architecture; 20 for a published pair]
        inputs: Number of image channels.
        stem: "cifar" for images up to 64 pixels, "tiny-imagenet" for 64, "imagenet" for 224. [default: "cifar";
            "halving" for an architecture with its own widths]
        auxiliary: Add the auxiliary head: in training mode the network returns (logits, auxiliary logits).
        final_norm: Normalize the output of the last layer, without parameters.
        seed: Seed of the weights; the global random state is neither read nor changed.

    Raises:
        InputError: There is no such architecture, or a width, depth or number of classes is invalid.
    """
    found = named(architecture, layers)
    if found.architecture is None:
        raise InputError(
            f"{found.handmade} is a reference network without an architecture; to train it, use "
            f"dnas.train({found.handmade!r})"
        )
    layout = found.architecture.layout
    return network.build(
        found.architecture,
        channels or (CHANNELS if layout is None else layout.stem),
        num_classes,
        inputs=inputs,
        stem=stem or (CIFAR_STEM if layout is None else HALVING_STEM),
        auxiliary=auxiliary,
        final_norm=final_norm,
        seed=seed,
    )

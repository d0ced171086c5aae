"""The network of an architecture by its name, with fresh weights."""

from __future__ import annotations

from pathlib import Path

from dnas.errors import InputError
from dnas.network import network
from dnas.network.network import Network
from dnas.pipeline.subjects import named
from dnas.settings import CHANNELS, CIFAR_STEM, StemName
from dnas.space.architecture import Architecture


def build(
    architecture: Architecture | str | Path,
    channels: int = CHANNELS,
    num_classes: int = 10,
    *,
    layers: int | None = None,
    inputs: int = 3,
    stem: StemName = CIFAR_STEM,
    auxiliary: bool = False,
    final_norm: bool = False,
    seed: int = 0,
) -> Network:
    """Build the network of an architecture, with fresh weights: images [B, inputs, H, W] → logits [B, num_classes].

    Args:
        architecture: An `Architecture`, an architecture file, a run folder, or a published name ("DARTS_V2").
        channels: Width of the first cells.
        num_classes: Size of the output.
        layers: Depth at which a pair of cells is stacked. [default: its own; of a published pair 20]
        inputs: Channels of an image.
        stem: "cifar" for images up to 64 pixels, "tiny-imagenet" for 64, "imagenet" for 224.
        auxiliary: Add the auxiliary head: in training mode the network returns (logits, auxiliary logits).
        final_norm: Normalize what the last layer gives, without parameters.
        seed: Of the weights; the global random state is neither read nor changed.

    Raises:
        InputError: No such architecture, or a width, depth or class count that cannot be built.
    """
    found = named(architecture, layers)
    if found.architecture is None:
        raise InputError(
            f"{found.handmade} is a hand-made network and has no architecture to build; dnas.train({found.handmade!r}) "
            "trains it"
        )
    return network.build(
        found.architecture,
        channels,
        num_classes,
        inputs=inputs,
        stem=stem,
        auxiliary=auxiliary,
        final_norm=final_norm,
        seed=seed,
    )

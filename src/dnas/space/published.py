"""Published architectures, with their sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from dnas.errors import InputError, choices
from dnas.space.architecture import Architecture, stack
from dnas.space.darts import DARTS
from dnas.space.genotype import PAPER_LAYERS
from dnas.space.protocol import SearchSpace

# --- published genotypes ----------------------------------------------------------------------------


# Published cells that are candidates of finals: the best known one (DARTS), and a light one.
CANDIDATES = ("DARTS_V2", "PC_DARTS_cifar")


def candidates(space: SearchSpace, layers: int) -> list[tuple[str, Architecture]]:
    """Return the hand-designed or published architectures of a space that are candidates of finals, by name."""
    if space == DARTS:
        return [(name, load_published(name, layers)) for name in CANDIDATES]
    return [(name, stack(layer, layer, layers, space=space.name)) for name, layer in space.designed()]


@cache
def published() -> Mapping[str, Mapping[str, Any]]:
    """Return the published genotypes by name, each with its source."""
    text = resources.files("dnas.space").joinpath("genotypes.json").read_text("utf-8")
    genotypes: dict[str, dict[str, Any]] = json.loads(text)["genotypes"]
    return genotypes


def load_published(name: str, layers: int = PAPER_LAYERS) -> Architecture:
    """Return the published genotype `name`, stacked to `layers` cells. Raises InputError for an unknown name."""
    if name not in published():
        raise InputError(f"unknown published architecture {name!r}{choices(name, published())}")
    entry = published()[name]
    return Architecture.from_darts(
        entry["normal"],
        entry["reduce"],
        layers,
        normal_concat=entry["normal_concat"],
        reduce_concat=entry["reduce_concat"],
        origin={"published": name, "source": entry["source"]},
    )

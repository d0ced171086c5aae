"""Published architectures, with their sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from dnas.errors import InputError, choices
from dnas.space.architecture import Architecture, at_depth
from dnas.space.darts import DARTS
from dnas.space.layout import Layout
from dnas.space.protocol import PAPER_LAYERS, SearchSpace, layer_kinds, reduction_layers
from dnas.space.registry import space_of

# --- published genotypes ----------------------------------------------------------------------------


# Published genotypes that are candidates of finals: the best known one (DARTS), and a light one.
CANDIDATES = ("DARTS_V2", "PC_DARTS_cifar")


def candidates(space: SearchSpace, layers: int) -> list[tuple[str, Architecture]]:
    """Return the hand-designed or published architectures of a space that are candidates of finals, by name."""
    if space == DARTS:
        return [(name, load_published(name, layers)) for name in CANDIDATES]
    designed = space.designed(layer_kinds(layers))
    return [(name, Architecture(genes, reduction_layers(layers), space.name)) for name, genes in designed]


@cache
def published() -> Mapping[str, Mapping[str, Any]]:
    """Return the published genotypes by name, each with its source."""
    text = resources.files("dnas.space").joinpath("genotypes.json").read_text("utf-8")
    genotypes: dict[str, dict[str, Any]] = json.loads(text)["genotypes"]
    return genotypes


@cache
def networks() -> Mapping[str, Mapping[str, Any]]:
    """Return the published chains with their own widths by name, each with its source, parameters and MACs."""
    text = resources.files("dnas.space").joinpath("networks.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)["networks"]
    return found


class Published(Mapping[str, Mapping[str, Any]]):
    """All published architectures by name. `word` and `origin` are as in a `Registry`; packages cannot add any."""

    word = "architecture"

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return published()[name] if name in published() else networks()[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*published(), *networks()])

    def __len__(self) -> int:
        return len(published()) + len(networks())

    def origin(self, name: str) -> str:
        return "dnas"


PUBLISHED = Published()


def _load_network(name: str) -> Architecture:
    """Return a published chain, whose layers are listed stage by stage."""
    entry = networks()[name]
    space = space_of(entry["space"])
    layers: list[Any] = []
    reductions, widths = [], []
    for block, kernel, stride, width, repeats in entry["stages"]:
        if stride == 2:
            reductions.append(len(layers))
        layers += [space.layer_from_json({"block": block, "kernel": kernel}, len(layers))] * repeats
        widths += [width] * repeats
    layout = Layout(entry["stem"], tuple(widths), entry["last"], entry["activation"], entry.get("hidden", 0))
    origin = {"published": name, "source": entry["source"]}
    return Architecture(tuple(layers), tuple(reductions), space.name, origin, layout)


def load_published(name: str, layers: int | None = None) -> Architecture:
    """Return the published architecture `name`: a genotype stacked to `layers` (default: 20), or a whole network.

    Raises InputError for an unknown name, or if a whole network has another depth.
    """
    if name in networks():
        return at_depth(_load_network(name), layers or 0)
    if name not in published():
        raise InputError(f"unknown published architecture {name!r}{choices(name, PUBLISHED)}")
    entry = published()[name]
    return Architecture.from_darts(
        entry["normal"],
        entry["reduce"],
        PAPER_LAYERS if layers is None else layers,
        normal_concat=entry["normal_concat"],
        reduce_concat=entry["reduce_concat"],
        origin={"published": name, "source": entry["source"]},
    )

"""Architectures as data, layer by layer, read from JSON and from published genotypes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnas.errors import InputError, shown, unknown
from dnas.space.darts_genotype import genotype_of, pair_of_genotype, parsed_genotype
from dnas.space.layout import Layout
from dnas.space.protocol import PAPER_LAYERS, LayerChoice, reduction_layers
from dnas.space.reading import MAX_LAYERS, integers
from dnas.space.registry import FREE, SPACES, space_of

FORMAT = "dnas-architecture/1"
MAX_FILE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Architecture:
    """Architecture of a whole network. Hashable; compared by content.

    Attributes:
        layers: What its space has for each layer, from the stem to the classifier.
        reductions: The layers that halve the resolution and, without a layout, double the width.
        space: Name of its search space, or "free": any buildable network, for published genotypes outside all spaces.
        origin: Where it came from. Any JSON object; not compared.
        layout: The widths of a chain, if they are its own: as many as there are layers.

    Raises:
        InputError: The layout does not fit, or a layer lies outside the space; the message names layer, node and slot.
    """

    layers: tuple[Any, ...]
    reductions: tuple[int, ...]
    space: str = "darts"
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False)
    layout: Layout | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "reductions", tuple(sorted(set(self.reductions))))
        if self.space not in SPACES and self.space != FREE:
            raise unknown("space", "space", self.space, [*SPACES, FREE])
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise InputError(f"an architecture must have 1 to {MAX_LAYERS} layers, got {len(self.layers)}")
        for k in self.reductions:
            if not 0 <= k < len(self.layers):
                raise InputError(f"reduction layer {k} does not exist: there are {len(self.layers)} layers")
        space = space_of(self.space)
        for k, layer in enumerate(self.layers):
            problem = space.buildable(layer)
            if not problem and self.in_space:
                problem = space.layer_objection(layer, k in self.reductions)
            if problem:
                raise InputError(f"layer {k}, {problem}")
        if self.layout is not None and (problem := space.layout_objection(self.layout, self.layers, self.reductions)):
            raise InputError(problem)

    @property
    def in_space(self) -> bool:
        """Return True if the architecture lies in its search space, not only in the buildable "free" one."""
        return self.space != FREE

    def __len__(self) -> int:
        return len(self.layers)

    def count(self, operation: str) -> int:
        """Return the number of edges with this operation over all layers."""
        return sum(op == operation for layer in self.layers for node in layer.nodes for op, _ in node)

    @property
    def skips(self) -> int:
        """Number of skip connections over all layers."""
        return self.count("skip_connect")

    # --- JSON ---------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        space = space_of(self.space)
        return {
            "format": FORMAT,
            "space": self.space,
            "reductions": list(self.reductions),
            **({} if self.layout is None else {"layout": self.layout.to_json()}),
            "layers": [space.layer_to_json(layer) for layer in self.layers],
            "origin": dict(self.origin),
        }

    def dumps(self) -> str:
        """Return the JSON text of an architecture file, with one line per layer so that diffs show changed layers."""
        value = self.to_json()
        genes = ",\n  ".join(json.dumps(layer) for layer in value.pop("layers"))
        origin = json.dumps(value.pop("origin"), sort_keys=True)
        head = json.dumps(value)[:-1]
        return f'{head},\n "layers": [\n  {genes}\n ],\n "origin": {origin}}}\n'

    def save(self, path: str | Path) -> None:
        """Write an architecture file that `load` can read."""
        Path(path).write_text(self.dumps(), "utf-8")

    @classmethod
    def from_json(cls, value: Any) -> Architecture:
        """Return the architecture of a parsed JSON value. Raises InputError that names the first error."""
        if not isinstance(value, dict):
            raise InputError("an architecture must be a JSON object")
        if value.get("format") != FORMAT:
            raise InputError(f"format must be {FORMAT!r}, got {shown(value.get('format'))}")
        strange = sorted(set(value) - {"format", "space", "reductions", "layout", "layers", "origin"})
        if strange:
            raise InputError(f"unknown key {shown(strange[0])} in the architecture")
        layers = value.get("layers")
        if not isinstance(layers, list):
            raise InputError("layers must be a list")
        if not 1 <= len(layers) <= MAX_LAYERS:
            raise InputError(f"an architecture must have 1 to {MAX_LAYERS} layers, got {len(layers)}")
        origin = value.get("origin", {})
        space = value.get("space")
        if not isinstance(space, str):
            raise InputError("space must be a string")
        if space not in SPACES and space != FREE:
            raise unknown("space", "space", space, [*SPACES, FREE])
        return cls(
            layers=tuple(space_of(space).layer_from_json(layer, k) for k, layer in enumerate(layers)),
            reductions=integers(value.get("reductions"), "reductions"),
            space=space,
            origin=origin if isinstance(origin, dict) else {},
            layout=Layout.from_json(value["layout"]) if "layout" in value else None,
        )

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture file, or the text of a `Genotype(normal=[…], …)`, which is stacked to `PAPER_LAYERS`.

        Raises InputError if the file is missing, too large, not JSON or outside its space.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read architecture file {str(path)!r}: {error.strerror}") from None
        if len(text) > MAX_FILE_BYTES:
            raise InputError(f"architecture file {str(path)!r} is larger than {MAX_FILE_BYTES >> 20} MiB")
        try:
            if text.lstrip().startswith(b"Genotype"):
                return parse_genotype(text.decode())
            return cls.from_json(json.loads(text))
        except InputError as error:
            raise InputError(f"architecture file {str(path)!r}: {error}") from None
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            raise InputError(f"architecture file {str(path)!r} is not JSON: {reason}") from None

    # --- genotypes of the literature: one pair of layers for all ---------------------------------------

    @classmethod
    def from_darts(
        cls,
        normal: Sequence[Sequence[Any]],
        reduce: Sequence[Sequence[Any]],
        layers: int = PAPER_LAYERS,
        *,
        normal_concat: Iterable[int] | None = None,
        reduce_concat: Iterable[int] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Architecture:
        """Stack a DARTS genotype.

        Args:
            normal, reduce: (primitive, input) pairs, two per node in node order, as printed by DARTS, or
                (primitive, to-state, from-state) triples, as printed by FairDARTS.
            layers: The depth. The reductions are layers // 3 and 2 · layers // 3.
            normal_concat, reduce_concat: States that form the output of the layer; all nodes by default.
        """
        return stack(*pair_of_genotype(normal, reduce, normal_concat, reduce_concat), layers, origin=origin)

    def to_darts(self) -> dict[str, Any]:
        """Return the genotype, as `{"normal": [[op, input], …], "normal_concat": …, "reduce": …}`.

        Raises InputError if the layers differ, or are those of a chain: only a stacked architecture has a genotype.
        """
        pair = layer_pair(self)
        if pair is None:
            raise InputError(
                "the layers differ (or there is no normal or no reduction layer), so this architecture has no "
                "genotype; save it as JSON"
            )
        return genotype_of(*pair)


def stack(
    normal: LayerChoice,
    reduction: LayerChoice,
    layers: int,
    *,
    origin: Mapping[str, Any] | None = None,
    space: str = "darts",
) -> Architecture:
    """Repeat a pair of layers: the identity architecture mapping of the paper (§3.2).

    Args:
        normal: What all layers have that keep the resolution.
        reduction: What the two layers have that halve it.
        layers: Number of layers, at least 3.
        origin: Where the pair comes from, for the file of the architecture.
        space: Name of its search space.
    """
    reductions = reduction_layers(layers)
    genes = tuple(reduction if k in reductions else normal for k in range(layers))
    inside = space in SPACES and all(
        SPACES[space].layer_objection(layer, bool(kind)) is None for kind, layer in enumerate((normal, reduction))
    )
    return Architecture(genes, reductions, space if inside else FREE, origin or {})


def layer_pair(architecture: Architecture) -> tuple[Any, Any] | None:
    """Return the (normal, reduction) layers of a stacked architecture, or None if the layers differ."""
    reductions = {architecture.layers[k] for k in architecture.reductions}
    normals = {layer for k, layer in enumerate(architecture.layers) if k not in architecture.reductions}
    if len(reductions) != 1 or len(normals) != 1:
        return None
    return normals.pop(), reductions.pop()


def at_depth(architecture: Architecture, layers: int) -> Architecture:
    """Return the architecture at another depth. All normal layers must be equal, and all reductions.

    Raises InputError otherwise: layers that differ cannot be stacked to another depth.
    """
    if layers in (0, len(architecture)):
        return architecture
    if architecture.layout is not None:
        raise InputError(
            f"--layers {layers} does not match the architecture's {len(architecture)} layers, which have their own "
            "widths; remove --layers"
        )
    pair = layer_pair(architecture)
    if pair is None:
        raise InputError(
            f"--layers {layers} does not match the architecture's {len(architecture)} layers, which differ from each "
            "other and cannot be stacked to another depth; remove --layers"
        )
    return stack(*pair, layers, origin=architecture.origin, space=architecture.space)


def parse_genotype(text: str, layers: int = PAPER_LAYERS) -> Architecture:
    """Return the architecture of a `Genotype(normal=[('sep_conv_3x3', 1), …], normal_concat=range(2, 6), …)` text.

    The `text` is parsed as data and never evaluated. It may only contain literals and `range(…)` of literals. Its pair
    of layers is stacked to `layers`.

    Raises:
        InputError: It is not such a text, or its parts do not fit together.
    """
    return stack(*parsed_genotype(text), layers)

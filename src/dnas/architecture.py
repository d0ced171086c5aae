"""The discrete result as data: an architecture is one gene per layer.

Frozen, canonical, JSON in and out; also the literature's two-cell genotypes, which `stack` copies to all
layers (the paper's identity architecture mapping). Nothing here needs torch, and no text is evaluated.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from dnas.errors import InputError, choices, unknown
from dnas.ops import PRIMITIVES
from dnas.space import SPACES, reduction_layers

FORMAT = "dnas-architecture/1"
# Far above any real network and small enough to refuse a hostile file at once.
MAX_LAYERS = 1000
MAX_NODES = 32
MAX_FILE_BYTES = 16 * 1024 * 1024

Slot = tuple[str, int]  # (primitive, input state); states 0 and 1 are the two previous cells


@dataclass(frozen=True)
class Cell:
    """The gene of one layer.

    Attributes:
        nodes: For each intermediate node its incoming edges (primitive, input state), in index order.
        concat: States that are concatenated to the cell's output; by default all live nodes.
    """

    nodes: tuple[tuple[Slot, ...], ...]
    concat: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for n, node in enumerate(self.nodes):
            for s, slot in enumerate(node):
                if not (len(slot) == 2 and isinstance(slot[0], str) and _is_int(slot[1])):
                    raise InputError(f"node {n}, slot {s}: {_short(slot)} is not an (operation, input) pair")
        nodes = tuple(tuple(sorted(map(tuple, node), key=lambda slot: (slot[1], slot[0]))) for node in self.nodes)
        object.__setattr__(self, "nodes", nodes)
        live = self.live_states[2:]
        concat = tuple(sorted({s for s in self.concat if s in live})) if self.concat else live
        object.__setattr__(self, "concat", concat)

    @property
    def live_states(self) -> tuple[int, ...]:
        """The states that carry a signal: the two inputs and every node that a live state reaches.

        FairDARTS' genotypes have nodes without inputs; its code ignores them and the edges that leave them.
        """
        live = [0, 1]
        for n, node in enumerate(self.nodes):
            if any(source in live for _, source in node):
                live.append(2 + n)
        return tuple(live)


@dataclass(frozen=True)
class Architecture:
    """A whole network's architecture: one `Cell` a layer. Hashable; equal when its content is equal.

    Attributes:
        layers: The genes, from the stem to the classifier.
        reductions: The layers that halve the resolution and double the width.
        space: "darts" (4 nodes, 2 distinct inputs each, 7 operations) or "free": whatever can be built,
            for published genotypes outside that space.
        origin: Where it came from; free, and not part of its identity.

    Raises:
        InputError: Something lies outside the space; the message names layer, node and slot.
    """

    layers: tuple[Cell, ...]
    reductions: tuple[int, ...]
    space: str = "darts"
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "reductions", tuple(sorted(set(self.reductions))))
        if self.space not in SPACES and self.space != "free":
            raise unknown("space", "space", self.space, [*SPACES, "free"])
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise InputError(f"an architecture has 1 to {MAX_LAYERS} layers, not {len(self.layers)}")
        for k in self.reductions:
            if not 0 <= k < len(self.layers):
                raise InputError(f"reduction layer {k} does not exist: there are {len(self.layers)} layers")
        for k, cell in enumerate(self.layers):
            problem = _buildable(cell)
            if not problem and self.space != "free":
                problem = SPACES[self.space].objection(cell.nodes, k in self.reductions)
            if not problem and self.space != "free" and len(cell.concat) != len(cell.nodes):
                problem = f"concat {list(cell.concat)} leaves out a node, which the {self.space} space does not"
            if problem:
                raise InputError(f"layer {k}, {problem}")

    @property
    def in_space(self) -> bool:
        """Whether it lies in the search space (and not only among what can be built)."""
        return self.space != "free"

    def __len__(self) -> int:
        return len(self.layers)

    def count(self, operation: str) -> int:
        """How many edges of all layers hold this operation."""
        return sum(op == operation for cell in self.layers for node in cell.nodes for op, _ in node)

    # --- JSON ---------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        layers: list[dict[str, Any]] = []
        for cell in self.layers:
            layer: dict[str, Any] = {"nodes": [[list(slot) for slot in node] for node in cell.nodes]}
            if cell.concat != Cell(cell.nodes).concat:
                layer["concat"] = list(cell.concat)
            layers.append(layer)
        return {
            "format": FORMAT,
            "space": self.space,
            "reductions": list(self.reductions),
            "layers": layers,
            "origin": dict(self.origin),
        }

    def dumps(self) -> str:
        """The JSON text of a file: one line a layer, so that a reader and a diff see genes."""
        value = self.to_json()
        genes = ",\n  ".join(json.dumps(layer) for layer in value.pop("layers"))
        origin = json.dumps(value.pop("origin"), sort_keys=True)
        head = json.dumps(value)[:-1]
        return f'{head},\n "layers": [\n  {genes}\n ],\n "origin": {origin}}}\n'

    def save(self, path: str | Path) -> None:
        """Write an architecture file, which `load` reads."""
        Path(path).write_text(self.dumps(), "utf-8")

    @classmethod
    def from_json(cls, value: Any) -> Architecture:
        """The architecture of a parsed JSON value. Raises InputError naming the first thing that is wrong."""
        if not isinstance(value, dict):
            raise InputError("an architecture is a JSON object")
        if value.get("format") != FORMAT:
            raise InputError(f"format is {_short(value.get('format'))}, not {FORMAT!r}")
        strange = sorted(set(value) - {"format", "space", "reductions", "layers", "origin"})
        if strange:
            raise InputError(f"unknown key {_short(strange[0])} in the architecture")
        layers = value.get("layers")
        if not isinstance(layers, list):
            raise InputError("layers is not a list")
        if not 1 <= len(layers) <= MAX_LAYERS:
            raise InputError(f"an architecture has 1 to {MAX_LAYERS} layers, not {len(layers)}")
        origin = value.get("origin", {})
        space = value.get("space")
        if not isinstance(space, str):
            raise InputError("space is not a text")
        return cls(
            layers=tuple(_cell_from_json(layer, k) for k, layer in enumerate(layers)),
            reductions=_integers(value.get("reductions"), "reductions"),
            space=space,
            origin=origin if isinstance(origin, dict) else {},
        )

    @classmethod
    def load(cls, path: str | Path) -> Architecture:
        """Read an architecture file; also the text of a `Genotype(normal=[…], …)`, stacked to 20 layers.

        Raises InputError when the file is missing, too large, not JSON or outside its space.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"cannot read architecture file {path}: {error.strerror}") from None
        if len(text) > MAX_FILE_BYTES:
            raise InputError(f"architecture file {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
        try:
            if text.lstrip().startswith(b"Genotype"):
                return parse_genotype(text.decode())
            return cls.from_json(json.loads(text))
        except InputError as error:
            raise InputError(f"architecture file {path}: {error}") from None
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
            raise InputError(f"architecture file {path} is not JSON: {reason}") from None

    # --- the literature's two-cell genotypes ----------------------------------------------------------

    @classmethod
    def from_darts(
        cls,
        normal: Sequence[Sequence[Any]],
        reduce: Sequence[Sequence[Any]],
        layers: int = 20,
        *,
        normal_concat: Iterable[int] | None = None,
        reduce_concat: Iterable[int] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Architecture:
        """Stack a DARTS genotype.

        Args:
            normal, reduce: (primitive, input) pairs, two a node in node order, as DARTS prints them; or
                (primitive, to-state, from-state) triples, as FairDARTS does.
            layers: The depth; reductions lie at layers // 3 and 2 · layers // 3.
            normal_concat, reduce_concat: States that form a cell's output; all nodes by default.
        """
        cells = tuple(
            Cell(_nodes_of_genotype(genes, which), tuple(concat or ()))
            for genes, concat, which in ((normal, normal_concat, "normal"), (reduce, reduce_concat, "reduce"))
        )
        return stack(cells[0], cells[1], layers, origin=origin)

    def to_darts(self) -> dict[str, Any]:
        """The two-cell genotype, as `{"normal": [[op, input], …], "normal_concat": …, "reduce": …}`.

        Raises InputError when its layers differ: only a stacked architecture has a genotype.
        """
        pair = cell_pair(self)
        if pair is None:
            raise InputError(
                "the layers differ (or there is no normal or no reduction layer), so this architecture has no "
                "two-cell genotype; save it as JSON"
            )
        genotype: dict[str, Any] = {}
        for kind, cell in zip(("normal", "reduce"), pair, strict=True):
            triples = any(len(node) != 2 for node in cell.nodes)
            genotype[kind] = [
                [op, 2 + n, source] if triples else [op, source]
                for n, node in enumerate(cell.nodes)
                for op, source in node
            ]
            genotype[f"{kind}_concat"] = list(cell.concat)
        return genotype


def stack(
    normal: Cell, reduction: Cell, layers: int, *, origin: Mapping[str, Any] | None = None, space: str = "darts"
) -> Architecture:
    """Copy a pair of cells to all layers: the identity architecture mapping of the paper (§3.2)."""
    reductions = reduction_layers(layers)
    genes = tuple(reduction if k in reductions else normal for k in range(layers))
    inside = space in SPACES and all(
        SPACES[space].objection(cell.nodes, bool(kind)) is None and len(cell.concat) == len(cell.nodes)
        for kind, cell in enumerate((normal, reduction))
    )
    return Architecture(genes, reductions, space if inside else "free", origin or {})


def cell_pair(architecture: Architecture) -> tuple[Cell, Cell] | None:
    """The (normal, reduction) genes of an architecture that stacks such a pair; None where layers differ."""
    reductions = {architecture.layers[k] for k in architecture.reductions}
    normals = {cell for k, cell in enumerate(architecture.layers) if k not in architecture.reductions}
    if len(reductions) != 1 or len(normals) != 1:
        return None
    return normals.pop(), reductions.pop()


def at_depth(architecture: Architecture, layers: int) -> Architecture:
    """The architecture at another depth: possible where all normal layers are equal, and all reductions.

    Raises InputError otherwise: a gene of its own for every layer has no other depth.
    """
    if layers in (0, len(architecture)):
        return architecture
    pair = cell_pair(architecture)
    if pair is None:
        raise InputError(
            f"--layers {layers} differs from the architecture's {len(architecture)}, and its layers differ, so it "
            "cannot be stacked anew; leave --layers out"
        )
    return stack(*pair, layers, origin=architecture.origin, space=architecture.space)


def parse_genotype(text: str, layers: int = 20) -> Architecture:
    """The architecture of a `Genotype(normal=[('sep_conv_3x3', 1), …], normal_concat=range(2, 6), …)` text.

    Parsed as data, never evaluated: literals and `range(…)` of literals are all it may hold.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args):
            raise InputError("a genotype text reads Genotype(normal=[…], normal_concat=…, reduce=[…], …)")
        values = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    except InputError:
        raise
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"the genotype text cannot be parsed: {' '.join(str(error).split())}") from None
    missing = {"normal", "reduce"} - set(values)
    if missing or set(values) - {"normal", "normal_concat", "reduce", "reduce_concat"}:
        raise InputError("a genotype has normal, normal_concat, reduce and reduce_concat, and nothing else")
    for key in ("normal_concat", "reduce_concat"):
        if key in values:
            concat = values[key]
            values[key] = _integers(list(concat) if isinstance(concat, tuple | range) else concat, key)
    return Architecture.from_darts(
        values["normal"],
        values["reduce"],
        layers,
        normal_concat=values.get("normal_concat"),
        reduce_concat=values.get("reduce_concat"),
    )


# --- published genotypes ----------------------------------------------------------------------------


@cache
def published() -> Mapping[str, Mapping[str, Any]]:
    """The genotypes of the literature by name, each with its source."""
    text = resources.files("dnas").joinpath("published/genotypes.json").read_text("utf-8")
    genotypes: dict[str, dict[str, Any]] = json.loads(text)["genotypes"]
    return genotypes


def load_published(name: str, layers: int = 20) -> Architecture:
    """A genotype of the literature, stacked. Raises InputError for an unknown name, listing the known."""
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


# --- reading what others wrote ----------------------------------------------------------------------


def _buildable(cell: Cell) -> str | None:
    """Why the cell cannot be built at all, or None."""
    if not 1 <= len(cell.nodes) <= MAX_NODES:
        return f"a cell has 1 to {MAX_NODES} nodes, not {len(cell.nodes)}"
    for n, node in enumerate(cell.nodes):
        for s, (op, source) in enumerate(node):
            if op not in PRIMITIVES:
                return f"node {n}, slot {s}: unknown operation {_short(op)}; known are {', '.join(PRIMITIVES)}"
            if not 0 <= source < n + 2:
                return f"node {n}, slot {s}: input {source} does not exist; node {n} may read 0 to {n + 1}"
    if not cell.concat:
        return "no node has an input, so the cell has no output"
    return None


def _cell_from_json(value: Any, k: int) -> Cell:
    if not isinstance(value, dict) or not isinstance(value.get("nodes"), list):
        raise InputError(f'layer {k} is not an object {{"nodes": […]}}')
    if set(value) - {"nodes", "concat"}:
        raise InputError(f"layer {k}: unknown key {_short(sorted(set(value) - {'nodes', 'concat'})[0])}")
    if len(value["nodes"]) > MAX_NODES:
        raise InputError(f"layer {k}, a cell has 1 to {MAX_NODES} nodes, not {len(value['nodes'])}")
    nodes = []
    for n, node in enumerate(value["nodes"]):
        if not isinstance(node, list) or len(node) > 4 * MAX_NODES:
            raise InputError(f"layer {k}, node {n} is not a list of [operation, input] pairs")
        for s, slot in enumerate(node):
            if not (isinstance(slot, list) and len(slot) == 2 and isinstance(slot[0], str) and _is_int(slot[1])):
                raise InputError(f"layer {k}, node {n}, slot {s} is not an [operation, input] pair")
        nodes.append(tuple((slot[0], slot[1]) for slot in node))
    concat = _integers(value["concat"], f"layer {k}, concat") if "concat" in value else ()
    cell = Cell(tuple(nodes), concat)
    if "concat" in value and cell.concat != tuple(sorted(concat)):
        raise InputError(f"layer {k}, concat {list(concat)} names a state that is not a node with an input")
    return cell


def _nodes_of_genotype(genes: Any, which: str) -> tuple[tuple[Slot, ...], ...]:
    if not isinstance(genes, Sequence) or not genes or isinstance(genes, str):
        raise InputError(f"{which} is not a list of (operation, input) pairs")
    if len(genes) > 4 * MAX_NODES:
        raise InputError(f"{which} has {len(genes)} pairs; a cell has at most {MAX_NODES} nodes")
    for gene in genes:
        good = isinstance(gene, Sequence) and len(gene) == len(genes[0]) and len(gene) in (2, 3)
        if not (good and isinstance(gene[0], str) and all(_is_int(i) for i in gene[1:])):
            raise InputError(f"{which}: {_short(gene)} is not an (operation, input) pair")
    if len(genes[0]) == 2:
        if len(genes) % 2:
            raise InputError(f"{which} has {len(genes)} pairs, but each node has two")
        return tuple(((genes[i][0], genes[i][1]), (genes[i + 1][0], genes[i + 1][1])) for i in range(0, len(genes), 2))
    targets = [to for _, to, _ in genes]
    if not 2 <= min(targets) <= max(targets) < 2 + MAX_NODES:
        raise InputError(f"{which}: to-states lie between 2 and {1 + MAX_NODES}")
    # Nodes that no triple reaches stay, empty, so that state numbers keep their meaning.
    return tuple(
        tuple((op, source) for op, to, source in genes if to == state) for state in range(2, max(*targets, 5) + 1)
    )


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in node.args]
        if not bounds or not all(_is_int(b) and 0 <= b <= 2 + MAX_NODES for b in bounds):
            raise InputError("a range in a genotype counts states, e.g. range(2, 6)")
        return range(*bounds)
    return ast.literal_eval(node)


def _integers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_LAYERS or not all(_is_int(v) for v in value):
        raise InputError(f"{what} is not a list of whole numbers")
    return tuple(value)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"

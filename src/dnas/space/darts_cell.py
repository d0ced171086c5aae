"""The cell of a layer, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dnas.errors import InputError, shown
from dnas.space.primitives import PRIMITIVES
from dnas.space.protocol import Slot
from dnas.space.reading import integers, is_int

# Far above any real cell, and small enough to reject a malicious file immediately.
MAX_NODES = 32


@dataclass(frozen=True)
class Cell:
    """The cell of one layer.

    Attributes:
        nodes: The incoming edges (primitive, input state) of each intermediate node, in index order.
        concat: States concatenated to the output of the cell; by default all live nodes.
    """

    nodes: tuple[tuple[Slot, ...], ...]
    concat: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for n, node in enumerate(self.nodes):
            for s, slot in enumerate(node):
                if not (len(slot) == 2 and isinstance(slot[0], str) and is_int(slot[1])):
                    raise InputError(f"node {n}, slot {s}: {shown(slot)} is not an (operation, input) pair")
        nodes = tuple(tuple(sorted(map(tuple, node), key=lambda slot: (slot[1], slot[0]))) for node in self.nodes)
        object.__setattr__(self, "nodes", nodes)
        live = self.live_states[2:]
        concat = tuple(sorted({s for s in self.concat if s in live})) if self.concat else live
        object.__setattr__(self, "concat", concat)

    @property
    def live_states(self) -> tuple[int, ...]:
        """Return the states that carry a signal: the two inputs and every node reached by a live state.

        FairDARTS genotypes have nodes without inputs; its code ignores these nodes and their outgoing edges.
        """
        live = [0, 1]
        for n, node in enumerate(self.nodes):
            if any(source in live for _, source in node):
                live.append(2 + n)
        return tuple(live)


# --- reading files ----------------------------------------------------------------------------------


def buildable(cell: Cell) -> str | None:
    """Return the reason why the cell cannot be built, or None if it can."""
    if not 1 <= len(cell.nodes) <= MAX_NODES:
        return f"a cell must have 1 to {MAX_NODES} nodes, got {len(cell.nodes)}"
    for n, node in enumerate(cell.nodes):
        for s, (op, source) in enumerate(node):
            if op not in PRIMITIVES:
                known = ", ".join(PRIMITIVES)
                return (
                    f"node {n}, slot {s}: unknown operation {shown(op)}; choose from {known}, or install the "
                    "package that provides it"
                )
            if not 0 <= source < n + 2:
                return f"node {n}, slot {s}: input {source} does not exist; the inputs of node {n} are 0 to {n + 1}"
    if not cell.concat:
        return "no node has an input, so the cell has no output"
    return None


def cell_to_json(cell: Cell) -> dict[str, Any]:
    """Return a cell for an architecture file."""
    layer: dict[str, Any] = {"nodes": [[list(slot) for slot in node] for node in cell.nodes]}
    if cell.concat != Cell(cell.nodes).concat:
        layer["concat"] = list(cell.concat)
    return layer


def cell_from_json(value: Any, k: int) -> Cell:
    """Return the cell of layer k from an architecture file. Raises InputError for anything else."""
    if not isinstance(value, dict) or not isinstance(value.get("nodes"), list):
        raise InputError(f'layer {k} must be an object {{"nodes": […]}}')
    if set(value) - {"nodes", "concat"}:
        raise InputError(f"layer {k}: unknown key {shown(sorted(set(value) - {'nodes', 'concat'})[0])}")
    if len(value["nodes"]) > MAX_NODES:
        raise InputError(f"layer {k}, a cell must have 1 to {MAX_NODES} nodes, got {len(value['nodes'])}")
    nodes = []
    for n, node in enumerate(value["nodes"]):
        if not isinstance(node, list) or len(node) > 4 * MAX_NODES:
            raise InputError(f"layer {k}, node {n} must be a list of [operation, input] pairs")
        for s, slot in enumerate(node):
            if not (isinstance(slot, list) and len(slot) == 2 and isinstance(slot[0], str) and is_int(slot[1])):
                raise InputError(f"layer {k}, node {n}, slot {s} must be an [operation, input] pair")
        nodes.append(tuple((slot[0], slot[1]) for slot in node))
    concat = integers(value["concat"], f"layer {k}, concat") if "concat" in value else ()
    cell = Cell(tuple(nodes), concat)
    if "concat" in value and cell.concat != tuple(sorted(concat)):
        raise InputError(f"layer {k}, concat {list(concat)} contains a state that is not a node with an input")
    return cell

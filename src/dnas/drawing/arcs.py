"""Lines between the states of a cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dnas.space.darts_cell import Cell
from dnas.space.primitives import PRIMITIVES, AvgPool, Conv, Identity, MaxPool, Zero

PORT_STEP, PORT_REACH = 6, 9  # ports of lines at a state: distance between them, maximum distance from its center
ARC_BASE, ARC_STEP, ARC_CORNER = 6.0, 4.3, 11  # height of the lowest arc, distance to the next, width of a bend


# --- shared by both drawings ------------------------------------------------------------------------


@dataclass(frozen=True)
class Arc:
    """A drawn edge of a cell: above the line of states (side -1) or below it (side 1)."""

    op: str
    source: int
    state: int
    side: int
    lift: float
    live: bool


def arcs_of(cell: Cell) -> list[Arc]:
    """Return the edges of a cell with their positions: the inputs of a node alternate between above and below.

    On its side an arc passes above all arcs that it spans, and never at the height of an arc that it crosses, so that
    lines only meet at steep angles, and two edges between the same states are separate.
    """
    live = cell.live_states
    edges = [
        (op, source, state, 1 if slot % 2 else -1)
        for state, node in enumerate(cell.nodes, start=2)
        for slot, (op, source) in enumerate(node)
    ]
    height: dict[int, int] = {}
    # Shorter arcs choose first, so that the arcs that an arc spans have already filled the heights below.
    for i in sorted(range(len(edges)), key=lambda i: edges[i][2] - edges[i][1]):
        taken = {
            above
            for j, above in height.items()
            if edges[j][3] == edges[i][3] and max(edges[i][1], edges[j][1]) < min(edges[i][2], edges[j][2])
        }
        height[i] = next(h for h in range(len(edges)) if h not in taken)
    return [Arc(*edge, ARC_BASE + ARC_STEP * height[i], edge[1] in live) for i, edge in enumerate(edges)]


def ports_of(arcs: Sequence[Arc]) -> dict[tuple[int, str], float]:
    """Return the distance from the center of a state at which each arc enters ("in") and leaves ("out") it.

    Sorted so that arcs with a common end are nested and do not cross.
    """
    ends: defaultdict[tuple[int, int], list[tuple[str, float, int]]] = defaultdict(list)
    for i, arc in enumerate(arcs):
        ends[arc.state, arc.side].append(("in", arc.lift, i))
        ends[arc.source, arc.side].append(("out", -arc.lift, i))
    ports = {}
    for group in ends.values():
        step = min(PORT_STEP, 2 * PORT_REACH / max(1, len(group) - 1))
        for place, (end, _, i) in enumerate(sorted(group)):
            ports[i, end] = step * (place - (len(group) - 1) / 2)
    return ports


def line_style(op: str) -> tuple[float, str]:
    """Return width and dashes by kind, for readers who cannot distinguish colors.

    Convolutions are solid, and wider for larger kernels; dilated ones are dashed, pooling is dotted, a skip is thin.
    """
    for layer in PRIMITIVES[op].chain(2, 1):
        if isinstance(layer, MaxPool):
            return 2.2, "0.1 3.6"
        if isinstance(layer, AvgPool):
            return 3.2, "0.1 5.4"
        if isinstance(layer, Identity):
            return 1.2, ""
        if isinstance(layer, Zero):
            return 1.6, "4 5"
        if isinstance(layer, Conv):
            return 0.7 + 0.4 * max(layer.kernel), "7 4.2" if layer.dilation > 1 else ""
    return 2.0, ""

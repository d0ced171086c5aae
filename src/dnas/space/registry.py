"""The search spaces by name."""

from __future__ import annotations

import re

from dnas.errors import unknown
from dnas.plugins import Registry
from dnas.space.cell import MAX_NODES
from dnas.space.darts import DARTS, S1, S2, S3, S4, Space
from dnas.space.primitives import PRIMITIVES

FREE = "free"  # what architecture files call architectures of no space


def _objection(space: Space) -> str | None:
    if space.name == FREE:
        return f"{FREE!r} is what architectures of no space are called"
    if not 1 <= space.nodes <= MAX_NODES:
        return f"it has {space.nodes} nodes; a cell has 1 to {MAX_NODES}"
    if space.inputs_per_node not in (1, 2):
        return f"inputs_per_node is {space.inputs_per_node}, but the first node can have 1 or 2"
    kinds = space.per_edge or ((space.primitives,) * len(space.edges),) * 2
    if [len(edges) for edges in kinds] != [len(space.edges)] * 2:
        return f"per_edge must name the primitives of {len(space.edges)} edges of normal layers, and of reductions"
    for names in (space.primitives, *(names for edges in kinds for names in edges)):
        if len(set(names)) != len(names) or len(names) < 2:
            return f"an edge has the primitives ({', '.join(names)}); name two or more, each once"
        if "none" in names:
            return "none is no primitive of a space; let its field `none` say whether it is a candidate while searching"
        if strange := [name for name in names if name not in space.primitives]:
            return f"an edge has {strange[0]!r}, which its primitives lack"
    if strange := [name for name in space.primitives if name not in PRIMITIVES]:
        return (
            f"its primitive {strange[0]!r} is not known; register it first, or give the package an entry point for it"
        )
    return None


SPACES = Registry[Space](
    "dnas.spaces",
    Space,
    "space",
    lambda: {space.name: space for space in (DARTS, S1, S2, S3, S4)},
    spelled=(re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*"), "small letters, digits, hyphens and underscores"),
    objection=_objection,
)


def get_space(name: str) -> Space:
    """The space of a name. Raises InputError listing the names."""
    if name not in SPACES:
        raise unknown("space", "--space", name, SPACES)
    return SPACES[name]

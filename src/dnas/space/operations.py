"""The operations of all spaces: primitives and blocks, as drawings, tables and charts name them."""

from __future__ import annotations

from collections.abc import Iterable

from dnas.space.blocks import BLOCKS, BlockKind
from dnas.space.primitives import OWN, PRIMITIVES, AvgPool, Conv, Identity, MaxPool, Primitive, flat

CONVOLUTIONS, POOLS, SKIPS = "convolutions", "pools", "skips"


def operation(name: str) -> Primitive | BlockKind | None:
    """Return the primitive or block with this name, which has a label and a color; None for an unknown one."""
    if name in PRIMITIVES:
        return PRIMITIVES[name]
    return BLOCKS.get(name)


def label_of(name: str) -> str:
    """Return the short name of an operation, or the name of an unknown one."""
    found = operation(name)
    return name if found is None else found.label


def colour_of(name: str, unknown: str) -> str:
    """Return the color "#RRGGBB" of an operation. Args: unknown: the color of an unknown one."""
    found = operation(name)
    return unknown if found is None else found.colour


def ordered(names: Iterable[str]) -> list[str]:
    """Sort operations in the order used by all drawings: built-in ones first, then others by name."""
    places = {name: place for place, name in enumerate((*OWN, *BLOCKS))}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def group_of(name: str) -> str | None:
    """Return the row of an operation in a table of operations by depth, or None if it has none.

    A primitive belongs to the convolutions, the pools or the skips; each kind of block has a row of its own.
    """
    if name in BLOCKS:
        return BLOCKS[name].label
    if name not in PRIMITIVES:
        return None
    for layer in flat(PRIMITIVES[name].chain(2, 1)):
        if isinstance(layer, Conv):
            return CONVOLUTIONS
        if isinstance(layer, MaxPool | AvgPool):
            return POOLS
        if isinstance(layer, Identity):
            return SKIPS
    return None


def groups_of(names: Iterable[str]) -> list[str]:
    """Return the rows of a table of operations by depth, in which these operations occur."""
    groups = [group for name in ordered(set(names)) if (group := group_of(name)) is not None]
    blocks = [group for group in dict.fromkeys(groups) if group not in (CONVOLUTIONS, POOLS, SKIPS)]
    # Tables of primitives always have all three rows, so that a search without pools can be recognized.
    primitives = not blocks or CONVOLUTIONS in groups or POOLS in groups
    return [*((CONVOLUTIONS, POOLS) if primitives else ()), *blocks, SKIPS]

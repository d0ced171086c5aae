"""The search spaces by name."""

from __future__ import annotations

import re

from dnas.errors import SettingError, unknown
from dnas.plugins import Registry
from dnas.space.chain import FBNET, MOBILE, MOBILE_SE, MOBILE_V3, MOBILE_V3_LARGE, RESNET, RESNET_D, SHUFFLE, SPOS
from dnas.space.darts import DARTS, S1, S2, S3, S4
from dnas.space.protocol import SearchSpace

CHAINS = (MOBILE, MOBILE_SE, MOBILE_V3, MOBILE_V3_LARGE, FBNET, RESNET, RESNET_D, SHUFFLE, SPOS)
FREE = "free"  # the space in architecture files if an architecture does not belong to a search space
AUTO = "auto"  # several spaces, whose candidates meet in the finals of a run
# These spaces; the search is in the first. Those left out are meant for research on searches.
CONTENDERS = (RESNET_D.name, DARTS.name, MOBILE.name)


def _objection(space: SearchSpace) -> str | None:
    if space.name == FREE:
        return f"{FREE!r} is reserved for architectures outside all search spaces"
    if space.name == AUTO:
        return f"{AUTO!r} is reserved for runs in several spaces"
    if problem := space.invalid():
        return problem
    kinds = space.per_edge or ((space.primitives,) * len(space.edges),) * 2
    if [len(edges) for edges in kinds] != [len(space.edges)] * 2:
        return f"per_edge must list the primitives of {len(space.edges)} edges, for normal layers and for reductions"
    for names in (space.primitives, *(names for edges in kinds for names in edges)):
        if len(set(names)) != len(names) or len(names) < 2:
            return f"an edge must have at least two primitives, without duplicates, got ({', '.join(names)})"
        if "none" in names:
            return "'none' cannot be listed as a primitive; set the field `none` of the space instead"
        if strange := [name for name in names if name not in space.primitives]:
            return f"an edge has {strange[0]!r}, which is not among the primitives of the space"
    if strange := [name for name in space.primitives if not space.knows(name)]:
        return f"unknown primitive {strange[0]!r}; register it first, or add an entry point for it to the package"
    return None


SPACES = Registry[SearchSpace](
    "dnas.spaces",
    SearchSpace,
    "space",
    lambda: {space.name: space for space in (DARTS, S1, S2, S3, S4, *CHAINS)},
    spelled=(re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*"), "lowercase letters, digits, hyphens and underscores"),
    objection=_objection,
)


def get_space(name: str) -> SearchSpace:
    """Return the space with this name. Raises InputError, with the known names, for an unknown one."""
    if name == AUTO:
        raise SettingError("space", "--space", f" {AUTO} only applies to `dnas run`; give one space")
    if name not in SPACES:
        raise unknown("space", "--space", name, SPACES)
    return SPACES[name]


def spaces_of(name: str) -> list[SearchSpace]:
    """Return the spaces in which a run with this space has candidates; the first is searched. Raises InputError."""
    return [get_space(each) for each in (CONTENDERS if name == AUTO else (name,))]


def space_of(name: str) -> SearchSpace:
    """Return the space of an architecture; architectures outside all spaces are like those of DARTS."""
    return DARTS if name == FREE else get_space(name)

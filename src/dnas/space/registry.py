"""The search spaces by name."""

from __future__ import annotations

from dnas.errors import unknown
from dnas.space.darts import DARTS, S1, S2, S3, S4, Space

SPACES: dict[str, Space] = {space.name: space for space in (DARTS, S1, S2, S3, S4)}


def get_space(name: str) -> Space:
    """The space of a name. Raises InputError listing the names."""
    if name not in SPACES:
        raise unknown("space", "--space", name, SPACES)
    return SPACES[name]

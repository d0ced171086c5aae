"""Registry of the formats of `dnas export`: from the files of this folder and from installed packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from dnas.deploy.protocol import Format
from dnas.errors import InputError, unknown
from dnas.plugins import discovered


@cache
def registry() -> Mapping[str, type[Format]]:
    """Return all formats by name."""
    assert __package__
    return discovered(__package__, Format, "export format")  # type: ignore[type-abstract]


def get_formats(names: Sequence[str]) -> list[Format]:
    """Return the formats with these names. Raises InputError for unknown and repeated names."""
    for number, name in enumerate(names):
        if name not in registry():
            raise unknown("format", "--format", name, sorted(registry()))
        if name in names[:number]:
            raise InputError(f"--format contains {name!r} twice; remove one")
    if not names:
        raise InputError(f"--format is empty; choose from {', '.join(sorted(registry()))}")
    return [registry()[name]() for name in names]

"""The formats of `dnas export` by name: each file of this folder that has one, and what installed packages give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from dnas.deploy.protocol import Format
from dnas.errors import InputError, unknown
from dnas.plugins import discovered


@cache
def registry() -> Mapping[str, type[Format]]:
    """Every format by name."""
    assert __package__
    return discovered(__package__, Format, "export format")  # type: ignore[type-abstract]


def get_formats(names: Sequence[str]) -> list[Format]:
    """The formats of these names. Raises InputError listing the names, or for one that is named twice."""
    for number, name in enumerate(names):
        if name not in registry():
            raise unknown("format", "--format", name, sorted(registry()))
        if name in names[:number]:
            raise InputError(f"--format names {name} twice; leave one out")
    if not names:
        raise InputError(f"--format names nothing; choose from {', '.join(sorted(registry()))}")
    return [registry()[name]() for name in names]

"""The formats of `dnas export` by name: each file of this folder that has one, and what installed packages give."""

from __future__ import annotations

from collections.abc import Sequence

from dnas.deploy.protocol import Format
from dnas.errors import InputError, unknown
from dnas.plugins import Registry, classes_of

FORMATS = Registry[type[Format]](
    "dnas.deploy",
    Format,
    "export format",
    lambda: classes_of("dnas.deploy", Format),  # type: ignore[type-abstract]
    classes=True,
)


def get_formats(names: Sequence[str]) -> list[Format]:
    """The formats of these names. Raises InputError listing the names, or for one that is named twice."""
    for number, name in enumerate(names):
        if name not in FORMATS:
            raise unknown("format", "--format", name, sorted(FORMATS))
        if name in names[:number]:
            raise InputError(f"--format names {name} twice; leave one out")
    if not names:
        raise InputError(f"--format names nothing; choose from {', '.join(sorted(FORMATS))}")
    return [FORMATS[name]() for name in names]

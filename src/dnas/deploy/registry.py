"""Registry of the formats of `dnas export`: from the files of this folder and from installed packages."""

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
    """Return the formats with these names. Raises InputError for unknown and repeated names."""
    for number, name in enumerate(names):
        if name not in FORMATS:
            raise unknown("format", "--format", name, sorted(FORMATS))
        if name in names[:number]:
            raise InputError(f"--format contains {name!r} twice; remove one")
    if not names:
        raise InputError(f"--format is empty; choose from {', '.join(sorted(FORMATS))}")
    return [FORMATS[name]() for name in names]

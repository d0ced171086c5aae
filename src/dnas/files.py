"""What the readers of data share: types, careful looks at the disk, and the fixed test fifth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dnas.errors import InputError
from dnas.streams import derived_seed

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
File = tuple[str, int, int]  # name below a folder, size in bytes, time of the last change in nanoseconds


def is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission, or a name too long to exist
        return False


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def refuse_member(archive: Path, name: str, link: bool) -> None:
    """Raises InputError for what no data set's archive holds: a link, an absolute name or one that has `..`.

    Archives are read and never unpacked, so it could do no harm; but what it is made for is not to be trusted.
    """
    parts = name.replace("\\", "/").split("/")
    outside = parts[0] == "" or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":")
    if link or outside:
        what = "is a link" if link else "leads out of the archive"
        raise InputError(f"{str(archive)!r} has the member {name!r}, which {what}; fetch the archive again")


def in_test(labels: Labels) -> npt.NDArray[np.bool_]:
    """Which samples form the test split where the makers gave none: a fifth of each class, at least one.

    Counts are rounded along the classes, so that all together are ceil(N / 5). The choice rests on
    SHA-256 alone: it is the same for every seed, machine and library version.
    """
    chosen = np.zeros(len(labels), bool)
    before = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        after = before + len(members)
        quota = max(1, -(-after // 5) - -(-before // 5))
        ranked = sorted(range(len(members)), key=lambda k: derived_seed(0, "test", int(label), k))
        chosen[members[ranked[:quota]]] = True
        before = after
    return chosen

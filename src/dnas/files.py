"""What the readers of data share: types, careful looks at the disk, the fixed test fifth, and limits of memory."""

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


def require_tensor_fits(count: int, channels: int, size: int, instead: str = "") -> None:
    """Raises InputError where so many images may not be held; `instead`: what else can be done."""
    what = f"{count} images with {channels} channels at --image-size {size}"
    require_memory(count * channels * size * size, what, f"give a smaller --image-size or fewer images{instead}")


def fit_in_memory(count: int, channels: int, size: int) -> bool:
    """Whether so many images may be held: they take at most half of this machine's memory."""
    return count * channels * size * size <= _memory_limit()


def require_memory(size: int, what: str, remedy: str) -> None:
    limit = _memory_limit()
    if size > limit:
        raise InputError(
            f"{what} would take {size} bytes, above half of this machine's memory ({limit} bytes); {remedy}"
        )


def _memory_limit() -> int:
    import psutil  # type: ignore[import-untyped,unused-ignore]

    return int(psutil.virtual_memory().total) // 2

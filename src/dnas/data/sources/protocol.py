"""What a source of pictures gives, and the fixed fifth that is tested where its makers chose none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dnas.rng import derived_seed


@dataclass(frozen=True)
class Named:
    """A published data set: where it may lie below the data directory, and where to get it."""

    kind: str
    places: tuple[str, ...]
    url: str
    files: tuple[tuple[str, str], ...]  # (name, md5)
    into: str = ""


@dataclass(frozen=True)
class Place:
    """What lies where. `kind`: a named set, "idx" or "folder" (of images)."""

    kind: str
    path: Path


Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
File = tuple[str, int, int]  # name below a folder, size in bytes, time of the last change in nanoseconds


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

"""Images and labels as arrays, and the fixed fifth that is tested where a data set's makers chose no test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dnas.rng import derived_seed

if TYPE_CHECKING:
    pass


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

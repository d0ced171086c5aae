"""Images and labels as arrays, and the fixed fifth that is the test set of data sets without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dnas.errors import InputError
from dnas.rng import derived_seed

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
File = tuple[str, int, int]  # name below a folder, size in bytes, time of the last change in nanoseconds


def in_test(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which samples form the test split of an unsplit data set: a fifth of each class, at least one.

    Counts are rounded cumulatively over the classes, so that their sum is ceil(N / 5). The choice only depends on
    SHA-256: it is the same for every seed, machine and library version.
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


def of_part(part: str, labels: Labels, classes: Sequence[str], where: str) -> Labels:
    """Return the positions of the samples of a part ("train" or "test") of an unsplit data set.

    Args:
        where: Name of the data set in messages.

    Raises:
        InputError: A class has one sample, which cannot be in both.
    """
    for label in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 1):
        raise InputError(
            f"the class {classes[int(label)]!r} in {where} has one image, too few to split into training and test; add "
            "images or remove it"
        )
    positions: Labels = np.flatnonzero(in_test(labels) == (part == "test"))
    return positions


def numbered(named: npt.NDArray[Any] | Sequence[Any], classes: Sequence[str], where: str) -> Labels:
    """Return the position of each label among the classes.

    Args:
        where: Name of the labels in messages.

    Raises:
        InputError: A label is not among the classes.
    """
    index = {name: label for label, name in enumerate(classes)}
    found, places = np.unique(np.asarray(named), return_inverse=True)
    for name in found:
        if str(name) not in index:
            raise InputError(
                f"the class {str(name)!r} in {where} did not occur in training; remove it or train with it"
            )
    numbers = np.array([index[str(name)] for name in found], np.int64)
    labels: Labels = numbers[places.reshape(-1)]
    return labels

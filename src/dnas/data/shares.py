"""Stratified splits: each class gets its share of images, and at least one if there are enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dnas.data.sources.samples import Labels

# Classes count as balanced if the largest is below this many times the smallest; else accuracy alone is misleading.
BALANCED = 1.5
# A draw that ignores classes is kept if classes are balanced and each can expect this many images: it preserves the
# shares well enough, and results of earlier versions stay bit-for-bit identical.
MANY = 20


def stratified(labels: Labels, order: Labels, count: int, *, rest: bool) -> npt.NDArray[np.bool_]:
    """Select positions of a random order, bool [N], for a part of `count` images that preserves the class shares.

    From each class, the first images in the order are taken.

    Args:
        labels: int64 [N], the class of each image.
        order: int64 [N], the images 0..N-1 in random order.
        rest: The remaining images are also a part, so classes must not vanish from them either.
    """
    dealt = labels[order]
    _, first, classes, each = np.unique(dealt, return_index=True, return_inverse=True, return_counts=True)
    fewest = each.min() * min(count, len(labels) - count if rest else count) / len(labels)
    if each.max() < BALANCED * each.min() and fewest >= MANY:
        return np.arange(len(labels)) < count
    places = np.empty(len(labels), np.int64)  # of each image within its class
    for number in range(len(each)):
        members = np.flatnonzero(classes == number)
        places[members] = np.arange(len(members))
    return places < quotas(each, count, first, rest=rest)[classes]


def quotas(each: Labels, count: int, priority: Labels, *, rest: bool) -> Labels:
    """Return how many of `count` images each class gets, int64 [classes]: its share, rounded by largest remainders.

    A class gets at least one image if `count` is at least the number of classes, and leaves at least one for the `rest`
    if it has two.

    Args:
        each: int64 [classes], number of images per class, 1 or more.
        priority: Among equal remainders, the class with the smallest value comes first.
    """
    total, classes = int(each.sum()), len(each)
    least = np.full(classes, int(count >= classes))
    most = np.where((each > 1) & rest & (total - count >= classes), each - 1, each)
    ideal = each * count / total
    found = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while (left := count - int(found.sum())) != 0:
        step = 1 if left > 0 else -1
        free = found < most if left > 0 else found > least
        # One each for the classes that lack the most, or have the largest excess over their share.
        wanted = np.where(free, step * (ideal - found), -np.inf)
        chosen = np.lexsort((priority, -wanted))[: min(abs(left), int(free.sum()))]
        found[chosen] += step
    return found

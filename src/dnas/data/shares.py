"""How many images of each class a part of a data set gets: its share, and one at least where there are enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dnas.data.sources.samples import Labels

# Classes are balanced where the largest is below so many times the smallest; else one accuracy says too little.
BALANCED = 1.5
# A draw without regard to class is left as it is where classes are balanced and each may expect so many images: it
# keeps the shares well enough, and results of before keep their bits.
MANY = 20


def stratified(labels: Labels, order: Labels, count: int, *, rest: bool) -> npt.NDArray[np.bool_]:
    """Which positions of a random order, bool [N], make a part of `count` images that keeps the classes' shares.

    Of each class those that come first in the order are taken.

    Args:
        labels: int64 [N], the class of each image.
        order: int64 [N], the images 0..N-1 in random order.
        rest: The other images are a part, too, so that classes must not vanish from them either.
    """
    dealt = labels[order]
    _, first, classes, each = np.unique(dealt, return_index=True, return_inverse=True, return_counts=True)
    fewest = each.min() * min(count, len(labels) - count if rest else count) / len(labels)
    if each.max() < BALANCED * each.min() and fewest >= MANY:
        return np.arange(len(labels)) < count
    places = np.empty(len(labels), np.int64)  # of each image among those of its class
    for number in range(len(each)):
        members = np.flatnonzero(classes == number)
        places[members] = np.arange(len(members))
    return places < quotas(each, count, first, rest=rest)[classes]


def quotas(each: Labels, count: int, priority: Labels, *, rest: bool) -> Labels:
    """How many images of each class are among `count`, int64 [classes]: its share, rounded, by largest remainders.

    A class has one at least where there are as many as classes, and leaves one for the `rest` likewise, if it has two.

    Args:
        each: int64 [classes], how many there are, 1 or more.
        priority: Of equal remainders the class with the smallest comes first.
    """
    total, classes = int(each.sum()), len(each)
    least = np.full(classes, int(count >= classes))
    most = np.where((each > 1) & rest & (total - count >= classes), each - 1, each)
    ideal = each * count / total
    found = np.clip(np.floor(ideal).astype(np.int64), least, most)
    while (left := count - int(found.sum())) != 0:
        step = 1 if left > 0 else -1
        free = found < most if left > 0 else found > least
        # Those that lack the most, or have the most beyond their share, one each.
        wanted = np.where(free, step * (ideal - found), -np.inf)
        chosen = np.lexsort((priority, -wanted))[: min(abs(left), int(free.sum()))]
        found[chosen] += step
    return found

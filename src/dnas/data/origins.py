"""Sources of images, judging by names: patient12_001.png and patient12_002.png are from the same patient."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

# A source has less than this share of a class; otherwise its name is just another word for the class.
OF_A_CLASS = 0.5
_SEPARATORS = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"\d")


@dataclass(frozen=True)
class SharedSource:
    """A source with images in both splits.

    Attributes:
        name: Common part of the names.
        train, test: Number of its images in each split.
        examples: One image from each split.
    """

    name: str
    train: int
    test: int
    examples: tuple[str, str]


def shared_sources(
    train: Sequence[str], test: Sequence[str], train_classes: Sequence[int], test_classes: Sequence[int]
) -> list[SharedSource]:
    """Return the sources with images in both splits, those with the most test images first.

    Args:
        train, test: Names of the images.
        train_classes, test_classes: Their classes.
    """
    sides = [_by_source(names) for names in (train, test)]
    both = [key for key in sides[0] if key in sides[1]]
    if not both:
        return []
    classes = Counter((*train_classes, *test_classes))
    numbers = (train_classes, test_classes)
    found = []
    for key in both:
        own = Counter(numbers[side][position] for side in (0, 1) for position in sides[side][key])
        if any(count > OF_A_CLASS * classes[label] for label, count in own.items()):
            continue
        ours, theirs = sides[0][key], sides[1][key]
        found.append(SharedSource(key, len(ours), len(theirs), (train[ours[0]], test[theirs[0]])))
    return sorted(found, key=lambda each: (-each.test, -each.train, each.name))


def _by_source(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        if key := source_of(name):
            found[key].append(position)
    return found


def source_of(name: str) -> str:
    """Return the part of a file name before its running number, if this part also has a number; else "".

    "train/cat/patient12_001.png" gives "patient12", "img_7.png" nothing.
    """
    stem = name.rpartition("/")[2].rpartition(".")[0]
    parts = [part for part in _SEPARATORS.split(stem) if part]
    if len(parts) < 2 or not _NUMBER.search(parts[-1]):
        return ""
    before = stem[: stem.rindex(parts[-1])].rstrip("".join(set(re.findall(r"[\W_]", stem))))
    return before if _NUMBER.search(before) else ""

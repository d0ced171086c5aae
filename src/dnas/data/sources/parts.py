"""Meaning of folder names: which are splits (training, test, validation), and which are not classes either.

docs/data.md has the rule as a table.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "test", "validation"]
_PARTS: dict[str, Part] = {
    "train": "train", "training": "train", "trn": "train",
    "test": "test", "testing": "test", "tst": "test", "eval": "test", "evaluation": "test",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
}  # fmt: skip
# Words that add nothing to the name of a split: training_set, TestImages, train_data.
_FILLERS = ("set", "data", "dataset", "folder", "image", "images", "img", "imgs", "photos", "pictures", "samples")
_WORD = re.compile(rf"({'|'.join(_PARTS)})({'|'.join(_FILLERS)})?\d*")
# Everyday words, which may name a class if no other folder is a split.
_EVERYDAY = ("train", "training", "valid")
_YEAR = re.compile(r"(19|20)\d\d")
_PIECE = re.compile(r"(batch|chunk|k?fold|part|partition|set|shard|split|subset)s?[\W_]*\d+")
IMAGE_FOLDERS = ("image", "images", "img", "imgs", "jpegimages", "jpg", "photos", "pictures", "png")
_BESIDE_IMAGES = (
    "annotation", "annotations", "bbox", "bboxes", "csv", "groundtruth", "json", "label", "labels", "mask", "masks",
    "meta", "metadata", "segmentation", "xml",
)  # fmt: skip
_VERSIONS = (
    "augmented", "color", "colored", "colour", "coloured", "cropped", "gray", "grayscale", "grey", "greyscale",
    "original", "originals", "preprocessed", "processed", "raw", "resized", "rgb", "segmented",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Folders of the splits of one data set."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...]


def part_of(name: str) -> tuple[Part, str] | None:
    """Return the split in a folder name, and the rest of the name: "seg_train" is ("train", "seg").

    Case, separators, numbers and words such as "set" and "images" add nothing. None if no word is a split, or several.
    """
    parts, rest = [], []
    for word in _words(name):
        if match := _WORD.fullmatch(word):
            parts.append(_PARTS[match[1]])
        else:
            rest.append(word)
    return (parts[0], " ".join(rest)) if len(parts) == 1 else None


def _words(name: str) -> list[str]:
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
    return [word for word in words if word and word not in _FILLERS and not word.isdigit()]


def find_parts(folders: Iterable[str]) -> list[Parts]:
    """Return sets of folders that are splits of one data set: a training folder, and a test or validation folder, whose
    names have the same rest. Usually none or one.
    """
    groups: dict[str, dict[Part, list[str]]] = defaultdict(lambda: {"train": [], "test": [], "validation": []})
    for name in folders:
        if told := part_of(name):
            groups[told[1]][told[0]].append(name)
    return [
        Parts(tuple(group["train"]), tuple(group["test"]), tuple(group["validation"]))
        for group in groups.values()
        if group["train"] and (group["test"] or group["validation"])
    ]


def is_part(name: str) -> bool:
    """Return True if a name is only that of a split."""
    told = part_of(name)
    return told is not None and not told[1]


def may_be_class(name: str) -> bool:
    """Return True if a folder of images next to class folders is a class in spite of its name."""
    return not is_part(name) or name.casefold() in _EVERYDAY


def held_out_of(name: str, folders: Iterable[str]) -> str | None:
    """Return the folder whose test or validation split another folder is, by its name: "rps" for "rps-test-set"."""
    told = part_of(name)
    if told is None or told[0] == "train" or not told[1]:
        return None
    return next((folder for folder in folders if " ".join(_words(folder)) == told[1]), None)


def not_classes(folders: Collection[str]) -> str | None:
    """Describe folders whose names show that they are not classes; else None."""
    names = [name.casefold() for name in folders]
    if len(names) < 2:
        return None
    if all(map(_YEAR.fullmatch, names)):
        return "years"
    if all(map(_PIECE.fullmatch, names)):
        return "parts of a data set"
    if all(map(is_part, folders)):
        return "splits"
    if set(names) <= {*IMAGE_FOLDERS, *_BESIDE_IMAGES} and not set(names).isdisjoint(IMAGE_FOLDERS):
        return "images and what belongs to them"
    return None


def are_versions(folders: Collection[str]) -> bool:
    """Return True if the names are of versions of the same images (raw and resized, color and grayscale)."""
    return len(folders) > 1 and all(name.casefold() in _VERSIONS for name in folders)

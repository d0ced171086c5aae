"""Tiny-ImageNet, unpacked or in its archive."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dnas.data.sources.listing import LeftOut, Listing, Reason, look_below, subfolders, top_files
from dnas.data.sources.protocol import Named, Source
from dnas.data.sources.tree import Tree, plain, text
from dnas.errors import InputError


def _train(tree: Tree) -> Listing:
    wnids = _wnids(tree)
    words = dict(line.split("\t", 1) for line in text(tree, "words.txt").splitlines() if "\t" in line)
    short = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    uses = Counter(short)
    classes = tuple(name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(short, wnids, strict=True))
    names: list[str] = []
    labels: list[int] = []
    folders = set(subfolders(tree, "train"))
    for label, wnid in enumerate(wnids):
        below = look_below(tree, f"train/{wnid}").names if wnid in folders else []
        if not below:
            raise InputError(f"{str(tree.path)!r} lacks the images of {wnid}; fetch the data set again")
        names += below
        labels += [label] * len(below)
    left_out = LeftOut()
    if "test" in subfolders(tree) and (unlabeled := look_below(tree, "test").names):
        left_out.add(Reason.UNLABELED, "test", len(unlabeled))
    return Listing(classes, names, np.array(labels, np.int64), left_out)


def _test(tree: Tree, classes: tuple[str, ...] | None) -> Listing:
    """Return the images of val/, since those of test/ have no labels."""
    wnids = _wnids(tree)
    if classes is not None and len(classes) != len(wnids):
        raise InputError(
            f"{str(tree.path)!r} has {len(wnids)} classes in wnids.txt, and there were {len(classes)} in training; "
            "give the data set of the training"
        )
    index = {wnid: label for label, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in text(tree, "val/val_annotations.txt").splitlines() if line.strip()]
    for row in rows:
        if len(row) < 2 or row[1] not in index or not plain(row[0]):
            raise InputError(
                f"val/val_annotations.txt in {str(tree.path)!r} has the line {row!r} without an image and a class of "
                "wnids.txt; fetch the data set again"
            )
    if not rows:
        raise InputError(f"val/val_annotations.txt in {str(tree.path)!r} is empty; fetch the data set again")
    names = [f"val/images/{row[0]}" for row in rows]
    return Listing(classes or tuple(wnids), names, np.array([index[row[1]] for row in rows], np.int64))


def _wnids(tree: Tree) -> list[str]:
    wnids = sorted(set(text(tree, "wnids.txt").split()))
    for wnid in wnids:
        if not plain(wnid):
            raise InputError(
                f"wnids.txt in {str(tree.path)!r} contains {wnid!r}, which is not a class; fetch the data set again"
            )
    return wnids


SOURCES = (
    Source(
        kind="tiny-imagenet",
        rank=5,
        within=lambda tree: "wnids.txt" in top_files(tree),
        pictures=lambda tree, part, classes: _train(tree) if part == "train" else _test(tree, classes),
        mean_std=((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
        named=Named(
            name="tiny-imagenet",
            places=("tiny-imagenet-200", "tiny-imagenet-200.zip"),
            url="http://cs231n.stanford.edu/",
            files=(("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),),
        ),
    ),
)

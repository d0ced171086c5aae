"""What was found in a data set, in words for the user."""

from __future__ import annotations

import numpy as np

from dnas.data.headers import ELONGATED, Headers
from dnas.data.sources.listing import LeftOut, many
from dnas.data.splits import DataInfo, Split
from dnas.settings import CROP, PAD, SQUEEZE

# How many times as many training images the largest class may have as the smallest until that is told.
UNBALANCED = 4


def overview(info: DataInfo, train: Split, test: Split | None = None) -> list[str]:
    """What was found, for the user: classes and counts in one line, and a line per reason why files are left out.

    Between them stands how the images were read, where that is not plain.

    For example "10 classes (0, 1, 2, …), 1,437 training and 360 test images, 8×8, gray". Where the largest class has
    four times the images of the smallest or more, both are named. A line says how pictures that are no squares become
    such.
    """
    names = [_short(name) for name in info.classes]
    classes = ", ".join(names if len(names) <= 5 else [*names[:3], "…"])
    count = f"{len(train):,} training" + (" images" if test is None else f" and {len(test):,} test images")
    kind = "gray" if info.channels == 1 else "color"
    text = f"{len(names):,} classes ({classes}), {count}, {info.image_size}×{info.image_size}, {kind}"
    each = np.bincount(train.labels.cpu().numpy(), minlength=len(names))
    low, high = int(each.argmin()), int(each.argmax())
    if each[high] >= UNBALANCED * each[low]:
        smallest = f"{many(int(each[low]), 'training image')} ({names[low]})"
        text += f"; unbalanced: from {smallest} to {each[high]:,} ({names[high]})"
    notes = [] if train.headers is None or train.headers.square else [_squares(info, train.headers)]
    left_out = LeftOut()
    for split in (train, test):
        if split is not None:
            left_out.include(split.left_out)
            notes += [note for note in split.notes if note not in notes]
    return [text, *notes, *(f"left out: {line}" for line in left_out.lines())]


def _squares(info: DataInfo, headers: Headers) -> str:
    """What is done to pictures of other shapes."""
    done = {
        CROP: "the middle square of each image is used, which --resize pad would not cut off",
        PAD: "the whole image is used, filled up to a square with its mean color",
        SQUEEZE: "each image is squeezed to a square",
    }
    long = f"{headers.elongated:,} of {headers.count:,} training images"
    return f"resize {info.resize}: {long} are longer than {ELONGATED} times their shorter side; {done[info.resize]}"


def _short(name: str) -> str:
    name = name if len(name) <= 30 else f"{name[:29]}…"
    return name if name.isprintable() else repr(name)

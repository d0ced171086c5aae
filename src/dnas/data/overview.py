"""What was found in a data set, in words for the user."""

from __future__ import annotations

import shlex

import numpy as np

from dnas.data.findings import UNBALANCED, lacking, short_name, unbalanced
from dnas.data.headers import ELONGATED, Headers
from dnas.data.sources.listing import LeftOut, many
from dnas.data.splits import DataInfo, Split
from dnas.settings import CROP, PAD, SQUEEZE


def overview(info: DataInfo, train: Split, test: Split | None = None) -> list[str]:
    """What was found, for the user: classes and counts in one line, warnings, and a line per reason why files are left
    out. Between them stands how the images were read, where that is not plain.

    For example "10 classes (0, 1, 2, …), 1,437 training and 360 test images, 8×8, gray". Warnings are of test images
    that training has, of classes that the test lacks, and of classes of very different size. A line says how pictures
    that are no squares become such.
    """
    names = [short_name(name) for name in info.classes]
    classes = ", ".join(names if len(names) <= 5 else [*names[:3], "…"])
    count = f"{len(train):,} training" + (" images" if test is None else f" and {len(test):,} test images")
    kind = "gray" if info.channels == 1 else "color"
    text = f"{len(names):,} classes ({classes}), {count}, {info.image_size}×{info.image_size}, {kind}"
    warnings = [f"warning: {line}" for line in _warnings(info, train, test)]
    notes = [] if train.headers is None or train.headers.square else [_squares(info, train.headers)]
    left_out = LeftOut()
    for split in (train, test):
        if split is not None:
            left_out.include(split.left_out)
            notes += [note for note in split.notes if note not in notes]
    return [text, *warnings, *notes, *(f"left out: {line}" for line in left_out.lines())]


def _warnings(info: DataInfo, train: Split, test: Split | None) -> list[str]:
    """What is worth a look, of that which costs next to nothing to find; `dnas data` finds the rest."""
    each = [
        np.bincount(split.labels.cpu().numpy(), minlength=len(info.classes)).tolist()
        for split in (train, test)
        if split is not None
    ]
    lines = []
    if test is not None:
        # As the network sees them: pictures with the same pixels at the size of the run.
        copied = int(np.isin(test.digests(), train.digests()).sum())
        if copied:
            lines.append(
                f"{many(copied, 'test image')} {'has' if copied == 1 else 'have'} the same pixels as a training image, "
                f"so the test accuracy is too high; list them with: dnas data {shlex.quote(info.source)}"
            )
        if missing := [name for name, count in zip(info.classes, each[1], strict=True) if not count]:
            lines.append(lacking("test", missing))
    if max(each[0]) >= UNBALANCED * min(each[0]):
        lines.append(unbalanced(info.classes, each[0]))
    return lines


def _squares(info: DataInfo, headers: Headers) -> str:
    """What is done to pictures of other shapes."""
    done = {
        CROP: "the middle square of each image is used, which --resize pad would not cut off",
        PAD: "the whole image is used, filled up to a square with its mean color",
        SQUEEZE: "each image is squeezed to a square",
    }
    long = f"{headers.elongated:,} of {headers.count:,} training images"
    return f"resize {info.resize}: {long} are longer than {ELONGATED} times their shorter side; {done[info.resize]}"

"""Summary of a data set for the user."""

from __future__ import annotations

import shlex

import numpy as np

from dnas.data.findings import UNBALANCED, lacking, short_name, unbalanced
from dnas.data.headers import ELONGATED, Headers
from dnas.data.sources.listing import LeftOut, many
from dnas.data.splits import DataInfo, Split
from dnas.settings import CROP, PAD, SQUEEZE


def overview(info: DataInfo, train: Split, test: Split | None = None) -> list[str]:
    """Return the summary: classes and counts in one line, warnings, and one line per reason for skipped files.
    If it is not obvious how the images were read, this comes in between.

    For example "10 classes (0, 1, 2, …), 1,437 training and 360 test images, 8×8, gray". There are warnings about test
    images in the training set, classes without test images, and classes of very different size. One line describes the
    conversion of images that are not square.
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
    """Return the warnings that cost almost nothing to find; `dnas data` finds the rest."""
    each = [
        np.bincount(split.labels.cpu().numpy(), minlength=len(info.classes)).tolist()
        for split in (train, test)
        if split is not None
    ]
    lines = []
    if test is not None:
        # In the format of the network's input: images with the same pixels at the size of the run.
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
    """Describe the conversion of images of other shapes."""
    done = {
        CROP: "they are center-cropped; --resize pad keeps the whole image",
        PAD: "they are padded to a square with their mean color",
        SQUEEZE: "they are squeezed to a square",
    }
    long = f"{headers.elongated:,} of {headers.count:,} training images"
    return f"resize {info.resize}: {long} are longer than {ELONGATED} times their shorter side; {done[info.resize]}"

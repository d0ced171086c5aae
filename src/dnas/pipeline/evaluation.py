"""Test the trained network of a run on images that it was not trained on.

The run folder records the training images (`training_images`). Every test image is compared with this record by its
pixels, so even if a folder has grown or its files were renamed, no training image is used for the test.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import PIL
import torch

from dnas.data.sources.protocol import Columns
from dnas.data.splits import DataInfo, Split, load_test
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.pipeline.inheritance import require_there, same_data
from dnas.pipeline.machine import check_device
from dnas.pipeline.model import load_model
from dnas.pipeline.training_images import TrainingImages, read_training_images
from dnas.reporter import Reporter
from dnas.runtime.names import CONFIG_FILE
from dnas.settings import SMALLEST_IMAGE, Memory
from dnas.training.accuracy import by_class, measure_accuracy
from dnas.training.build import to_device


def evaluate(
    path: str | Path,
    source: str | None = None,
    data_dir: str | None = None,
    image_size: int | None = None,
    device: str = "cpu",
    memory: Memory = "auto",
    workers: int = 0,
    columns: Columns | None = None,
    reporter: Reporter | None = None,
    skip_broken: bool = False,
) -> dict[str, Any]:
    """Test the trained network of a run folder on its own test images, or on those of another data set.

    For class folders without splits, all images are tested, and otherwise the test split; in both cases without the
    training images of the run. A run without a record of these, from an earlier version, is tested on a fifth of its
    own folder, and on all images of another one, with a warning in `warnings`.

    Args:
        path: The run folder.
        source, data_dir, image_size: Other data; by default those of the run.
        device, memory, workers, columns, reporter, skip_broken: As for `load_test`. For the run's own list, its columns
            are the default, and its own broken images are skipped if the run skipped them.

    Returns:
        Accuracy, interval and counts, and those of each class (`accuracy.by_class`); `left_out`: the number of images
        that were left out because the run trained on them, None if unknown; `warnings`: sentences.

    Raises:
        InputError: There is no network, classes or channels do not match, or no image is left to test.
    """
    if image_size is not None and image_size < SMALLEST_IMAGE:
        raise InputError(f"--image-size must be at least {SMALLEST_IMAGE}, got {image_size}")
    network, info = load_model(path)
    reading = reading_of(path, info, source, data_dir, memory, workers, columns, skip_broken)
    check_device(device)
    tested, left_out = images_to_test(path, info, reading, image_size, reporter)
    with closing(tested):
        info = replace(info, source=reading.source, image_size=image_size or info.image_size)
        accuracy = measure_accuracy(to_device(network, device), tested, info, device)
    return {
        "run": str(path),
        "data": reading.source,
        "test_accuracy": accuracy.value,
        "test_images": accuracy.images,
        "test_interval": list(accuracy.interval),
        **by_class(accuracy.confusion, info.classes),
        "left_out": left_out,
        "warnings": list(_warnings(path, reading.record)),
    }


@dataclass(frozen=True)
class Reading:
    """How to read images for the trained network of a run, its own images or others.

    Attributes:
        folder: The run folder.
        own: Whether they are the images of the run.
        record: The record of the training images, or None if unknown.
        how: Further arguments of `load_train` and `load_test`.
    """

    folder: Path
    source: str
    own: bool
    record: TrainingImages | None
    how: dict[str, Any]


def reading_of(
    path: str | Path,
    info: DataInfo,
    source: str | None = None,
    data_dir: str | None = None,
    memory: Memory = "auto",
    workers: int = 0,
    columns: Columns | None = None,
    skip_broken: bool = False,
) -> Reading:
    """Return how to read images for the network of a run. Arguments as for `evaluate`.

    Raises:
        InputError: The run's own images do not exist any more.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    record = read_training_images(folder)
    own = source is None or same_data(source, info.source)
    if source is None:
        require_there(folder, info.source)
        source = info.source
    theirs = read_toml(folder / CONFIG_FILE).get("data", {}) if (folder / CONFIG_FILE).is_file() else {}
    data_dir = data_dir or theirs.get("data_dir") or None
    if own and (columns is None or not columns.flags()):
        columns = Columns(*(theirs.get(name, "") for name in ("image_column", "label_column", "root")))
    skip_broken = skip_broken or (own and bool(theirs.get("skip_broken", False)))
    how = {
        "data_dir": data_dir,
        "memory": memory,
        "workers": workers,
        "columns": columns,
        "skip_broken": skip_broken,
    }
    return Reading(folder, source, own, record, how)


def images_to_test(
    path: str | Path,
    info: DataInfo,
    reading: Reading,
    image_size: int | None = None,
    reporter: Reporter | None = None,
) -> tuple[Split, int | None]:
    """Return the test images for a trained network, and how many were left out; see `evaluate` and `unseen`."""

    def load(info: DataInfo) -> Split:
        every = reading.record is not None or not reading.own
        return load_test(reading.source, info, every=every, reporter=reporter, **reading.how)

    info = replace(info, source=reading.source)
    tested, left_out = unseen(load, info, image_size or info.image_size, reading.record)
    if not len(tested):
        raise InputError(
            f"all {left_out} images of {reading.source!r} are training images of {str(path)!r}; use other "
            "images with --data"
        )
    if reporter is not None:
        for line in tested.left_out.lines():
            reporter.say(f"left out: {line}")
    return tested, left_out


def unseen(
    load: Callable[[DataInfo], Split], info: DataInfo, size: int, record: TrainingImages | None
) -> tuple[Split, int | None]:
    """Load test images without the training images of a run.

    Args:
        load: Reads the images in the size of the given facts.
        info: Facts about the data of the run.
        size: Side of the test images in pixels.
        record: The record of the training images, or None if unknown.

    Returns:
        The images, and how many were left out; None without a record.
    """
    split = load(info)
    if record is None:
        return (split if size == info.image_size else load(replace(info, image_size=size))), None
    seen = record.among(split.digests())
    if size != info.image_size:
        # Training images are recognized at the size of the run, and tests are at another size.
        resized = load(replace(info, image_size=size))
        if not torch.equal(split.labels, resized.labels):
            raise InputError(f"the images of {info.source!r} changed while they were read; try again")
        split = resized
    rest = split.subset(torch.from_numpy((~seen).nonzero()[0])) if seen.any() else split
    return replace(rest, left_out=split.left_out), int(seen.sum())


def _warnings(path: str | Path, record: TrainingImages | None) -> list[str]:
    if record is None:
        return [
            f"{str(path)!r} has no record of its training images, since an earlier version wrote it; training images "
            "cannot be left out"
        ]
    if record.pillow != PIL.__version__:
        return [
            f"{str(path)!r} recorded its training images with Pillow {record.pillow}, and this is Pillow "
            f"{PIL.__version__}; if the two decode JPEG differently, training images are not recognized"
        ]
    return []

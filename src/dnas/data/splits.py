"""Labeled images as uint8 tensors in memory: named data sets, MNIST-family files, folders of images.

A source is a name (`digits`, `fashion-mnist`, `cifar10`, `cifar100`, `tiny-imagenet`) or a path: a folder with the four
IDX files of the MNIST family (plain or .gz), `train/` and `test/` (or `val/`; `sources/parts.py` has all names) with
class folders, class folders directly, an unpacked named data set; arrays, a list of images, or an archive. A name takes
precedence over a folder of the same name; write `./digits` for the folder.

The training and the test split come from two functions, so that a search that gets the result of `load_train` has no
access to the test images. If class folders have no test folder, and in digits, a fifth of each class is the test split:
always the same images, regardless of the seed of the run.

Conversion of an image file to a tensor:

- Pillow decodes it; the EXIF orientation is applied; of an animation the first frame is used.
- Alpha is composed on white, CMYK and palettes become RGB, and 16-bit grayscale is scaled to 8 bits. For
  floating-point, 32-bit and signed values, the smallest value of all training images becomes 0 and the largest 255;
  integers that are all between 0 and 65535 are treated as 16 bits. Values of other images outside of this range are
  clipped.
- The data set has one channel if every training image is stored as grayscale, or has only gray pixels in a format
  without grayscale (WebP, GIF, palettes), otherwise three (RGB).
- Squares are made by `resize`. crop: the shorter side is resized and the center cropped. pad: the longer side is
  resized, and the rest filled with the mean color of the image. squeeze: both sides are resized. auto: pad if more than
  half of the training images are longer than 1.6 times their shorter side, else crop. Resizing is bilinear and
  antialiased; images of the right size are unchanged.
- The size is `image_size`, or by default the most common resized side (the shorter one for crop, else the longer one)
  of the training images if none is above 64 (at least 8), otherwise 64.
- Hidden files and files without one of Pillow's common endings are skipped and counted. For images that cannot be
  decoded, one error lists all names and reasons.

Images are loaded into memory if they need at most half of it. Those of a larger folder stay in their files and are
decoded batch by batch (`streaming`), bit for bit the same. Everything else here is the same for both.

Mirrored images are assumed to keep their label in folders of images, CIFAR, Tiny-ImageNet and Fashion-MNIST, but not in
digits and other IDX files, which contain digits and letters. `flips` also measures this, in folders.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dnas.data.arrays import mean_std, resized_to, value_counts
from dnas.data.headers import Headers, Rule
from dnas.data.pictures import image_digests
from dnas.data.reading import Pictures, read_pictures, require_no_streaming
from dnas.data.shares import stratified
from dnas.data.sources.archive import tree_of
from dnas.data.sources.listing import LeftOut, Listing, Reason
from dnas.data.sources.protocol import Columns, Place
from dnas.data.sources.registry import locate
from dnas.data.sources.samples import Bytes, Labels
from dnas.data.streaming import Streamed
from dnas.data.unreadable import Broken, Unreadable
from dnas.errors import InputError
from dnas.reporter import Reporter
from dnas.rng import torch_stream
from dnas.settings import AUTO_RESIZE, CROP, SMALLEST_IMAGE, Memory, Resize


@dataclass(frozen=True)
class Split:
    """One split: `images` uint8 [N, C, H, W] with C 1 or 3, in memory or in their files; `labels` int64 [N].

    `left_out`: files next to the images that belong to no split. `headers`: properties of training images before
    conversion to squares. `notes`: further notes for the user on how they were read, one line each. `skipped`:
    unreadable images of this split, by name, with the reason.
    """

    images: Tensor | Streamed
    labels: Tensor
    left_out: LeftOut = field(default_factory=LeftOut)
    headers: Headers | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[Broken, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor):
            assert self.images.dtype == torch.uint8 and self.images.ndim == 4, self.images.shape
        assert self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        """Return the same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))

    @property
    def memory(self) -> Literal["whole", "stream"]:
        """Location of the images: in memory or in their files."""
        return "stream" if isinstance(self.images, Streamed) else "whole"

    def batch(self, indices: Tensor, coming: Iterable[Tensor] = ()) -> Tensor:
        """Return the images at `indices` (int64 [B]) as uint8 [B, C, H, W], on the device of the split.

        `coming`: the indices of the next batches, so that streamed ones are decoded in the meantime. It has no other
        effect.

        Raises RunError if a streamed image has changed since it was listed.
        """
        if isinstance(self.images, Streamed):
            return self.images.batch(indices, coming)
        return self.images[indices.to(self.images.device)]

    def digests(self) -> Labels:
        """Return the digest of each image, int64 [N]; see `pictures.image_digests`."""
        if isinstance(self.images, Streamed):
            return self.images.picture_digests
        return image_digests(self.images.cpu().numpy())

    def close(self) -> None:
        """End the decoder processes, if there are any; a later batch starts new ones."""
        if isinstance(self.images, Streamed):
            self.images.decoders.close()

    def subset(self, indices: Tensor) -> Split:
        """Return the samples at `indices` (int64 [M]), in that order; a copy if they are in memory."""
        labels = self.labels[indices.to(self.labels.device)]
        if isinstance(self.images, Streamed):
            return Split(self.images.subset(indices), labels)
        return Split(self.batch(indices), labels)


@dataclass(frozen=True)
class DataInfo:
    """Properties of a data set that the network, the augmentation and the drawing of a network depend on.

    `mean` and `std` are per channel, on the scale 0..1, over the training split (published constants if there are any).
    `flip`: whether mirrored images keep their labels, by the kind of the data set. Images are square; `resize` and
    `values` are the rule of their conversion, see `Rule`.
    """

    source: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    resize: Resize = CROP
    values: tuple[float, ...] = ()

    @property
    def rule(self) -> Rule:
        return Rule(self.resize, self.values)


def load_train(
    source: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    resize: Resize = CROP,
    channels: int | None = None,
    memory: Memory = "auto",
    workers: int = 0,
    columns: Columns | None = None,
    given: Place | None = None,
    reporter: Reporter | None = None,
    skip_broken: bool = False,
) -> tuple[Split, DataInfo]:
    """Return the training split of `source` and the properties of the data set. Reads no test image.

    Args:
        source: a name or a path, see the module.
        data_dir: folder of named data sets, also for downloads; by default the environment variable
            DNAS_DATA_DIR, else ~/.cache/dnas. DNAS_OFFLINE=1 forbids downloads.
        image_size: side of the square images in pixels, at least 8; by default as they are stored.
        resize: conversion of images to squares, see the module.
        channels: 1 or 3; by default as they are stored.
        memory: "whole" loads all images, "stream" leaves them in their files (for image and .npy files); "auto"
            streams if they would need more than half of the memory of this machine.
        workers: processes that decode streamed images; 0: as many as torch has threads.
        columns: how a list of images is read; only for lists.
        given: the place of images in the memory of the caller (`sources/objects.py`).
        reporter: shows the progress of a first look at streamed images.
        skip_broken: skip images that cannot be read, if they are at most a tenth of the split.

    Raises:
        InputError: the source is unknown, damaged, unusable, or too large for the memory of this machine.
    """
    if image_size is not None and image_size < SMALLEST_IMAGE:
        raise InputError(f"--image-size must be at least {SMALLEST_IMAGE}, got {image_size}")
    place = locate(source, data_dir, columns, given)
    how: dict[str, Any] = {"data_dir": data_dir, "memory": memory, "workers": workers, "reporter": reporter}
    how["skip_broken"] = skip_broken
    skipped: Sequence[Broken] = ()
    if pictures := place.source.pictures:
        tree = tree_of(place)
        listing = pictures(tree, "train", None)
        _require_two_classes(listing.labels, listing.classes, place.path)
        shape: dict[str, Any] = {"channels": channels, "size": image_size, "resize": resize}
        found = read_pictures(place.path, tree, listing, "train", **shape, **how)
        images, counts, rule, headers = found.images, found.counts, found.rule, found.headers
        classes, notes = listing.classes, listing.notes
        labels, left_out, skipped = _kept(listing, found)
    else:
        require_no_streaming(memory, workers, source)
        if resize not in (AUTO_RESIZE, CROP):
            raise InputError(f"--resize {resize} does not apply to {source!r}, whose images are square; remove it")
        headers, rule = None, Rule()
        arrays, labels = _arrays(place, "train")
        classes = place.source.classes or tuple(str(number) for number in range(int(labels.max()) + 1))
        left_out, notes = LeftOut(), ()
        _require_labels_below(len(classes), labels, place.path)
        _require_two_classes(labels, classes, place.path)
        images = resized_to(arrays, image_size or max(SMALLEST_IMAGE, arrays.shape[-1]))
        counts = value_counts(images)
    mean, std = place.source.mean_std or mean_std(counts)
    facts = images.shape[1], images.shape[2], mean, std, place.source.mirrored, rule.resize, rule.values
    split = Split(images, torch.from_numpy(labels), left_out, headers, notes, tuple(skipped))
    return split, DataInfo(source, classes, *facts)


def _kept(listing: Listing, found: Pictures) -> tuple[Labels, LeftOut, Sequence[Broken]]:
    """Return the labels of the readable images; the files left out, including unreadable images; and these images."""
    left_out = LeftOut()
    left_out.include(listing.left_out)
    for name, _ in found.skipped:
        left_out.add(Reason.UNREADABLE, name.rpartition("/")[0] or ".", 1, [name])
    return listing.labels if found.kept is None else listing.labels[found.kept], left_out, found.skipped


def load_test(
    source: str,
    info: DataInfo,
    *,
    data_dir: str | None = None,
    memory: Memory = "auto",
    workers: int = 0,
    columns: Columns | None = None,
    given: Place | None = None,
    reporter: Reporter | None = None,
    skip_broken: bool = False,
    every: bool = False,
) -> Split:
    """Return the test split of `source`, with the classes, channels and size of training in `info`.

    Args:
        data_dir, memory, workers, columns, given, reporter, skip_broken: as in `load_train`.
        every: use all images of an unsplit folder instead of a fifth; see `given.list_given`.

    Raises:
        InputError: as in `load_train`, or the images do not match `info` (another class, other channels).
    """
    place = locate(source, data_dir, columns, given)
    if pictures := place.source.pictures:
        tree = tree_of(place)
        if every and place.source.given:
            listing, part = place.source.given(tree, info.classes)
        else:
            listing, part = pictures(tree, "test", info.classes), "test"
        _require_labels_below(len(info.classes), listing.labels, place.path)
        how: dict[str, Any] = {"data_dir": data_dir, "memory": memory, "workers": workers, "reporter": reporter}
        how["skip_broken"] = skip_broken
        shape: dict[str, Any] = {"channels": info.channels, "size": info.image_size, "rule": info.rule}
        found = read_pictures(place.path, tree, listing, part, **shape, **how)
        labels, left_out, skipped = _kept(listing, found)
        return Split(found.images, torch.from_numpy(labels), left_out, notes=listing.notes, skipped=tuple(skipped))
    require_no_streaming(memory, workers, source)
    arrays, labels = _arrays(place, "test")
    _require_labels_below(len(info.classes), labels, place.path)
    if arrays.shape[1] != info.channels:
        raise InputError(
            f"--data {source!r} has {arrays.shape[1]} color channels, but {info.channels} in training; "
            "give the training data set, or one like it"
        )
    return Split(resized_to(arrays, info.image_size), torch.from_numpy(labels))


def load_splits(
    source: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    resize: Resize = CROP,
    channels: int | None = None,
    memory: Memory = "auto",
    workers: int = 0,
    columns: Columns | None = None,
    given: Place | None = None,
    reporter: Reporter | None = None,
    skip_broken: bool = False,
) -> tuple[Split, DataInfo, Split]:
    """Return the training split, the properties of the data set, and the test split, for training and testing.

    Both splits are either in memory or streamed, and unreadable images of both are listed together.

    Args:
        source, data_dir, image_size, resize, channels, memory, workers, columns, given, reporter, skip_broken: as in
            `load_train`.

    Raises:
        InputError: as in `load_train` and `load_test`.
    """
    shared: dict[str, Any] = {
        "data_dir": data_dir,
        "workers": workers,
        "columns": columns,
        "given": given,
        "reporter": reporter,
        "skip_broken": skip_broken,
    }
    try:
        train, info = load_train(
            source, image_size=image_size, resize=resize, channels=channels, memory=memory, **shared
        )
    except Unreadable as error:
        if skip_broken:
            raise
        others = _unreadable_test(source, error, memory=memory, **shared)
        raise Unreadable(error.path, [*error.broken, *others], error.channels, error.size) from None
    return train, info, load_test(source, info, memory=train.memory, **shared)


def _unreadable_test(
    source: str,
    training: Unreadable,
    data_dir: str | None,
    columns: Columns | None,
    given: Place | None,
    **how: Any,
) -> list[Broken]:
    """Return the unreadable test images of a data set that has unreadable training images."""
    place = locate(source, data_dir, columns, given)
    assert place.source.pictures is not None
    # Values without a known range can be read with any range.
    shape: dict[str, Any] = {"channels": training.channels, "size": training.size, "rule": Rule(values=(0.0, 1.0))}
    try:
        tree = tree_of(place)
        listing = place.source.pictures(tree, "test", None)
        read_pictures(place.path, tree, listing, "test", data_dir=data_dir, **shape, **how)
    except Unreadable as error:
        return error.broken
    except InputError:  # reported once the training images are repaired
        pass
    return []


def _arrays(place: Place, part: str) -> tuple[Bytes, Labels]:
    assert place.source.arrays is not None, f"{place.source.kind} returns neither images nor arrays"
    return place.source.arrays(place.path, part)


def fingerprint(split: Split) -> str:
    """Return the SHA-256 (hex) of shape, pixels and labels: equal if and only if the splits are equal.

    Streamed images are not read: names, sizes and modification times represent the pixels.
    """
    digest = hashlib.sha256(str(tuple(split.images.shape)).encode())
    if isinstance(split.images, Streamed):
        digest.update(split.images.digest().encode())
    else:
        digest.update(np.ascontiguousarray(split.images.cpu().numpy()).data)
    digest.update(np.ascontiguousarray(split.labels.cpu().numpy().astype("<i8")).data)
    return digest.hexdigest()


def halves(count: int, seed: int, fraction: float = 0.5, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Split 0..count-1 into two disjoint sets of indices (int64), for the two levels of a search.

    The first has round(count * fraction). A pure function of its arguments.

    Args:
        labels: int64 [count]; both sets then preserve the class shares (`shares`).

    Raises:
        InputError: one of the two would be empty.
    """
    first = round(count * fraction) if math.isfinite(fraction) else 0
    if not 0 < first < count:
        raise InputError(
            f"{count} training images cannot be split by the fraction {fraction}, because one part would be empty; "
            "give more images or a fraction between 0 and 1"
        )
    order = torch.randperm(count, generator=torch_stream(seed, "split"))
    if labels is None:
        return order[:first], order[first:]
    taken = torch.from_numpy(stratified(labels.cpu().numpy(), order.numpy(), first, rest=True))
    return order[taken], order[~taken]


def chosen(split: Split, images: int, seed: int, by_class: bool = False) -> Split:
    """Draw `images` samples of a split by the seed, in their original order; the split itself if that is all of it.

    Args:
        by_class: Preserve the class shares (`shares`).
    """
    if images >= len(split):
        return split
    order = torch.randperm(len(split), generator=torch_stream(seed, "subset"))
    if by_class:
        taken = stratified(split.labels.cpu().numpy(), order.numpy(), images, rest=False)
        order = order[torch.from_numpy(taken)]
    return split.subset(order[:images].sort().values)


def batches(count: int, batch_size: int, seed: int, epoch: int, stream: str = "order") -> list[Tensor]:
    """Return one epoch: 0..count-1 shuffled and divided into ceil(count / batch_size) nearly equal index tensors.

    Sizes differ by at most one and none is above `batch_size`, so that no small last batch disturbs batch
    normalization. A pure function of its arguments.

    Raises:
        InputError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, got {batch_size}")
    assert count > 0, count
    order = torch.randperm(count, generator=torch_stream(seed, stream, epoch))
    return list(order.tensor_split(-(-count // batch_size)))


def _require_two_classes(labels: Labels, classes: Sequence[str], path: Path) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            f"all training images in {str(path)!r} belong to one class, {classes[int(present[0])]!r}; "
            "a classifier needs at least two"
        )


def _require_labels_below(count: int, labels: Labels, path: Path) -> None:
    if labels.max() >= count:
        raise InputError(
            f"{str(path)!r} contains the label {labels.max()}, but labels must be 0 to {count - 1}; "
            "give the data set that belongs to these classes, or fetch it again"
        )

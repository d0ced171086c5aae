"""Labelled pictures as uint8 tensors in memory: named data sets, MNIST-family files, folders of images.

A source is a name (`digits`, `fashion-mnist`, `cifar10`, `cifar100`, `tiny-imagenet`) or the path of a
folder: the four IDX files of the MNIST family (plain or .gz), `train/` and `test/` (or `val/`, `valid/`)
of class folders, class folders directly, or a named set as its makers unpack it. A name wins over a
folder of the same name; write `./digits` for the folder.

The training and the test split come from two functions, so that a search that is handed the result of
`load_train` has no way to the test pictures. Class folders without a test folder, and digits, give a
fifth of each class to the test split: the same pictures always, whatever the seed of the run.

How a picture file becomes a tensor:

- Pillow decodes it; the EXIF orientation is applied; of an animation the first frame is taken.
- Alpha is composed on white, CMYK and palettes become RGB, 16-bit grey is scaled to 8 bit.
- The data set has one channel if every training picture is stored as grey, otherwise three (RGB).
- The size is `image_size`; without it the most common shorter side of the training pictures if none is
  above 64 (at least 8), otherwise 64. The shorter side is scaled to it (bilinear, antialiased; untouched
  when it fits already) and the middle square is kept.
- Hidden files and files with another ending than Pillow's common ones are skipped. Pictures that cannot
  be decoded are all found, then refused by name.

Mirrored pictures keep their label in folders of images, CIFAR, Tiny-ImageNet and Fashion-MNIST; not in
digits and other IDX files, which hold digits and letters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnas.arrays import array_classes, read_arrays
from dnas.errors import InputError
from dnas.files import Bytes, Labels, require_tensor_fits
from dnas.pictures import SMALLEST_IMAGE, decode, list_pictures, open_tree, survey
from dnas.sources import locate
from dnas.streams import torch_stream


@dataclass(frozen=True)
class Split:
    """One split in memory: `images` uint8 [N, C, H, W] with C 1 or 3, `labels` int64 [N]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8 and self.images.ndim == 4, self.images.shape
        assert self.labels.dtype == torch.int64 and self.labels.shape == self.images.shape[:1]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))

    def subset(self, indices: Tensor) -> Split:
        """A copy of the samples at `indices` (int64 [M]), in that order."""
        indices = indices.to(self.images.device)
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class DataInfo:
    """What the network, the augmentation and the picture of a network need to know of a data set.

    `mean` and `std` are per channel, on the scale 0..1, over the training split (the published constants
    where there are some). `flip`: whether a mirrored picture keeps its label. Pictures are square.
    """

    source: str
    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool


_PUBLISHED_MEAN_STD = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}


def load_train(source: str, *, data_dir: str | None = None, image_size: int | None = None) -> tuple[Split, DataInfo]:
    """The training split of `source` and what there is to know of the data set. Reads no test picture.

    Args:
        source: a name or a folder, see the module.
        data_dir: where named data sets lie or are downloaded to; by default the environment's
            DNAS_DATA_DIR, else ~/.cache/dnas. DNAS_OFFLINE=1 forbids downloads.
        image_size: side of the square pictures in pixels, at least 8; by default as they are stored.

    Raises:
        InputError: the source is unknown, damaged, unusable, or too large for this machine's memory.
    """
    if image_size is not None and image_size < SMALLEST_IMAGE:
        raise InputError(f"--image-size {image_size} is too small; give {SMALLEST_IMAGE} or more")
    place = locate(source, data_dir)
    if place.kind in ("tiny-imagenet", "folder"):
        with open_tree(place.path) as tree:
            listing = list_pictures(tree, place.kind, "train")
            _require_two_classes(listing.labels, listing.classes, place.path)
            size, channels = survey(tree, listing.names)
            pixels = decode(tree, listing.names, channels, image_size or size)
        images, labels, classes = torch.from_numpy(pixels), listing.labels, listing.classes
    else:
        arrays, labels = read_arrays(place.kind, place.path, "train")
        classes = array_classes(place.kind, labels)
        _require_labels_below(len(classes), labels, place.path)
        _require_two_classes(labels, classes, place.path)
        images = _resized(arrays, image_size or max(SMALLEST_IMAGE, arrays.shape[-1]))
    mean, std = _PUBLISHED_MEAN_STD.get(place.kind) or _mean_std(images)
    flip = place.kind not in ("digits", "idx")
    info = DataInfo(source, classes, images.shape[1], images.shape[2], mean, std, flip)
    return Split(images, torch.from_numpy(labels)), info


def load_test(source: str, info: DataInfo, *, data_dir: str | None = None) -> Split:
    """The test split of `source`, in the classes, channels and size that `info` has from training.

    Raises:
        InputError: as `load_train`, or the pictures do not fit `info` (another class, other channels).
    """
    place = locate(source, data_dir)
    if place.kind in ("tiny-imagenet", "folder"):
        with open_tree(place.path) as tree:
            listing = list_pictures(tree, place.kind, "test", info.classes)
            _require_labels_below(len(info.classes), listing.labels, place.path)
            pixels = decode(tree, listing.names, info.channels, info.image_size)
        return Split(torch.from_numpy(pixels), torch.from_numpy(listing.labels))
    arrays, labels = read_arrays(place.kind, place.path, "test")
    _require_labels_below(len(info.classes), labels, place.path)
    if arrays.shape[1] != info.channels:
        raise InputError(
            f"--data {source!r} has {arrays.shape[1]} colour channels where training had {info.channels}; "
            "give the data set that was trained on, or one like it"
        )
    return Split(_resized(arrays, info.image_size), torch.from_numpy(labels))


def fingerprint(split: Split) -> str:
    """SHA-256 (hex) over shape, pixels and labels: equal exactly when the splits are equal."""
    digest = hashlib.sha256(str(tuple(split.images.shape)).encode())
    digest.update(np.ascontiguousarray(split.images.cpu().numpy()).data)
    digest.update(np.ascontiguousarray(split.labels.cpu().numpy().astype("<i8")).data)
    return digest.hexdigest()


def halves(count: int, seed: int, fraction: float = 0.5) -> tuple[Tensor, Tensor]:
    """0..count-1 dealt into two disjoint sets of indices (int64), for the two levels of a search.

    The first has round(count * fraction). A pure function of its arguments.

    Raises:
        InputError: one of the two would be empty.
    """
    first = round(count * fraction) if math.isfinite(fraction) else 0
    if not 0 < first < count:
        raise InputError(
            f"{count} training images cannot be dealt out by the fraction {fraction}, as one part would be "
            "empty; give more images or a fraction between 0 and 1"
        )
    order = torch.randperm(count, generator=torch_stream(seed, "split"))
    return order[:first], order[first:]


def chosen(split: Split, images: int, seed: int) -> Split:
    """`images` samples of a split, drawn by the seed and kept in order; the split itself when that is all of it."""
    if images >= len(split):
        return split
    return split.subset(torch.randperm(len(split), generator=torch_stream(seed, "subset"))[:images].sort().values)


def batches(count: int, batch_size: int, seed: int, epoch: int, stream: str = "order") -> list[Tensor]:
    """One epoch: 0..count-1 shuffled and cut into ceil(count / batch_size) nearly equal index tensors.

    Sizes differ by at most one and none is above `batch_size`, so no small last batch upsets batch
    normalisation. A pure function of its arguments.

    Raises:
        InputError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size} is too small; give 1 or more")
    assert count > 0, count
    order = torch.randperm(count, generator=torch_stream(seed, stream, epoch))
    return list(order.tensor_split(-(-count // batch_size)))


def _resized(images: Bytes, size: int) -> Tensor:
    require_tensor_fits(len(images), images.shape[1], size)
    if images.shape[-1] == size:
        # A copy, as arrays made from the bytes of a file are read-only.
        return torch.from_numpy(images.copy())
    resized = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8)
    for start in range(0, len(images), 1024):
        pixels = torch.from_numpy(images[start : start + 1024].astype(np.float32))
        pixels = torch.nn.functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        resized[start : start + 1024] = pixels.round_().clamp_(0, 255)
    return resized


def _require_two_classes(labels: Labels, classes: Sequence[str], path: Path) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(
            f"the training images in {str(path)!r} are all of one class, {classes[int(present[0])]!r}; "
            "a classifier needs two or more"
        )


def _require_labels_below(count: int, labels: Labels, path: Path) -> None:
    if labels.max() >= count:
        raise InputError(
            f"{str(path)!r} has the label {labels.max()} where only 0 to {count - 1} are known; "
            "give the data set that belongs to these classes, or fetch it again"
        )


def _mean_std(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over [N, C, H, W], on the scale 0..1.

    From exact counts of the 256 values. A channel that never varies gets 1, as it is to be divided by.
    """
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 1024):
        for channel, row in enumerate(counts):
            row += np.bincount(images[start : start + 1024, channel].numpy().ravel(), minlength=256)
    values = np.arange(256)
    mean = counts @ values / counts.sum(1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    varies = (counts > 0).sum(1) > 1
    std = np.where(varies, np.sqrt(variance) / 255, 1.0)
    return tuple((mean / 255).tolist()), tuple(std.tolist())

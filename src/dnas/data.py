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

import gzip
import hashlib
import math
import os
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dnas.errors import InputError
from dnas.streams import derived_seed, torch_stream

if TYPE_CHECKING:
    from PIL import Image

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
_In = TypeVar("_In")
_Out = TypeVar("_Out")

SMALLEST_IMAGE = 8
LARGEST_DEFAULT_IMAGE = 64
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


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


@dataclass(frozen=True)
class _Named:
    """A published data set: where it may lie below the data directory, and where to get it."""

    kind: str
    places: tuple[str, ...]
    url: str
    files: tuple[tuple[str, str], ...]  # (name, md5)
    into: str = ""


_NAMED = {
    "fashion-mnist": _Named(
        kind="fashion-mnist",
        places=("fashion-mnist", "FashionMNIST/raw"),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files=(
            ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        into="fashion-mnist",
    ),
    "cifar10": _Named(
        kind="cifar10",
        places=("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        url="https://www.cs.toronto.edu/~kriz/",
        files=(("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "cifar100": _Named(
        kind="cifar100",
        places=("cifar-100-binary", "cifar-100-binary.tar.gz"),
        url="https://www.cs.toronto.edu/~kriz/",
        files=(("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
    ),
    "tiny-imagenet": _Named(
        kind="tiny-imagenet",
        places=("tiny-imagenet-200", "tiny-imagenet-200.zip"),
        url="http://cs231n.stanford.edu/",
        files=(("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),),
    ),
}
NAMES = ("digits", *_NAMED)

_PUBLISHED_MEAN_STD = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)  # fmt: skip


# ---------------------------------------------------------------- the two splits


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
    place = _place(source, data_dir)
    if place.kind in ("tiny-imagenet", "folder"):
        with _tree(place.path) as tree:
            listing = _listing(tree, place.kind, "train")
            _require_two_classes(listing.labels, listing.classes, place.path)
            size, channels = _survey(tree, listing.names)
            pixels = _decode(tree, listing.names, channels, image_size or size)
        images, labels, classes = torch.from_numpy(pixels), listing.labels, listing.classes
    else:
        arrays, labels = _read_arrays(place, "train")
        classes = _array_classes(place.kind, labels)
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
    place = _place(source, data_dir)
    if place.kind in ("tiny-imagenet", "folder"):
        with _tree(place.path) as tree:
            listing = _listing(tree, place.kind, "test", info.classes)
            _require_labels_below(len(info.classes), listing.labels, place.path)
            pixels = _decode(tree, listing.names, info.channels, info.image_size)
        return Split(torch.from_numpy(pixels), torch.from_numpy(listing.labels))
    arrays, labels = _read_arrays(place, "test")
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


# ---------------------------------------------------------------- order


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


# ---------------------------------------------------------------- where the data lie


@dataclass(frozen=True)
class _Place:
    """What lies where. `kind`: a named set, "idx" or "folder" (of images)."""

    kind: str
    path: Path


def found(data_dir: str | None = None) -> list[tuple[str, str]]:
    """(name, where it is or that it is missing) of each named data set; opens no data file."""
    root = _data_root(data_dir)
    report = [("digits", "comes with scikit-learn")]
    for name in _NAMED:
        place = _on_disk(name, root)
        report.append((name, str(place.path) if place else f"not in {str(root)!r}"))
    return report


def _data_root(data_dir: str | None) -> Path:
    given = data_dir or os.environ.get("DNAS_DATA_DIR")
    if given:
        return _expanded(given)
    try:
        return Path.home() / ".cache" / "dnas"
    except RuntimeError:  # neither HOME nor an entry for this user
        return Path(".cache") / "dnas"


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission, or a name too long to exist
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _place(source: str, data_dir: str | None) -> _Place:
    if source == "digits":
        return _Place("digits", Path("digits"))
    if source in _NAMED:
        root = _data_root(data_dir)
        return _on_disk(source, root) or _download(source, root)
    folder = _expanded(source)
    if _is_file(folder):
        raise InputError(f"--data {source!r} is a file; give the folder that holds the images or IDX files")
    if not source or not _is_dir(folder):
        raise InputError(
            f"--data {source!r} is neither a known data set ({', '.join(NAMES)}) nor a folder; "
            "give one of these names or the path of a folder"
        )
    return _Place(_kind_of(folder), folder)


def _kind_of(folder: Path) -> str:
    if any(_idx_file(folder, name) for name in _IDX_FILES):
        real = folder.resolve()
        name = real.parent.name if real.name == "raw" else real.name  # torchvision's FashionMNIST/raw
        return "fashion-mnist" if "fashion" in name.lower() else "idx"
    if _is_file(folder / "data_batch_1.bin"):
        return "cifar10"
    if _is_file(folder / "train.bin"):
        return "cifar100"
    if _is_file(folder / "data_batch_1") or (_is_file(folder / "train") and _is_file(folder / "meta")):
        raise InputError(
            f"{str(folder)!r} holds the Python version of CIFAR, whose pickles could run anything; "
            "fetch the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) instead"
        )
    return "tiny-imagenet" if _is_file(folder / "wnids.txt") else "folder"


def _on_disk(name: str, root: Path) -> _Place | None:
    named = _NAMED[name]
    for path in (root / place for place in named.places):
        if named.kind == "fashion-mnist":
            # All four or none: an interrupted download goes on where it was.
            there = all(_idx_file(path, file) for file in _IDX_FILES)
        else:
            there = _is_dir(path) or _is_file(path)
        if there:
            return _Place(named.kind, path)
    return None


def _download(name: str, root: Path) -> _Place:
    named = _NAMED[name]
    try:
        if os.environ.get("DNAS_OFFLINE", "0") not in ("", "0"):
            raise ConnectionError("DNAS_OFFLINE is set")
        import pooch  # type: ignore[import-untyped,unused-ignore]

        for file, md5 in named.files:
            pooch.retrieve(
                named.url + file,
                known_hash=f"md5:{md5}",
                fname=file,
                path=root / named.into,
                progressbar=False,
            )
    except Exception as error:  # whatever goes wrong in a network or a disk, the remedy is the same
        reason = " ".join(str(error).split()) or type(error).__name__
        files = " and ".join(file for file, _ in named.files)
        raise InputError(
            f"data set {name} is not at {str(root / named.into)!r} and could not be downloaded ({reason})"
            f"{_python_version(name, root)}; put {files} there or pass --data-dir"
        ) from error
    place = _on_disk(name, root)
    assert place is not None, root
    return place


def _python_version(name: str, root: Path) -> str:
    stems = {"cifar10": ("cifar-10-batches-py", "cifar-10-python"), "cifar100": ("cifar-100-python",)}
    for file in (stem + ending for stem in stems.get(name, ()) for ending in ("", ".tar.gz")):
        if _is_dir(root / file) or _is_file(root / file):
            return f", and {file} there is the Python version, which is pickled and not read"
    return ""


# ---------------------------------------------------------------- data sets that are arrays


def _read_arrays(place: _Place, part: str) -> tuple[Bytes, Labels]:
    """Images [N, C, S, S] and labels [N] of a part ("train" or "test") of a data set that is arrays."""
    if place.kind == "digits":
        return _digits(part)
    if place.kind in _CIFAR:
        return _cifar(place, part)
    return _idx_pair(place.path, part)


def _array_classes(kind: str, labels: Labels) -> tuple[str, ...]:
    known = {"fashion-mnist": _FASHION_CLASSES, "cifar10": _CIFAR10_CLASSES, "cifar100": _CIFAR100_CLASSES}
    return known.get(kind) or tuple(str(number) for number in range(int(labels.max()) + 1))


def _digits(part: str) -> tuple[Bytes, Labels]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    chosen = _in_test(labels) == (part == "test")
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[chosen, None], labels[chosen]


def _in_test(labels: Labels) -> npt.NDArray[np.bool_]:
    """Which samples form the test split where the makers gave none: a fifth of each class, at least one.

    Counts are rounded along the classes, so that all together are ceil(N / 5). The choice rests on
    SHA-256 alone: it is the same for every seed, machine and library version.
    """
    chosen = np.zeros(len(labels), bool)
    before = 0
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        after = before + len(members)
        quota = max(1, -(-after // 5) - -(-before // 5))
        ranked = sorted(range(len(members)), key=lambda k: derived_seed(0, "test", int(label), k))
        chosen[members[ranked[:quota]]] = True
        before = after
    return chosen


_IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip


def _idx_file(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    paths = (folder / f"{spelling}{packed}" for spelling in spellings for packed in ("", ".gz"))
    return next(filter(_is_file, paths), None)


def _idx_pair(folder: Path, part: str) -> tuple[Bytes, Labels]:
    paths = []
    for name in _IDX_FILES:
        path = _idx_file(folder, name)
        if path is None:
            raise InputError(f"{str(folder)!r} lacks the IDX file {name} (or .gz); put it there")
        paths.append(path)
    images_path, labels_path = paths[:2] if part == "train" else paths[2:]
    images, labels = _idx(images_path, "images"), _idx(labels_path, "labels")
    if len(images) != len(labels):
        raise InputError(
            f"{str(labels_path)!r} has {len(labels)} labels for the {len(images)} images of "
            f"{images_path.name}; fetch the two files again"
        )
    if images.size == 0 or images.shape[1] != images.shape[2]:
        raise InputError(
            f"{str(images_path)!r} holds images of shape {images.shape}; give at least one, and square ones"
        )
    return images[:, None], labels.astype(np.int64)


def _idx(path: Path, what: str) -> Bytes:
    """The array in one IDX file of unsigned bytes, gzip-packed or not (told by content, not by name)."""
    dimensions = {"images": 3, "labels": 1}[what]
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=plain) if packed else plain  # type: ignore[assignment]
            header = stream.read(4 + 4 * dimensions)
            magic = int.from_bytes(header[:4], "big")
            if len(header) < 4 or magic != 0x800 + dimensions:
                other = {0x801: ", as labels do", 0x803: ", as images do"}.get(magic, "")
                raise InputError(
                    f"{str(path)!r} starts with {header[:4]!r}{other}, so it is not an IDX file of {what}; "
                    "check that no files are swapped, or fetch it again"
                )
            if len(header) < 4 + 4 * dimensions:
                raise InputError(f"{str(path)!r} is truncated within its header; fetch it again")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            _require_memory(size, f"{str(path)!r}", "fetch it again if it should be smaller")
            content = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    if len(content) != size:
        state = "truncated" if len(content) < size else "longer than its header says"
        raise InputError(f"{str(path)!r} is {state}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


@dataclass(frozen=True)
class _Cifar:
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int  # the last of them is the label that is used


_CIFAR = {
    "cifar10": _Cifar(
        "cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), ("test_batch.bin",), 1
    ),
    "cifar100": _Cifar("cifar-100-binary", ("train.bin",), ("test.bin",), 2),
}


def _cifar(place: _Place, part: str) -> tuple[Bytes, Labels]:
    layout = _CIFAR[place.kind]
    names = layout.train if part == "train" else layout.test
    record = layout.label_bytes + 3 * 32 * 32
    tables = []
    for name, content in _contents(place.path, layout.folder, names).items():
        if not content or len(content) % record:
            raise InputError(
                f"{name} in {str(place.path)!r} has {len(content)} bytes, not a multiple of {record}; "
                "it is damaged, so fetch it again"
            )
        tables.append(np.frombuffer(content, np.uint8).reshape(-1, record))
    table = np.concatenate(tables)
    images = np.ascontiguousarray(table[:, layout.label_bytes :]).reshape(-1, 3, 32, 32)
    return images, table[:, layout.label_bytes - 1].astype(np.int64)


def _contents(path: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of the files `names` in a folder, or in the `folder` of a .tar.gz: nothing is unpacked."""
    contents: dict[str, bytes] = {}
    try:
        if path.is_dir():
            for name in names:
                contents[name] = (path / name).read_bytes()
            return contents
        # A stream, as going back in a packed archive means to unpack it again from its start.
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.removeprefix("./").removeprefix(folder + "/")
                if name in names and member.isfile():
                    _require_memory(member.size, f"{name} in {str(path)!r}", "fetch the archive again")
                    stream = archive.extractfile(member)
                    assert stream is not None
                    contents[name] = stream.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise InputError(f"{str(path)!r} lacks {folder}/{missing[0]}; fetch it again")
    return {name: contents[name] for name in names}


def _resized(images: Bytes, size: int) -> Tensor:
    _require_tensor_fits(len(images), images.shape[1], size)
    if images.shape[-1] == size:
        # A copy, as arrays made from the bytes of a file are read-only.
        return torch.from_numpy(images.copy())
    resized = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8)
    for start in range(0, len(images), 1024):
        pixels = torch.from_numpy(images[start : start + 1024].astype(np.float32))
        pixels = torch.nn.functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        resized[start : start + 1024] = pixels.round_().clamp_(0, 255)
    return resized


# ---------------------------------------------------------------- data sets that are picture files


@dataclass(frozen=True)
class _Tree:
    """The folder or archive that holds the pictures; names are relative to it."""

    path: Path
    images: Callable[[str], list[str]]  # the pictures anywhere below a folder, sorted
    open: Callable[[str], IO[bytes]]


@dataclass(frozen=True)
class _Listing:
    classes: tuple[str, ...]
    names: list[str]
    labels: Labels


@contextmanager
def _tree(path: Path) -> Iterator[_Tree]:
    if _is_dir(path):
        yield _Tree(path, lambda folder: _images_below(path, folder), lambda name: _open_regular(path / name))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    top = path.stem + "/"
    with archive:
        names = sorted(name.removeprefix(top) for name in archive.namelist() if _is_picture(name))

        def images(folder: str) -> list[str]:
            # "0" is the character after "/", so these are all the names that start with the folder.
            return names[bisect_left(names, folder + "/") : bisect_left(names, folder + "0")]

        yield _Tree(path, images, lambda name: archive.open(top + name))


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.rpartition("/")[2].startswith(".")


def _open_regular(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    return path.open("rb")


def _images_below(root: Path, folder: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise _unreadable_folder(Path(error.filename), error) from error

    names = []
    for parent, folders, files in os.walk(root / folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(root).as_posix()
        names += [f"{relative}/{name}" for name in files if _is_picture(name)]
    return sorted(names)


def _unreadable_folder(folder: Path, error: OSError) -> InputError:
    return InputError(f"the folder {str(folder)!r} cannot be read ({error.strerror}); check its permissions")


def _listing(tree: _Tree, kind: str, part: str, classes: tuple[str, ...] | None = None) -> _Listing:
    """The pictures of a part ("train" or "test"). `classes` are those of training, once known."""
    if kind == "tiny-imagenet":
        return _tiny_train(tree) if part == "train" else _tiny_test(tree)
    return _class_folders(tree, part, classes)


def _class_folders(tree: _Tree, part: str, classes: tuple[str, ...] | None) -> _Listing:
    parts = _part_folders(tree.path)
    base = parts[part] if parts else ""
    folders = _subfolders(tree.path / base)
    if not folders:
        raise InputError(
            f"--data {str(tree.path)!r} holds neither class folders of images, nor train/ and test/ with "
            "class folders, nor IDX files; give a folder that does"
        )
    classes = classes or tuple(folders)
    index = {name: label for label, name in enumerate(classes)}
    names: list[str] = []
    labels: list[int] = []
    for folder in folders:
        below = tree.images(f"{base}/{folder}" if base else folder)
        if not below:
            raise InputError(
                f"the class folder {str(tree.path / base / folder)!r} holds no images "
                f"({' '.join(ENDINGS)}); fill it or remove it"
            )
        if not parts and len(below) < 2:
            raise InputError(
                f"the class folder {str(tree.path / folder)!r} holds one image, too few to split into "
                "training and test; add images or remove it"
            )
        if folder not in index:
            raise InputError(
                f"the class {folder!r} in {str(tree.path / base)!r} was not there in training; "
                "remove it or train with it"
            )
        names += below
        labels += [index[folder]] * len(below)
    if parts:
        return _Listing(classes, names, np.array(labels, np.int64))
    chosen = np.flatnonzero(_in_test(np.array(labels, np.int64)) == (part == "test"))
    return _Listing(classes, [names[k] for k in chosen], np.array(labels, np.int64)[chosen])


def _part_folders(root: Path) -> dict[str, str] | None:
    """The folders of the two splits; None where the class folders lie directly in `root`.

    Only names of folders are looked at, for the training too: an unusable test folder had better be
    known before the search than after it.
    """
    held_out = [name for name in ("test", "val", "valid") if _is_dir(root / name)]
    train = root / "train"
    train_classes = _subfolders(train) if _is_dir(train) else []
    if not train_classes:
        if held_out and _is_dir(train):
            raise InputError(f"{str(train)!r} holds no class folders; put the images in one folder per class")
        return None
    for name in held_out:
        test_classes = _subfolders(root / name)
        strangers = [folder for folder in test_classes if folder not in set(train_classes)]
        if strangers:
            raise InputError(
                f"the class {strangers[0]!r} in {str(root / name)!r} has no folder in train/; "
                "rename it, remove it or add training images"
            )
        if test_classes:
            return {"train": "train", "test": name}
    raise InputError(
        f"{str(root)!r} has train/ but no test/, val/ or valid/ with class folders; add one, or give "
        "the train folder itself, of which a fifth is then held out"
    )


def _subfolders(folder: Path) -> list[str]:
    try:
        names = [item.name for item in folder.iterdir() if not item.name.startswith(".") and _is_dir(item)]
    except OSError as error:
        raise _unreadable_folder(folder, error) from error
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise InputError(f"the name of the class folder {str(folder / name)!r} is not UTF-8; rename it")
    return sorted(names)


def _tiny_train(tree: _Tree) -> _Listing:
    wnids = _wnids(tree)
    words = dict(line.split("\t", 1) for line in _text(tree, "words.txt").splitlines() if "\t" in line)
    short = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    uses = Counter(short)
    classes = tuple(name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(short, wnids, strict=True))
    names: list[str] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        below = tree.images(f"train/{wnid}")
        if not below:
            raise InputError(f"{str(tree.path)!r} lacks the images of {wnid}; fetch the data set again")
        names += below
        labels += [label] * len(below)
    return _Listing(classes, names, np.array(labels, np.int64))


def _tiny_test(tree: _Tree) -> _Listing:
    """The pictures of val/: those of test/ come without labels."""
    wnids = _wnids(tree)
    index = {wnid: label for label, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in _text(tree, "val/val_annotations.txt").splitlines() if line.strip()]
    for row in rows:
        if len(row) < 2 or row[1] not in index:
            raise InputError(
                f"val/val_annotations.txt in {str(tree.path)!r} has the line {row!r} without a class of "
                "wnids.txt; fetch the data set again"
            )
    if not rows:
        raise InputError(f"val/val_annotations.txt in {str(tree.path)!r} is empty; fetch the data set again")
    names = [f"val/images/{row[0]}" for row in rows]
    return _Listing(tuple(wnids), names, np.array([index[row[1]] for row in rows], np.int64))


def _wnids(tree: _Tree) -> list[str]:
    return sorted(set(_text(tree, "wnids.txt").split()))


def _text(tree: _Tree, name: str) -> str:
    try:
        with tree.open(name) as stream:
            return stream.read(2**26).decode()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{name} in {str(tree.path)!r} cannot be read ({error}); fetch it again") from error


# ---------------------------------------------------------------- pictures to pixels


def _survey(tree: _Tree, names: Sequence[str]) -> tuple[int, int]:
    """(image size, channels) for pictures of which only the headers are read."""
    from PIL import Image

    def look(name: str) -> tuple[int, bool] | None:
        try:
            with tree.open(name) as stream, Image.open(stream) as image:
                return min(image.size), Image.getmodebase(image.mode) == "L"
        except Exception:  # decoding meets it again and reports it
            return None

    seen = [header for header in _in_threads(look, names) if header is not None]
    sides = Counter(side for side, _ in seen) or Counter([LARGEST_DEFAULT_IMAGE])
    if max(sides) > LARGEST_DEFAULT_IMAGE:
        size = LARGEST_DEFAULT_IMAGE
    else:
        size = max(SMALLEST_IMAGE, max(sides, key=lambda side: (sides[side], side)))
    return size, 1 if all(grey for _, grey in seen) else 3


def _decode(tree: _Tree, names: Sequence[str], channels: int, size: int) -> Bytes:
    """All pictures as one array [N, C, size, size]."""
    from PIL import Image

    _require_tensor_fits(len(names), channels, size)
    pixels = np.empty((len(names), channels, size, size), np.uint8)

    def fill(index: int) -> bool:
        try:
            with tree.open(names[index]) as stream, Image.open(stream) as image:
                pixels[index] = _square(image, channels, size)
            return True
        except Exception:  # Pillow's decoders raise many types for a damaged file
            return False

    whole = _in_threads(fill, range(len(names)))
    broken = [name for name, good in zip(names, whole, strict=True) if not good]
    if broken:
        shown = ", ".join(repr(name) for name in broken[:20])
        more = f" and {len(broken) - 20} more" if len(broken) > 20 else ""
        images = "image" if len(broken) == 1 else "images"
        raise InputError(
            f"{len(broken)} unreadable {images} in {str(tree.path)!r}: {shown}{more}; remove or repair them"
        )
    return pixels


def _in_threads(work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """[work(item) for item in items] on a few threads, in chunks as one small picture is not worth a task."""
    chunks = [items[start : start + 256] for start in range(0, len(items), 256)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = pool.map(lambda chunk: [work(item) for item in chunk], chunks)
        return [result for chunk in done for result in chunk]


def _square(image: Image.Image, channels: int, size: int) -> Bytes:
    """One picture as [C, size, size], by the rules at the top of the module."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("a picture of more than 16 bits")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("a picture of floating-point numbers, whose white is unknown")
    elif "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    width, height = image.size
    side = min(width, height)
    if side == size:
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    else:
        # Only the middle is scaled: a long thin picture would otherwise grow without bound.
        middle = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=middle)
    pixels: Bytes = np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
    return pixels


# ---------------------------------------------------------------- checks and sums


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


def _require_tensor_fits(count: int, channels: int, size: int) -> None:
    what = f"{count} images with {channels} channels at --image-size {size}"
    _require_memory(count * channels * size * size, what, "give a smaller --image-size or fewer images")


def _require_memory(size: int, what: str, remedy: str) -> None:
    import psutil  # type: ignore[import-untyped,unused-ignore]

    limit = psutil.virtual_memory().total // 2
    if size > limit:
        raise InputError(
            f"{what} would take {size} bytes, above half of this machine's memory ({limit} bytes); {remedy}"
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

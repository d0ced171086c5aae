"""Data sets that are arrays of pixels: scikit-learn's digits, IDX files (MNIST, Fashion-MNIST), binary CIFAR."""

from __future__ import annotations

import gzip
import math
import struct
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from dnas.errors import InputError
from dnas.files import Bytes, Labels, in_test, is_file, refuse_member
from dnas.memory import require_memory

if TYPE_CHECKING:
    from typing_extensions import Self

LARGEST_NOTES = 2**16  # bytes

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


def read_arrays(kind: str, path: Path, part: str) -> tuple[Bytes, Labels]:
    """Images [N, C, S, S] and labels [N] of a part ("train" or "test") of a data set that is arrays."""
    if kind == "digits":
        return _digits(part)
    if kind in _CIFAR:
        return _cifar(kind, path, part)
    return _idx_pair(path, part)


def array_classes(kind: str, labels: Labels) -> tuple[str, ...]:
    known = {"fashion-mnist": _FASHION_CLASSES, "cifar10": _CIFAR10_CLASSES, "cifar100": _CIFAR100_CLASSES}
    return known.get(kind) or tuple(str(number) for number in range(int(labels.max()) + 1))


def _digits(part: str) -> tuple[Bytes, Labels]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    chosen = in_test(labels) == (part == "test")
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[chosen, None], labels[chosen]


IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip


def idx_file(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    paths = (folder / f"{spelling}{packed}" for spelling in spellings for packed in ("", ".gz"))
    return next(filter(is_file, paths), None)


def _idx_pair(folder: Path, part: str) -> tuple[Bytes, Labels]:
    paths = []
    for name in IDX_FILES:
        path = idx_file(folder, name)
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
            require_memory(size, f"{str(path)!r}", "fetch it again if it should be smaller")
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


def _cifar(kind: str, path: Path, part: str) -> tuple[Bytes, Labels]:
    layout = _CIFAR[kind]
    names = layout.train if part == "train" else layout.test
    record = layout.label_bytes + 3 * 32 * 32
    tables = []
    for name, content in _contents(path, layout.folder, names).items():
        if not content or len(content) % record:
            raise InputError(
                f"{name} in {str(path)!r} has {len(content)} bytes, not a multiple of {record}; "
                "it is damaged, so fetch it again"
            )
        tables.append(np.frombuffer(content, np.uint8).reshape(-1, record))
    table = np.concatenate(tables)
    images = np.ascontiguousarray(table[:, layout.label_bytes :]).reshape(-1, 3, 32, 32)
    return images, table[:, layout.label_bytes - 1].astype(np.int64)


class _Member(tarfile.TarInfo):
    """A member of an archive; what is noted about the next one, as a long name, is bounded here."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in tarfile.REGULAR_TYPES and member.size > LARGEST_NOTES:
            raise tarfile.ReadError(f"{member.size} bytes of notes about one member")
        return member


def _contents(path: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """The bytes of the files `names` in a folder, or in the `folder` of a .tar.gz: nothing is unpacked."""
    contents: dict[str, bytes] = {}
    try:
        if path.is_dir():
            for name in names:
                contents[name] = (path / name).read_bytes()
            return contents
        # A stream, as going back in a packed archive means to unpack it again from its start.
        with tarfile.open(path, "r|gz", tarinfo=_Member) as archive:
            for member in archive:
                refuse_member(path, member.name, member.issym() or member.islnk())
                name = member.name.removeprefix("./").removeprefix(folder + "/")
                if name in names and member.isfile():
                    require_memory(member.size, f"{name} in {str(path)!r}", "fetch the archive again")
                    stream = archive.extractfile(member)
                    assert stream is not None
                    contents[name] = stream.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    missing = [name for name in names if name not in contents]
    if missing:
        raise InputError(f"{str(path)!r} lacks {folder}/{missing[0]}; fetch it again")
    return {name: contents[name] for name in names}

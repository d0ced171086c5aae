"""IDX files of the MNIST family."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from dnas.data.memory import require_memory
from dnas.data.sources.protocol import Named, Source
from dnas.data.sources.samples import Bytes, Labels
from dnas.data.sources.tree import is_file
from dnas.errors import InputError

_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip


def _file(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    paths = (folder / f"{spelling}{packed}" for spelling in spellings for packed in ("", ".gz"))
    return next(filter(is_file, paths), None)


def _read(folder: Path, part: str) -> tuple[Bytes, Labels]:
    paths = []
    for name in IDX_FILES:
        path = _file(folder, name)
        if path is None:
            raise InputError(f"{str(folder)!r} lacks the IDX file {name} (or .gz); copy it there")
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
            f"{str(images_path)!r} contains images of shape {images.shape}; give at least one, and square ones"
        )
    return images[:, None], labels.astype(np.int64)


def _idx(path: Path, what: str) -> Bytes:
    """Return the array in an IDX file of unsigned bytes, gzipped or not (detected by content, not by name)."""
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


def _holds_any(folder: Path) -> bool:
    return any(_file(folder, name) for name in IDX_FILES)


def _is_fashion(folder: Path) -> bool:
    real = folder.resolve()
    name = real.parent.name if real.name == "raw" else real.name  # torchvision's FashionMNIST/raw
    return "fashion" in name.lower() and _holds_any(folder)


SOURCES = (
    Source(
        kind="fashion-mnist",
        rank=1,
        holds=_is_fashion,
        arrays=_read,
        classes=_FASHION_CLASSES,
        named=Named(
            name="fashion-mnist",
            places=("fashion-mnist", "FashionMNIST/raw"),
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            files=(
                ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
                ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
                ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
            ),
            into="fashion-mnist",
            # All four or none, so that an interrupted download is continued.
            whole=lambda place: all(_file(place, name) for name in IDX_FILES),
        ),
    ),
    Source(
        kind="IDX files",
        rank=2,
        holds=_holds_any,
        arrays=_read,
        mirrored=False,
    ),
)

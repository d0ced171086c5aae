"""CIFAR-10 and CIFAR-100, in their binary form."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dnas.data.memory import require_memory
from dnas.data.sources.archive import Member, refuse_member
from dnas.data.sources.protocol import Named, Source
from dnas.data.sources.samples import Bytes, Labels
from dnas.data.sources.tree import is_dir, is_file
from dnas.errors import InputError

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


@dataclass(frozen=True)
class _Cifar:
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int  # the last of them is the label


_FORMS = {
    "cifar10": _Cifar(
        "cifar-10-batches-bin", tuple(f"data_batch_{k}.bin" for k in range(1, 6)), ("test_batch.bin",), 1
    ),
    "cifar100": _Cifar("cifar-100-binary", ("train.bin",), ("test.bin",), 2),
}


def _read(kind: str, path: Path, part: str) -> tuple[Bytes, Labels]:
    layout = _FORMS[kind]
    names = layout.train if part == "train" else layout.test
    record = layout.label_bytes + 3 * 32 * 32
    tables = []
    for name, content in _contents(path, layout.folder, names).items():
        if not content or len(content) % record:
            raise InputError(
                f"{name} in {str(path)!r} has {len(content)} bytes, not a multiple of {record}; "
                "it is damaged; fetch it again"
            )
        tables.append(np.frombuffer(content, np.uint8).reshape(-1, record))
    table = np.concatenate(tables)
    images = np.ascontiguousarray(table[:, layout.label_bytes :]).reshape(-1, 3, 32, 32)
    return images, table[:, layout.label_bytes - 1].astype(np.int64)


def _contents(path: Path, folder: str, names: Sequence[str]) -> dict[str, bytes]:
    """Return the bytes of the files `names` in a folder, or in the `folder` of a .tar.gz, without unpacking it."""
    contents: dict[str, bytes] = {}
    try:
        if path.is_dir():
            for name in names:
                contents[name] = (path / name).read_bytes()
            return contents
        # A stream, since seeking back in a compressed archive means decompressing it again from the start.
        with tarfile.open(path, "r|gz", tarinfo=Member) as archive:
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


def _python_version(name: str, root: Path) -> str:
    stems = {"cifar10": ("cifar-10-batches-py", "cifar-10-python"), "cifar100": ("cifar-100-python",)}
    for file in (stem + ending for stem in stems.get(name, ()) for ending in ("", ".tar.gz")):
        if is_dir(root / file) or is_file(root / file):
            return f", and {file} there is the Python version, which is pickled and therefore not read"
    return ""


def _holds_cifar100(folder: Path) -> bool:
    if is_file(folder / "train.bin"):
        return True
    if is_file(folder / "data_batch_1") or (is_file(folder / "train") and is_file(folder / "meta")):
        raise InputError(
            f"{str(folder)!r} contains the Python version of CIFAR, whose pickles could run any code; "
            "fetch the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) instead"
        )
    return False


SOURCES = (
    Source(
        kind="cifar10",
        rank=3,
        holds=lambda folder: is_file(folder / "data_batch_1.bin"),
        arrays=partial(_read, "cifar10"),
        classes=_CIFAR10_CLASSES,
        mean_std=((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        named=Named(
            name="cifar10",
            places=("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
            url="https://www.cs.toronto.edu/~kriz/",
            files=(("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
            hint=partial(_python_version, "cifar10"),
        ),
    ),
    Source(
        kind="cifar100",
        rank=4,
        holds=_holds_cifar100,
        arrays=partial(_read, "cifar100"),
        classes=_CIFAR100_CLASSES,
        mean_std=((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        named=Named(
            name="cifar100",
            places=("cifar-100-binary", "cifar-100-binary.tar.gz"),
            url="https://www.cs.toronto.edu/~kriz/",
            files=(("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
            hint=partial(_python_version, "cifar100"),
        ),
    ),
)

"""Data sets of every kind, written small: for tests of data/. Who imports `no_network` can load nothing."""

import gzip
import io
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pooch
import pytest
from PIL import Image

from dnas.errors import InputError

RED, WHITE = (255, 0, 0), (255, 255, 255)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """An InputError of one line that has all the words."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)


def random_bytes(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, content: bytes) -> Path:
    """A file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path: Path, pixels, mode: str | None = None, **options) -> Path:
    """A picture file of an array [H, W(, C)], of one colour, or of a PIL image."""
    if isinstance(pixels, tuple):
        pixels = Image.new("RGB", (8, 8), pixels)
    elif isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels)
    if mode:
        pixels = pixels.convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels.save(path, **options)
    return path


def two_classes(root: Path, count: int = 2, parts: tuple[str, ...] = ("train", "test")) -> Path:
    """Class folders a and b in each part, of `count` different 8x8 colour pictures each."""
    for p, part in enumerate(parts):
        for c, name in enumerate("ab"):
            for k in range(count):
                picture(root / part / name / f"{k}.png", random_bytes(8, 8, 3, seed=100 * p + 10 * c + k))
    return root


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder: Path, spelling: str = "-", packed: bool = False, size: int = 9) -> dict[str, np.ndarray]:
    """The four files of an IDX data set of 6 + 4 pictures. Returns their arrays.

    Args:
        spelling: What stands before "idx" in the names.
    """
    arrays = {
        "train-images": random_bytes(6, size, size),
        "train-labels": np.array([0, 1, 2, 2, 1, 0], np.uint8),
        "t10k-images": random_bytes(4, size, size, seed=1),
        "t10k-labels": np.array([2, 2, 0, 1], np.uint8),
    }
    for name, array in arrays.items():
        content = idx_bytes(array)
        file = f"{name}{spelling}idx{array.ndim}-ubyte" + (".gz" if packed else "")
        write(folder / file, gzip.compress(content) if packed else content)
    return arrays


def cifar10_files() -> dict[str, bytes]:
    names = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
    return {
        name: b"".join(bytes([(k + r) % 10]) + random_bytes(3, 32, 32, seed=10 * k + r).tobytes() for r in range(2))
        for k, name in enumerate(names)
    }


def cifar100_files() -> dict[str, bytes]:
    return {
        name: b"".join(bytes([19 - r, 98 + r]) + random_bytes(3, 32, 32, seed=r + s).tobytes() for r in range(2))
        for s, name in ((0, "train.bin"), (5, "test.bin"))
    }


CIFAR = {
    "cifar10": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", cifar10_files),
    "cifar100": ("cifar-100-binary", "cifar-100-binary.tar.gz", cifar100_files),
}


def cifar(root: Path, name: str, packed: bool) -> Path:
    """The binary files of CIFAR-10 or -100 with two pictures each, as a folder or packed."""
    folder, archive, files = CIFAR[name]
    if packed:
        with tarfile.open(root / archive, "w:gz") as tar:
            for file, content in reversed(files().items()):  # not in the order of reading
                member = tarfile.TarInfo(f"{folder}/{file}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return root / archive
    for file, content in files().items():
        write(root / folder / file, content)
    return root / folder


def tiny_imagenet(root: Path) -> Path:
    """The folders of Tiny-ImageNet, with three classes of two pictures each, and three to test."""
    top = root / "tiny-imagenet-200"
    for c, wnid in enumerate(["n02", "n01", "n03"]):
        for k in range(2):
            path = top / "train" / wnid / "images" / f"{wnid}_{k}.JPEG"
            picture(path, random_bytes(64, 64, 3, seed=10 * c + k), format="JPEG")
        write(top / "train" / wnid / f"{wnid}_boxes.txt", b"")
    write(top / "wnids.txt", b"n02\nn01\nn03\n")
    write(top / "words.txt", b"n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn99\tthing\n")
    for k in range(3):
        picture(top / "val" / "images" / f"val_{k}.JPEG", random_bytes(64, 64, 3, seed=90 + k), format="JPEG")
    write(
        top / "val" / "val_annotations.txt",
        b"val_0.JPEG\tn03\t0\t0\t1\t1\nval_1.JPEG\tn01\t0\t0\t1\t1\nval_2.JPEG\tn01\t0\t0\t1\t1\n",
    )
    picture(top / "test" / "images" / "test_0.JPEG", random_bytes(64, 64, 3, seed=99), format="JPEG")
    return top


# Names of members that lead out of an archive.
OUTSIDE = ["../data_batch_1.bin", "/data_batch_1.bin", "cifar-10-batches-bin/../../x", "..\\x", "C:/x", "a/.."]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path_factory):
    """No test may load anything, nor see the data sets of whoever runs it."""

    def refuse(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(pooch, "retrieve", refuse)
    monkeypatch.setenv("DNAS_DATA_DIR", str(tmp_path_factory.mktemp("empty")))
    monkeypatch.delenv("DNAS_OFFLINE", raising=False)

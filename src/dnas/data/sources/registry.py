"""Data sets by name or folder: where they lie, what kind they are, what they hold."""

from __future__ import annotations

import os
from pathlib import Path

from dnas.data.sources.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES, CIFAR_FORMS, python_version, read_cifar
from dnas.data.sources.digits import read_digits
from dnas.data.sources.folder import list_folder
from dnas.data.sources.idx import FASHION_CLASSES, IDX_FILES, idx_file, idx_pair
from dnas.data.sources.listing import Listing
from dnas.data.sources.protocol import Bytes, Labels, Named, Place
from dnas.data.sources.tiny_imagenet import tiny_test, tiny_train
from dnas.data.sources.tree import Tree, is_dir, is_file
from dnas.errors import InputError, did_you_mean

_NAMED = {
    "fashion-mnist": Named(
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
    "cifar10": Named(
        kind="cifar10",
        places=("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        url="https://www.cs.toronto.edu/~kriz/",
        files=(("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),),
    ),
    "cifar100": Named(
        kind="cifar100",
        places=("cifar-100-binary", "cifar-100-binary.tar.gz"),
        url="https://www.cs.toronto.edu/~kriz/",
        files=(("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),),
    ),
    "tiny-imagenet": Named(
        kind="tiny-imagenet",
        places=("tiny-imagenet-200", "tiny-imagenet-200.zip"),
        url="http://cs231n.stanford.edu/",
        files=(("tiny-imagenet-200.zip", "90528d7ca1a48142e341f4ef8d21d0de"),),
    ),
}
NAMES = ("digits", *_NAMED)


def found(data_dir: str | None = None) -> list[tuple[str, str]]:
    """(name, where it is or that it is missing) of each named data set; opens no data file."""
    root = data_root(data_dir)
    report = [("digits", "comes with scikit-learn")]
    for name in _NAMED:
        place = _on_disk(name, root)
        report.append((name, str(place.path) if place else f"not in {str(root)!r}"))
    return report


def data_root(data_dir: str | None) -> Path:
    """Where named data sets lie, and indexes of folders."""
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


def is_here(source: str, data_dir: str | None) -> bool:
    """Whether `locate` would find it without a download."""
    return source not in _NAMED or _on_disk(source, data_root(data_dir)) is not None


def locate(source: str, data_dir: str | None) -> Place:
    if source == "digits":
        return Place("digits", Path("digits"))
    if source in _NAMED:
        root = data_root(data_dir)
        return _on_disk(source, root) or _download(source, root)
    folder = _expanded(source)
    if is_file(folder):
        raise InputError(f"--data {source!r} is a file; give the folder that holds the images or IDX files")
    if not source or not is_dir(folder):
        hint = did_you_mean(source, NAMES) or f"; choose from {', '.join(NAMES)}, or give the path of a folder"
        raise InputError(f"--data {source!r} is neither a known data set nor a folder{hint}")
    return Place(_kind_of(folder), folder)


def _kind_of(folder: Path) -> str:
    if any(idx_file(folder, name) for name in IDX_FILES):
        real = folder.resolve()
        name = real.parent.name if real.name == "raw" else real.name  # torchvision's FashionMNIST/raw
        return "fashion-mnist" if "fashion" in name.lower() else "idx"
    if is_file(folder / "data_batch_1.bin"):
        return "cifar10"
    if is_file(folder / "train.bin"):
        return "cifar100"
    if is_file(folder / "data_batch_1") or (is_file(folder / "train") and is_file(folder / "meta")):
        raise InputError(
            f"{str(folder)!r} holds the Python version of CIFAR, whose pickles could run anything; "
            "fetch the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) instead"
        )
    return "tiny-imagenet" if is_file(folder / "wnids.txt") else "folder"


def _on_disk(name: str, root: Path) -> Place | None:
    named = _NAMED[name]
    for path in (root / place for place in named.places):
        if named.kind == "fashion-mnist":
            # All four or none: an interrupted download goes on where it was.
            there = all(idx_file(path, file) for file in IDX_FILES)
        else:
            there = is_dir(path) or is_file(path)
        if there:
            return Place(named.kind, path)
    return None


def _download(name: str, root: Path) -> Place:
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
            f"{python_version(name, root)}; put {files} there or pass --data-dir"
        ) from error
    place = _on_disk(name, root)
    assert place is not None, root
    return place


def read_arrays(kind: str, path: Path, part: str) -> tuple[Bytes, Labels]:
    """Images [N, C, S, S] and labels [N] of a part ("train" or "test") of a data set that is arrays."""
    if kind == "digits":
        return read_digits(part)
    if kind in CIFAR_FORMS:
        return read_cifar(kind, path, part)
    return idx_pair(path, part)


def array_classes(kind: str, labels: Labels) -> tuple[str, ...]:
    known = {"fashion-mnist": FASHION_CLASSES, "cifar10": CIFAR10_CLASSES, "cifar100": CIFAR100_CLASSES}
    return known.get(kind) or tuple(str(number) for number in range(int(labels.max()) + 1))


def list_pictures(tree: Tree, kind: str, part: str, classes: tuple[str, ...] | None = None) -> Listing:
    """The pictures of a part ("train" or "test"). `classes` are those of training, once known."""
    if kind == "tiny-imagenet":
        return tiny_train(tree) if part == "train" else tiny_test(tree)
    return list_folder(tree.path, part, classes)

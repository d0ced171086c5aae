"""Data sets that are picture files: folders of classes, Tiny-ImageNet as it is unpacked or in its archive.

The rules by which a file becomes pixels are in `data.py`.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from dnas.errors import InputError, RunError
from dnas.files import Bytes, Counts, File, Labels, in_test, is_dir, refuse_member, require_tensor_fits

if TYPE_CHECKING:
    from PIL import Image

_In = TypeVar("_In")
_Out = TypeVar("_Out")
SMALLEST_IMAGE = 8
LARGEST_DEFAULT_IMAGE = 64
LARGEST_MEMBER = 2**28  # bytes of a file in an archive
# Of these alone: Pillow tells a format by content, and for some calls other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Tree:
    """The folder or archive that holds the pictures; names are relative to it."""

    path: Path
    images: Callable[[str], list[str]]  # the pictures anywhere below a folder, sorted
    open: Callable[[str], IO[bytes]]


@dataclass(frozen=True)
class Listing:
    classes: tuple[str, ...]
    names: list[str]
    labels: Labels


@contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    if is_dir(path):
        yield Tree(path, lambda folder: _images_below(path, folder), lambda name: _open_regular(path / name))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    top = path.stem + "/"
    with archive:
        for member in archive.infolist():
            refuse_member(path, member.filename, stat.S_ISLNK(member.external_attr >> 16))
            if member.file_size > LARGEST_MEMBER:
                raise InputError(
                    f"{str(path)!r} has the member {member.filename!r} of {member.file_size} bytes, more than any "
                    "picture has; fetch the archive again"
                )
        names = sorted(name.removeprefix(top) for name in archive.namelist() if _is_picture(name))

        def images(folder: str) -> list[str]:
            # "0" is the character after "/", so these are all the names that start with the folder.
            return names[bisect_left(names, folder + "/") : bisect_left(names, folder + "0")]

        yield Tree(path, images, lambda name: archive.open(top + name))


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


def list_pictures(tree: Tree, kind: str, part: str, classes: tuple[str, ...] | None = None) -> Listing:
    """The pictures of a part ("train" or "test"). `classes` are those of training, once known."""
    if kind == "tiny-imagenet":
        return _tiny_train(tree) if part == "train" else _tiny_test(tree)
    return _class_folders(tree, part, classes)


def _class_folders(tree: Tree, part: str, classes: tuple[str, ...] | None) -> Listing:
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
        return Listing(classes, names, np.array(labels, np.int64))
    chosen = np.flatnonzero(in_test(np.array(labels, np.int64)) == (part == "test"))
    return Listing(classes, [names[k] for k in chosen], np.array(labels, np.int64)[chosen])


def _part_folders(root: Path) -> dict[str, str] | None:
    """The folders of the two splits; None where the class folders lie directly in `root`.

    Only names of folders are looked at, for the training too: an unusable test folder had better be
    known before the search than after it.
    """
    held_out = [name for name in ("test", "val", "valid") if is_dir(root / name)]
    train = root / "train"
    train_classes = _subfolders(train) if is_dir(train) else []
    if not train_classes:
        if held_out and is_dir(train):
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
        names = [item.name for item in folder.iterdir() if not item.name.startswith(".") and is_dir(item)]
    except OSError as error:
        raise _unreadable_folder(folder, error) from error
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise InputError(f"the name of the class folder {str(folder / name)!r} is not UTF-8; rename it")
    return sorted(names)


def _tiny_train(tree: Tree) -> Listing:
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
    return Listing(classes, names, np.array(labels, np.int64))


def _tiny_test(tree: Tree) -> Listing:
    """The pictures of val/: those of test/ come without labels."""
    wnids = _wnids(tree)
    index = {wnid: label for label, wnid in enumerate(wnids)}
    rows = [line.split("\t") for line in _text(tree, "val/val_annotations.txt").splitlines() if line.strip()]
    for row in rows:
        if len(row) < 2 or row[1] not in index or not _plain(row[0]):
            raise InputError(
                f"val/val_annotations.txt in {str(tree.path)!r} has the line {row!r} without a picture and a class of "
                "wnids.txt; fetch the data set again"
            )
    if not rows:
        raise InputError(f"val/val_annotations.txt in {str(tree.path)!r} is empty; fetch the data set again")
    names = [f"val/images/{row[0]}" for row in rows]
    return Listing(tuple(wnids), names, np.array([index[row[1]] for row in rows], np.int64))


def _wnids(tree: Tree) -> list[str]:
    wnids = sorted(set(_text(tree, "wnids.txt").split()))
    for wnid in wnids:
        if not _plain(wnid):
            raise InputError(
                f"wnids.txt in {str(tree.path)!r} has {wnid!r}, which is no class; fetch the data set again"
            )
    return wnids


def _plain(name: str) -> bool:
    """Whether it names something in its folder, not elsewhere."""
    return name not in (".", "..") and "/" not in name and "\\" not in name


def _text(tree: Tree, name: str) -> str:
    try:
        with tree.open(name) as stream:
            return stream.read(2**26).decode()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{name} in {str(tree.path)!r} cannot be read ({error}); fetch it again") from error


def survey(tree: Tree, names: Sequence[str]) -> tuple[int, int]:
    """(image size, channels) for pictures of which only the headers are read."""
    return shape_of(*_headers(tree.open, names))


def survey_files(root: str, files: Sequence[File]) -> tuple[dict[int, int], bool]:
    """What `shape_of` asks for, of some pictures in a folder. Unreadable ones are left out."""
    return _headers(lambda name: _open_regular(Path(root, name)), [name for name, _, _ in files])


def _headers(opened: Callable[[str], IO[bytes]], names: Sequence[str]) -> tuple[dict[int, int], bool]:
    from PIL import Image

    def look(name: str) -> tuple[int, bool] | None:
        try:
            with opened(name) as stream, Image.open(stream, formats=FORMATS) as image:
                return min(image.size), Image.getmodebase(image.mode) == "L"
        except Exception:  # decoding meets it again and reports it
            return None

    seen = [header for header in _in_threads(look, names) if header is not None]
    return dict(Counter(side for side, _ in seen)), all(grey for _, grey in seen)


def shape_of(sides: Mapping[int, int], grey: bool) -> tuple[int, int]:
    """(image size, channels) of a data set: {shorter side: pictures that have it}, and whether all are grey."""
    sides = sides or {LARGEST_DEFAULT_IMAGE: 1}
    if max(sides) > LARGEST_DEFAULT_IMAGE:
        size = LARGEST_DEFAULT_IMAGE
    else:
        size = max(SMALLEST_IMAGE, max(sides, key=lambda side: (sides[side], side)))
    return size, 1 if grey else 3


def decode(tree: Tree, names: Sequence[str], channels: int, size: int) -> Bytes:
    """All pictures as one array [N, C, size, size]."""
    require_tensor_fits(len(names), channels, size)
    pixels = np.empty((len(names), channels, size, size), np.uint8)

    def fill(index: int) -> bool:
        try:
            with tree.open(names[index]) as stream:
                pixels[index] = _decoded(stream, channels, size)
            return True
        except Exception:  # Pillow's decoders raise many types for a damaged file
            return False

    whole = _in_threads(fill, range(len(names)))
    require_whole(tree.path, [name for name, good in zip(names, whole, strict=True) if not good])
    return pixels


def require_whole(path: Path, broken: Sequence[str]) -> None:
    """Raises InputError with the names of up to 20 broken pictures, where there are any."""
    if broken:
        shown = ", ".join(repr(name) for name in broken[:20])
        more = f" and {len(broken) - 20} more" if len(broken) > 20 else ""
        images = "image" if len(broken) == 1 else "images"
        raise InputError(f"{len(broken)} unreadable {images} in {str(path)!r}: {shown}{more}; remove or repair them")


def decode_files(root: str, files: Sequence[File], channels: int, size: int) -> Bytes:
    """Pictures in a folder as one array [N, C, size, size].

    Raises RunError where one is not what it was when it was listed.
    """
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    for index, (name, *listed) in enumerate(files):
        path = Path(root, name)
        try:
            with _open_regular(path) as stream:
                status = os.fstat(stream.fileno())
                if [status.st_size, status.st_mtime_ns] != listed:
                    raise OSError("its size or time of change is another")
                pixels[index] = _decoded(stream, channels, size)
        except Exception as error:  # Pillow's decoders raise many types for a damaged file
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(
                f"the picture {str(path)!r} is not what it was when the run began ({reason}): "
                "restore it and resume, or start a new run"
            ) from None
    return pixels


def count_files(root: str, files: Sequence[File], channels: int, size: int) -> tuple[Counts, list[str]]:
    """How often each of the 256 values is in each channel of some pictures in a folder [C, 256]; the broken ones."""
    counts = np.zeros((channels, 256), np.int64)
    broken = []
    for name, _, _ in files:
        try:
            with _open_regular(Path(root, name)) as stream:
                pixels = _decoded(stream, channels, size)
        except Exception:
            broken.append(name)
        else:
            counts += count_values(pixels[None])
    return counts, broken


def count_values(images: Bytes) -> Counts:
    """How often each of the 256 values is in each channel of images [N, C, H, W]: [C, 256]."""
    return np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])


def _in_threads(work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """[work(item) for item in items] on a few threads, in chunks as one small picture is not worth a task."""
    chunks = [items[start : start + 256] for start in range(0, len(items), 256)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = pool.map(lambda chunk: [work(item) for item in chunk], chunks)
        return [result for chunk in done for result in chunk]


def _decoded(stream: IO[bytes], channels: int, size: int) -> Bytes:
    """A picture file as [C, size, size]."""
    from PIL import Image

    with Image.open(stream, formats=FORMATS) as image:
        return _square(image, channels, size)


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

"""NumPy arrays: an .npz file, or .npy files in a folder or archive, with images and labels by their names.

Each image is passed on as an uncompressed image file, so that sizes, channels and streaming work as for image files.
Pickled data is never read.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from dnas.data.memory import require_memory
from dnas.data.sources.listing import LeftOut, Listing, Reason, look_below, top_files
from dnas.data.sources.parts import part_of
from dnas.data.sources.protocol import IN_MEMORY, Source
from dnas.data.sources.samples import Bytes, Labels, numbered, of_part
from dnas.data.sources.tree import Entry, Folder, Tree
from dnas.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Numbers = npt.NDArray[Any]
Role = Literal["images", "labels"]
_ROLES: dict[str, Role] = {
    "images": "images", "image": "images", "imgs": "images", "data": "images", "x": "images",
    "labels": "labels", "label": "labels", "targets": "labels", "target": "labels", "y": "labels",
}  # fmt: skip
_CHANNELS = (1, 3, 4)
# Modes of Pillow that no file format supports, and equivalent modes.
_UNWRITTEN = {"HSV": "RGB", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
_AT_ONCE = 1024  # images to read at once when all values are checked


@dataclass(frozen=True)
class _Part:
    """Files of one split."""

    images: str
    labels: str | None


@dataclass(frozen=True)
class Held:
    """Arrays in the memory of the caller, by the names that files would have.

    Attributes:
        arrays: Images and labels. Images of different size or mode are an array [N] of PIL images.
        called: Name of each in messages.
    """

    arrays: dict[str, Numbers] = field(hash=False)
    called: dict[str, str] = field(hash=False)
    path: Path = Path(IN_MEMORY)
    held: str = "is already in memory"

    def scan(self, folder: str) -> Iterator[Entry]:
        yield from (Entry(name, folder=False) for name in self.arrays if not folder)

    def open(self, name: str) -> IO[bytes]:
        raise FileNotFoundError(name)

    def status(self, name: str) -> tuple[int, int]:
        return self.arrays[name].nbytes, 0


@dataclass(frozen=True)
class Stack:
    """Images in one array, in memory or in its file.

    Attributes:
        axes: Axes after the first: "HW", "HWC" or "CHW".
        scale: Factor that converts values to bytes.
    """

    values: Numbers
    axes: str
    scale: float

    @property
    def bytes_of_each(self) -> int:
        return math.prod(self.values.shape[1:]) * self.values.itemsize

    def picture(self, number: int) -> Bytes:
        """Return one image as uint8 [H, W] or [H, W, C]."""
        pixels = self.values[number]
        if self.axes == "CHW":
            pixels = pixels.transpose(1, 2, 0)
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels.astype(np.float64) * self.scale).astype(np.uint8)
        return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


@dataclass(frozen=True)
class ArrayTree:
    """The images of arrays as image files: "images.npy/7" is the eighth image of that array.

    Attributes:
        base: Tree with the arrays.
        forms: (axes, scale) of each array of images, as in `Stack`.
    """

    base: Tree
    forms: dict[str, tuple[str, float]] = field(hash=False)
    _loaded: dict[str, Numbers] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[ArrayTree], tuple[Tree, dict[str, tuple[str, float]]]]:
        return ArrayTree, (self.base, self.forms)

    @property
    def path(self) -> Path:
        return self.base.path

    @property
    def held(self) -> str:
        if isinstance(self.base, Folder | Held):
            return self.base.held
        return "contains arrays in an archive, which are loaded into memory; save them as .npy files in a folder"

    def _stack(self, file: str) -> Stack:
        if file not in self._loaded:
            self._loaded[file] = load_array(self.base, file)
        return Stack(self._loaded[file], *self.forms[file])

    def scan(self, folder: str) -> Iterator[Entry]:
        yield from self.base.scan(folder)

    def open(self, name: str) -> IO[bytes]:
        file, _, number = name.rpartition("/")
        stack = self._stack(file)
        if stack.values.dtype == object:
            return _saved(stack.values[int(number)])
        return io.BytesIO(_encoded(stack.picture(int(number))))

    def status(self, name: str) -> tuple[int, int]:
        file = name.rpartition("/")[0]
        return self._stack(file).bytes_of_each, self.base.status(file)[1]


def _encoded(pixels: Bytes) -> bytes:
    """Encode uint8 [H, W] or [H, W, 3 or 4] as an image file, without loss."""
    height, width, *channels = pixels.shape
    if channels != [4]:
        return b"%s %d %d 255\n" % (b"P6" if channels else b"P5", width, height) + pixels.tobytes()
    from PIL import Image

    return _saved(Image.fromarray(pixels)).getvalue()


def _saved(picture: Image.Image) -> io.BytesIO:
    """Save an image as a file, without loss."""
    stream = io.BytesIO()
    if picture.mode in _UNWRITTEN:
        picture = picture.convert(_UNWRITTEN[picture.mode])
    # TIFF supports all other modes, but no transparency of palettes.
    picture.save(stream, "PNG" if picture.mode == "P" or "transparency" in picture.info else "TIFF")
    stream.seek(0)
    return stream


def load_array(tree: Tree, name: str) -> Numbers:
    """Return the array in an .npy file; memory-mapped if the file is in a folder. Raises InputError."""
    if isinstance(tree, Held):
        return tree.arrays[name]
    where = str(tree.path / name)
    try:
        with tree.open(name) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            if dtype.hasobject:
                raise InputError(
                    f"{where!r} contains Python objects, which are pickled, and unpickling could run any code; save an "
                    "array of numbers, for example from np.stack"
                )
            start = stream.tell()
            order: Literal["F", "C"] = "F" if fortran else "C"
            size, expected = tree.status(name)[0], math.prod(shape) * dtype.itemsize
            if size - start != expected:
                raise InputError(f"{where!r} has {size - start} bytes of values, must be {expected}; fetch it again")
            if not expected:
                raise InputError(f"{where!r} is an empty array of shape {shape}; fill it or remove it")
            if isinstance(tree, Folder):
                mapped: Numbers = np.memmap(tree.path / name, dtype, "r", start, shape, order)
                return mapped
            require_memory(size, f"{where!r}", "save it as an .npy file in a folder")
            values: Numbers = np.frombuffer(stream.read(), dtype).reshape(shape, order=order)
            return values
    except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where!r} cannot be read ({' '.join(str(error).split())}); fetch it again") from error


class _Arrays:
    """Arrays of a tree, each loaded once."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.path = tree, tree.path
        self.load = cache(lambda name: load_array(tree, name))

    def where(self, name: str) -> str:
        """Return the name of an array in messages."""
        return self.named(name) if isinstance(self.tree, Held) else repr(str(self.path / name))

    def named(self, name: str) -> str:
        """Return the name of an array in a message that already names the folder."""
        return self.tree.called[name] if isinstance(self.tree, Held) else name

    def pictures(self, file: str, form: tuple[str, float]) -> ArrayTree:
        return ArrayTree(self.tree, {file: form}, {file: self.load(file)})


def list_arrays(tree: Tree, part: str, classes: tuple[str, ...] | None = None) -> Listing:
    """List the images of a part ("train" or "test"). Without test arrays, a fifth of each class is held out.

    Files left out are reported with the training part.

    Raises:
        InputError: An array is invalid.
    """
    arrays = _Arrays(tree)
    parts, left_out = _parts(arrays)
    used = parts["train"]
    held_out = parts.get("test")
    named = _named(arrays, used)
    known = classes or tuple(str(name) for name in np.unique(named))  # in numerical or alphabetical order
    form, note = _form(arrays, used.images, None)
    if part == "test" and held_out is not None:
        used, form = held_out, _form(arrays, held_out.images, form)[0]
        named = _named(arrays, used)
    labels = numbered(named, known, arrays.where(str(used.labels)))
    positions: Labels = np.arange(len(labels))
    if held_out is None:
        positions = of_part(part, labels, known, repr(str(tree.path)))
    return Listing(
        known,
        [f"{used.images}/{position}" for position in positions],
        labels[positions],
        left_out if part == "train" else LeftOut(),
        arrays.pictures(used.images, form),
        (note,) if note else (),
    )


def list_given(tree: Tree, classes: tuple[str, ...]) -> tuple[Listing, str]:
    """List the images of arrays given for testing: the test part, or all if there is none."""
    arrays = _Arrays(tree)
    parts, left_out = _parts(arrays)
    used = parts.get("test", parts["train"])
    # Their values have the same meaning as those of the training arrays next to them.
    form = _form(arrays, parts["train"].images, None)[0]
    if "test" in parts:
        form = _form(arrays, used.images, form)[0]
    labels = numbered(_named(arrays, used), classes, arrays.where(str(used.labels)))
    names = [f"{used.images}/{number}" for number in range(len(labels))]
    listing = Listing(classes, names, labels, left_out, arrays.pictures(used.images, form))
    return listing, "test" if "test" in parts else "all"


def _told(file: str) -> tuple[str, Role] | None:
    """Return the split ("" for all) and the role of a file, by its name: "X_train.npy" is ("train", "images")."""
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", file[: -len(".npy")]).casefold())
    roles = {_ROLES[word] for word in words if word in _ROLES}
    rest = [word for word in words if word and word not in _ROLES and word != "set"]
    if len(roles) != 1 or len(rest) > 1:
        return None
    if not rest:
        return "", roles.pop()
    told = part_of(rest[0])
    return (told[0], roles.pop()) if told and not told[1] else None


def _parts(arrays: _Arrays) -> tuple[dict[str, _Part], LeftOut]:
    """Return the arrays of "train", and of "test" if there are any, and the unused files. Raises InputError."""
    tree = arrays.tree
    files = [name for name in top_files(tree) if name.lower().endswith(".npy")]
    told: dict[tuple[str, str], str] = {}
    left_out = _beside(tree, files)
    for file in files:
        key = _told(file)
        if key in told:
            raise InputError(f"{told[key]} and {file} in {str(tree.path)!r} are both {key[1]}; rename or remove one")
        if key is None:
            left_out.add(Reason.ARRAYS, file, 1, [file])
        else:
            told[key] = file
    whole = "train" if ("train", "images") in told else ""
    if (whole, "images") not in told or (whole, "labels") not in told:
        raise InputError(
            f"{str(tree.path)!r} contains the arrays {', '.join(name[:-4] for name in files)}; name two of them images "
            "and labels, or train_images, train_labels, test_images and test_labels (or x_train, y_train and so on)"
        )
    parts = {"train": _Part(told.pop((whole, "images")), told.pop((whole, "labels")))}
    for part in ("test", "validation"):
        images, labels = told.pop((part, "images"), None), told.pop((part, "labels"), None)
        if images and not labels:
            left_out.add(Reason.UNLABELED, images, len(arrays.load(images)))
        elif images and "test" in parts:
            left_out.add(Reason.VALIDATION, images, len(arrays.load(images)))
        elif images:
            parts["test"] = _Part(images, labels)
        elif labels:
            left_out.add(Reason.ARRAYS, labels, 1, [labels])
    for file in told.values():
        left_out.add(Reason.ARRAYS, file, 1, [file])
    return parts, left_out


def _beside(tree: Tree, files: Sequence[str]) -> LeftOut:
    """Count the files that are not these arrays."""
    if isinstance(tree, Folder) and tree.only:
        return LeftOut()
    below = look_below(tree, "")
    left_out = below.left_out
    left_out.take_back(files)
    for name in below.names:
        left_out.add(Reason.UNLISTED, name.rpartition("/")[0] or ".", 1, [name])
    return left_out


def _form(arrays: _Arrays, file: str, trained: tuple[str, float] | None) -> tuple[tuple[str, float], str]:
    """Return (axes, scale) of an array of images, and a note about it. Raises InputError for another form.

    Args:
        trained: Those of the training array, whose scale others must have.
    """
    values, where = arrays.load(file), arrays.where(file)
    shape = values.shape
    if values.dtype == object:
        return ("pictures", 1.0), ""
    first, last = (shape[1] in _CHANNELS, shape[3] in _CHANNELS) if len(shape) == 4 else (False, False)
    if len(shape) == 4 and first and last:
        raise InputError(
            f"{where} has the ambiguous shape {shape}: axis 2 or axis 4 may be the channels; transpose it to "
            "[images, height, width, channels] with a height above 4"
        )
    if not (len(shape) == 3 or first or last):
        raise InputError(
            f"{where} must have the shape [images, height, width], or 1, 3 or 4 channels in addition, got {shape}; "
            "reshape it"
        )
    axes = "HW" if len(shape) == 3 else "CHW" if first else "HWC"
    kind = values.dtype.kind
    if values.dtype == np.uint8 or kind == "b":
        return (axes, 255.0 if kind == "b" else 1.0), ""
    if kind not in "iuf":
        raise InputError(f"{where} must contain numbers from 0 to 255 or from 0 to 1, got {values.dtype}; convert it")
    chunks = [values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE)]
    low, high = float(min(chunk.min() for chunk in chunks)), float(max(chunk.max() for chunk in chunks))
    if trained is not None:
        white = 255 / trained[1]
    else:
        white = 1.0 if kind == "f" and high <= 1 else 255.0
    if not (low >= 0 and high <= white):  # also for NaN, which the minimum would be
        known = f"0 to {white:g}" if trained is not None else "0 to 1 or 0 to 255"
        raise InputError(f"{where} must contain values from {known}, got {low:g} to {high:g}; scale it")
    note = f"values of {arrays.named(file)} are floating-point numbers from 0 to {white:g}, and are rounded to bytes"
    return (axes, 255 / white), note if kind == "f" else ""


def _named(arrays: _Arrays, part: _Part) -> Numbers:
    """Return the unchanged labels of a part: [N], numbers or strings. Raises InputError for arrays of another form."""
    assert part.labels is not None, part
    values, where = np.asarray(arrays.load(part.labels)), arrays.where(part.labels)
    if values.ndim == 2 and values.shape[1] > 1:
        if values.dtype.kind not in "biuf" or not ((values == 0) | (values == 1)).all() or (values.sum(1) != 1).any():
            raise InputError(
                f"{where} has the shape {values.shape}, but its rows are not one-hot; give one label per image"
            )
        values = values.argmax(1)
    elif values.ndim == 2:
        values = values[:, 0]
    images = arrays.load(part.images)
    if values.ndim != 1 or len(values) != len(images):
        raise InputError(
            f"{where} has the shape {values.shape} for the {len(images)} images of {arrays.named(part.images)}; give "
            "one label per image"
        )
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    elif values.dtype.kind in "bu" or (values.dtype.kind == "f" and (values == np.rint(values)).all()):
        values = values.astype(np.int64)
    if values.dtype.kind not in "iU":
        raise InputError(f"{where} must contain integers or class names, got {values.dtype}; convert it")
    return values


def _within(tree: Tree) -> bool:
    arrays = [name for name in top_files(tree) if name.lower().endswith(".npy")]
    if isinstance(tree, Folder) and tree.only:
        return False  # there are no labels
    return bool(arrays) and (tree.path.suffix.lower() == ".npz" or any((_told(name) or ("", ""))[1] for name in arrays))


SOURCES = (Source(kind="arrays", rank=900, within=_within, pictures=list_arrays, given=list_given, measured=True),)

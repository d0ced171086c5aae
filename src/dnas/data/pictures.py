"""A picture file becomes pixels: decoded, in one size and number of channels."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dnas.data.memory import FEWER_IMAGES, images, is_short, memory_for, require_tensor_fits
from dnas.data.sources.samples import Bytes, Counts, File
from dnas.data.sources.tree import Tree, open_regular
from dnas.data.unreadable import Broken, require_jpeg_end, require_whole, why
from dnas.errors import InputError, RunError
from dnas.settings import SMALLEST_IMAGE

_In = TypeVar("_In")
_Out = TypeVar("_Out")
LARGEST_DEFAULT_IMAGE = 64
# Of these alone: Pillow tells a format by content, and for some calls other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")


def survey(tree: Tree, names: Sequence[str]) -> tuple[int, int]:
    """(image size, channels) for pictures of which only the headers are read."""
    return shape_of(*_headers(tree.open, names))


def survey_files(tree: Tree, files: Sequence[File]) -> tuple[dict[int, int], bool]:
    """What `shape_of` asks for, of some pictures. Unreadable ones are left out."""
    return _headers(tree.open, [name for name, _, _ in files])


def _headers(opened: Callable[[str], IO[bytes]], names: Sequence[str]) -> tuple[dict[int, int], bool]:
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
    """All pictures as one array [N, C, size, size].

    Raises Unreadable with all that are broken, and RunError where memory runs short.
    """
    require_tensor_fits(len(names), channels, size)
    with memory_for(len(names) * channels * size * size, images(len(names), channels, size), FEWER_IMAGES):
        pixels = np.empty((len(names), channels, size, size), np.uint8)

        def fill(index: int) -> str | None:
            found = _read(lambda: tree.open(names[index]), channels, size)
            if isinstance(found, str):
                return found
            pixels[index] = found
            return None

        reasons = _in_threads(fill, range(len(names)))
    broken = [(name, reason) for name, reason in zip(names, reasons, strict=True) if reason]
    require_whole(tree.path, broken, channels, size)
    return pixels


def decode_files(tree: Tree, files: Sequence[File], channels: int, size: int) -> Bytes:
    """Some pictures as one array [N, C, size, size].

    Raises RunError where one is not what it was when it was listed.
    """
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    for index, (name, *listed) in enumerate(files):

        def opened(name: str = name, listed: list[int] = listed) -> IO[bytes]:
            stream = tree.open(name)
            if list(tree.status(name)) != listed:
                stream.close()
                raise OSError("its size or time of change is another")
            return stream

        found = _read(opened, channels, size)
        if isinstance(found, str):
            raise RunError(
                f"the picture {str(tree.path / name)!r} is not what it was when the run began ({found}): "
                "restore it and resume, or start a new run"
            )
        pixels[index] = found
    return pixels


def count_files(
    tree: Tree, files: Sequence[File], channels: int, size: int
) -> tuple[Counts, npt.NDArray[np.int64], list[Broken]]:
    """Look at some pictures.

    Returns:
        How often each of the 256 values is in each channel [C, 256]; the digest of each picture, see `image_digests`,
        0 for a broken one; the broken ones.
    """
    counts = np.zeros((channels, 256), np.int64)
    digests = np.zeros(len(files), np.int64)
    broken = []
    for index, (name, _, _) in enumerate(files):
        found = _read(lambda name=name: tree.open(name), channels, size)  # type: ignore[misc]
        if isinstance(found, str):
            broken.append((name, found))
        else:
            counts += count_values(found[None])
            digests[index] = image_digests(found[None])[0]
    return counts, digests, broken


def _read(opened: Callable[[], IO[bytes]], channels: int, size: int) -> Bytes | str:
    """A picture as [C, size, size], or why it cannot be read."""
    stream = None
    try:
        stream = opened()
        return _decoded(stream, channels, size)
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        if is_short(error):
            raise
        return why(error, stream)
    finally:
        if stream is not None:
            stream.close()


def count_values(images: Bytes) -> Counts:
    """How often each of the 256 values is in each channel of images [N, C, H, W]: [C, 256]."""
    return np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])


def image_digests(images: Bytes) -> npt.NDArray[np.int64]:
    """Return a digest of each of uint8 images [N, C, H, W], int64 [N]: 8-byte BLAKE2b of its pixels, little-endian.

    Different images share a digest with probability 2^-64.
    """
    digests = (hashlib.blake2b(image, digest_size=8).digest() for image in np.ascontiguousarray(images))
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def _in_threads(work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """[work(item) for item in items] on a few threads, in chunks as one small picture is not worth a task."""
    chunks = [items[start : start + 256] for start in range(0, len(items), 256)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = pool.map(lambda chunk: [work(item) for item in chunk], chunks)
        return [result for chunk in done for result in chunk]


def read_picture(path: str | Path, channels: int, size: int) -> Bytes:
    """Return a picture file as [C, size, size]. Raises InputError if it cannot be read, with the reason."""
    found = _read(lambda: open_regular(Path(path)), channels, size)
    if isinstance(found, str):
        raise InputError(f"cannot read the picture {str(path)!r} ({found}); repair it or choose another")
    return found


def square_picture(image: Image.Image, channels: int, size: int) -> Bytes:
    """Return a picture as [C, size, size]. Raises InputError if it cannot be decoded, with the reason."""
    try:
        return _square(image, channels, size)
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        if is_short(error):
            raise
        raise InputError(
            f"cannot use the picture {image!r} ({why(error, None)}); repair it or choose another"
        ) from None


def _decoded(stream: IO[bytes], channels: int, size: int) -> Bytes:
    """A picture file as [C, size, size]."""
    with Image.open(stream, formats=FORMATS) as image:
        pixels = _square(image, channels, size)
        kind = image.format
    if kind in ("JPEG", "MPO"):
        require_jpeg_end(stream)
    return pixels


def _square(image: Image.Image, channels: int, size: int) -> Bytes:
    """One picture as [C, size, size], by the rules at the top of the module."""
    image.load()
    turn = _turn(image)
    if turn is not None:
        image = image.transpose(Image.Transpose[turn])
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


# What undoes an orientation of EXIF, by Pillow's names.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def _turn(image: Image.Image) -> str | None:
    """What undoes how a picture was stored, by its EXIF data; None where it is upright or these cannot be read.

    Pillow's `exif_transpose` fails on such data, and where it cannot write them again, though no pixel is wrong.
    """
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except MemoryError:
        raise
    except Exception:
        return None

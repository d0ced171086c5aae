"""Decode image files to pixels of one size and number of channels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dnas.data.headers import (
    FORMATS,
    SIXTEEN_BITS,
    Headers,
    Rule,
    in_threads,
    is_deep,
    numbers_of,
    on_white,
    raw_mode,
    read_headers,
)
from dnas.data.memory import FEWER_IMAGES, images, is_short, memory_for, require_tensor_fits
from dnas.data.sources.samples import Bytes, Counts, File
from dnas.data.sources.tree import Tree, open_regular
from dnas.data.unreadable import Broken, require_jpeg_end, require_whole, why
from dnas.errors import InputError, RunError
from dnas.settings import CROP, PAD

AS_IT_IS = Rule()
_Out = TypeVar("_Out")


def survey(tree: Tree, names: Sequence[str]) -> Headers:
    """Properties of images that are known without decoding them."""
    return read_headers(tree.open, names)


def decode(tree: Tree, names: Sequence[str], channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """Decode all images into one array [N, C, size, size].

    Raises Unreadable with all broken images, and RunError if memory runs out.
    """
    pixels, broken = decode_readable(tree, names, channels, size, rule)
    require_whole(tree.path, broken, channels, size)
    return pixels


def decode_readable(
    tree: Tree, names: Sequence[str], channels: int, size: int, rule: Rule = AS_IT_IS
) -> tuple[Bytes, list[Broken]]:
    """Decode the readable images into one array [M, C, size, size], and return the broken ones as well.

    Raises RunError if memory runs out.
    """
    require_tensor_fits(len(names), channels, size)
    with memory_for(len(names) * channels * size * size, images(len(names), channels, size), FEWER_IMAGES):
        pixels = np.empty((len(names), channels, size, size), np.uint8)

        def fill(index: int) -> str | None:
            found = _read(lambda: tree.open(names[index]), channels, size, rule)
            if isinstance(found, str):
                return found
            pixels[index] = found
            return None

        reasons = in_threads(fill, range(len(names)))
    broken = [(name, reason) for name, reason in zip(names, reasons, strict=True) if reason]
    if broken:  # in place, since memory may not suffice for a second array
        kept = [position for position, reason in enumerate(reasons) if not reason]
        for place, position in enumerate(kept):
            pixels[place] = pixels[position]
        pixels = pixels[: len(kept)]
    return pixels, broken


def decode_files(tree: Tree, files: Sequence[File], channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """Decode some images into one array [N, C, size, size].

    Raises RunError if an image has changed since it was listed.
    """
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    for index, (name, *listed) in enumerate(files):

        def opened(name: str = name, listed: list[int] = listed) -> IO[bytes]:
            stream = tree.open(name)
            if list(tree.status(name)) != listed:
                stream.close()
                raise OSError("its size or modification time has changed")
            return stream

        found = _read(opened, channels, size, rule)
        if isinstance(found, str):
            raise RunError(
                f"the image {str(tree.path / name)!r} has changed since the run started ({found}); "
                "restore it and resume, or start a new run"
            )
        pixels[index] = found
    return pixels


def count_files(
    tree: Tree, files: Sequence[File], channels: int, size: int, rule: Rule = AS_IT_IS
) -> tuple[Counts, npt.NDArray[np.int64], list[Broken]]:
    """Read some images.

    Returns:
        The histogram of the 256 values in each channel [C, 256]; the digest of each image (`image_digests`), 0 for a
        broken one; the broken ones.
    """
    counts = np.zeros((channels, 256), np.int64)
    digests = np.zeros(len(files), np.int64)
    broken = []
    for index, (name, _, _) in enumerate(files):
        found = _read(lambda name=name: tree.open(name), channels, size, rule)  # type: ignore[misc]
        if isinstance(found, str):
            broken.append((name, found))
        else:
            counts += count_values(found[None])
            digests[index] = image_digests(found[None])[0]
    return counts, digests, broken


def _read(opened: Callable[[], IO[bytes]], channels: int, size: int, rule: Rule) -> Bytes | str:
    """Return an image as [C, size, size], or the reason why it cannot be read."""
    return tried(opened, lambda image: _square(image, channels, size, rule))


def tried(opened: Callable[[], IO[bytes]], use: Callable[[Image.Image], _Out]) -> _Out | str:
    """Return the result of `use` for an image file that must be readable to its end, or the reason why it is not.

    Args:
        opened: Opens the file.
        use: Gets the image and loads its pixels.
    """
    stream = None
    try:
        stream = opened()
        with Image.open(stream, formats=FORMATS) as image:
            found = use(image)
            kind = image.format
        if kind in ("JPEG", "MPO"):
            require_jpeg_end(stream)
        return found
    except Exception as error:  # decoders of Pillow raise many types for a damaged file
        if is_short(error):
            raise
        return why(error, stream)
    finally:
        if stream is not None:
            stream.close()


def count_values(images: Bytes) -> Counts:
    """Return the histogram of the 256 values in each channel of images [N, C, H, W]: [C, 256]."""
    return np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])


def image_digests(images: Bytes) -> npt.NDArray[np.int64]:
    """Return a digest of each image of uint8 [N, C, H, W], int64 [N]: 8-byte BLAKE2b of its pixels, little-endian.

    Different images share a digest with probability 2^-64.
    """
    digests = (hashlib.blake2b(image, digest_size=8).digest() for image in np.ascontiguousarray(images))
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def read_picture(path: str | Path, channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """Return an image file as [C, size, size]. Raises InputError with the reason if it cannot be read."""
    found = _read(lambda: open_regular(Path(path)), channels, size, rule)
    if isinstance(found, str):
        raise InputError(f"cannot read the image {str(path)!r} ({found}); repair it or choose another")
    return found


def square_picture(image: Image.Image, channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """Return an image as [C, size, size]. Raises InputError with the reason if it cannot be decoded."""
    try:
        return _square(image, channels, size, rule)
    except Exception as error:  # decoders of Pillow raise many types for a damaged file
        if is_short(error):
            raise
        raise InputError(f"cannot use the image {image!r} ({why(error, None)}); repair it or choose another") from None


def _square(image: Image.Image, channels: int, size: int, rule: Rule) -> Bytes:
    """Return an image as [C, size, size], by the rules of `splits`."""
    return squared(upright(image, channels, rule), channels, size, rule)


def upright(image: Image.Image, channels: int, rule: Rule) -> Image.Image:
    """Return an image in its original shape as it is displayed: rotated by EXIF, 8 bits, on white, grayscale or RGB.

    Raises the errors of Pillow's decoders for a damaged file.
    """
    stored = raw_mode(image)
    image.load()
    turn = _turn(image)
    image = _in_bytes(image, stored, rule)
    if turn is not None:
        image = image.transpose(Image.Transpose[turn])
    return on_white(image).convert("L" if channels == 1 else "RGB")


def squared(image: Image.Image, channels: int, size: int, rule: Rule) -> Bytes:
    """Return an image from `upright` as [C, size, size]."""
    if rule.resize == PAD:
        return _padded(image, channels, size)
    width, height = image.size
    # Only the part that is kept is resized: a long thin image would otherwise grow without bound.
    side = min(width, height)
    wide, high = (side, side) if rule.resize == CROP else (width, height)
    if (wide, high) == (size, size):
        left, top = (width - wide) // 2, (height - high) // 2
        image = image.crop((left, top, left + wide, top + high))
    else:
        kept = ((width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=kept)
    pixels: Bytes = np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
    return pixels


def _padded(image: Image.Image, channels: int, size: int) -> Bytes:
    """Return the whole image as [C, size, size], padded with its own mean color, which has no contrast to it."""
    longer = max(image.size)
    if longer != size:
        sides = [max(1, round(side * size / longer)) for side in image.size]
        image = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(image.height, image.width, channels)
    count = image.height * image.width
    mean = (2 * pixels.sum((0, 1), np.int64) + count) // (2 * count)
    square = np.empty((size, size, channels), np.uint8)
    square[:] = mean
    top, left = (size - image.height) // 2, (size - image.width) // 2
    square[top : top + image.height, left : left + image.width] = pixels
    padded: Bytes = square.transpose(2, 0, 1)
    return padded


def _in_bytes(image: Image.Image, stored: str, rule: Rule) -> Image.Image:
    """Return an image with 8 bits per channel; the image itself if it has 8 bits."""
    clear = image.info.get("transparency")
    if stored == "RGB;16B" and isinstance(clear, tuple):
        # Pillow keeps the upper byte of the pixels, but both bytes of the transparent color.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    numbers = numbers_of(image)
    if not np.isfinite(numbers).all():
        raise ValueError("not all of its values are finite")
    if is_deep(image) and rule.values and (image.mode == "F" or rule.values != SIXTEEN_BITS):
        low, high = rule.values
        numbers = (np.clip(numbers, low, high) - low) * (255 / (high - low) if high > low else 0.0)
        pixels = np.rint(numbers).astype(np.uint8)
    elif image.mode == "F":
        raise ValueError("a floating-point image of unknown white level, because no training image is of this kind")
    else:
        if rule.values:
            numbers = np.clip(numbers, *SIXTEEN_BITS)
        if numbers.min() < 0 or numbers.max() > SIXTEEN_BITS[1]:
            raise ValueError(
                "an image of more than 16 bits and of unknown white level, because no training image is of this kind"
            )
        pixels = ((numbers.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(clear, int):
        pixels[np.asarray(image) == clear] = 255
    return Image.fromarray(pixels)


# The operation that undoes an EXIF orientation, by Pillow's names.
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
    """Return the operation that undoes the EXIF orientation; None if the image is upright or EXIF cannot be read.

    Pillow's `exif_transpose` fails on unreadable EXIF data, and if it cannot write them back, although the pixels are
    intact.
    """
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except MemoryError:
        raise
    except Exception:
        return None

"""A picture file becomes pixels: decoded, in one size and number of channels."""

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
    """What is known of pictures without decoding them."""
    return read_headers(tree.open, names)


def decode(tree: Tree, names: Sequence[str], channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """All pictures as one array [N, C, size, size].

    Raises Unreadable with all that are broken, and RunError where memory runs short.
    """
    pixels, broken = decode_readable(tree, names, channels, size, rule)
    require_whole(tree.path, broken, channels, size)
    return pixels


def decode_readable(
    tree: Tree, names: Sequence[str], channels: int, size: int, rule: Rule = AS_IT_IS
) -> tuple[Bytes, list[Broken]]:
    """The pictures that can be read, as one array [M, C, size, size], and the broken ones.

    Raises RunError where memory runs short.
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
    if broken:  # in place, as there may be no room for a second array
        kept = [position for position, reason in enumerate(reasons) if not reason]
        for place, position in enumerate(kept):
            pixels[place] = pixels[position]
        pixels = pixels[: len(kept)]
    return pixels, broken


def decode_files(tree: Tree, files: Sequence[File], channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
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

        found = _read(opened, channels, size, rule)
        if isinstance(found, str):
            raise RunError(
                f"the picture {str(tree.path / name)!r} is not what it was when the run began ({found}): "
                "restore it and resume, or start a new run"
            )
        pixels[index] = found
    return pixels


def count_files(
    tree: Tree, files: Sequence[File], channels: int, size: int, rule: Rule = AS_IT_IS
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
        found = _read(lambda name=name: tree.open(name), channels, size, rule)  # type: ignore[misc]
        if isinstance(found, str):
            broken.append((name, found))
        else:
            counts += count_values(found[None])
            digests[index] = image_digests(found[None])[0]
    return counts, digests, broken


def _read(opened: Callable[[], IO[bytes]], channels: int, size: int, rule: Rule) -> Bytes | str:
    """A picture as [C, size, size], or why it cannot be read."""
    return tried(opened, lambda image: _square(image, channels, size, rule))


def tried(opened: Callable[[], IO[bytes]], use: Callable[[Image.Image], _Out]) -> _Out | str:
    """Return what becomes of a picture file, all of which must be readable, or why it is not.

    Args:
        opened: Opens the file.
        use: Takes the picture and loads its pixels.
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


def read_picture(path: str | Path, channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """Return a picture file as [C, size, size]. Raises InputError if it cannot be read, with the reason."""
    found = _read(lambda: open_regular(Path(path)), channels, size, rule)
    if isinstance(found, str):
        raise InputError(f"cannot read the picture {str(path)!r} ({found}); repair it or choose another")
    return found


def square_picture(image: Image.Image, channels: int, size: int, rule: Rule = AS_IT_IS) -> Bytes:
    """Return a picture as [C, size, size]. Raises InputError if it cannot be decoded, with the reason."""
    try:
        return _square(image, channels, size, rule)
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        if is_short(error):
            raise
        raise InputError(
            f"cannot use the picture {image!r} ({why(error, None)}); repair it or choose another"
        ) from None


def _square(image: Image.Image, channels: int, size: int, rule: Rule) -> Bytes:
    """One picture as [C, size, size], by the rules of `splits`."""
    return squared(upright(image, channels, rule), channels, size, rule)


def upright(image: Image.Image, channels: int, rule: Rule) -> Image.Image:
    """A picture in its own shape as it is seen: turned as its EXIF data say, of 8 bits, on white, in gray or RGB.

    Raises what Pillow's decoders raise for a damaged file.
    """
    stored = raw_mode(image)
    image.load()
    turn = _turn(image)
    image = _in_bytes(image, stored, rule)
    if turn is not None:
        image = image.transpose(Image.Transpose[turn])
    return on_white(image).convert("L" if channels == 1 else "RGB")


def squared(image: Image.Image, channels: int, size: int, rule: Rule) -> Bytes:
    """A picture of `upright` as [C, size, size]."""
    if rule.resize == PAD:
        return _padded(image, channels, size)
    width, height = image.size
    # Only what is kept is scaled: a long thin picture would otherwise grow without bound.
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
    """All of a picture as [C, size, size], in the middle of its own mean color, so that the rest is of no contrast."""
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
    """A picture with 8 bits a channel; the picture itself where it has them."""
    clear = image.info.get("transparency")
    if stored == "RGB;16B" and isinstance(clear, tuple):
        # Pillow keeps the upper byte of the pixels, and both of the color that is transparent.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    numbers = numbers_of(image)
    if not np.isfinite(numbers).all():
        raise ValueError("not all of its numbers are finite")
    if is_deep(image) and rule.values and (image.mode == "F" or rule.values != SIXTEEN_BITS):
        low, high = rule.values
        numbers = (np.clip(numbers, low, high) - low) * (255 / (high - low) if high > low else 0.0)
        pixels = np.rint(numbers).astype(np.uint8)
    elif image.mode == "F":
        raise ValueError("a picture of floating-point numbers, whose white is unknown, as no training image had them")
    else:
        if rule.values:
            numbers = np.clip(numbers, *SIXTEEN_BITS)
        if numbers.min() < 0 or numbers.max() > SIXTEEN_BITS[1]:
            raise ValueError("a picture of more than 16 bits, whose white is unknown, as no training image had them")
        pixels = ((numbers.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(clear, int):
        pixels[np.asarray(image) == clear] = 255
    return Image.fromarray(pixels)


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

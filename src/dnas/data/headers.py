"""Properties of images before conversion to square 8-bit images: shapes, colors and value ranges of deep ones."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from dnas.settings import AUTO_RESIZE, CROP, PAD, SMALLEST_IMAGE, Resize

_In = TypeVar("_In")
_Out = TypeVar("_Out")
LARGEST_DEFAULT_IMAGE = 64
# Only these: Pillow detects formats by content, and runs other programs for some (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
# An image counts as elongated if its longer side is more than this many times the shorter one. Photographs of 3 : 2,
# which rounding can turn into 1.502, do not.
ELONGATED = 1.6
SIXTEEN_BITS = (0.0, 65535.0)


@dataclass(frozen=True)
class Rule:
    """How images are converted to square 8-bit images.

    Attributes:
        resize: crop, pad or squeeze.
        values: Values that become 0 and 255 in floating-point and 32-bit images; () if there are none.
    """

    resize: Resize = CROP
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        assert self.resize != AUTO_RESIZE and len(self.values) in (0, 2), self


@dataclass(frozen=True)
class Headers:
    """Properties of the readable images among some.

    Attributes:
        shorter, longer: {side in pixels: number of images whose shorter or longer side it is}.
        elongated: Number of images longer than `ELONGATED` times their shorter side.
        grey: Whether all are grayscale: by format, or by pixels if the format has no grayscale (WebP, GIF, AVIF with
            alpha, palettes).
        values: The smallest and the largest value in images that are `deep`; () if there are none.
        whole: Whether all these values have integer types.
    """

    shorter: Mapping[int, int] = field(default_factory=dict)
    longer: Mapping[int, int] = field(default_factory=dict)
    elongated: int = 0
    grey: bool = True
    values: tuple[float, ...] = ()
    whole: bool = True

    def __add__(self, other: Headers) -> Headers:
        values = (*self.values, *other.values)
        return Headers(
            dict(Counter(self.shorter) + Counter(other.shorter)),
            dict(Counter(self.longer) + Counter(other.longer)),
            self.elongated + other.elongated,
            self.grey and other.grey,
            (min(values), max(values)) if values else (),
            self.whole and other.whole,
        )

    @property
    def count(self) -> int:
        return sum(self.shorter.values())

    @property
    def square(self) -> bool:
        """Return True if every image is square."""
        return self.shorter == self.longer

    @property
    def channels(self) -> int:
        return 1 if self.grey else 3

    def rule(self, resize: Resize) -> Rule:
        """Return the rule for these images; auto: pad if most are elongated."""
        if resize == AUTO_RESIZE:
            resize = PAD if 2 * self.elongated > self.count else CROP
        # 32-bit integers are often no larger than 16 bits, and a data set may contain both.
        small = self.whole and bool(self.values) and self.values[0] >= 0 and self.values[1] <= SIXTEEN_BITS[1]
        return Rule(resize, SIXTEEN_BITS if small else self.values)

    def size(self, resize: Resize) -> int:
        """Return the image size if `--image-size` is not given: the most common side after the resize rule."""
        sides = (self.shorter if resize == CROP else self.longer) or {LARGEST_DEFAULT_IMAGE: 1}
        if max(sides) > LARGEST_DEFAULT_IMAGE:
            return LARGEST_DEFAULT_IMAGE
        return max(SMALLEST_IMAGE, max(sides, key=lambda side: (sides[side], side)))


def read_headers(opened: Callable[[str], IO[bytes]], names: Sequence[str]) -> Headers:
    """Read the headers of images, and pixels only if needed; unreadable images are left out."""
    colored: list[str] = []  # one is enough, so the pixels of the others are not needed

    def look(name: str) -> Headers | None:
        try:
            with opened(name) as stream, Image.open(stream, formats=FORMATS) as image:
                sides = sorted(image.size)
                values: tuple[float, ...] = ()
                grey = not colored and is_grey(image)
                if not grey:
                    colored.append(name)
                if is_deep(image):
                    numbers = numbers_of(image)
                    values = (float(numbers.min()), float(numbers.max()))
                    if not all(map(math.isfinite, values)):
                        return None  # decoding finds it again and reports it
                elongated = int(sides[1] > ELONGATED * sides[0])
                return Headers({sides[0]: 1}, {sides[1]: 1}, elongated, grey, values, image.mode != "F")
        except Exception:  # Pillow raises many types for a damaged file; decoding finds it again and reports it
            return None

    found = [each for each in in_threads(look, names) if each is not None]
    values = [value for each in found for value in each.values]
    return Headers(
        dict(Counter(side for each in found for side in each.shorter)),
        dict(Counter(side for each in found for side in each.longer)),
        sum(each.elongated for each in found),
        all(each.grey for each in found),
        (min(values), max(values)) if values else (),
        all(each.whole for each in found),
    )


def raw_mode(image: Image.Image) -> str:
    """Return the raw mode of an opened, not yet loaded image, by Pillow's names such as RGB;16B; "" if unknown."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


@dataclass(frozen=True, order=True)
class Stored:
    """How an image is stored.

    Attributes:
        format, mode: By Pillow's names; the format of an array is "".
        bits: Bits per channel.
        width, height: In pixels, before rotation by EXIF.
    """

    format: str
    mode: str
    bits: int
    width: int
    height: int


def stored(image: Image.Image) -> Stored:
    """Return how an opened, not yet loaded image is stored."""
    deep = ";16" in raw_mode(image) or image.mode.startswith("I;16") or (image.mode == "I" and not is_deep(image))
    bits = 16 if deep else 32 if image.mode in ("I", "F") else 1 if image.mode == "1" else 8
    return Stored(image.format or "", image.mode, bits, *image.size)


def is_grey(image: Image.Image) -> bool:
    """Return True if an opened image has no color: by its format, or by pixels if the format has no grayscale."""
    # Pillow opens 16-bit grayscale with alpha as RGBA.
    if Image.getmodebase(image.mode) == "L" or raw_mode(image).startswith("LA;16"):
        return True
    if image.mode not in ("P", "PA") and image.format not in ("WEBP", "GIF", "AVIF"):
        return False
    pixels = np.asarray(on_white(image).convert("RGB")).astype(np.int16)
    # Lossy WebP returns gray as colors that differ by one.
    return int(np.ptp(pixels, axis=2).max()) <= 1


def on_white(image: Image.Image) -> Image.Image:
    """Return an image with transparent areas composed on white; the image itself if it has none."""
    if "transparency" not in image.info and image.mode not in ("RGBA", "RGBa", "LA", "La", "PA"):
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def is_deep(image: Image.Image) -> bool:
    """Return True if only the data define black and white for this type: floats, 32 bits and signed 16 bits.

    Pillow opens 16-bit PNG as I;16 or I, and 16-bit PPM as I.
    """
    return image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM"))


def numbers_of(image: Image.Image) -> npt.NDArray[np.float64]:
    """Return the values of a single-channel image, float64 [H, W]."""
    numbers = np.asarray(image)
    tags = getattr(image, "tag_v2", None)
    if image.mode == "I" and tags is not None and tags.get(339, (1,))[0] == 1:  # SampleFormat: unsigned
        numbers = numbers.view(np.uint32)
    return numbers.astype(np.float64)


def in_threads(work: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """Return [work(item) for item in items] on a few threads, in chunks, since one small image is not worth a task."""
    chunks = [items[start : start + 256] for start in range(0, len(items), 256)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        done = pool.map(lambda chunk: [work(item) for item in chunk], chunks)
        return [result for chunk in done for result in chunk]

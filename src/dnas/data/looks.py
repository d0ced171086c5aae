"""One pass over all images of a split: storage format, thumbnail and digest of each, and broken images."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from dnas.data.headers import Rule, Stored, stored
from dnas.data.memory import images as in_words
from dnas.data.memory import require_memory
from dnas.data.pictures import squared, tried, upright
from dnas.data.sources.samples import Bytes, Labels
from dnas.data.sources.tree import Tree

THUMB = 16  # side length in pixels
_CHUNK = 256


@dataclass(frozen=True)
class Files:
    """Images in files.

    Attributes:
        part: "train" or "test".
        tree, names: Location of the files.
    """

    part: str
    tree: Tree
    names: Sequence[str]
    labels: Labels

    def at(self, position: int, use: Callable[[Image.Image], Look]) -> Look | str:
        """Return the result for one image, or the reason why it cannot be read."""
        return tried(partial(self.tree.open, self.names[position]), use)


@dataclass(frozen=True)
class Arrays:
    """Images in an array.

    Attributes:
        part: "train" or "test".
        images: uint8 [N, C, S, S].
    """

    part: str
    images: Bytes
    labels: Labels

    @property
    def names(self) -> Sequence[str]:
        return [f"image {number}" for number in range(len(self.images))]

    def at(self, position: int, use: Callable[[Image.Image], Look]) -> Look | str:
        pixels = self.images[position].transpose(1, 2, 0)
        return use(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


@dataclass(frozen=True)
class Look:
    """One image: its storage format, and its upright pixels, grayscale or RGB, at the original size."""

    stored: Stored
    image: Image.Image


Pictures = Files | Arrays


@dataclass(frozen=True)
class Looks:
    """Results of a pass over N images.

    Attributes:
        digests: int64 [N], of shape and pixels; 0 for a broken image.
        thumbs: uint8 [N, 16, 16, C], each image squeezed to a square.
        readable: bool [N].
        broken: {position: reason why it cannot be read}.
        kinds: Number of images by storage format.
        total: int64 [C, S, S], sum of the images in the format of the network's input.
    """

    digests: Labels
    thumbs: Bytes
    readable: npt.NDArray[np.bool_]
    broken: dict[int, str]
    kinds: Counter[Stored]
    total: Labels


def look_at(
    pictures: Pictures, channels: int, size: int, rule: Rule, progress: Callable[[int], None] = lambda done: None
) -> Looks:
    """Read all images once.

    Args:
        channels, size, rule: Format of the network's input.
        progress: Called with the number of images done.
    """
    count = len(pictures.labels)
    require_memory(count * THUMB**2 * channels, in_words(count, channels, THUMB), "inspect a part of them")
    digests = np.zeros(count, np.int64)
    thumbs = np.zeros((count, THUMB, THUMB, channels), np.uint8)
    broken: dict[int, str] = {}
    kinds: Counter[Stored] = Counter()
    total = np.zeros((channels, size, size), np.int64)

    def one(image: Image.Image) -> Look:
        found = stored(image)
        return Look(found, upright(image, channels, rule))

    def chunk(positions: range) -> tuple[Counter[Stored], Labels]:
        own: Counter[Stored] = Counter()
        seen = np.zeros((channels, size, size), np.int64)
        for position in positions:
            found = pictures.at(position, one)
            if isinstance(found, str):
                broken[position] = found
                continue
            own[found.stored] += 1
            digests[position] = _digest(found.image)
            small = found.image.resize((THUMB, THUMB), Image.Resampling.BILINEAR)
            thumbs[position] = np.asarray(small).reshape(THUMB, THUMB, channels)
            seen += squared(found.image, channels, size, rule)
        return own, seen

    done = 0
    for positions, (own, seen) in _in_chunks(chunk, count):
        kinds.update(own)
        total += seen
        done += len(positions)
        progress(done)
    readable = np.ones(count, bool)
    readable[list(broken)] = False
    return Looks(digests, thumbs, readable, dict(sorted(broken.items())), kinds, total)


def look_again(pictures: Pictures, position: int, channels: int, rule: Rule) -> Image.Image | None:
    """Return one image, upright; None if it can no longer be read."""
    found = pictures.at(position, lambda image: Look(stored(image), upright(image, channels, rule)))
    return None if isinstance(found, str) else found.image


def _digest(image: Image.Image) -> int:
    """Return the 8-byte BLAKE2b of the shape and pixels of an image."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=8)
    digest.update(image.tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def _in_chunks(
    work: Callable[[range], tuple[Counter[Stored], Labels]], count: int
) -> Iterator[tuple[range, tuple[Counter[Stored], Labels]]]:
    """Process chunks in threads, since Pillow releases the GIL while decoding."""
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from zip(chunks, pool.map(work, chunks), strict=True)

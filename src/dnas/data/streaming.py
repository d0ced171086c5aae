"""Streamed images: decoded when a batch of them is requested, and ahead of time for announced batches."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from dnas.data.decoders import Decoders, Task
from dnas.data.headers import Rule
from dnas.data.index import Files
from dnas.data.pictures import AS_IT_IS, decode_files
from dnas.data.sources.samples import Bytes, Labels

# Number of batches to decode ahead, and number of decoded batches to keep until they are fetched: a search alternates
# between two kinds of batches.
AHEAD = 3
HELD = 3 * AHEAD
SMALLEST_SHARE = 8  # images; the overhead of a task equals decoding a few small ones


class Streamed:
    """uint8 images [N, C, S, S] of which only some batches are in memory.

    The content of a batch only depends on its indices: neither the number of processes, nor decoding ahead, nor the
    death of a process changes a bit. Can be pickled; the receiving process then has its own decoders.

    Args:
        files: Table of image files.
        channels, size: Channels and side length of the decoded images.
        decoders: Decoder processes.
        positions: int64 [N], the files of these images; by default all, in order.
        device: Device of batches.
        digests: int64 [N], the digest of the image in each file; see `pictures.image_digests`.
        rule: Conversion of images of other shapes and depths.
    """

    def __init__(
        self,
        files: Files,
        channels: int,
        size: int,
        decoders: Decoders,
        positions: Labels | None = None,
        device: str | torch.device = "cpu",
        digests: Labels | None = None,
        rule: Rule = AS_IT_IS,
    ) -> None:
        self.files, self.channels, self.size, self.decoders, self.device = files, channels, size, decoders, device
        self.rule = rule
        self.positions = np.arange(len(files)) if positions is None else positions
        self._digests = digests
        self._begun: dict[bytes, list[Task[Bytes]]] = {}

    def __reduce__(self) -> tuple[type[Streamed], tuple[object, ...]]:
        # Without the digests, which a computing process does not need.
        about = (self.files, self.channels, self.size, self.decoders, self.positions, self.device)
        return Streamed, (*about, None, self.rule)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.positions), self.channels, self.size, self.size

    def batch(self, indices: Tensor, coming: Iterable[Tensor] = ()) -> Tensor:
        """Return the images at `indices` (int64 [B]), on the device. `coming`: indices of the next batches.

        Raises RunError if a file has changed since it was listed, or if decoder processes die repeatedly.
        """
        wanted = self._positions(indices)
        tasks = self._begun.pop(wanted.tobytes(), None) or self._begin(wanted)
        for following in islice(coming, AHEAD):
            positions = self._positions(following)
            if positions.tobytes() not in self._begun:
                self._begun[positions.tobytes()] = self._begin(positions)
        while len(self._begun) > HELD:
            for task in self._begun.pop(next(iter(self._begun))):
                task.future.cancel()
        pixels = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        done = 0
        for task in tasks:
            share = self.decoders.finish(task)
            pixels[done : done + len(share)] = share
            done += len(share)
        return torch.from_numpy(pixels).to(self.device)

    def subset(self, indices: Tensor) -> Streamed:
        """Return the images at `indices` (int64 [M]), in that order."""
        return self._with(self._positions(indices), self.device)

    def to(self, device: str | torch.device) -> Streamed:
        """Return the same images, with batches on `device`."""
        return self._with(self.positions, device)

    def _with(self, positions: Labels, device: str | torch.device) -> Streamed:
        about = (self.files, self.channels, self.size, self.decoders)
        return Streamed(*about, positions, device, self._digests, self.rule)

    @property
    def picture_digests(self) -> Labels:
        """Return the digest of each image, int64 [N]."""
        assert self._digests is not None, "they stay in the process that listed the files"
        digests: Labels = self._digests[self.positions]
        return digests

    def digest(self) -> str:
        """Return the SHA-256 (hex) of shape, names, sizes and modification times: no file is read."""
        return f"{self.shape}{self.files.digest(self.positions)}"

    def _positions(self, indices: Tensor) -> Labels:
        positions: Labels = self.positions[indices.cpu().numpy()]
        return positions

    def _begin(self, positions: Labels) -> list[Task[Bytes]]:
        """Start decoding a batch in equal shares on all processes."""
        shares = max(1, min(self.decoders.count, len(positions) // SMALLEST_SHARE))
        return [
            self.decoders.begin(
                decode_files, self.files.tree, self.files.at(share), self.channels, self.size, self.rule
            )
            for share in np.array_split(positions, shares)
        ]

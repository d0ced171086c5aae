"""Images that stay in their files: decoded when a batch of them is asked for, and ahead of it where that was told."""

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

# How many batches are decoded ahead of the one that is asked for, and how many are held that nobody has fetched yet: a
# search draws two kinds of batches in turn.
AHEAD = 3
HELD = 3 * AHEAD
SMALLEST_SHARE = 8  # pictures; a task takes as long as decoding a few small ones


class Streamed:
    """uint8 images [N, C, S, S] of which only some batches are in memory.

    What a batch holds is a function of its indices alone: neither the number of processes nor what is decoded ahead,
    nor the death of a process changes a bit. Can be sent to a process, which then has decoders of its own.

    Args:
        files: The table of picture files.
        channels, size: What each picture becomes.
        decoders: Who decodes.
        positions: int64 [N], which files these images are; by default all, in their order.
        device: Where batches go.
        digests: int64 [N], that of each file's picture; see `pictures.image_digests`.
        rule: How pictures of other shapes and depths are read.
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
        # Without the digests, for which a process that computes has no use.
        about = (self.files, self.channels, self.size, self.decoders, self.positions, self.device)
        return Streamed, (*about, None, self.rule)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.positions), self.channels, self.size, self.size

    def batch(self, indices: Tensor, coming: Iterable[Tensor] = ()) -> Tensor:
        """The images at `indices` (int64 [B]), on the device. `coming`: indices of the batches that are asked for next.

        Raises RunError where a file is not what it was when it was listed, or processes die again and again.
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
        """The images at `indices` (int64 [M]), in that order."""
        return self._with(self._positions(indices), self.device)

    def to(self, device: str | torch.device) -> Streamed:
        """The same images, with batches on `device`."""
        return self._with(self.positions, device)

    def _with(self, positions: Labels, device: str | torch.device) -> Streamed:
        about = (self.files, self.channels, self.size, self.decoders)
        return Streamed(*about, positions, device, self._digests, self.rule)

    @property
    def picture_digests(self) -> Labels:
        """The digest of each of these images, int64 [N]."""
        assert self._digests is not None, "they stay in the process that listed the files"
        digests: Labels = self._digests[self.positions]
        return digests

    def digest(self) -> str:
        """SHA-256 (hex) of shape, names, sizes and times of change: nothing is read."""
        return f"{self.shape}{self.files.digest(self.positions)}"

    def _positions(self, indices: Tensor) -> Labels:
        positions: Labels = self.positions[indices.cpu().numpy()]
        return positions

    def _begin(self, positions: Labels) -> list[Task[Bytes]]:
        """A batch in equal shares for all processes."""
        shares = max(1, min(self.decoders.count, len(positions) // SMALLEST_SHARE))
        return [
            self.decoders.begin(
                decode_files, self.files.tree, self.files.at(share), self.channels, self.size, self.rule
            )
            for share in np.array_split(positions, shares)
        ]

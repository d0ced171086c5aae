"""The pictures of a step: drawn by seed and step, this rank's share of them, augmented, in the parts that are computed.

Searches and trainings draw by the same rule; what differs is the names of the streams.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnas.data.augment import Augmentation, augment
from dnas.data.splits import DataInfo, Split, batches
from dnas.data.streaming import AHEAD
from dnas.rng import torch_stream
from dnas.runtime.distributed import Share, share


@dataclass(frozen=True)
class Batch:
    """A batch, or one of the parts that it is cut into.

    Attributes:
        images, labels: Augmented [B, C, H, W], and [B].
        draw: Its number within its step.
        weight: A part's share of the whole.
        part: Its first image in the whole; None where it is the whole.
        of: Images of the whole.
    """

    images: Tensor
    labels: Tensor
    draw: int = 0
    weight: float = 1.0
    part: int | None = None
    of: int = 0


class Batches:
    """All batches of a loop that goes over the images again and again.

    Args:
        pool: The images.
        indices: int64 [M], which of them this loop sees.
        steps: Batches of an epoch of the loop; where the images make fewer, they are gone through again.
        size: Images of a batch, at most.
        parts: Into how many a batch is cut, each with batch statistics of its own (see `runtime/distributed.py`).
        seed, order: Of the order of the images, and its stream.
        generator: Step → the generator of the step's augmentation.
        recipe, info: What is done to the images.
        alternate: Where the recipe flips, an image is mirrored in every other epoch in place of at random.
    """

    def __init__(
        self,
        pool: Split,
        indices: Tensor,
        info: DataInfo,
        recipe: Augmentation,
        *,
        steps: int,
        size: int,
        parts: int,
        seed: int,
        order: str,
        generator: Callable[[int], torch.Generator],
        alternate: bool = False,
    ) -> None:
        self.pool, self.indices, self.info, self.recipe = pool, indices, info, recipe
        self.steps, self.size, self.parts_per_batch, self.seed = steps, size, parts, seed
        self.stream, self.generator = order, generator
        self._epoch, self._order = -1, list[Tensor]()
        self._first = torch.rand(len(pool), generator=torch_stream(seed, "flip")) < 0.5 if alternate else None

    def whole(self, step: int, draw: int = 0) -> Batch:
        """All images of a step, whatever its parts and ranks."""
        images, labels, of = self._drawn(step, lambda count: slice(0, count))
        return Batch(images, labels, draw, of=of)

    def parts(self, step: int, draw: int = 0) -> list[Batch]:
        """Those parts of a step's batch that are this rank's; the batch itself where there is one part."""
        if self.parts_per_batch == 1:
            return [self.whole(step, draw)]
        images, labels, count = self._drawn(step, lambda count: share(count, self.parts_per_batch).rows)
        mine: Share = share(count, self.parts_per_batch)
        return [
            Batch(images[rows], labels[rows], draw, mine.weight(rows), mine.rows.start + rows.start, count)
            for rows in mine.parts
        ]

    def seen(self, step: int) -> int:
        """How many images the epoch of a step has gone through before it."""
        epoch, i = divmod(step, self.steps)
        return sum(len(indices) for indices in self._ordered(epoch)[:i])

    def _ordered(self, epoch: int) -> list[Tensor]:
        """The images of each batch of an epoch."""
        if self._epoch != epoch:
            self._epoch, self._order = epoch, batches(len(self.indices), self.size, self.seed, epoch, self.stream)
        return self._order

    def _mirrored(self, indices: Tensor, epoch: int) -> Tensor | None:
        """Which of these images are mirrored in an epoch; None: that is drawn anew for every batch."""
        return None if self._first is None else self._first[indices] ^ (epoch % 2 == 1)

    def _drawn(self, step: int, mine: Callable[[int], slice]) -> tuple[Tensor, Tensor, int]:
        """Those images and labels of a batch that are `mine` of so many, and how many it has."""
        epoch, i = divmod(step, self.steps)
        order = self._ordered(epoch)
        last = min(i + AHEAD, self.steps - 1)
        ahead = [self.indices[order[k % len(order)]] for k in range(i, last + 1)]
        indices, *coming = [each[mine(len(each))] for each in ahead]
        among = (mine(len(ahead[0])).start, len(ahead[0]))
        pictures = self.pool.batch(indices, coming)
        mirrored = self._mirrored(indices, epoch)
        images = augment(pictures, self.recipe, self.info, self.generator(step), among, mirrored)
        return images, self.pool.labels[indices.to(self.pool.labels.device)], len(ahead[0])

"""Images of a step: drawn by seed and step, reduced to the share of this rank, augmented, and divided into parts.

Searches and trainings draw by the same rule; only the names of their random streams differ.
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
    """A batch, or one of the parts of a batch.

    Attributes:
        images, labels: Augmented [B, C, H, W], and [B].
        draw: Number of the batch within its step.
        weight: Share of a part in the batch.
        part: Position of its first image in the batch; None for a whole batch.
        of: Number of images of the whole batch.
    """

    images: Tensor
    labels: Tensor
    draw: int = 0
    weight: float = 1.0
    part: int | None = None
    of: int = 0


class Batches:
    """All batches of a loop over several epochs.

    Args:
        pool: The images.
        indices: int64 [M], the images that this loop uses.
        steps: Batches per epoch of the loop; if the images yield fewer, they are used again.
        size: Maximum batch size.
        parts: Number of batch splits, each with its own batch statistics (see `runtime/distributed.py`).
        seed, order: Seed of the order of the images, and name of its random stream.
        generator: Step → the generator of the step's augmentation.
        recipe, info: Augmentation and normalization.
        alternate: If the recipe flips, mirror an image in every other epoch instead of at random.
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
        """Return all images of a step, regardless of parts and ranks."""
        images, labels, of = self._drawn(step, lambda count: slice(0, count))
        return Batch(images, labels, draw, of=of)

    def parts(self, step: int, draw: int = 0) -> list[Batch]:
        """Yield the parts of a step's batch for this rank, or the batch itself if there is only one part."""
        if self.parts_per_batch == 1:
            return [self.whole(step, draw)]
        images, labels, count = self._drawn(step, lambda count: share(count, self.parts_per_batch).rows)
        mine: Share = share(count, self.parts_per_batch)
        return [
            Batch(images[rows], labels[rows], draw, mine.weight(rows), mine.rows.start + rows.start, count)
            for rows in mine.parts
        ]

    def seen(self, step: int) -> int:
        """Return the number of images of the epoch before a step."""
        epoch, i = divmod(step, self.steps)
        return sum(len(indices) for indices in self._ordered(epoch)[:i])

    def _ordered(self, epoch: int) -> list[Tensor]:
        """Return the images of each batch of an epoch."""
        if self._epoch != epoch:
            self._epoch, self._order = epoch, batches(len(self.indices), self.size, self.seed, epoch, self.stream)
        return self._order

    def _mirrored(self, indices: Tensor, epoch: int) -> Tensor | None:
        """Return which of these images are mirrored in an epoch; None: drawn again for every batch."""
        return None if self._first is None else self._first[indices] ^ (epoch % 2 == 1)

    def _drawn(self, step: int, mine: Callable[[int], slice]) -> tuple[Tensor, Tensor, int]:
        """Return images and labels at the positions `mine` of a batch, and the size of the batch."""
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

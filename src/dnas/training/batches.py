"""The pictures of a step, and the parts in which it is computed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch, or one of the parts that it is cut into.

    Attributes:
        images, labels: Augmented [B, C, H, W], and [B].
        draw: Its number within its step.
        weight: A part's share of the whole.
        part: Its first image in the whole; None where it is the whole.
    """

    images: Tensor
    labels: Tensor
    draw: int
    weight: float = 1.0
    part: int | None = None


@dataclass(frozen=True)
class Part:
    """A part of a batch (see `ranks.py`): what the network takes, labels, and its share of the batch."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    weight: float

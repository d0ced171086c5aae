"""Random choices in a forward pass of a supernet: dropped identities and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnas.rng import numpy_stream, torch_stream


@dataclass(frozen=True)
class Draws:
    """Random draws of a supernet in one pass, a function of seed and counters, so that they can be repeated.

    With a `probability`, the outputs of identities are dropped elementwise, so that identities win less easily
    (P-DARTS, §3.2.2); the operation `noise` draws its output.
    """

    probability: float
    seed: int
    counters: tuple[int, ...]

    def within(self, part: int) -> Draws:
        """Return the draws of a layer within a step, or of a source within a layer."""
        return Draws(self.probability, self.seed, (*self.counters, part))

    @property
    def scale(self) -> float:
        """Factor of the remaining elements, which preserves the mean."""
        return 1.0 / (1.0 - self.probability)

    def alive(self, shape: tuple[int, ...]) -> Tensor:
        """Return random 0 (with `probability`, to 1/65536) and 1, uint8.

        Four draws per random word: a twentieth of the time of `Tensor.bernoulli_`, which took half of a native step.
        """
        count = math.prod(shape)
        words = numpy_stream(self.seed, "skip-dropout", *self.counters).bit_generator.random_raw(-(-count // 4))
        alive = words.view(np.uint16)[:count] >= round(self.probability * 65536)
        return torch.from_numpy(alive.view(np.uint8)).view(shape)

    def factors(self, like: Tensor, targets: int) -> Tensor:
        """Return factors [B, H, W, targets, c] for an identity with output `like` [B, H, W, c]."""
        shape = (*like.shape[:3], targets, like.shape[3])
        return self.alive(shape).to(like.device, like.dtype).mul_(self.scale)

    def noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise of a shape."""
        return torch.randn(like.shape, generator=torch_stream(self.seed, "noise", *self.counters)).to(like)

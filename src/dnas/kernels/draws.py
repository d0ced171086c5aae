"""The random choices of one forward pass of a supernet: which channels pass, which operation of an edge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnas.rng import numpy_stream, torch_stream


@dataclass(frozen=True)
class Draws:
    """What a supernet draws in one pass, a function of seed and counters, so that it can be drawn again.

    With a `probability` it drops the output of identities element-wise, so that they win less easily (P-DARTS, §3.2.2);
    the operation `noise` draws its output.
    """

    probability: float
    seed: int
    counters: tuple[int, ...]

    def within(self, part: int) -> Draws:
        """That of a layer within a step, or of a source within a layer."""
        return Draws(self.probability, self.seed, (*self.counters, part))

    @property
    def scale(self) -> float:
        """What is left is multiplied by it, so that the mean stays."""
        return 1.0 / (1.0 - self.probability)

    def alive(self, shape: tuple[int, ...]) -> Tensor:
        """Random 0 (with `probability`, to 1/65536) and 1, uint8.

        Four draws a random word: a twentieth of the time of `Tensor.bernoulli_`, which took half of a native step.
        """
        count = math.prod(shape)
        words = numpy_stream(self.seed, "skip-dropout", *self.counters).bit_generator.random_raw(-(-count // 4))
        alive = words.view(np.uint16)[:count] >= round(self.probability * 65536)
        return torch.from_numpy(alive.view(np.uint8)).view(shape)

    def factors(self, like: Tensor, targets: int) -> Tensor:
        """Factors [B, H, W, targets, c] for an identity with output `like` [B, H, W, c]."""
        shape = (*like.shape[:3], targets, like.shape[3])
        return self.alive(shape).to(like.device, like.dtype).mul_(self.scale)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal noise of a shape."""
        return torch.randn(like.shape, generator=torch_stream(self.seed, "noise", *self.counters)).to(like)

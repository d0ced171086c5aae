"""Random draws as pure functions of (seed, named stream, counters).

Nothing in dnas reads a global random state. A draw at step t of a run depends only on the seed of the run, the name of
the stream, and t. A resumed run therefore needs no saved random state to be bit-for-bit identical to an uninterrupted
one, and draws from one stream never change another.

Streams in use: "init" (weights), "architecture" (architecture parameters), "split" (data halves),
"order" (batches), "augment", "flip" (images that are flipped first), "drop-path", "skip-dropout", "sample"
(random architectures), "path" (architectures executed in the steps of a supernet), "candidate" (architectures to
evaluate), "bootstrap" (items of a statistic), "shuffle" (layers of a control), "statistics" (images on which batch-norm
statistics of averaged weights are measured), "estimate" (architectures whose speed is measured), "mirroring" (images
that are inspected before a run; always with seed 0).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, stream: str, *counters: int) -> int:
    """Return a 63-bit seed, a pure function of the arguments (SHA-256 of their text)."""
    text = ":".join([str(int(seed)), stream, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """Return a NumPy generator for one place of draws. Does not import torch."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, stream, *counters)))


def torch_stream(seed: int, stream: str, *counters: int) -> torch.Generator:
    """Return a torch generator on the CPU for one place of draws.

    Draws are made on the CPU and then moved, so that a seed has the same effect on every device.
    """
    import torch

    return torch.Generator("cpu").manual_seed(derived_seed(seed, stream, *counters))

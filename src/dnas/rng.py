"""Random draws as pure functions of (seed, named stream, counters).

Nothing in dnas reads a global random state. A draw at step t of a run depends on the run's seed, the
name of what is drawn, and t alone, so a resumed run needs no saved random state to be bit-equal to an
uninterrupted one, and two streams never shift each other.

Streams in use: "init" (weights), "architecture" (architecture parameters), "split" (data halves),
"order" (batches), "augment", "flip" (images that are mirrored first), "drop-path", "skip-dropout", "sample"
(architectures drawn at random), "path" (those that a supernet's steps execute), "candidate" (those that are judged),
"bootstrap" (items of a statistic), "shuffle" (layers of a control), "statistics" (images by which batch norms are made
to fit averaged weights), "estimate" (architectures that are tried for their speed), "mirroring" (pictures that are
looked at before a run; always of seed 0).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, stream: str, *counters: int) -> int:
    """A 63-bit seed that is a pure function of its arguments (SHA-256 of their text)."""
    text = ":".join([str(int(seed)), stream, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """A NumPy generator for one draw site; needs no torch."""
    return np.random.Generator(np.random.PCG64(derived_seed(seed, stream, *counters)))


def torch_stream(seed: int, stream: str, *counters: int) -> torch.Generator:
    """A CPU torch generator for one draw site.

    Draws are made on the CPU and moved, so that a seed means the same on every device.
    """
    import torch

    return torch.Generator("cpu").manual_seed(derived_seed(seed, stream, *counters))

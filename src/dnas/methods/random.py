"""Random search: uniform architectures are trained one by one, and the best is kept.

The baseline of every comparison (Li & Talwalkar, UAI 2019): is a search better than random draws at the same cost?
"""

from __future__ import annotations

from collections.abc import Sequence

from dnas.methods.protocol import Candidate, Trial, TrialMethod
from dnas.rng import numpy_stream

# Number of candidates proposed at once, for as many processes.
ROUND = 64


class Random(TrialMethod):
    """Uniform draws × trials × the best one."""

    name = "random"
    title = "Random search"
    paper = "Li & Talwalkar, Random Search and Reproducibility for Neural Architecture Search, UAI 2019"

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return rounds until the budget is spent; draws only depend on the number of a trial, not on rounds."""
        rngs = (numpy_stream(seed, "candidate", len(history) + i) for i in range(ROUND))
        return [Candidate(self.uniform(rng, layers)) for rng in rngs]

"""Bayesian optimization by an additive model: the worth of an architecture is the sum of the worths of its operations
at their places.

The model is the factorization of the DNAS paper (Xu & He 2022, §3.3) as a regression: under `decoupled` the log-odds of
a trial's accuracy are a sum of α[edge, operation], β[layer, edge] and γ[layer, operation] over all operations of the
architecture; under `full` α also depends on the layer, and under `shared` everything has two rows, for normal
and reduction cells. With normal priors the posterior is exact (`supernet/ridge.py`). After some uniform architectures,
each round trains the architectures of a large pool with the largest expected improvement (Jones et al. 1998, eq. 15),

    EI = s · (z·Φ(z) + φ(z)),   z = (m - best so far) / s,

for a prediction with mean m and standard deviation s, or those that are best under one draw of all factors each
(Thompson 1933).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, count, islice, repeat
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, MethodOptions, Trial, TrialMethod
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace
from dnas.space.sampling import unseen
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.ridge import Array, Ridge, fit
from dnas.supernet.worth import LEAST_TRAININGS, PENALTIES, counts, factors_of, standardised, strongest

# Numbers in the pool: the best under draws of the factors, and mutants of the best trials. The others are uniform.
DRAWN, MUTANTS = 0.2, 0.6
PARENTS, MUTATIONS = 10, 3


class AdditiveOptions(MethodOptions):
    """Options of the rounds and their candidates."""

    initial: int = Field(40, ge=1, description="number of uniform architectures at first; at most half of all trials")
    batch_size: int = Field(10, ge=1, description="trials per round; at most an eighth of all trials")
    candidates: int = Field(500, ge=1, description="architectures that the model ranks per round")
    acquisition: Literal["ei", "thompson"] = Field(
        "ei",
        description="how a round is chosen: by expected improvement, or as the best under one draw each (thompson)",
    )


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Return E[max(0, y - best)] for y ~ N(mean, deviation²)."""
    z = (mean - best) / deviation
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    near = z * _special(torch.special.ndtr, z) + density
    # Far below the best, these two terms cancel, so Φ(z) = φ(z)·√(π/2)·erfcx(-z/√2) is used.
    far = density * (1 + z * np.sqrt(np.pi / 2) * _special(torch.special.erfcx, -np.minimum(z, 0) / np.sqrt(2)))
    found: Array = deviation * np.where(z < -1, far, near)
    return found


def _special(function: Callable[[Tensor], Tensor], x: Array) -> Array:
    return function(torch.from_numpy(x)).numpy()


class Additive(TrialMethod):
    """Counts of factors × ridge regression × expected improvement × trials × the best one."""

    name = "additive"
    title = "Additive model"
    paper = "dnas' own; the factors of Xu & He, DNAS, CVPRW 2022, and expected improvement of Jones et al., JOGO 1998"
    mappings = tuple(MAPPINGS)
    Options = AdditiveOptions
    options: AdditiveOptions

    def __init__(self, options: AdditiveOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.batch_size > options.candidates:
            raise InputError(
                f"--option batch_size={options.batch_size} must be at most candidates={options.candidates}"
            )

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return the remaining uniform architectures, then rounds of architectures that the model chooses.

        Failed trials are not used to fit the model, but they are not proposed again.
        """
        number = len(history)
        judged = [trial for trial in history if trial.score is not None]
        missing = self.at_most(self.options.initial, 2) - number
        size = self.at_most(self.options.batch_size, 8)
        if missing > 0 or len(judged) < LEAST_TRAININGS:
            # The same as in random search, so that both methods start from the same trials.
            streams = (numpy_stream(seed, "candidate", i) for i in count(number))
            tried = (trial.architecture for trial in history)
            drawn = unseen((self.uniform(rng, layers) for rng in streams), tried)
            return [Candidate(architecture) for architecture in islice(drawn, missing if missing > 0 else size)]
        targets = np.array(standardised([trial.score for trial in judged]))
        model = fit(self._features([trial.architecture for trial in judged], layers), targets, PENALTIES)
        pool = self.pool(model, judged, history, layers, seed)
        chosen = self.chosen(model, self._features(pool, layers), float(targets.max()), size, seed, number)
        return [Candidate(pool[i]) for i in chosen]

    def pool(
        self, model: Ridge, judged: Sequence[Trial], history: Sequence[Trial], layers: int, seed: int
    ) -> list[Architecture]:
        """Return new architectures, all different, among which the model chooses."""
        size = self.options.candidates
        rng = numpy_stream(seed, "mutation", len(history))
        draws = model.draws(numpy_stream(seed, "factors", len(history)), round(DRAWN * size))
        best = sorted(judged, key=lambda trial: -(trial.score or 0.0))[:PARENTS]
        factors = (factors_of(draw, self.space, layers, self.mapping_name) for draw in draws)
        drawn = (strongest(each, self.space, layers, self.origin(), self.feasible) for each in factors)
        mutants = (self.mutant(rng, best[i % len(best)].architecture, MUTATIONS) for i in range(round(MUTANTS * size)))
        uniform = (self.uniform(rng, layers) for _ in repeat(None))
        tried = (trial.architecture for trial in history)
        return list(islice(unseen(chain(drawn, mutants, uniform), tried), size))

    def chosen(self, model: Ridge, features: Array, best: float, size: int, seed: int, number: int) -> list[int]:
        """Return the rows of features [M, F] to try next.

        Args:
            best: The best target so far.
        """
        if self.options.acquisition == "ei":
            mean, variance = model.predicted(features)
            gain = expected_improvement(mean, np.sqrt(variance), best)
            # If the expected improvement is numerically 0, the mean decides.
            return [int(i) for i in np.lexsort((-mean, -gain))[:size]]
        rows: list[int] = []
        for worth in model.draws(numpy_stream(seed, "acquisition", number), size) @ features.T:
            worth[rows] = -np.inf
            rows.append(int(worth.argmax()))
        return rows

    def _features(self, architectures: Sequence[Architecture], layers: int) -> Array:
        """Return [N, F]: how often each factor of the mapping occurs."""
        return np.stack([counts(each, self.space, layers, self.mapping_name) for each in architectures])

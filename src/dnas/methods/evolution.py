"""Evolution by mutation: the best of a few drawn individuals has a child, and the population loses its oldest member
(regularized evolution: Real et al., AAAI 2019) or the worst of those drawn (Real et al., ICML 2017).

One implementation does both. The population is never stored: repeating the same draws gives it from the history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, MethodOptions, Trial, TrialMethod
from dnas.rng import numpy_stream
from dnas.settings import TrialSettings
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace

# The published sizes of the population: Real et al. 2019 and 2017.
LARGEST = {"aging": 100, "tournament": 1000}


class EvolutionOptions(MethodOptions):
    """Options; sizes of 0 depend on the number of trials, up to the published sizes."""

    mode: Literal["aging", "tournament"] = Field(
        "aging",
        description="which individual dies: the oldest of the population (2019), or the worst of those drawn (2017)",
    )
    population: int = Field(
        0,
        ge=0,
        description="P: size of the population; 0: search.trials / 4, at most 100 (mode=aging) or 1000 (tournament)",
    )
    sample: int = Field(
        0, ge=0, description="S: individuals that are drawn; 0: a quarter of P with mode=aging, 2 with tournament"
    )
    children: int = Field(1, ge=1, description="children bred from one population, which can be trained in parallel")
    identity: float = Field(
        0.0, ge=0, le=1, description="probability that a child is its parent again, trained with another seed"
    )


class Evolution(TrialMethod):
    """Uniform architectures × children of the best of S × the best of all."""

    name = "evolution"
    title = "Evolution (regularized, or by tournaments)"
    paper = (
        "Real et al., Regularized Evolution for Image Classifier Architecture Search, AAAI 2019; "
        "Real et al., Large-Scale Evolution of Image Classifiers, ICML 2017"
    )
    Options = EvolutionOptions
    options: EvolutionOptions

    def __init__(self, options: EvolutionOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if 0 < options.population < self._least:
            raise InputError(
                f"--option population={options.population} is too small for sample={options.sample} and "
                f"children={options.children} with mode={options.mode}; it must be at least {self._least}"
            )

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """Real et al. 2019: 20,000 trials of 25 epochs, 24 channels, three normal cells between reduction cells."""
        return self.of_pair(data, {"trials": 20_000, "epochs": 25}, {"layers": 11, "channels": 24})

    @property
    def _ages(self) -> bool:
        return self.options.mode == "aging"

    @property
    def _least(self) -> int:
        """Smallest population: the individuals that a round removes, and S different ones for its last draw."""
        options = self.options
        return options.children if self._ages else options.children - 1 + (options.sample or 2)

    @property
    def population(self) -> int:
        """P."""
        largest = LARGEST[self.options.mode]
        return self.options.population or max(
            2, self._least, min(largest, (self.budget or TrialSettings().trials) // 4)
        )

    @property
    def sample(self) -> int:
        """S."""
        return self.options.sample or (max(2, self.population // 4) if self._ages else 2)

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return P uniform architectures, the same as in random search, then rounds of children."""
        if not history:
            rngs = [numpy_stream(seed, "candidate", i) for i in range(self.population)]
            return self._candidates([self.uniform(rng, layers) for rng in rngs])
        # Numbers of trials, oldest first. With mode=aging the population is always the last P trials.
        first = len(history) if self._ages else min(len(history), self.population)
        alive = list(range(first))[-self.population :]
        draws = numpy_stream(seed, "tournament").random((len(history) + self.options.children, self.sample))
        for start in range(first, len(history) + 1, self.options.children):
            numbers = range(start, start + self.options.children)
            parents = [history[self._parent(alive, history, draws[number])].architecture for number in numbers]
            alive += numbers
        return self._candidates(
            [
                parent if rng.random() < self.options.identity else self.mutant(rng, parent)
                for parent, rng in zip(parents, (numpy_stream(seed, "candidate", n) for n in numbers), strict=True)
            ]
        )

    def _parent(self, alive: list[int], history: Sequence[Trial], draw: np.ndarray[Any, Any]) -> int:
        """Return the best of S drawn from those alive, by S numbers in [0, 1). In a tournament the worst of them dies.

        With mode=aging draws are with replacement, as published; a tournament has different contestants.
        """
        if self._ages:
            drawn = [alive[int(u * len(alive))] for u in draw.tolist()]
        else:
            others = alive.copy()
            drawn = [others.pop(int(u * len(others))) for u in draw.tolist()]
        ranked = sorted(drawn, key=lambda number: fitness(history[number]))
        if not self._ages:
            alive.remove(ranked[0])
        return ranked[-1]

    def _candidates(self, architectures: Sequence[Architecture]) -> list[Candidate]:
        return [Candidate(replace(architecture, origin=self.origin())) for architecture in architectures]


def fitness(trial: Trial) -> float:
    """Return the score; a failed trial is worse than any other."""
    return -1.0 if trial.score is None else trial.score

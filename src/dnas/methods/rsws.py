"""Random search with weight sharing (Li & Talwalkar, UAI 2019): a supernet that trains uniform architectures, then the
best of many uniform ones.

It shows what a search adds to chance if weights are shared: every step trains another uniform architecture, and only
weights are learned. Then, in each round, many are scored on few validation images, and the best of these on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from dnas.errors import InputError
from dnas.methods.protocol import Candidate, Progress, SupernetMethod, SupernetOptions, Trial
from dnas.rng import numpy_stream
from dnas.space.protocol import SearchSpace
from dnas.supernet.mapping import SHARED
from dnas.supernet.relaxation import MixingWeights


class RandomSharingOptions(SupernetOptions):
    """Numbers of architectures and images to evaluate; defaults are those of the authors' code."""

    rounds: int = Field(5, ge=1, description="evaluations, each with its own candidates and finalists")
    candidates: int = Field(1000, ge=1, description="uniform architectures per round")
    share: float = Field(
        640 / 25_000, gt=0, lt=1, description="share of the validation images on which candidates are scored"
    )
    finalists: int = Field(10, ge=1, description="the best candidates of a round, scored on all validation images")


class RandomSharing(SupernetMethod):
    """Uniform paths × the best of uniform draws on the accuracy of the supernet."""

    name = "rsws"
    title = "Random search with weight sharing"
    paper = "Li & Talwalkar, Random Search and Reproducibility for Neural Architecture Search, UAI 2019"
    default_mapping = SHARED
    Options = RandomSharingOptions
    # Each operation is executed in one of 12 steps, so there are more steps, which are cheap, with a smaller rate: at
    # the learning rate of other quick searches, the loss of random paths rises above that of chance.
    quick: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "search": {"epochs": 60, "learning_rate": 0.025, "clip_norm": 5.0},
        "options": {"rounds": 1, "candidates": 100, "share": 0.25},
    }
    options: RandomSharingOptions

    def __init__(self, options: RandomSharingOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.finalists > options.candidates:
            raise InputError(f"--option finalists={options.finalists} must be at most candidates={options.candidates}")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The script of their experiment: 24 channels, 150 epochs, gradients clipped at 1; the rest as in DARTS."""
        return self.of_pair(data, {"epochs": 150, "clip_norm": 1.0}, {"channels": 24})

    def mixing(self, mapping: Any, progress: Progress) -> MixingWeights:
        return self.uniform_path(mapping, progress)

    def judged_images(self, validation: int) -> tuple[float, float]:
        options = self.options
        return 0.0, options.rounds * (options.candidates * options.share + options.finalists) * validation

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        options = self.options
        completed, position = divmod(len(history), options.candidates + options.finalists)
        if completed == options.rounds:
            return []
        if position == 0:
            rng = numpy_stream(seed, "candidate", len(history))
            draws = [self.uniform(rng, layers) for _ in range(options.candidates)]
            return [Candidate(architecture, options.share) for architecture in draws]
        scored = sorted(history[-options.candidates :], key=lambda trial: trial.score or 0.0, reverse=True)
        return [Candidate(trial.architecture) for trial in scored[: options.finalists]]

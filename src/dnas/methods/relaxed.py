"""Methods with a choice of relaxation: published with one, they work with any."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.space.protocol import SearchSpace
from dnas.supernet.mapping import Mapping
from dnas.supernet.relaxation import get_relaxation


class RelaxedOptions(GradientOptions):
    """Options with the name of the relaxation."""

    relaxation: str = Field(
        "softmax",
        description="map from parameters to weights of operations: softmax, as published, sigmoid, or "
        "another one listed "
        "by `dnas list relaxations`",
    )


class RelaxedMethod(GradientMethod):
    """A method that mixes operations by the chosen relaxation."""

    options: RelaxedOptions

    def __init__(self, options: RelaxedOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        self.relaxation = get_relaxation(options.relaxation)

    def relaxed(self, mapping: Mapping, progress: Progress) -> Tensor:
        """Return the weights of the operations [L, E, O]."""
        return self.relaxation.operations(mapping.terms(), progress.share)

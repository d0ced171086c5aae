"""NAME: what it does, in a line (authors, venue, section).

    the formula that makes it what it is

What is else as in DARTS.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from dnas.methods import GradientMethod, GradientOptions, Progress
from dnas.supernet.mapping import Mapping
from dnas.supernet.relaxation import MixingWeights, expand, softmax


class NameOptions(GradientOptions):
    """Options of this method alone: `--option temperature=2`."""

    temperature: float = Field(1.0, gt=0, description="divides the logits before the softmax")


class Name(GradientMethod):
    name = "name"  # as in `dnas methods`
    title = "Name"
    paper = "Author et al., Title, venue and year"
    default_mapping = "shared"
    Options: ClassVar[type[NameOptions]] = NameOptions
    options: NameOptions

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        return expand(softmax(mapping.terms(), self.options.temperature), None, mapping.layers)

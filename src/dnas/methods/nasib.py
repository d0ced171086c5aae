"""NASIB-style search within a budget: explore first, exploit towards the end. A RECONSTRUCTION.

Only the abstract of "NASIB: Neural Architecture Search withIn Budget" (Singh et al., arXiv 1910.08665) was available,
and no code is public. This file implements what the abstract describes, a balance of exploration and exploitation such
that the search fits a budget, in one plain form:

    ε = ½ (1 + cos π share)                                          1 at first, 0 in the last epoch of the budget
    on every edge  o ~ uniform with probability ε, else o ~ softmax(alpha / τ), and y = O_o(x)

Only draws that exploit have a gradient, by the straight-through Gumbel softmax. Superkernels are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, gumbel


class NASIBOptions(GradientOptions):
    """Options; the budget is `search.epochs`, which alone determines the schedule of exploration."""

    with_none: bool = Field(False, description="`none` is a candidate while searching; never exported")
    initial_scale: float = Field(0.0, ge=0, description="standard deviation of the initial alpha; 0: all are equal")
    temperature: float = Field(1.0, gt=0, description="τ of the softmax for draws that exploit")


class NASIB(GradientMethod):
    """Any mapping × ε-greedy draws, straight-through Gumbel softmax × first order × top two edges."""

    name = "nasib"
    title = "NASIB-style (a reconstruction)"
    paper = "reconstructed from the abstract of Singh et al., NASIB: Neural Architecture Search withIn Budget, 2019"
    default_mapping = SHARED
    Options = NASIBOptions
    # Each operation is executed in one of seven steps, so there are more steps, which are cheap, with a smaller rate.
    quick: ClassVar[Dict[str, Dict[str, Any]]] = {"search": {"epochs": 60, "learning_rate": 0.025}}
    options: NASIBOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of DARTS, since those of the source are unknown; no warm-up, since exploration serves as one."""
        return self.of_pair(data, {"warmup_epochs": 0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def logits(self, mapping: Mapping) -> Tensor:
        """Return the logits of draws that exploit, [L, E, O] or a shape that broadcasts to it."""
        return reduce(torch.add, mapping.terms()) / self.options.temperature

    def exploration(self, progress: Progress) -> float:
        """Return ε, the share of uniform draws."""
        return (1 + math.cos(math.pi * progress.share)) / 2

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        logits = self.logits(mapping).expand(mapping.layers, -1, -1)
        noise = gumbel(mapping, tuple(logits.shape[1:]), progress.generator(0))
        explore = torch.rand(mapping.rows, logits.shape[1], 1, generator=progress.generator(1))
        explore = mapping.over_layers((explore < self.exploration(progress)).to(logits.device))
        # With Gumbel noise, the argmax of equal logits is uniform, and that of any logits follows their softmax.
        perturbed = torch.where(explore, noise, logits + noise)
        hard = F.one_hot(perturbed.argmax(-1), logits.shape[-1])
        soft = perturbed.softmax(-1)
        # No gradient for draws that explore: for them only the noise is softened.
        return expand(hard + (soft - soft.detach()), None, mapping.layers, active=hard.bool().cpu())

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """Return the distribution of draws that exploit."""
        return self.logits(mapping).softmax(-1).expand(mapping.layers, -1, -1)

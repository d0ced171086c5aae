"""NASIB-style search within a budget: explore first, exploit towards its end. A RECONSTRUCTION.

Of "NASIB: Neural Architecture Search withIn Budget" (Singh et al., arXiv 1910.08665) only the abstract was at hand,
and no code is public. What is built here is what the abstract names, balancing exploration and exploitation so that
the search fits a budget, in one plain form:

    ε = ½ (1 + cos π share)                                          1 at first, 0 in the last epoch of the budget
    on every edge  o ~ uniform with probability ε, else o ~ softmax(alpha / τ), and y = O_o(x)

Only draws that exploit have a gradient, straight through their Gumbel softmax. Superkernels are left out.
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
    """The budget is `search.epochs`: what is explored when follows from it alone."""

    with_none: bool = Field(False, description="`none` is a candidate while searching; never exported")
    initial_scale: float = Field(0.0, ge=0, description="standard deviation of the initial alpha; 0: all are equal")
    temperature: float = Field(1.0, gt=0, description="τ of the softmax that draws where the search exploits")


class NASIB(GradientMethod):
    """Any mapping × ε-greedy draws, straight-through Gumbel softmax × first order × top two edges."""

    name = "nasib"
    title = "NASIB-style (a reconstruction)"
    paper = "reconstructed from the abstract of Singh et al., NASIB: Neural Architecture Search withIn Budget, 2019"
    default_mapping = SHARED
    Options = NASIBOptions
    # An operation is executed in one of seven steps, so there are more of them, which are cheap, and smaller ones.
    quick: ClassVar[Dict[str, Dict[str, Any]]] = {"search": {"epochs": 60, "learning_rate": 0.025}}
    options: NASIBOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """DARTS' settings, since the source's are not known; no warm-up, since exploration is one."""
        return self.of_cells(data, {"warmup_epochs": 0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def logits(self, mapping: Mapping) -> Tensor:
        """[L, E, O] or what broadcasts to it: those of the operations' law where the search exploits."""
        return reduce(torch.add, mapping.terms()) / self.options.temperature

    def exploration(self, progress: Progress) -> float:
        """ε: the share of draws that are uniform."""
        return (1 + math.cos(math.pi * progress.share)) / 2

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        logits = self.logits(mapping).expand(mapping.layers, -1, -1)
        noise = gumbel(mapping, tuple(logits.shape[1:]), progress.generator(0))
        explore = torch.rand(mapping.rows, logits.shape[1], 1, generator=progress.generator(1))
        explore = mapping.over_layers((explore < self.exploration(progress)).to(logits.device))
        # The largest of equal logits with Gumbel noise is uniform, that of any logits follows their softmax.
        perturbed = torch.where(explore, noise, logits + noise)
        hard = F.one_hot(perturbed.argmax(-1), logits.shape[-1])
        soft = perturbed.softmax(-1)
        # Without gradient where the search explores: there the noise alone is softened.
        return expand(hard + (soft - soft.detach()), None, mapping.layers, active=hard.bool().cpu())

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """The law of the draws that exploit."""
        return self.logits(mapping).softmax(-1).expand(mapping.layers, -1, -1)

"""DATA: several sampled operations per edge, a binary code (Chang et al., NeurIPS 2019).

M Gumbel-softmax draws per edge, each one-hot forward and soft backward, are joined by their elementwise maximum:

    p^m = softmax((log p + G^m) / τ),  h^m = onehot(argmax p^m) forward, p^m backward           m = 1 … M
    code = max_m h^m                        1 for every operation that any draw chose
    y_e = Σ_o code_o O_o(x) / Σ_o code_o    over these operations; nothing else is executed

This is a reconstruction from the abstract and the authors' public code; the text of the paper was not read.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, gumbel, softmax, straight_through


class DATAOptions(GradientOptions):
    """Options for the choices that the public code makes or leaves open."""

    with_none: bool = Field(True, description="`none` is a candidate while searching, as published")
    draws: int = Field(
        4, ge=1, le=64, description="M: draws per edge; the published cells were found with M = 4 and M = 7"
    )
    temperature: float = Field(5.0, gt=0, description="τ in the first epoch")
    temperature_end: float = Field(1.0, gt=0, description="τ in the last epoch; linear in between")
    probability: Literal["softmax", "relu"] = Field(
        "softmax", description="p: the softmax of alpha, or max(0, 1 + alpha) divided by its sum"
    )
    average: bool = Field(True, description="average the outputs of the operations of a code; false: add them")
    approximation_weight: float = Field(
        0.1, ge=0, description="weight of mean |p - code| in the architecture loss, with a fixed code"
    )


class DATA(GradientMethod):
    """Any mapping × ensemble Gumbel-softmax × first order × top two edges."""

    name = "data"
    title = "DATA"
    paper = "Chang et al., DATA: Differentiable ArchiTecture Approximation, NeurIPS 2019"
    default_mapping = SHARED
    Options = DATAOptions
    options: DATAOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of the authors' code: 8 layers, trained with 20."""
        return self.of_pair(data, {"epochs": 100, "warmup_epochs": 0, "architecture_weight_decay": 0.0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        shape = (self.options.draws, len(self.space.edges), len(self.operations))
        noise = gumbel(mapping, shape, progress.generator())
        logits = self.scores(mapping, progress).clamp_min(1e-10).log()
        temperature = progress.between(self.options.temperature, self.options.temperature_end)
        draws = straight_through(softmax([logits[:, None], noise], temperature))
        # Draws that agree on an operation share its gradient evenly.
        code = draws.amax(1)
        active = (code.detach() != 0).cpu()
        if self.options.average:
            code = code / code.sum(-1, keepdim=True)
        return expand(code, None, mapping.layers, active=active)

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """Return p [L, E, O]."""
        terms = mapping.terms()
        if self.options.probability == "softmax":
            return softmax(terms)
        positive = (1 + sum(terms[1:], terms[0])).relu()
        return positive / positive.sum(-1, keepdim=True).clamp_min(1e-7)

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return w · Σ over normal and reduction cells of mean |p - code|, which moves p towards the drawn code."""
        if self.options.approximation_weight == 0:
            return None
        code = self.mixing(mapping, progress).operations.detach()
        distance = (self.scores(mapping, progress) - code).abs().mean((1, 2))
        by_kind = torch.stack([distance[mapping.kind == kind].mean() for kind in (0, 1)])
        return self.options.approximation_weight * by_kind.sum()

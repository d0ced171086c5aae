"""NASP: proximal iterations on discrete architectures (Yao et al., AAAI 2020).

    Ā = prox(A)      1 for the best operation of each edge, on the two best edges of each node; else 0    (C1)
    A ← clip(A - Adam(∇_Ā [L_val(w, Ā) + η R(Ā)]), 0, 1) ,   w ← w - ε ∇_w L_train(w, Ā)                  (C2)

The weights are only trained in discrete networks, of which only the eight chosen operations of a cell are executed.
The gradient at Ā is computed for all operations, which costs as much as a mixture, and updates A itself.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.settings import GradientSettings
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, path


class NASPOptions(GradientOptions):
    """Options. There is no `none`: an edge that is not among the best already contributes nothing."""

    initial_scale: float = Field(
        1e-3, ge=0, description="standard deviation of A around ½; 0, as in the public code: the first of equals wins"
    )
    complexity_weight: float = Field(
        0.0, ge=0, description="η: weight of R, the share of parameters of the chosen operations of a cell"
    )


class NASPSettings(GradientSettings):
    """Settings; other updates need gradients for all operations from the training batch, which executes only a few."""

    update: Literal["first-order"] = Field("first-order", description="the only update for proximal iterations")


class NASP(GradientMethod):
    """Any mapping × one-hot by projection × first order × top two edges."""

    name = "nasp"
    title = "NASP"
    paper = "Yao et al., Efficient Neural Architecture Search via Proximal Iterations, AAAI 2020"
    default_mapping = SHARED
    Options = NASPOptions
    Settings = NASPSettings
    options: NASPOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of the public code, as for DARTS: a proxy of 8 layers without warm-up, trained with 20."""
        return self.of_pair(data, proxy={"warmup_epochs": 0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        """Return parameters in the middle of the box, with noise that breaks ties."""
        mapping = self.new_mapping(layers, seed, with_edges=False)
        with torch.no_grad():
            for p in mapping.parameters():
                p.add_(0.5)
            self.project(mapping)
        return mapping

    def project(self, mapping: Mapping) -> None:
        """Project the parameters into the box [0, 1] (C2)."""
        for p in mapping.parameters():
            p.clamp_(0.0, 1.0)

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """Return [L, E, O]: A itself; under `decoupled` the product of both factors, which is also in the box."""
        # Operations that an edge does not have are at -∞; the box ends at 0.
        terms = [term.clamp_min(0.0) for term in mapping.terms()]
        return math.prod(terms[1:], start=terms[0]).expand(mapping.layers, -1, -1)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        """Return Ā, which would be derived now: sparse for the weights; for A with all operations, and with the
        gradient that A would have."""
        a = self.scores(mapping, progress)
        discrete = path(self.derive(mapping, progress), self.operations, self.space).to(a)
        if progress.draw == 0:
            return discrete
        # Edges are weighted only once: with a weight of 0, the operations of an edge would have no gradient.
        return expand(discrete.operations + (a - a.detach()), None, mapping.layers, discrete.bypass)

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return η · R(Ā) with R = Σ Ā² p_o / Σ p over the edges and operations of a cell, p_o the parameters."""
        if self.options.complexity_weight == 0:
            return None
        squares = self.mixing(mapping, progress).operations.square()
        params = squares.new_tensor([self.space.operation_params(name) for name in self.operations])
        return self.options.complexity_weight * (squares * params / params.sum()).sum() / mapping.layers

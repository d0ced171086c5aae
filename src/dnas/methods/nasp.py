"""NASP: proximal iterations on discrete architectures (Yao et al., AAAI 2020).

    Ā = prox(A)      1 for the best operation of each edge, on the two best edges of each node; else 0    (C1)
    A ← clip(A - Adam(∇_Ā [L_val(w, Ā) + η R(Ā)]), 0, 1) ,   w ← w - ε ∇_w L_train(w, Ā)                  (C2)

The weights only ever see discrete networks, of which nothing but the eight chosen operations of a cell is executed.
The gradient at Ā is had for all operations, which costs as much as a mixture, and moves A itself.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.settings import GradientSettings
from dnas.space.primitives import PRIMITIVES
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, path


class NASPOptions(GradientOptions):
    """`none` is no option: an edge that is not among the best carries nothing already."""

    initial_scale: float = Field(
        1e-3, ge=0, description="standard deviation of A around ½; 0 as in the public code, where the first tie wins"
    )
    complexity_weight: float = Field(
        0.0, ge=0, description="η of R, the share of an operation's parameters summed over the chosen ones of a cell"
    )


class NASPSettings(GradientSettings):
    """The other updates want gradients for all operations from the weights' batch, too, where few are executed."""

    update: Literal["first-order"] = Field("first-order", description="the only one that proximal iterations have")


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
        """The public code's, which are those of DARTS: a proxy of 8 layers without warm-up, trained at 20."""
        return self.of_cells(data, proxy={"warmup_epochs": 0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        """In the middle of the box, with noise that breaks ties."""
        mapping = self.new_mapping(layers, seed, with_edges=False)
        with torch.no_grad():
            for p in mapping.parameters():
                p.add_(0.5)
            self.project(mapping)
        return mapping

    def project(self, mapping: Mapping) -> None:
        """Into the box [0, 1] (C2)."""
        for p in mapping.parameters():
            p.clamp_(0.0, 1.0)

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """[L, E, O]: A itself; under `decoupled` the product of both factors, which lies in the box as they do."""
        # What an edge has not stands at -∞; the box ends at 0.
        terms = [term.clamp_min(0.0) for term in mapping.terms()]
        return math.prod(terms[1:], start=terms[0]).expand(mapping.layers, -1, -1)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        """Ā: what would be derived now. Sparse for the weights; for A with all operations, and its gradient as if A
        were there."""
        a = self.scores(mapping, progress)
        discrete = path(self.derive(mapping, progress), self.operations, self.space).to(a)
        if progress.draw == 0:
            return discrete
        # Edges count once here: at the weight 0 of an edge that was not kept, its operations would have no gradient.
        return expand(discrete.operations + (a - a.detach()), None, mapping.layers, discrete.bypass)

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """η · R(Ā) with R = Σ Ā² p_o / Σ p over the edges and operations of a cell, p_o the operation's parameters."""
        if self.options.complexity_weight == 0:
            return None
        squares = self.mixing(mapping, progress).operations.square()
        params = squares.new_tensor([_params(name) for name in self.operations])
        return self.options.complexity_weight * (squares * params / params.sum()).sum() / mapping.layers


def _params(operation: str) -> int:
    """Of an operation at the paper's width, stride 1."""
    return sum(layer.params() for layer in PRIMITIVES[operation].chain(16, 1))

"""Perturbation: weights that are robust to changes of architecture parameters (Chen & Hsieh, SDARTS, ICML 2020).

    w ← argmin_w  E_δ L_train(w, α + δ)   with δ uniform in [-ε, ε]                                  law=random
    w ← argmin_w max_δ L_train(w, α + δ)  over |δ| ≤ ε                                               law=adversarial

Only the weight step uses α + δ. In expectation it adds ε² / 6 · tr ∂²L_train/∂α² to the loss of the weights, so they
move to where that trace is small, and with it the loss from removing operations. ε grows linearly over the epochs that
update the architecture. The maximum is that of the linear part of the loss: δ = ε sign ∂L_train/∂α, one step of
projected gradient ascent from δ = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.parts.protocol import Part, PartOptions, SearchView
from dnas.rng import torch_stream
from dnas.settings import GradientSettings


class PerturbationOptions(PartOptions):
    """Options, with the range of ε in the public code."""

    law: Literal["random", "adversarial"] = Field(
        "random", description="δ: drawn at random, or the worst to first order"
    )
    epsilon: float = Field(0.3, gt=0, description="ε in the last epoch")
    epsilon_start: float = Field(0.03, ge=0, description="ε in the first epoch that updates the architecture")


class Perturbation(Part):
    """Perturbs the architecture parameters during the step of the weights."""

    name = "perturbation"
    title = "Perturbation (SDARTS)"
    paper = (
        "Chen & Hsieh, Stabilizing Differentiable Architecture Search via Perturbation-based Regularization, ICML 2020"
    )
    Options = PerturbationOptions
    options: PerturbationOptions
    updates = ("first-order", "second-order")  # a joint step has no separate step of the weights

    def passes(self, settings: GradientSettings) -> float:
        return 1.0 if self.options.law == "adversarial" else 0.0

    def offsets(self, search: SearchView, step: int) -> Sequence[Tensor]:
        epsilon = search.progress(step).between(self.options.epsilon_start, self.options.epsilon)
        if self.options.law == "adversarial":
            return [epsilon * slope.sign() for slope in search.training_slopes(step)]
        generator = torch_stream(search.seed, self.name, step)
        drawn = [2 * torch.rand(p.shape, generator=generator, dtype=torch.float64) - 1 for p in search.architecture]
        return [(epsilon * each).to(p) for each, p in zip(drawn, search.architecture, strict=True)]

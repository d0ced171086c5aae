"""FairDARTS: operations that cooperate, and a loss that drives them to 0 or 1 (Chu et al., ECCV 2020).

y_e = Σ_o σ(alpha_e)[o] O_o(x)                                                                          (eq. 4)
L_val + w01 · L01 ,   L01 = -mean (σ(alpha) - ½)²   or   -mean |σ(alpha) - ½|                           (eq. 7)
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace
from dnas.supernet import derive
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, sigmoid

PAPER_THRESHOLD = 0.85


class FairDARTSOptions(GradientOptions):
    """Options of the public code. There is no `none`: since operations do not compete, it would have no effect."""

    initial_scale: float = Field(
        0.0, ge=0, description="standard deviation of the initial alpha; 0, as in the public code: all σ(alpha) are ½"
    )
    zero_one_weight: float = Field(10.0, ge=0, description="w01: weight of the zero-one loss")
    zero_one_loss: Literal["l2", "l1"] = Field("l2", description="its distance from ½: squared, or absolute")
    derivation: Literal["top-2", "threshold"] = Field(
        "top-2", description="two edges per node, or only those of them with σ(alpha) ≥ threshold, as published"
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=f"smallest σ(alpha) that is kept, with derivation=threshold; {PAPER_THRESHOLD} unless set",
    )


class FairDARTS(GradientMethod):
    """Any mapping × sigmoid × first order × top two edges or a threshold."""

    name = "fair-darts"
    title = "FairDARTS"
    paper = "Chu et al., Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV 2020"
    default_mapping = SHARED
    Options = FairDARTSOptions
    options: FairDARTSOptions
    # As for dnas: the published weight would decide before the images have an effect.
    quick: ClassVar[dict[str, dict[str, Any]]] = {"options": {"zero_one_weight": 1.0}}

    def __init__(self, options: FairDARTSOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.zero_one_weight == 0 and options.zero_one_loss != "l2":
            raise InputError(f"--option zero_one_loss={options.zero_one_loss} does not apply to zero_one_weight=0")
        if options.derivation == "threshold":
            derive.require_thinning(space)
        elif options.threshold is not None:
            raise InputError(f"--option threshold={options.threshold} only applies to --option derivation=threshold")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of the public code: batch 128, SGD 0.005 → 0.001, Adam 3e-3 with (0.9, 0.999); no warm-up."""
        optimisers = {
            "batch_size": 128,
            "learning_rate": 0.005,
            "architecture_learning_rate": 3e-3,
            "architecture_beta1": 0.9,
        }
        return self.of_pair(data, optimisers, {"warmup_epochs": 0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        return expand(sigmoid(mapping.terms()), None, mapping.layers)

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return w01 · L01 over all open parameters, which under `decoupled` are those of both factors."""
        if self.options.zero_one_weight == 0:
            return None
        away = {name: table.sigmoid() - 0.5 for name, table in mapping.operation_tables().items()}
        l2 = self.options.zero_one_loss == "l2"
        distances = {name: each.square() if l2 else each.abs() for name, each in away.items()}
        return -self.options.zero_one_weight * mapping.open_mean(**distances)

    def derive(self, mapping: Mapping, progress: Progress) -> Architecture:
        if self.options.derivation == "top-2":
            return super().derive(mapping, progress)
        with torch.no_grad():
            weights = self.mixing(mapping, progress).operations
        minimum = PAPER_THRESHOLD if self.options.threshold is None else self.options.threshold
        return derive.threshold(weights, weights, self.operations, self.space, minimum, self.origin(), self.feasible)

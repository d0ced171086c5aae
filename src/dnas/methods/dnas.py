"""DNAS: a decoupled global neural architecture search (Xu & He, CVPR Workshops 2022).

    psi[k,i,j] = σ(alpha[i,j]) · softmax(beta[k])[i] · σ(gamma[k,j])                       (eqs. 4, 5)

Partial channels as in PC-DARTS, a zero-one loss as in FairDARTS, first-order bilevel updates, and the two
strongest edges of each node at the end. The paper leaves much open; every option below names the interpretation
(A1 … A17, see docs/methods/dnas.md) that it chooses.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, GradientOptions, Progress, whole_network
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace
from dnas.supernet import derive
from dnas.supernet.mapping import DECOUPLED, Mapping
from dnas.supernet.relaxation import MixingWeights, edge_softmax, expand, layer_softmax, sigmoid


class DNASOptions(GradientOptions):
    """Options for the open questions of the paper, with our interpretation as the default."""

    partial_channels: int = Field(4, ge=1, description="A7: K of the partial channels; 4 as in PC-DARTS")
    with_none: bool = Field(False, description="A4: `none` among the candidates; the paper counts 7 without it")
    initial_scale: float = Field(
        1e-3,
        ge=0,
        description="A16: standard deviation of the initial alpha, beta, gamma; 0 makes every argmax a tie",
    )
    beta_softmax: Literal["node", "layer"] = Field(
        "node",
        description="A1: beta competes among the incoming edges of a node, or among all edges of a layer",
    )
    bypass: Literal["edge", "one"] = Field(
        "edge", description="A3: weight of the bypassed channels: softmax(beta), as in PC-DARTS, or 1"
    )
    zero_one_weight: float = Field(10.0, ge=0, description="A6: weight of the zero-one loss")
    zero_one_on: Literal["factors", "alpha", "gamma", "product", "psi"] = Field(
        "factors",
        description="A5: arguments of the zero-one loss: σ(alpha) and σ(gamma), one of them, their product, or psi",
    )
    skip_dropout: float = Field(0.2, ge=0, lt=1, description="A8: dropout after the identity, while searching")
    skip_dropout_schedule: Literal["const", "pdarts"] = Field(
        "const", description="A8: constant, or decaying over the search as in P-DARTS"
    )
    alpha_groups: int = Field(
        1, ge=1, le=2, description="A12: one alpha for all layers, or one for normal and one for reduction layers"
    )
    derivation: Literal["top-2", "threshold"] = Field(
        "top-2",
        description="A11: two edges per node, or only those of them with σ(alpha)·σ(gamma) ≥ threshold",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="A11: smallest σ(alpha)·σ(gamma) that is kept, with derivation=threshold; 0.5 unless set",
    )


class DNAS(GradientMethod):
    """Decoupled × sigmoid, edge softmax, sigmoid × first order × top two edges."""

    name = "dnas"
    title = "DNAS"
    paper = "Xu & He, DNAS: A Decoupled Global Neural Architecture Search Method, CVPRW 2022"
    default_mapping = DECOUPLED
    Options = DNASOptions
    options: DNASOptions
    # The gradient of the zero-one loss at its published weight exceeds that of the images at logits of 0.1, which noise
    # reaches in a short search: on S4, 8 to 13% of the kept operations were noise; with a tenth of the weight, 0 to 2%.
    quick: ClassVar[dict[str, dict[str, Any]]] = {"options": {"zero_one_weight": 1.0}}

    def __init__(self, options: DNASOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if mapping != DECOUPLED and options.alpha_groups != 1:
            raise InputError(
                f"--option alpha_groups={options.alpha_groups} requires --mapping decoupled, got {mapping}"
            )
        if mapping != DECOUPLED and options.zero_one_on == "gamma":
            raise InputError(f"--option zero_one_on=gamma requires --mapping decoupled: {mapping} has no gamma")
        if options.zero_one_weight == 0 and options.zero_one_on != "factors":
            raise InputError(f"--option zero_one_on={options.zero_one_on} does not apply to zero_one_weight=0")
        if options.skip_dropout == 0 and options.skip_dropout_schedule != "const":
            raise InputError("--option skip_dropout_schedule=pdarts does not apply to skip_dropout=0")
        if options.partial_channels == 1 and options.bypass == "one":
            raise InputError("--option bypass=one does not apply to partial_channels=1, which bypasses no channels")
        if options.derivation == "threshold":
            derive.require_thinning(space)
        elif options.threshold is not None:
            raise InputError(f"--option threshold={options.threshold} only applies to --option derivation=threshold")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        return whole_network(data)

    def mapping(self, layers: int, seed: int) -> Mapping:
        details = {"alpha_groups": self.options.alpha_groups} if self.mapping_name == DECOUPLED else {}
        return self.new_mapping(layers, seed, **details)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        logits = mapping.edge_logits()
        assert logits is not None
        edges = layer_softmax(logits) if self.options.beta_softmax == "layer" else edge_softmax(logits, self.space)
        bypass = torch.ones_like(edges) if self.options.bypass == "one" else edges
        return expand(sigmoid(mapping.terms()), edges, mapping.layers, bypass)

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return w01 · L01 with L01 = -mean (v - ½)² over the chosen values v that are open (FairDARTS, eq. 7)."""
        if self.options.zero_one_weight == 0:
            return None
        match self.options.zero_one_on:
            case "factors":
                values = {name: table.sigmoid() for name, table in mapping.operation_tables().items()}
            case "product":
                values = {"psi": sigmoid(mapping.terms())}
            case "psi":
                values = {"psi": self.mixing(mapping, progress).psi}
            case name:
                values = {name: mapping.operation_tables()[name].sigmoid()}
        away = {name: (each - 0.5) ** 2 for name, each in values.items()}
        return -self.options.zero_one_weight * mapping.open_mean(**away)

    def skip_dropout(self, progress: Progress) -> float:
        rate = self.options.skip_dropout
        if self.options.skip_dropout_schedule == "const":
            return rate
        # The code of P-DARTS: linear during the warm-up, then e^(-0.2 (epoch - 10)) of 15 epochs, so e^-2.8 at last.
        # Here it is stretched so that the first and last epochs have the same rates for every length.
        if progress.epoch < progress.warmup_epochs:
            return rate * (progress.epochs - progress.epoch - 1) / progress.epochs
        return rate * math.exp(-2.8 * progress.share)

    def derive(self, mapping: Mapping, progress: Progress) -> Architecture:
        if self.options.derivation == "top-2":
            return super().derive(mapping, progress)
        with torch.no_grad():
            mixing = self.mixing(mapping, progress)
        minimum = 0.5 if self.options.threshold is None else self.options.threshold
        return derive.threshold(
            mixing.psi, mixing.operations, self.operations, self.space, minimum, self.origin(), self.feasible
        )

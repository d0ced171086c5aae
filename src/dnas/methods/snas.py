"""SNAS: draws of the concrete distribution, single-level updates, and a resource penalty (Xie et al., ICLR 2019).

    Z_e = softmax((alpha_e + G) / λ),  G standard Gumbel
    y_e = Σ_o Z_e[o] O_o(x)
    loss = cross-entropy + w Σ_cell types mean_cells Σ_e mean_r log max(1, Σ_o Z_e[o] c_r[o])

Weights and alpha are updated by the gradient of the same batch. The temperature λ falls linearly over the search, so
that draws become one-hot. The resources c_r of an operation are its parameters, multiply-accumulates and memory
accesses. The alpha of this file is log alpha in the paper.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.space.protocol import SearchSpace
from dnas.supernet.costs import resources
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, gumbel, softmax

RESOURCES = ("params", "flops", "accesses")


class SNASOptions(GradientOptions):
    """Options: temperatures, initialization and resources, as in the authors' code."""

    with_none: bool = Field(True, description="`none` is a candidate while searching, as published")
    initial_scale: float = Field(0.01, ge=0, description="standard deviation of the initial architecture parameters")
    temperature: float = Field(1.0, gt=0, description="λ in the first epoch")
    temperature_end: float = Field(0.03, gt=0, description="λ in the last epoch; linear in between")
    resource_weight: float = Field(1e-2, ge=0, description="w: weight of the logarithm of resources in the loss")
    resource: Literal["all", "params", "flops", "accesses"] = Field(
        "all", description="penalize the mean over all three resources, or one of them"
    )


class SNAS(GradientMethod):
    """Any mapping × concrete distribution × single level × top two edges."""

    name = "snas"
    title = "SNAS"
    paper = "Xie et al., SNAS: Stochastic Neural Architecture Search, ICLR 2019"
    default_mapping = SHARED
    Options = SNASOptions
    options: SNASOptions

    def __init__(self, options: SNASOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        if options.resource_weight == 0 and options.resource != "all":
            raise InputError(f"--option resource={options.resource} does not apply to resource_weight=0")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of the authors' code on one GPU: 8 layers, trained with 20."""
        return self.of_pair(data, {"epochs": 150, "warmup_epochs": 0, "update": "single-level"})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        noise = gumbel(mapping, (len(self.space.edges), len(self.operations)), progress.generator())
        temperature = progress.between(self.options.temperature, self.options.temperature_end)
        return expand(softmax([*mapping.terms(), noise], temperature), None, mapping.layers)

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        return softmax(mapping.terms())

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return the penalty for the draw of this step: a mean over normal cells plus one over reduction cells."""
        if self.options.resource_weight == 0:
            return None
        drawn = self.mixing(mapping, progress).operations
        table = resources(self.space, self.operations, mapping.layers, progress.channels, progress.image_size)
        chosen = slice(None) if self.options.resource == "all" else [RESOURCES.index(self.options.resource)]
        used = torch.einsum("keo,keor->ker", drawn, table[..., chosen].to(drawn))
        # Anything cheaper than a single parameter is free and has no gradient.
        price = used.clamp_min(1).log().mean(2).sum(1)
        by_kind = torch.stack([price[mapping.kind == kind].mean() for kind in (0, 1)])
        return self.options.resource_weight * by_kind.sum()

"""DrNAS: mixing weights drawn from a Dirichlet with learned concentration (Chen et al., ICLR 2021).

    θ_e ~ Dir(c_e),  c_e = 1 + ELU(alpha_e)
    y_e = Σ_o θ_e[o] O_o(x)
    min_alpha  E_θ L_val(w, θ) + w d(c, 1)

At alpha = 0 the distribution is uniform over all mixtures. A concentration above 1 increases the share of an operation
and narrows the distribution; below 1 the draws become one-hot. The gradient passes through the draw by pathwise
derivatives (Jankowiak & Obermeyer 2018). d keeps the distribution near the uniform one, so that it keeps exploring.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.settings import GradientSettings
from dnas.space.protocol import PAPER_LAYERS
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, summed


class DrNASOptions(GradientOptions):
    """Options of the distance, as in the authors' code."""

    distance: Literal["l2", "kl"] = Field(
        "l2", description="d: half the squared distance of the concentrations from 1, or the divergence from Dir(1)"
    )
    distance_weight: float = Field(1e-3, ge=0, description="w: weight of the distance in the loss")


class DrNASSettings(GradientSettings):
    """Settings of a search whose draws have no second derivative."""

    def check(self) -> None:
        super().check()
        if self.eigenvalue:
            raise InputError("search.eigenvalue cannot be used with drnas: its draws have no second derivative")


class DrNAS(GradientMethod):
    """Any mapping × Dirichlet × first order × top two edges."""

    name = "drnas"
    title = "DrNAS"
    paper = "Chen et al., DrNAS: Dirichlet Neural Architecture Search, ICLR 2021"
    default_mapping = SHARED
    Options = DrNASOptions
    Settings = DrNASSettings
    options: DrNASOptions
    paper_options: ClassVar[dict[str, Any]] = {"partial_channels": 6}

    def __init__(self, options: DrNASOptions, mapping: str, space: Any) -> None:
        super().__init__(options, mapping, space)
        if options.distance_weight == 0 and options.distance != "l2":
            raise InputError(f"--option distance={options.distance} does not apply to distance_weight=0")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of the authors' code, with a proxy as large as the trained network, without its second stage."""
        everywhere = {
            "learning_rate": 0.1,
            "learning_rate_min": 0.0,
            "architecture_learning_rate": 6e-4,
            "architecture_weight_decay": 0.0,
        }
        return self.of_pair(data, everywhere, {"layers": PAPER_LAYERS, "channels": 36})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        drawn = draw(*concentration(mapping), progress.generator())
        return expand(mapping.over_layers(drawn).to(mapping.alpha), None, mapping.layers)

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """Return the mean of the distribution."""
        learnt, there = concentration(mapping)
        shares = torch.where(there, learnt, 0.0)
        return mapping.over_layers(shares / shares.sum(-1, keepdim=True)).to(mapping.alpha)

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return the distance, summed over the edges of cells that can differ."""
        weight = self.options.distance_weight
        if weight == 0:
            return None
        learnt, there = concentration(mapping)
        if self.options.distance == "l2":
            distance = (torch.where(there, learnt - 1, 0.0)).square().sum() / 2
        else:
            # An operation that an edge does not have is in neither of the two distributions.
            edges = zip(learnt.flatten(0, 1), there.flatten(0, 1), strict=True)
            laws = [Dirichlet(c[open_]) for c, open_ in edges]
            flat = [Dirichlet(torch.ones_like(law.concentration)) for law in laws]
            distance = torch.stack(list(map(kl_divergence, laws, flat))).sum()
        return (weight * distance).to(mapping.alpha)


def concentration(mapping: Mapping) -> tuple[Tensor, Tensor]:
    """Return the concentrations [R, E, O] and, as bool, which operations the edges have.

    In float64 on the CPU, for the R layers that can differ: 1 + ELU of the sum of the terms of the mapping. For
    operations that an edge does not have it is 1, which is never used.
    """
    logits = mapping.of_rows(summed(mapping.terms())).to("cpu", torch.float64)
    there = logits > -torch.inf
    logits = torch.where(there, logits, 0.0)
    # Bounded from below, so that draws are possible: e^alpha is 0 for alpha < -745.
    return (1 + torch.nn.functional.elu(logits)).clamp_min(1e-12), there


def draw(learnt: Tensor, there: Tensor, generator: torch.Generator) -> Tensor:
    """Return a draw of each Dirichlet, in the shape of `learnt`, differentiable in the concentrations.

    Without some of its components, and divided by its sum, a Dirichlet draw is a Dirichlet draw of the others.
    """
    # The draw of torch takes no generator, so the global one is set to the state of ours, and restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator.get_state())
        drawn: Tensor = Dirichlet(learnt).rsample()
    left = torch.where(there, drawn, 0.0)
    return left / left.sum(-1, keepdim=True)

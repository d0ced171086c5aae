"""BayesNAS: switches under a hierarchical prior of automatic relevance determination (Zhou et al., ICML 2019).

    node = Σ_e s_e Σ_o s_eo O_o(x)
    L = CE + λ_e Σ_e ω_e |s_e| + λ_o Σ_eo ω_eo |s_eo|
    periodically:  h = H/λ,  ω = √(1/γ - c/γ²) with c = 1/(1/γ + h),  γ = |s| / ω,  γ_eo ← 1/(1/γ_eo + 1/γ_e)

H is the diagonal of the Gauss-Newton matrix of the mean cross-entropy with respect to the switches. The prior variance
γ_eo of an operation is never larger than that of its edge, so removing an edge also removes its operations.

A search ends long before the switches and γ have converged, and until then γ is large if H is small, that is, if the
loss hardly depends on the switch. Operations are therefore ranked by the limit of γ for the current switch,

    γ* = max(0, s² - λ/H),   γ*_eo ← 1/(1/γ*_eo + 1/γ*_e)

and those that the prior switches off (γ* = 0) by H s²/λ, twice the increase of the loss without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress, SearchState
from dnas.space.architecture import Architecture
from dnas.supernet.mapping import SHARED, Decoupled, Mapping
from dnas.supernet.relaxation import MixingWeights, expand
from dnas.training import updates

KINDS = ("edges", "operations")
# Without curvature there would be no penalty and an infinite variance.
SMALLEST_OMEGA = 1e-8
# Operations that are switched off rank below this, and therefore below all others.
OFF = 1e-8


class BayesNASOptions(GradientOptions):
    """Options of the prior and its updates."""

    initial_scale: float = Field(0.0, ge=0, description="standard deviation of the initial switches around 1")
    lambda_edges: float = Field(0.01, gt=0, description="λ_e: weight of the penalty on edges")
    lambda_operations: float = Field(0.01, gt=0, description="λ_o: weight of the penalty on operations")
    updates: int = Field(3, ge=1, description="number of updates of ω and γ after the warm-up, at most one per epoch")
    draws: int = Field(16, ge=1, description="number of batches with sampled labels from which an update estimates H")


class BayesNAS(GradientMethod):
    """Any mapping × plain switches × single level × top two edges by γ*."""

    name = "bayes-nas"
    title = "BayesNAS"
    paper = "Zhou et al., BayesNAS: A Bayesian Approach for Neural Architecture Search, ICML 2019"
    default_mapping = SHARED
    Options = BayesNASOptions
    options: BayesNASOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """Section 5.1 and the public code, with three epochs after the warm-up for three updates."""
        own = {
            "epochs": 4,
            "warmup_epochs": 1,
            "learning_rate": 0.1,
            "learning_rate_min": 0.1,
            "weight_decay": 1e-4,
            "update": "single-level",
            "architecture_weight_decay": 0.0,
        }
        return self.of_pair(data, own, {"channels": 36, "batch_size": 18})

    def mapping(self, layers: int, seed: int) -> Mapping:
        """Return switches around 1, with ω and γ of every switch, initially 1, as `omega_edges`, `omega_operations`, …

        `relevance` [R, E, O] ranks the operations; it is 1 before the first update.
        """
        mapping = self.new_mapping(layers, seed)
        with torch.no_grad():
            for table in mapping.parameters():
                table.add_(1)
        for kind, switch in zip(KINDS, switches(mapping), strict=True):
            mapping.register_buffer(f"omega_{kind}", torch.ones_like(switch))
            mapping.register_buffer(f"gamma_{kind}", torch.ones_like(switch))
        mapping.register_buffer("relevance", torch.ones_like(switches(mapping)[1]))
        return mapping

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        return mixed(mapping, *switches(mapping))

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor:
        edges, operations = switches(mapping)
        return (
            self.options.lambda_edges * (mapping.get_buffer("omega_edges") * edges.abs()).sum()
            + self.options.lambda_operations * (mapping.get_buffer("omega_operations") * operations.abs()).sum()
        )

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        return mapping.over_layers(mapping.get_buffer("relevance"))

    def after_epoch(self, search: SearchState, progress: Progress) -> Architecture | None:
        """Update ω and γ, evenly over the epochs after the warm-up, and always after the last epoch."""
        epochs = progress.epochs - progress.warmup_epochs
        done = progress.epoch + 1 - progress.warmup_epochs
        if done > 0 and done * self.options.updates // epochs > (done - 1) * self.options.updates // epochs:
            self.update(search.mapping, self.curvature(search, progress))
        return None

    def curvature(self, search: SearchState, progress: Progress) -> tuple[Tensor, Tensor]:
        """Return H for the switches of edges [R, E] and operations [R, E, O]: a mean of `draws` unbiased estimates."""
        totals = [torch.zeros_like(switch) for switch in switches(search.mapping)]
        with updates.frozen(search.weights):
            for draw in range(self.options.draws):
                batch = search.batch(progress.step + draw, 1)
                wanted = [switch.detach().requires_grad_() for switch in switches(search.mapping)]
                logits = search.forward(batch.images, mixed(search.mapping, *wanted))
                labels = drawn_labels(logits, progress.generator(draw))
                for total, part in zip(totals, gauss_newton(logits, labels, wanted), strict=True):
                    total += part / self.options.draws
        return totals[0], totals[1]

    @torch.no_grad()
    def update(self, mapping: Mapping, curvature: tuple[Tensor, Tensor]) -> None:
        """Update ω and γ of every switch from their last values, the switches and H, and then `relevance`."""
        weights = (self.options.lambda_edges, self.options.lambda_operations)
        for kind, switch, h, weight in zip(KINDS, switches(mapping), curvature, weights, strict=True):
            omega, gamma = mapping.get_buffer(f"omega_{kind}"), mapping.get_buffer(f"gamma_{kind}")
            # 1/γ - c/γ² without subtracting two numbers that are large for small γ.
            omega.copy_((h / (weight + gamma * h)).sqrt().clamp_min(SMALLEST_OMEGA))
            gamma.copy_(switch.abs() / omega)
        edges, operations = mapping.get_buffer("gamma_edges"), mapping.get_buffer("gamma_operations")
        operations.copy_(1 / (1 / operations + 1 / edges[..., None]))
        mapping.get_buffer("relevance").copy_(relevance(switches(mapping), curvature, weights))


def relevance(
    switches: tuple[Tensor, Tensor], curvature: tuple[Tensor, Tensor], weights: tuple[float, float]
) -> Tensor:
    """Return the ranking of operations, [R, E, O], above 0 unless a switch or H is 0.

    γ* = s² - λ/H maximizes the marginal likelihood of a switch s if that is positive, i.e. if its evidence H s²/λ is
    above 1; else γ* is 0. If γ* of an operation or of its edge is 0, the operation is ranked by its own evidence, which
    contains the switch of its edge as a factor. By the smaller of both, all operations of an edge would be tied.

    Args:
        switches, curvature: s and H of the switches of edges [R, E] and operations [R, E, O].
        weights: λ_e and λ_o.
    """
    (edge, _), (operation, evidence) = (
        ((s**2 - weight / h).clamp_min(0), h * s**2 / weight)
        for s, h, weight in zip(switches, curvature, weights, strict=True)
    )
    both = 1 / (1 / operation + 1 / edge[..., None])
    return torch.where(both > 0, OFF + both, OFF * evidence / (1 + evidence))


def switches(mapping: Mapping) -> tuple[Tensor, Tensor]:
    """Return the switches of edges [R, E] and operations [R, E, O], for R layers that can differ (`Mapping.rows`)."""
    assert mapping.beta is not None
    if isinstance(mapping, Decoupled):
        return mapping.beta, mapping.alpha * mapping.gamma[:, None, :]
    return mapping.beta, mapping.alpha


def mixed(mapping: Mapping, edges: Tensor, operations: Tensor) -> MixingWeights:
    """Return the mixing weights for switches in the form of `switches`."""
    return expand(mapping.over_layers(operations), mapping.over_layers(edges), mapping.layers)


def drawn_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return labels [B], each sampled from the softmax of an image, for logits [B, classes]."""
    shares = logits.detach().softmax(-1).to("cpu", torch.float64)
    return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)


def gauss_newton(logits: Tensor, labels: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Estimate the diagonal of 1/B Σ_b J_bᵀ (diag p_b - p_b p_bᵀ) J_b, where J_b is the derivative of the logits.

    For labels sampled from the softmax it is unbiased: the gradient g of the mean cross-entropy is
    1/B Σ_b J_bᵀ (p_b - y_b), whose terms have mean 0 and are uncorrelated, so B g² has the right mean, even if a batch
    norm makes the images depend on each other.
    """
    return [len(logits) * g**2 for g in updates.gradients_of(F.cross_entropy(logits, labels), wanted)]

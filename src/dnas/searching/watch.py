"""Metrics of a search after each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dnas.data.augment import normalise
from dnas.kernels import native
from dnas.methods.protocol import GradientMethod, Progress
from dnas.searching.judging import STAGE
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space.agreement import agreement
from dnas.supernet.signal import margin, saturation
from dnas.training import updates


def epoch_metrics(search: Search, step: int) -> dict[str, Any]:
    """Return the metrics of the epoch that ends with `step`, and reset the sums.

    `entropy` is the entropy of the scores within an edge, as a share of that of the uniform distribution. `scores` are
    their sums over edges (`by_operation`), by which the derivation ranks: one kilobyte per epoch at 20 layers. `skips`
    is the number of derived skip_connect operations. `supernet_accuracy` and `derived_accuracy` are measured with the
    mixing weights and the derived architecture, both with the weights of the supernet on the same validation images:
    their gap is the loss from removing operations. `travel` is the largest architecture parameter.
    `gradient_over_decay` compares the two terms that Adam adds up, the gradient and the weight decay (A17).
    `agreement`, `margin` and `saturation` tell signal from noise (`signal`). `eigenvalue` is present if its setting is
    on. Parts add metrics of their own.
    """
    settings, method = search.settings, search.method
    progress = search.progress(step, draw=1)
    metrics: dict[str, Any] = {
        "stage": STAGE,
        "epoch": progress.epoch + 1,
        "learning_rate": settings.rate(progress.epoch),
        "loss": search.sums["loss"] / len(search.train_part),
    }
    moved = settings.steps_per_epoch if settings.moves_architecture(progress.epoch) else 0
    joint = moved and isinstance(settings, GradientSettings) and settings.update == "single-level"
    if not joint:
        metrics["accuracy"] = search.sums["correct"] / len(search.train_part)
    if moved:
        metrics["validation_loss"] = search.sums["validation_loss"] / moved
        if search.sums["decay"]:
            metrics["gradient_over_decay"] = search.sums["gradient"] / search.sums["decay"]
    if isinstance(method, GradientMethod):
        with torch.no_grad():
            scores = method.scores(search.mapping, progress)
        metrics["entropy"] = entropy(scores)
        metrics["scores"] = by_operation(scores, method.operations, search.active)
    if isinstance(settings, GradientSettings) and settings.eigenvalue:
        value = eigenvalue(search, step)
        if math.isfinite(value):  # a metric must not end a run
            metrics["eigenvalue"] = value
    for part in search.with_parts:
        metrics |= part.metrics(search, progress)
    if search.architecture:
        metrics["travel"] = max(float(p.detach().abs().max()) for p in search.architecture)
    metrics |= signal(search, progress)
    derived = search.closings.derived(progress)
    if derived is not None:
        metrics["skips"] = derived.skips
    if settings.watch_images:
        before = dict(search.cost)
        if isinstance(method, GradientMethod):
            with torch.no_grad():
                mixing = search.mixing(progress)
            metrics["supernet_accuracy"] = search.accuracy(mixing, settings.watch_images)
        if derived is not None and derived.in_space:
            metrics["derived_accuracy"] = search.accuracy(derived, settings.watch_images)
        search.derived_accuracy = metrics.get("derived_accuracy")
        # Metrics do not affect the result, so they are not a cost of the search.
        search.cost = before
    search.sums = dict.fromkeys(search.sums, 0.0)
    return metrics


def signal(search: Search, progress: Progress) -> dict[str, float]:
    """Return measures of the signal in the architecture steps so far, by name.

    They are {} before the second step, and for methods without gradients. `agreement` compares the architectures that
    the even and the odd steps by themselves would have led to (`Halves.travels`), over edges and operations, corrected
    for chance; each starts from the initial parameters of another seed. `margin` is the distance between operations
    that one half keeps and those that it drops, measured with the other half in units of its noise. Both are 0 by
    chance, and omitted if a method does not rank by its parameters. `saturation` is the share of parameters at Adam's
    limit of travel.
    """
    method, halves, settings = search.method, search.halves, search.settings
    if not isinstance(method, GradientMethod) or halves is None or not halves.known:
        return {}
    assert isinstance(settings, GradientSettings)
    rate = settings.architecture_learning_rate
    found: dict[str, float] = {}
    # Parameters of another seed break ties at random: halves without signal must not agree because they started alike.
    ends = [method.mapping(settings.layers, search.seed + half).to(search.device) for half in (1, 2)]
    with torch.no_grad():
        for half, end in enumerate(ends):
            for p, way in zip(end.parameters(), halves.travels(rate), strict=True):
                p.add_(way[half])
            method.project(end)
        one, two = (method.scores(end, progress) for end in ends)
    if not torch.equal(one, two):
        both = agreement([method.derive(end, progress) for end in ends], method.space)
        assert both is not None
        found["agreement"] = both.operations
        distance = margin(one, two, method.operations, method.space)
        if distance is not None:
            found["margin"] = distance
    begun = list(method.mapping(settings.layers, search.seed).to(search.device).parameters())
    share = saturation(search.architecture, begun, rate * int(halves.steps.sum()), halves.reached())
    if share is not None:
        found["saturation"] = share
    return found


def eigenvalue(search: Search, step: int) -> float:
    """Return the dominant eigenvalue of the Hessian of the cross-entropy in the architecture parameters.

    See Zela et al. 2020. It is computed on the first `batch_size` validation images, without augmentation and without
    skip dropout; random numbers are those of `step`.
    """
    part = search.validation_part[: search.settings.batch_size]
    images, labels = normalise(search.pool.batch(part), search.info), search.pool.labels[part.to(search.device)]
    progress = search.progress(step, draw=1)

    def loss() -> Tensor:
        return F.cross_entropy(search.supernet(images, search.mixing(progress)), labels)

    with native.only_torch():
        return updates.dominant_eigenvalue(loss, search.architecture, search.weights)


def entropy(scores: Tensor) -> float:
    """Return the mean entropy over edges of non-negative scores [L, E, O], as a share of the maximum: 0 to 1."""
    share = scores / scores.sum(-1, keepdim=True).clamp_min(1e-30)
    return float(-(share * share.clamp_min(1e-30).log()).sum(-1).mean() / math.log(share.shape[-1]))


def by_operation(scores: Tensor, operations: Sequence[str], active: Tensor | None = None) -> dict[str, list[float]]:
    """Return the scores [L, E, O] of each operation summed over edges: one number per layer, with three digits.

    Args:
        active: The operations that each edge has, [L, E, O]; None: all.
    """
    there = scores.detach() if active is None else scores.detach() * active.to(scores)
    sums = there.to("cpu", torch.float64).sum(1).tolist()
    return {op: [float(f"{layer[o]:.3g}") for layer in sums] for o, op in enumerate(operations)}

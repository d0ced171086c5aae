"""What is noted of a search after each epoch."""

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
    """What an epoch that ends with `step` was like; starts the sums anew.

    `entropy` is that of the scores within an edge, as a share of the uniform law's; `scores` are their sums over
    edges (`by_operation`): what the derivation ranks by, a kilobyte an epoch at 20 layers; `skips` counts
    skip_connect among the derived operations; `supernet_accuracy` and `derived_accuracy` are those of the mixing
    weights and of the derived architecture with the supernet's weights, on the same validation images: their gap is
    what is lost where operations are taken away; `travel` is the largest architecture parameter;
    `gradient_over_decay` compares what Adam adds up: the gradient and the weight decay (A17); `agreement`, `margin` and
    `saturation` say whether that knows something (`signal`); `eigenvalue` is there where the setting is. Parts add what
    they say of themselves.
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
        if math.isfinite(value):  # to watch must not end a run
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
        # Watching chooses nothing, so it is no cost of the search.
        search.cost = before
    search.sums = dict.fromkeys(search.sums, 0.0)
    return metrics


def signal(search: Search, progress: Progress) -> dict[str, float]:
    """What the architecture steps so far know, by names; {} before there are two, and for methods without gradients.

    `agreement` is that of the architectures which the even and the odd steps alone would have led to
    (`Halves.travels`), over edges and operations beyond chance; each begins at the initial parameters of another seed.
    `margin` is the distance of what one half keeps from what it does not, as the other half sees it, in units of its
    noise. Both are 0 by chance. They are left out where a method does not rank by its parameters.
    `saturation` is the share of parameters that stand at Adam's limit of travel.
    """
    method, halves, settings = search.method, search.halves, search.settings
    if not isinstance(method, GradientMethod) or halves is None or not halves.known:
        return {}
    assert isinstance(settings, GradientSettings)
    rate = settings.architecture_learning_rate
    found: dict[str, float] = {}
    # Another seed's parameters break ties by chance: halves that know nothing must not agree by where they began.
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
    """The dominant eigenvalue of the cross-entropy's Hessian in the architecture parameters (Zela et al. 2020), on
    the first `batch_size` validation images, not augmented, without skip dropout; what is drawn is `step`'s draw.
    """
    part = search.validation_part[: search.settings.batch_size]
    images, labels = normalise(search.pool.batch(part), search.info), search.pool.labels[part.to(search.device)]
    progress = search.progress(step, draw=1)

    def loss() -> Tensor:
        return F.cross_entropy(search.supernet(images, search.mixing(progress)), labels)

    with native.only_torch():
        return updates.dominant_eigenvalue(loss, search.architecture, search.weights)


def entropy(scores: Tensor) -> float:
    """The mean entropy over edges of non-negative scores [L, E, O], as a share of the uniform law's: 0 to 1."""
    share = scores / scores.sum(-1, keepdim=True).clamp_min(1e-30)
    return float(-(share * share.clamp_min(1e-30).log()).sum(-1).mean() / math.log(share.shape[-1]))


def by_operation(scores: Tensor, operations: Sequence[str], active: Tensor | None = None) -> dict[str, list[float]]:
    """The scores [L, E, O] of each operation summed over edges: a number for every layer, of three digits.

    Args:
        active: [L, E, O], where not every edge has every operation.
    """
    there = scores.detach() if active is None else scores.detach() * active.to(scores)
    sums = there.to("cpu", torch.float64).sum(1).tolist()
    return {op: [float(f"{layer[o]:.3g}") for layer in sums] for o, op in enumerate(operations)}

"""Optimizers of a training: SGD for all weights, or Muon for those that are matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dnas.settings import NetworkTrainSettings
from dnas.training.muon import Muon


def optimizers(network: nn.Module, settings: NetworkTrainSettings) -> dict[str, torch.optim.Optimizer]:
    """Return the optimizers by their names in checkpoints; every weight has exactly one."""
    muon = _matrices(network) if settings.optimizer == "muon" else []
    others = [p for p in network.parameters() if all(p is not matrix for matrix in muon)]
    groups: list[dict[str, Any]] = [{"params": others}]
    if not settings.norm_decay:
        decaying = [p for p in others if p.ndim > 1]
        groups = [{"params": decaying}, {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0}]
    found: dict[str, torch.optim.Optimizer] = {
        "optimizer": torch.optim.SGD(
            groups,
            settings.learning_rate,
            settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            fused=True,  # 300 small tensors: 1.9 → 0.9 ms
        )
    }
    if muon:
        found["muon"] = Muon(muon, settings.muon_learning_rate, settings.momentum, settings.muon_decay)
    return found


def rates(settings: NetworkTrainSettings, optimizers: Iterable[str], step: int) -> dict[str, float]:
    """Return the learning rate of each of these optimizers in a step."""
    rate = settings.rate(step)
    known = {"optimizer": rate, "muon": settings.muon_learning_rate * rate / settings.learning_rate}
    return {name: known[name] for name in optimizers}


def _matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of convolutions except depthwise ones, whose channels are independent of each other.

    With depthwise ones the accuracy after 60 s on CIFAR-10 was 0.553, without them 0.566 (two random networks, held-out
    images).
    """
    mixing = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1]
    return [p for p in network.parameters() if any(p is weight for weight in mixing)]

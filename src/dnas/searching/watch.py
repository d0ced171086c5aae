"""What is noted of a search after each epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


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

"""Pruning: operations are closed one by one, under an increasing cost penalty (Bi et al., GOLD-NAS, 2020).

    L_val + w log(1 + Σ ψ[l,e,o] c[l,e,o])       c: parameters or multiply-accumulates of each operation

Each step compares the scores of the method with a level t that grows from 0 to `threshold` over the epochs that update
the architecture: an operation is closed below t times the strongest of its edge, and an edge below t times the weakest
that its node must keep. No final argmax then removes most of the network at once: with a threshold of 1, one operation
per edge and two edges per node remain at the start of the last epoch, which trains the network that is then derived.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, Progress
from dnas.parts.protocol import Part, PartOptions, SearchView, require_top_edges
from dnas.settings import GradientSettings
from dnas.space.protocol import SearchSpace
from dnas.supernet import derive
from dnas.supernet.costs import resources

RESOURCES = ("params", "macs")  # in the order of `resources`


class PruningOptions(PartOptions):
    """Options of the penalty and the level."""

    weight: float = Field(0.1, ge=0, description="w in the last epoch: weight of the log cost; it grows from 0")
    resource: Literal["params", "macs"] = Field("macs", description="penalize parameters or multiply-accumulates")
    threshold: float = Field(
        1.0, gt=0, le=1, description="t in the last epoch, linear from 0; 1: no choice remains at the end"
    )


class Pruning(Part):
    """A penalty on the expected cost, and gradual closing instead of a final choice."""

    name = "pruning"
    title = "Gradual pruning under a resource term (GOLD-NAS)"
    paper = "Bi et al., GOLD-NAS: Gradual, One-Level, Differentiable, arXiv 2007.03331, 2020"
    Options = PruningOptions
    options: PruningOptions

    def check(self, method: GradientMethod, settings: GradientSettings) -> None:
        require_top_edges(self.name, method)

    def penalty(self, search: SearchView, progress: Progress) -> Tensor | None:
        weight = progress.between(0.0, self.options.weight)
        return weight * self._cost(search, progress).log1p() if weight else None

    def closing(self, search: SearchView, step: int) -> Tensor | None:
        progress = search.progress(step, draw=1)
        level = progress.between(0.0, self.options.threshold)
        if level == 0:
            return None
        return weak(search.closings.ranking(progress), search.method.operations, search.method.space, level)

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        """Return the share of closed operations, and the expected cost of the others."""
        with torch.no_grad():
            cost = float(self._cost(search, progress))
        closed = float(search.closings.closed.float().mean())
        return {f"{self.name}.closed": closed, f"{self.name}.{self.options.resource}": cost}

    def _cost(self, search: SearchView, progress: Progress) -> Tensor:
        """Return Σ ψ c, for the draw of this step if there is one."""
        psi = search.mixing(progress).psi
        size = (search.settings.layers, progress.channels, progress.image_size)
        table = resources(search.method.space, tuple(search.method.operations), *size)
        return (psi * table[..., RESOURCES.index(self.options.resource)].to(psi)).sum()


def weak(scores: Tensor, operations: tuple[str, ...], space: SearchSpace, level: float) -> Tensor:
    """Return [L, E, O] of bool: operations below `level` times the best of their edge, or on edges below `level` times
    the weakest that their node keeps. At level 1 this includes operations that cannot be derived. Equal ones all stay.

    Args:
        scores: [L, E, O], -∞ for closed operations.
    """
    derivable = ~derive.closed(operations, space, len(scores))
    best = scores.masked_fill(~derivable, -math.inf).amax(-1, keepdim=True)
    found = scores < level * best
    if level == 1:
        found |= ~derivable
    strength = best.squeeze(-1)
    for first, last in space.node_edges:
        kept = strength[:, first:last].topk(space.inputs_per_node, -1).values[:, -1:]
        found[:, first:last] |= (strength[:, first:last] < level * kept)[..., None]
    return found

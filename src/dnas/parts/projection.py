"""Projection: keep the operations whose removal hurts the supernet most (Wang et al., DARTS-PT, ICLR 2021).

The value of an architecture parameter may not reflect the worth of an operation. After the last step every factor of
the mapping is removed from the trained supernet, one at a time, and the drop on validation images is its worth:

    decoupled   an operation on an edge in all layers, an operation in a layer, an edge in a layer: EO + LO + LE
    full        an operation on an edge in a layer, an edge in a layer:                             LEO + LE
    shared      the same, in all layers of a kind at once:                                          2 EO + 2 E

Each edge keeps the operation with the largest worth (under `decoupled` the largest sum of its two worths), and each
node keeps the edges with the largest worth of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, Progress
from dnas.parts.protocol import Part, PartOptions, SearchView, require_top_edges
from dnas.settings import GradientSettings
from dnas.space.architecture import Architecture
from dnas.space.protocol import layer_kinds
from dnas.supernet.mapping import DECOUPLED, SHARED
from dnas.supernet.relaxation import MixingWeights

# Edges are ranked by their own worth; the worth of their operations only breaks ties.
EDGES_FIRST = 1e9


class ProjectionOptions(PartOptions):
    """Options: the published criterion, on fewer images."""

    by: Literal["accuracy", "loss"] = Field(
        "accuracy", description="measure of worth: drop in accuracy, or rise in loss"
    )
    images: int = Field(256, ge=0, description="validation images per measurement, always the same; 0: all")


class Projection(Part):
    """Derivation by the accuracy of the supernet instead of the architecture parameters."""

    name = "projection"
    title = "Projection by perturbation (DARTS-PT)"
    paper = "Wang et al., Rethinking Architecture Selection in Differentiable NAS, ICLR 2021"
    Options = ProjectionOptions
    options: ProjectionOptions
    derives = True

    def check(self, method: GradientMethod, settings: GradientSettings) -> None:
        require_top_edges(self.name, method)

    def judged_images(self, method: GradientMethod, layers: int, validation: int) -> float:
        return len(list(factors(method, layers))) * min(self.options.images or validation, validation)

    def measures(self, search: SearchView, progress: Progress) -> Sequence[MixingWeights]:
        with torch.no_grad():
            scores = search.method.scores(search.mapping, progress)
            scores = scores * (choices(search.method, search.settings.layers) & ~search.closings.closed).to(scores)
            # The scores of operations, instead of the draw of a step.
            whole = replace(search.mixing(progress), active=None).to(scores)
            whole = replace(whole, operations=scores, edges=torch.ones_like(whole.edges))
        found = []
        for operations, edges in factors(search.method, search.settings.layers):
            left = (~operations).to(scores)
            found.append(replace(whole, operations=scores * left, bypass=whole.bypass * (~edges).to(scores)))
        return found

    def measure(self, search: SearchView, mixing: MixingWeights) -> float:
        accuracy, loss = search.judge(mixing.to(search.weights[0]), self.options.images or None)
        return accuracy if self.options.by == "accuracy" else -loss

    def derive(self, search: SearchView, progress: Progress, measured: Sequence[float]) -> Architecture:
        method, layers = search.method, search.settings.layers
        worth = torch.zeros(layers, len(method.space.edges), len(method.operations), dtype=torch.float64)
        for (operations, edges), reached in zip(factors(method, layers), measured, strict=True):
            worth -= reached * (EDGES_FIRST * edges[..., None] if edges.any() else operations)
        worth.masked_fill_(search.closings.closed, -math.inf)
        found: Architecture = method.top_edges(worth)
        return found


def factors(method: GradientMethod, layers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the factors of a method's mapping, each as the operations [L, E, O] and whole edges [L, E] that it removes.

    Operations that cannot be derived are not factors.
    """
    count, names = len(method.space.edges), method.operations
    kinds = torch.tensor(layer_kinds(layers))
    none = torch.zeros(layers, count, len(names), dtype=torch.bool)
    open_ = choices(method, layers)
    every = [torch.arange(layers) == k for k in range(layers)]
    together = [kinds == kind for kind in (0, 1) if (kinds == kind).any()] if method.mapping_name == SHARED else every
    places = [torch.ones(layers, dtype=torch.bool)] if method.mapping_name == DECOUPLED else together
    for rows in places:
        for e in range(count):
            for o in range(len(names)):
                yield from _taken(none, open_, rows[:, None, None], e, o)
    if method.mapping_name == DECOUPLED:
        for rows in every:
            for o in range(len(names)):
                yield from _taken(none, open_, rows[:, None, None], slice(None), o)
    for rows in together:
        for e in range(count):
            operations, edges = none.clone(), none[..., 0].clone()
            operations[rows, e], edges[rows, e] = True, True
            yield operations, edges


def choices(method: GradientMethod, layers: int) -> Tensor:
    """Return [L, E, O]: the operations that can be derived."""
    edges = range(len(method.space.edges))
    return torch.tensor(
        [
            [[name in method.space.choices(bool(kind), e) for name in method.operations] for e in edges]
            for kind in layer_kinds(layers)
        ]
    )


def _taken(
    none: Tensor, open_: Tensor, rows: Tensor, edge: int | slice, operation: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield an operation on an edge in these layers, if it is open in any of them."""
    chosen = none.clone()
    chosen[:, edge, operation] = True
    chosen &= rows & open_
    if chosen.any():
        yield chosen, none[..., 0]

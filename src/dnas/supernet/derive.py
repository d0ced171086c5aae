"""Derivation of a discrete architecture from mixing weights.

Scores are [L, E, O] (layers, edges, operations): the quantity by which a method ranks operations, e.g. psi.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dnas.errors import InputError
from dnas.space.architecture import Architecture
from dnas.space.limits import Feasible
from dnas.space.protocol import SearchSpace, reduction_layers


def top_edges(
    scores: Tensor,
    operations: Sequence[str],
    space: SearchSpace,
    origin: Mapping[str, Any] | None = None,
    feasible: Feasible | None = None,
) -> Architecture:
    """Keep the strongest edges of each node and the best operation of each edge (DARTS §2.4).

    The strength of an edge is the score of its best operation other than `none`. Ties go to the first operation and
    edge. The result maximizes the sum of the scores of the kept operations.

    Args:
        scores: [L, E, O].
        feasible: Return the architecture with the largest sum among these.
    """
    genes = tuple(
        space.layer([[slot[:2] for slot in node] for node in layer])
        for layer in _kept(scores, operations, space, feasible)
    )
    return Architecture(genes, reduction_layers(len(genes)), space.name, origin or {})


def threshold(
    scores: Tensor,
    weights: Tensor,
    operations: Sequence[str],
    space: SearchSpace,
    minimum: float,
    origin: Mapping[str, Any] | None = None,
    feasible: Feasible | None = None,
) -> Architecture:
    """Apply `top_edges`, then remove operations whose weight [L, E, O] is below `minimum` (FairDARTS §3.4).

    Nodes may lose inputs, so the result can lie outside the search space, but it can always be built. A layer that
    would lose its output keeps the strongest of the operations that read one of its two inputs.
    """
    genes = []
    for k, layer in enumerate(_kept(scores, operations, space, feasible)):
        strength = {(e, o): weights[k, e, o].item() for node in layer for _, _, e, o in node}
        strong = {slot for slot, weight in strength.items() if weight >= minimum}
        gene = _gene(space, layer, strong)
        if not gene.concat:
            from_inputs = [(e, o) for node in layer for _, source, e, o in node if source < 2]
            gene = _gene(space, layer, strong | {max(from_inputs, key=lambda slot: strength[slot])})
        genes.append(gene)
    reductions = reduction_layers(len(genes))
    inside = all(space.objection(gene.nodes, k in reductions) is None for k, gene in enumerate(genes))
    return Architecture(tuple(genes), reductions, space.name if inside else "free", origin or {})


def require_thinning(space: SearchSpace) -> None:
    """Raise InputError if no layer of the space can lose an operation, so that `threshold` does not apply."""
    if not space.thins:
        raise InputError(
            f"--option derivation=threshold does not apply to --space {space.name}, whose layers have one operation "
            "each; use derivation=top-2"
        )


def closed(operations: Sequence[str], space: SearchSpace, layers: int) -> Tensor:
    """Return a mask [L, E, O] of operations that cannot be chosen: those that an edge does not offer, and `none`."""
    reductions = reduction_layers(layers)
    return torch.tensor(
        [
            [[name not in space.choices(k in reductions, e) for name in operations] for e in range(len(space.edges))]
            for k in range(layers)
        ]
    )


def _gene(space: SearchSpace, layer: list[list[tuple[str, int, int, int]]], slots: set[tuple[int, int]]) -> Any:
    """Return the layer with those of the kept operations whose (edge, operation) is among `slots`."""
    return space.layer([[(op, source) for op, source, e, o in node if (e, o) in slots] for node in layer])


def _kept(
    scores: Tensor, operations: Sequence[str], space: SearchSpace, feasible: Feasible | None
) -> list[list[list[tuple[str, int, int, int]]]]:
    """Return the kept (operation, source, edge index, operation index) for each layer and node."""
    strongest = _strongest(scores, operations, space)
    if feasible is None:
        return strongest
    genes = tuple(space.layer([[slot[:2] for slot in node] for node in layer]) for layer in strongest)
    unlimited = Architecture(genes, reduction_layers(len(genes)), space.name)
    if feasible.allows(unlimited):
        return strongest
    ranked_by = scores.detach().to("cpu", torch.float64).masked_fill(closed(operations, space, len(scores)), -math.inf)
    # A part may have closed every choice that is within the limits.
    found = feasible.best(ranked_by.numpy(), operations) or feasible.within(unlimited)
    return [
        [
            [(op, source, first + source, operations.index(op)) for op, source in node]
            for (first, _), node in zip(space.node_edges, layer.nodes, strict=True)
        ]
        for layer in found.layers
    ]


def _strongest(
    scores: Tensor, operations: Sequence[str], space: SearchSpace
) -> list[list[list[tuple[str, int, int, int]]]]:
    """Return the same as `_kept`, without limits."""
    assert scores.shape[1:] == (len(space.edges), len(operations))
    # Computed on the CPU in float64, so that the ranking of close scores does not depend on the device.
    ranked_by = scores.detach().to("cpu", torch.float64)
    strength, choice = ranked_by.masked_fill(closed(operations, space, len(scores)), -math.inf).max(-1)
    layers = []
    for k in range(len(scores)):
        nodes = []
        for first, last in space.node_edges:
            ranked = sorted(range(first, last), key=lambda e: (-strength[k, e].item(), e))
            kept = sorted(ranked[: space.inputs_per_node])
            nodes.append(
                [
                    (
                        operations[int(choice[k, e])],
                        space.edges[e][1],
                        e,
                        int(choice[k, e]),
                    )
                    for e in kept
                ]
            )
        layers.append(nodes)
    return layers

"""Relaxations: from architecture parameters to mixing weights.

Shapes: L layers, E edges, O operations. The terms of a mapping broadcast to [L, E, O].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dnas.errors import unknown
from dnas.plugins import Registry
from dnas.space.architecture import Architecture
from dnas.space.protocol import SearchSpace
from dnas.supernet.mapping import Mapping


@dataclass(frozen=True)
class MixingWeights:
    """Weights of the operations of a supernet in one step.

    Attributes:
        operations: [L, E, O], weight of each operation on its edge.
        edges: [L, E], weight of each edge in its node.
        bypass: [L, E], weight of the channels that bypass the operations with partial channels.
        active: Mask [L, E, O] on the CPU of the executed operations, for sparse relaxations. The others have the weight
            0, and neither they nor their network weights receive gradients. None: all are executed.
    """

    operations: Tensor
    edges: Tensor
    bypass: Tensor
    active: Tensor | None = None

    @property
    def psi(self) -> Tensor:
        """Architecture weights [L, E, O] of the operations: edges · operations (DNAS, eq. 4)."""
        return self.edges[..., None] * self.operations

    def detach(self) -> MixingWeights:
        return replace(
            self, operations=self.operations.detach(), edges=self.edges.detach(), bypass=self.bypass.detach()
        )

    def to(self, like: Tensor) -> MixingWeights:
        """Return the weights on the device and with the dtype of a tensor."""
        return replace(
            self, operations=self.operations.to(like), edges=self.edges.to(like), bypass=self.bypass.to(like)
        )


def softmax(terms: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    """Return weights [L, E, O] with competing operations per edge (DARTS, eq. 2): a softmax of the sum of the terms.

    With `gumbel` noise among the terms, the result is a draw from the concrete distribution (Maddison et al. 2017).
    """
    return torch.softmax(summed(terms) / temperature, -1)


def straight_through(soft: Tensor) -> Tensor:
    """Return [..., O], one-hot at the maximum of the last dimension, with the gradient of `soft` (Jang et al. 2017)."""
    hard = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
    # The bracket is exactly 0: it only contributes its gradient.
    return hard + (soft - soft.detach())


def sigmoid(terms: Sequence[Tensor]) -> Tensor:
    """Return weights [L, E, O] without competition (FairDARTS, eq. 4): the product of the sigmoids (DNAS, eq. 4)."""
    return math.prod((term.sigmoid() for term in terms[1:]), start=terms[0].sigmoid())


@dataclass(frozen=True)
class Relaxation:
    """A function from the terms of a mapping to the weights of the operations, selected by name.

    Attributes:
        name: NAME in `--option relaxation=NAME`.
        title, paper: Description and source in lists.
        operations: (terms, share) → weights [L, E, O], differentiable and deterministic. The terms broadcast to
            [L, E, O]. If their sum is -∞, the operation is closed and its weight is 0. The share increases from 0 to 1
            over the search, for schedules.
    """

    name: str
    title: str
    paper: str
    operations: Callable[[Sequence[Tensor], float], Tensor]


def _own() -> dict[str, Relaxation]:
    ours = (
        Relaxation(
            "softmax",
            "operations of an edge compete",
            "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019",
            lambda terms, share: softmax(terms),
        ),
        Relaxation(
            "sigmoid",
            "operations do not compete",
            "Chu et al., Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search, ECCV 2020",
            lambda terms, share: sigmoid(terms),
        ),
    )
    return {relaxation.name: relaxation for relaxation in ours}


RELAXATIONS = Registry[Relaxation]("dnas.relaxations", Relaxation, "relaxation", _own)


def get_relaxation(name: str) -> Relaxation:
    """Return the relaxation with this name. Raises InputError, with the known names, for an unknown one."""
    if name not in RELAXATIONS:
        raise unknown("options.relaxation", "--option relaxation", name, RELAXATIONS)
    return RELAXATIONS[name]


def edge_softmax(logits: Tensor, space: SearchSpace) -> Tensor:
    """Return edge weights [L, E] with competing input edges per node (PC-DARTS, eq. 4, edge normalization)."""
    return torch.cat([torch.softmax(logits[:, first:last], -1) for first, last in space.node_edges], -1)


def layer_softmax(logits: Tensor) -> Tensor:
    """Return edge weights [L, E] with all edges of a layer competing: the literal reading of DNAS §3.3 (A1)."""
    return torch.softmax(logits, -1)


def expand(
    operations: Tensor,
    edges: Tensor | None,
    layers: int,
    bypass: Tensor | None = None,
    active: Tensor | None = None,
) -> MixingWeights:
    """Return mixing weights for all layers, of operations [1 or L, E, O] and edges [1 or L, E].

    Without `edges` each has the weight 1; `bypass` defaults to `edges`.
    """
    operations = operations.expand(layers, *operations.shape[1:])
    if edges is None:
        edges = operations.new_ones(operations.shape[:2])
    active = None if active is None else active.expand(operations.shape)
    return MixingWeights(operations, edges, edges if bypass is None else bypass, active)


def gumbel(mapping: Mapping, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard Gumbel noise [L, *shape], -log(-log U); shared layers share their draw."""
    # An exponential variate is -log U, without the infinities of a uniform variate at 0 and 1.
    noise = -torch.empty(mapping.rows, *shape, dtype=torch.float64).exponential_(generator=generator).log()
    like = mapping.alpha
    return mapping.over_layers(noise.to(like.device, like.dtype))


def path(architecture: Architecture, operations: Sequence[str], space: SearchSpace) -> MixingWeights:
    """Return the mixing weights of one architecture in a supernet: 1 for its operations, the only ones executed."""
    active = torch.zeros(len(architecture), len(space.edges), len(operations), dtype=torch.bool)
    for k, layer in enumerate(architecture.layers):
        for (first, _), node in zip(space.node_edges, layer.nodes, strict=True):
            for operation, source in node:
                active[k, first + source, operations.index(operation)] = True
    edges = active.any(-1).float()
    return MixingWeights(active.float(), edges, edges, active)


def summed(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of the terms of a mapping: [L, E, O], or a shape that broadcasts to it if there is one term."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total

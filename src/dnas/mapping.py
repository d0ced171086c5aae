"""How few architecture parameters describe every layer: shared cell, full table, decoupled.

A mapping owns the architecture parameters and gives, for all layers at once,

- `terms()`: tensors that broadcast to [L, E, O] (layers, edges, operations), and
- `edge_logits()`: [L, E], or None where the method has no edge weights.

A relaxation (`relaxation.py`) combines the terms: a softmax-like one adds them before it normalises, a
sigmoid-like one multiplies their sigmoids. `Shared` and `Full` have one term, `Decoupled` two (alpha and
gamma), so the decoupled form is "no three-way interaction" in the log domain for every method
(DNAS, eqs. 3-5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.space import reduction_layers
from dnas.streams import torch_stream

SHARED, FULL, DECOUPLED = "shared", "full", "decoupled"


class Mapping(nn.Module):
    """The protocol: architecture parameters of `layers` layers, `edges` edges and `operations` operations.

    Args:
        layers: Depth L, at least 3.
        edges: Edges E of a cell (14).
        operations: Candidates O of an edge.
        with_edges: Whether edges have weights of their own (beta).
        scale: Standard deviation of the normal law of the initial parameters.
        seed: Of the initial parameters.
    """

    alpha: nn.Parameter
    beta: nn.Parameter | None
    kind: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers
        reductions = reduction_layers(layers)
        # [L]: 0 for a normal layer, 1 for a reduction.
        self.register_buffer("kind", torch.tensor([int(k in reductions) for k in range(layers)]), False)

    def terms(self) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def edge_logits(self) -> Tensor | None:
        raise NotImplementedError

    def count(self) -> int:
        """How many architecture parameters there are."""
        return sum(p.numel() for p in self.parameters())


class Shared(Mapping):
    """One table for all normal layers and one for all reductions (DARTS; the paper's IAM).

    alpha [2, E, O], beta [2, E].
    """

    def __init__(
        self,
        layers: int,
        edges: int,
        operations: int,
        *,
        with_edges: bool = True,
        scale: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(layers)
        self.alpha, beta = _draw(seed, scale, (2, edges, operations), (2, edges))
        self.beta = beta if with_edges else None

    def terms(self) -> tuple[Tensor, ...]:
        return (self.alpha[self.kind],)

    def edge_logits(self) -> Tensor | None:
        return None if self.beta is None else self.beta[self.kind]


class Full(Mapping):
    """A table for every layer: alpha [L, E, O], beta [L, E] (the paper's "global" rows)."""

    def __init__(
        self,
        layers: int,
        edges: int,
        operations: int,
        *,
        with_edges: bool = True,
        scale: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__(layers)
        self.alpha, beta = _draw(seed, scale, (layers, edges, operations), (layers, edges))
        self.beta = beta if with_edges else None

    def terms(self) -> tuple[Tensor, ...]:
        return (self.alpha,)

    def edge_logits(self) -> Tensor | None:
        return self.beta


class Decoupled(Mapping):
    """alpha [G, E, O], beta [L, E], gamma [L, O]: the paper's CAM (§3.3, fig. 4).

    With beta these are L·E + L·O + E·O parameters where a full table of operations needs L·E·O.

    Args:
        alpha_groups: G = 1, one alpha for all layers, or 2, reductions have their own (reading A12).
    """

    def __init__(
        self,
        layers: int,
        edges: int,
        operations: int,
        *,
        with_edges: bool = True,
        scale: float = 1e-3,
        seed: int = 0,
        alpha_groups: int = 1,
    ) -> None:
        super().__init__(layers)
        assert alpha_groups in (1, 2)
        self.alpha, beta, self.gamma = _draw(
            seed, scale, (alpha_groups, edges, operations), (layers, edges), (layers, operations)
        )
        self.beta = beta if with_edges else None

    def terms(self) -> tuple[Tensor, ...]:
        alpha = self.alpha if len(self.alpha) == 1 else self.alpha[self.kind]
        return (alpha, self.gamma[:, None, :])

    def edge_logits(self) -> Tensor | None:
        return self.beta


MAPPINGS: dict[str, type[Shared] | type[Full] | type[Decoupled]] = {
    SHARED: Shared,
    FULL: Full,
    DECOUPLED: Decoupled,
}


def mapping_class(name: str) -> type[Shared] | type[Full] | type[Decoupled]:
    """The mapping of a name. Raises InputError listing the names."""
    if name not in MAPPINGS:
        raise InputError(f"--mapping {name!r} is not known; choose from {', '.join(MAPPINGS)}")
    return MAPPINGS[name]


def _draw(seed: int, scale: float, *shapes: tuple[int, ...]) -> list[nn.Parameter]:
    """Normal tables of these shapes, one after the other from one stream."""
    generator = torch_stream(seed, "architecture")
    return [nn.Parameter(scale * torch.randn(shape, generator=generator)) for shape in shapes]

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

import math
from typing import Any

import torch
from torch import Tensor, nn

from dnas.errors import unknown
from dnas.rng import torch_stream
from dnas.space.darts import layer_kinds

SHARED, FULL, DECOUPLED = "shared", "full", "decoupled"


class Mapping(nn.Module):
    """What the three have in common. A table of two rows has one for normal layers and one for reductions.

    Args:
        layers: Depth L, at least 3.
        with_edges: Whether edges have weights of their own (beta).
        scale: Standard deviation of the normal law of the initial parameters.
        seed: Of the initial parameters.
        allowed: [2, E, O] of bool, the candidates of each edge in normal layers and reductions; None: all of all.
        tables: Shape of each table of parameters, by its name.
    """

    alpha: nn.Parameter
    beta: nn.Parameter | None
    kind: Tensor
    barrier: Tensor | None

    def __init__(
        self,
        layers: int,
        *,
        with_edges: bool = True,
        scale: float = 1e-3,
        seed: int = 0,
        allowed: Tensor | None = None,
        **tables: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.layers = layers
        # [L, E, O] of bool on the CPU: what has been closed since, whole edges among it.
        self.closed: Tensor | None = None
        # [L]: 0 for a normal layer, 1 for a reduction.
        self.register_buffer("kind", torch.tensor(layer_kinds(layers)), False)
        # [L, E, O]: added to the first term, it closes what an edge has not to every relaxation: e^(-∞) = σ(-∞) = 0.
        barrier = None if allowed is None else torch.zeros(allowed.shape).masked_fill(~allowed, -math.inf)[self.kind]
        self.register_buffer("barrier", barrier, False)
        generator = torch_stream(seed, "architecture")
        for name, shape in tables.items():
            table = nn.Parameter(scale * torch.randn(shape, generator=generator))
            self.register_parameter(name, table if name != "beta" or with_edges else None)

    def terms(self) -> tuple[Tensor, ...]:
        """Tensors that broadcast to [L, E, O]."""
        return (self._open(self._per_layer(self.alpha)),)

    def edge_logits(self) -> Tensor | None:
        """[L, E], or None without edge weights."""
        return None if self.beta is None else self._per_layer(self.beta)

    def operation_tables(self) -> dict[str, Tensor]:
        """name → table of the parameters that operations have."""
        return {"alpha": self.alpha}

    def open_mean(self, **values: Tensor) -> Tensor:
        """The mean over what is open of values as `alpha`, `gamma` or `psi` [L, E, O] has them, by these names.

        A parameter is open if an edge in one of its layers has its operation.
        """
        flat = torch.cat([each.flatten() for each in values.values()])
        if self.barrier is None:
            return flat.mean()
        masks = [self._open_of(name, self.barrier == 0).flatten() for name in values]
        # No masked indexing, for which a GPU would wait.
        mask = torch.cat(masks).to(flat)
        return (flat * mask).sum() / mask.sum()

    def _open_of(self, name: str, layers: Tensor) -> Tensor:
        """What is open of `alpha` or `psi`, by what is open in each layer [L, E, O]."""
        rows = self.layers if name == "psi" else len(self.alpha)
        if rows == self.layers:
            return layers
        if rows == 1:
            return layers.any(0)
        return torch.stack([layers[self.kind == kind].any(0) for kind in (0, 1)])

    def close(self, closed: Tensor) -> None:
        """Close operations [L, E, O] to every relaxation, as those that an edge has not. An edge that is closed as a
        whole stays in the relaxation, which could not do without all of its operations."""
        before = torch.zeros(closed.shape) if self.barrier is None else self.barrier
        apart = closed & ~closed.all(-1, keepdim=True)
        self.barrier = before.to(self.alpha).masked_fill(apart.to(self.alpha.device), -math.inf)
        self.closed = closed

    def count(self) -> int:
        """How many architecture parameters there are."""
        return sum(p.numel() for p in self.parameters())

    @property
    def rows(self) -> int:
        """How many layers can differ in their mixing weights: two where cells are shared, L otherwise."""
        return self.layers

    def over_layers(self, rows: Tensor) -> Tensor:
        """[rows, …] → [L, …]: e.g. one random draw a cell type where cells are shared, one a layer otherwise."""
        return rows

    def of_rows(self, layers: Tensor) -> Tensor:
        """[L, …] → [rows, …]: what `over_layers` takes, of layers that are alike where they share a cell."""
        return layers

    def _per_layer(self, table: Tensor) -> Tensor:
        return table[self.kind] if len(table) == 2 else table

    def _open(self, term: Tensor) -> Tensor:
        return term if self.barrier is None else term + self.barrier


class Shared(Mapping):
    """One table for all normal layers and one for all reductions (DARTS; the paper's IAM).

    alpha [2, E, O], beta [2, E], for E edges of a cell and O candidates of an edge.
    """

    def __init__(self, layers: int, edges: int, operations: int, **common: Any) -> None:
        super().__init__(layers, alpha=(2, edges, operations), beta=(2, edges), **common)

    @property
    def rows(self) -> int:
        return 2

    def over_layers(self, rows: Tensor) -> Tensor:
        return rows[self.kind]

    def of_rows(self, layers: Tensor) -> Tensor:
        kinds = self.kind.tolist()
        return layers[[kinds.index(0), kinds.index(1)]]


class Full(Mapping):
    """A table for every layer: alpha [L, E, O], beta [L, E] (the paper's "global" rows)."""

    def __init__(self, layers: int, edges: int, operations: int, **common: Any) -> None:
        super().__init__(layers, alpha=(layers, edges, operations), beta=(layers, edges), **common)


class Decoupled(Mapping):
    """alpha [G, E, O], beta [L, E], gamma [L, O]: the paper's CAM (§3.3, fig. 4).

    With beta these are L·E + L·O + E·O parameters where a full table of operations needs L·E·O.

    Args:
        alpha_groups: G = 1, one alpha for all layers, or 2, reductions have their own (reading A12).
    """

    gamma: nn.Parameter

    def __init__(self, layers: int, edges: int, operations: int, *, alpha_groups: int = 1, **common: Any) -> None:
        assert alpha_groups in (1, 2)
        super().__init__(
            layers,
            alpha=(alpha_groups, edges, operations),
            beta=(layers, edges),
            gamma=(layers, operations),
            **common,
        )

    def terms(self) -> tuple[Tensor, ...]:
        return (self._open(self._per_layer(self.alpha)), self.gamma[:, None, :])

    def operation_tables(self) -> dict[str, Tensor]:
        return {"alpha": self.alpha, "gamma": self.gamma}

    def _open_of(self, name: str, layers: Tensor) -> Tensor:
        return layers.any(1) if name == "gamma" else super()._open_of(name, layers)


class Nothing(nn.Module):
    """What stands for a mapping where a method learns nothing: it knows the depth L."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers


MAPPINGS: dict[str, type[Shared] | type[Full] | type[Decoupled]] = {
    SHARED: Shared,
    FULL: Full,
    DECOUPLED: Decoupled,
}


def mapping_class(name: str) -> type[Shared] | type[Full] | type[Decoupled]:
    """The mapping of a name. Raises InputError listing the names."""
    if name not in MAPPINGS:
        raise unknown("mapping", "--mapping", name, MAPPINGS)
    return MAPPINGS[name]

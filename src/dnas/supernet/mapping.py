"""Mappings from architecture parameters to the layers (parameter sharing schemes): shared, full, decoupled.

A mapping owns the architecture parameters and provides, for all layers together,

- `terms()`: tensors that broadcast to [L, E, O] (layers, edges, operations), and
- `edge_logits()`: [L, E], or None if the method has no edge weights.

A relaxation (`relaxation.py`) combines the terms: a softmax-like one adds them before normalization, a sigmoid-like
one multiplies their sigmoids. `Shared` and `Full` have one term, `Decoupled` has two (alpha and gamma), so the
decoupled form means "no three-way interaction" in the log domain for every method (DNAS, eqs. 3–5).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dnas.errors import unknown
from dnas.rng import torch_stream
from dnas.space.protocol import layer_kinds

SHARED, FULL, DECOUPLED = "shared", "full", "decoupled"


class Mapping(nn.Module):
    """Base class of the three mappings. In a table of two rows, the first is for normal layers, the second for
    reductions.

    Args:
        layers: Depth L, at least 3.
        with_edges: True if edges have separate weights (beta).
        scale: Standard deviation of the normally distributed initial parameters.
        seed: Random seed of the initial parameters.
        allowed: Mask [2, E, O] of the candidates of each edge in normal layers and reductions; None allows all.
        tables: Shape of each parameter table, by name.
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
        # Mask [L, E, O] on the CPU: operations closed during the search, including whole edges.
        self.closed: Tensor | None = None
        # [L]: 0 for a normal layer, 1 for a reduction.
        self.register_buffer("kind", torch.tensor(layer_kinds(layers)), False)
        # [L, E, O], added to the first term: it closes the operations that an edge does not offer in every relaxation,
        # since e^(-∞) = σ(-∞) = 0.
        barrier = None if allowed is None else torch.zeros(allowed.shape).masked_fill(~allowed, -math.inf)[self.kind]
        self.register_buffer("barrier", barrier, False)
        generator = torch_stream(seed, "architecture")
        for name, shape in tables.items():
            table = nn.Parameter(scale * torch.randn(shape, generator=generator))
            self.register_parameter(name, table if name != "beta" or with_edges else None)

    def terms(self) -> tuple[Tensor, ...]:
        """Return tensors that broadcast to [L, E, O]."""
        return (self._open(self._per_layer(self.alpha)),)

    def edge_logits(self) -> Tensor | None:
        """Return the logits [L, E] of the edges, or None without edge weights."""
        return None if self.beta is None else self._per_layer(self.beta)

    def operation_tables(self) -> dict[str, Tensor]:
        """Return the parameter tables of the operations, by name."""
        return {"alpha": self.alpha}

    def open_mean(self, **values: Tensor) -> Tensor:
        """Return the mean over the open parameters of values shaped like `alpha`, `gamma` or `psi` [L, E, O].

        The values are given by these names. A parameter is open if an edge in one of its layers offers its operation.
        """
        flat = torch.cat([each.flatten() for each in values.values()])
        if self.barrier is None:
            return flat.mean()
        masks = [self._open_of(name, self.barrier == 0).flatten() for name in values]
        # No masked indexing, which would synchronize with the GPU.
        mask = torch.cat(masks).to(flat)
        return (flat * mask).sum() / mask.sum()

    def _open_of(self, name: str, layers: Tensor) -> Tensor:
        """Return the open entries of `alpha` or `psi`, given the open operations of each layer [L, E, O]."""
        rows = self.layers if name == "psi" else len(self.alpha)
        if rows == self.layers:
            return layers
        if rows == 1:
            return layers.any(0)
        return torch.stack([layers[self.kind == kind].any(0) for kind in (0, 1)])

    def close(self, closed: Tensor) -> None:
        """Close operations [L, E, O] in every relaxation, like those that an edge does not offer.

        An edge whose operations are all closed stays in the relaxation, which needs at least one operation per edge.
        """
        before = torch.zeros(closed.shape) if self.barrier is None else self.barrier
        apart = closed & ~closed.all(-1, keepdim=True)
        self.barrier = before.to(self.alpha).masked_fill(apart.to(self.alpha.device), -math.inf)
        self.closed = closed

    def count(self) -> int:
        """Return the number of architecture parameters."""
        return sum(p.numel() for p in self.parameters())

    @property
    def rows(self) -> int:
        """Number of layers that can differ in their mixing weights: two if they are shared, L otherwise."""
        return self.layers

    def over_layers(self, rows: Tensor) -> Tensor:
        """Expand [rows, …] to [L, …]: e.g. one random draw per kind of shared layers, otherwise per layer."""
        return rows

    def of_rows(self, layers: Tensor) -> Tensor:
        """Reduce [L, …] to [rows, …], the inverse of `over_layers`; rows of shared layers must be equal."""
        return layers

    def _per_layer(self, table: Tensor) -> Tensor:
        return table[self.kind] if len(table) == 2 else table

    def _open(self, term: Tensor) -> Tensor:
        return term if self.barrier is None else term + self.barrier


class Shared(Mapping):
    """One table for all normal layers and one for all reductions (DARTS; IAM in the paper).

    alpha [2, E, O], beta [2, E], for E edges per layer and O candidates per edge.
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
    """Separate tables for every layer: alpha [L, E, O], beta [L, E] (the "global" rows of the paper)."""

    def __init__(self, layers: int, edges: int, operations: int, **common: Any) -> None:
        super().__init__(layers, alpha=(layers, edges, operations), beta=(layers, edges), **common)


class Decoupled(Mapping):
    """alpha [G, E, O], beta [L, E], gamma [L, O]: the DNAS factorization (CAM in the paper, §3.3, fig. 4).

    With beta and G = 1 these are L·E + L·O + E·O parameters, while a full table of operations has L·E·O.

    Args:
        alpha_groups: G = 1: one alpha for all layers; 2: separate ones for normal layers and reductions (reading A12).
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
    """Placeholder mapping of methods without architecture parameters; it only has the depth L."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers


MAPPINGS: dict[str, type[Shared] | type[Full] | type[Decoupled]] = {
    SHARED: Shared,
    FULL: Full,
    DECOUPLED: Decoupled,
}


def mapping_class(name: str) -> type[Shared] | type[Full] | type[Decoupled]:
    """Return the mapping class with this name. Raises InputError, with the known names, for an unknown one."""
    if name not in MAPPINGS:
        raise unknown("mapping", "--mapping", name, MAPPINGS)
    return MAPPINGS[name]

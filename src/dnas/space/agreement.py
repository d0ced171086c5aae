"""How much architectures agree, beyond what chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.darts import Space


@dataclass(frozen=True)
class Agreement:
    """Of a pair of architectures, or the mean over the pairs of several: 0 is what chance gives, 1 is equality.

    (observed - expected) / (1 - expected), as Cohen's kappa (1960), where observed is the share of what both keep and
    expected is its mean if both were drawn from the uniform law of the space.

    Attributes:
        operations: Over the kept (node, input, operation).
        edges: Over the kept (node, input), whatever the operation.
        operations_by_layer, edges_by_layer: The same of every layer alone, from the stem on.
    """

    operations: float
    edges: float
    operations_by_layer: tuple[float, ...]
    edges_by_layer: tuple[float, ...]


def agreement(architectures: Sequence[Architecture], space: Space) -> Agreement | None:
    """The mean agreement over all pairs; None for fewer than two.

    All must have one depth, and nodes of the space. They need not lie in it: where a threshold has left a node fewer
    inputs, chance is that of nodes with so many, and the share is of the mean of what the two keep.

    Where each of O operations is on every edge, a node with n inputs that keeps k of them agrees by chance on k²/n of
    its edges and on k²/(n·O) of its operations, so on 0.64 and 0.09 of them in a cell of DARTS.
    """
    pairs = [_pair(a, b, space) for a, b in combinations(architectures, 2)]
    if not pairs:
        return None
    layers = range(len(architectures[0]))
    return Agreement(
        _mean([pair.operations for pair in pairs]),
        _mean([pair.edges for pair in pairs]),
        tuple(_mean([pair.operations_by_layer[k] for pair in pairs]) for k in layers),
        tuple(_mean([pair.edges_by_layer[k] for pair in pairs]) for k in layers),
    )


@dataclass(frozen=True)
class _Count:
    """What two cells have in common, what of it by chance, and what they keep, in numbers of edges."""

    common: float
    expected: float
    kept: float

    def __add__(self, other: _Count) -> _Count:
        return _Count(self.common + other.common, self.expected + other.expected, self.kept + other.kept)

    @property
    def corrected(self) -> float:
        """0 where chance alone gives equality."""
        beyond = self.kept - self.expected
        return (self.common - self.expected) / beyond if beyond > 0 else 0.0


def _pair(a: Architecture, b: Architecture, space: Space) -> Agreement:
    assert len(a) == len(b) and a.reductions == b.reductions, "architectures of one depth"
    counts = [
        _counts(one, two, space, k in a.reductions) for k, (one, two) in enumerate(zip(a.layers, b.layers, strict=True))
    ]
    operations, edges = zip(*counts, strict=True)
    nothing = _Count(0, 0, 0)
    return Agreement(
        sum(operations, nothing).corrected,
        sum(edges, nothing).corrected,
        tuple(count.corrected for count in operations),
        tuple(count.corrected for count in edges),
    )


def _counts(a: Cell, b: Cell, space: Space, reduction: bool) -> tuple[_Count, _Count]:
    """Of (input, operation) and of inputs, over all nodes of a layer."""
    operations = edges = _Count(0, 0, 0)
    for (first, last), one, two in zip(space.node_edges, a.nodes, b.nodes, strict=True):
        kept = (len(one) + len(two)) / 2
        # Both take an edge with this chance, and one of its operations each.
        both = len(one) * len(two) / (last - first) ** 2
        same = sum(1 / len(space.choices(reduction, edge)) for edge in range(first, last))
        operations += _Count(len(set(one) & set(two)), both * same, kept)
        inputs = {source for _, source in one} & {source for _, source in two}
        edges += _Count(len(inputs), both * (last - first), kept)
    return operations, edges


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

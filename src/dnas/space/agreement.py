"""Chance-corrected agreement of architectures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from dnas.space.architecture import Architecture
from dnas.space.protocol import LayerChoice, SearchSpace


@dataclass(frozen=True)
class Agreement:
    """Agreement of two architectures, or the mean over all pairs of several: 0 is chance level, 1 is equality.

    (observed - expected) / (1 - expected), as Cohen's kappa (1960), where observed is the share that both keep and
    expected is the mean share of two architectures drawn uniformly from the space.

    Attributes:
        operations: Agreement on the kept (node, input, operation) triples.
        edges: Agreement on the kept (node, input) pairs, regardless of the operation.
        operations_by_layer, edges_by_layer: The same for each layer, starting at the stem.
    """

    operations: float
    edges: float
    operations_by_layer: tuple[float, ...]
    edges_by_layer: tuple[float, ...]


def agreement(architectures: Sequence[Architecture], space: SearchSpace) -> Agreement | None:
    """Return the mean agreement over all pairs, or None for fewer than two architectures.

    All must have the same depth and the number of nodes of the space. They need not lie in the space: if a threshold
    left a node with fewer inputs, chance level is that of nodes with that many inputs, and the share is relative to
    the mean number that the two keep.

    If every edge offers each of O operations, a node that keeps k of n inputs agrees by chance on k²/n of its edges
    and on k²/(n·O) of its operations, that is on 0.64 and 0.09 of them in DARTS.
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
    """Numbers of edges that two layers share, are expected to share by chance, and keep."""

    common: float
    expected: float
    kept: float

    def __add__(self, other: _Count) -> _Count:
        return _Count(self.common + other.common, self.expected + other.expected, self.kept + other.kept)

    @property
    def corrected(self) -> float:
        """Return the chance-corrected agreement, or 0 if chance alone gives equality."""
        beyond = self.kept - self.expected
        return (self.common - self.expected) / beyond if beyond > 0 else 0.0


def _pair(a: Architecture, b: Architecture, space: SearchSpace) -> Agreement:
    assert len(a) == len(b) and a.reductions == b.reductions, "architectures of the same depth"
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


def _counts(a: LayerChoice, b: LayerChoice, space: SearchSpace, reduction: bool) -> tuple[_Count, _Count]:
    """Count the (input, operation) pairs and the inputs over all nodes of a layer."""
    operations = edges = _Count(0, 0, 0)
    for (first, last), one, two in zip(space.node_edges, a.nodes, b.nodes, strict=True):
        kept = (len(one) + len(two)) / 2
        # The probability that both keep an edge; each then draws one of its operations.
        both = len(one) * len(two) / (last - first) ** 2
        same = sum(1 / len(space.choices(reduction, edge)) for edge in range(first, last))
        operations += _Count(len(set(one) & set(two)), both * same, kept)
        inputs = {source for _, source in one} & {source for _, source in two}
        edges += _Count(len(inputs), both * (last - first), kept)
    return operations, edges


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

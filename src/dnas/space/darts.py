"""Cell-based search spaces: nodes, edges, primitives and the positions of reduction layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from dnas.errors import SettingError
from dnas.settings import MIN_LAYERS
from dnas.space.cell import Cell, Slot
from dnas.space.primitives import DARTS_PRIMITIVES


def reduction_layers(layers: int) -> tuple[int, int]:
    """Return the layers that halve the resolution: layers // 3 and 2 · layers // 3 (DARTS).

    Raises InputError for fewer than 3 layers: a network has two reductions and at least one normal layer.
    """
    if layers < MIN_LAYERS:
        raise SettingError(
            "layers", "layers", f" must be at least {MIN_LAYERS}, got {layers}: two of them reduce the resolution"
        )
    return layers // 3, 2 * layers // 3


def layer_kinds(layers: int) -> list[int]:
    """Return 0 for each normal layer and 1 for each reduction."""
    reductions = reduction_layers(layers)
    return [int(k in reductions) for k in range(layers)]


@dataclass(frozen=True)
class Space:
    """A cell-based search space. States 0 and 1 are the outputs of the two previous layers, state 2 + n is node n.

    Attributes:
        name: Name in an architecture file.
        nodes: Number of intermediate nodes per cell.
        inputs_per_node: Number of incoming edges that a node keeps in an architecture.
        primitives: The candidate operations, in canonical order.
        per_edge: The primitives of each edge, for normal layers and for reductions. Empty: every edge has all.
        none: True if `none` is a candidate during the search, False if not; None leaves it to the method.
    """

    name: str
    nodes: int
    inputs_per_node: int
    primitives: tuple[str, ...]
    per_edge: tuple[tuple[tuple[str, ...], ...], ...] = ()
    none: bool | None = None

    def choices(self, reduction: bool, edge: int) -> tuple[str, ...]:
        """Return the primitives of an edge in a layer of this kind."""
        return self.per_edge[reduction][edge] if self.per_edge else self.primitives

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(node, source state) of every edge, node-major: node n has n + 2 incoming edges."""
        return tuple((n, source) for n in range(self.nodes) for source in range(n + 2))

    @cached_property
    def node_edges(self) -> tuple[tuple[int, int], ...]:
        """Range [first, last) of the edges of each node: (0, 2), (2, 5), (5, 9), (9, 14) for 4 nodes."""
        ends = np.cumsum([n + 2 for n in range(self.nodes)])
        return tuple((int(end) - n - 2, int(end)) for n, end in enumerate(ends))

    def objection(self, nodes: Sequence[Sequence[tuple[str, int]]], reduction: bool = False) -> str | None:
        """Return the reason why a cell is not in this space, with its node and slot, or None if it is."""
        if len(nodes) != self.nodes:
            return f"the cell has {len(nodes)} nodes, but the {self.name!r} space has {self.nodes}"
        for n, node in enumerate(nodes):
            if len(node) != self.inputs_per_node:
                return f"node {n} has {len(node)} inputs, but the {self.name!r} space has {self.inputs_per_node}"
            for s, (op, source) in enumerate(node):
                if op not in self.primitives:
                    return f"node {n}, slot {s}: operation {op!r} is not in the {self.name!r} space"
                if not 0 <= source < n + 2:
                    return f"node {n}, slot {s}: input {source} does not exist; the inputs of node {n} are 0 to {n + 1}"
                if source in [other for _, other in node[:s]]:
                    return f"node {n}, slot {s}: input {source} is used twice; the inputs of a node must differ"
                if op not in (choices := self.choices(reduction, self.node_edges[n][0] + source)):
                    kind = "reduction" if reduction else "normal layer"
                    return f"node {n}, slot {s}: input {source} of a {kind} must use {' or '.join(choices)}, got {op!r}"
        return None

    def cells(self, reduction: bool = False) -> int:
        """Return the number of possible cells of a layer: 1,037,664,180 for DARTS (49 · 147 · 294 · 490)."""
        return math.prod(
            sum(
                math.prod(len(self.choices(reduction, edge)) for edge in edges)
                for edges in combinations(range(first, last), self.inputs_per_node)
            )
            for first, last in self.node_edges
        )

    def count(self, layers: int) -> int:
        """Return the number of architectures of this depth if every layer has a separate cell."""
        return int(self.cells() ** (layers - 2) * self.cells(True) ** 2)

    def sample(self, rng: np.random.Generator, reduction: bool) -> Cell:
        """Draw a cell of this kind uniformly, provided that all edges have the same number of primitives."""
        nodes = []
        for n, (first, _) in enumerate(self.node_edges):
            sources = sorted(rng.choice(n + 2, self.inputs_per_node, replace=False).tolist())
            choices = [self.choices(reduction, first + source) for source in sources]
            ops = rng.integers([len(names) for names in choices])
            nodes.append(tuple((names[o], s) for names, o, s in zip(choices, ops, sources, strict=True)))
        return Cell(tuple(nodes))

    def neighbours(self, cell: Cell, reduction: bool) -> list[Cell]:
        """Return all cells that differ in one operation or one input of one slot."""
        return [
            _with_slot(cell, n, s, slot)
            for n, node in enumerate(cell.nodes)
            for s in range(len(node))
            for slot in self._other_slots(node, n, s, reduction)
        ]

    def mutate(self, rng: np.random.Generator, cell: Cell, reduction: bool) -> Cell:
        """Change the operation or the input (if another one exists), with equal probability, of a uniform slot."""
        n = int(rng.integers(self.nodes))
        node = cell.nodes[n]
        s = int(rng.integers(len(node)))
        slots = self._other_slots(node, n, s, reduction)
        inputs = [slot for slot in slots if slot[1] != node[s][1]]
        if inputs and rng.integers(2):
            return _with_slot(cell, n, s, inputs[int(rng.integers(len(inputs)))])
        operations = [slot for slot in slots if slot[1] == node[s][1]]
        return _with_slot(cell, n, s, operations[int(rng.integers(len(operations)))])

    def _other_slots(self, node: tuple[tuple[str, int], ...], n: int, s: int, reduction: bool) -> list[tuple[str, int]]:
        """Return the alternatives for slot s of node n: another operation, or another input with the same operation.

        An input whose edge does not offer this operation is listed with each operation that it offers.
        """
        op, source = node[s]
        taken = {other for _, other in node}
        first = self.node_edges[n][0]
        slots = [(other, source) for other in self.choices(reduction, first + source) if other != op]
        for other in set(range(n + 2)) - taken:
            choices = self.choices(reduction, first + other)
            slots += [(name, other) for name in ((op,) if op in choices else choices)]
        return slots


def _with_slot(cell: Cell, n: int, s: int, slot: Slot) -> Cell:
    nodes = [list(node) for node in cell.nodes]
    nodes[n][s] = slot
    return Cell(tuple(tuple(node) for node in nodes))


DARTS = Space("darts", nodes=4, inputs_per_node=2, primitives=DARTS_PRIMITIVES)


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    """Parse the primitives of each edge from labels: s skip, m and a pools, 3 and 5 separable, d and D dilated."""
    names = dict(zip("mas35dD", DARTS.primitives, strict=True))
    return tuple(tuple(sorted((names[c] for c in pair), key=DARTS.primitives.index)) for pair in text.split())


# Four spaces in which differentiable search is known to end in skip connections or worse (Zela et al., ICLR 2020, §3;
# the pairs of S1 are from the authors' code). Methods cannot change the candidates of these spaces.
S1 = replace(
    DARTS,
    name="s1",
    none=False,
    per_edge=(
        _pairs("sd sD sD s3 sd ms s3 s3 sd s3 ms sd dD dD"),
        _pairs("ma md ma ma sD ma m3 sd sD ma ma sD sD sD"),
    ),
)
S2 = replace(DARTS, name="s2", none=False, primitives=("skip_connect", "sep_conv_3x3"))
S3 = replace(S2, name="s3", none=True)
S4 = replace(DARTS, name="s4", none=False, primitives=("noise", "sep_conv_3x3"))

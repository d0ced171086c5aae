"""What a search space must provide: the choices of a layer, how it is planned, and how it is written to files.

In every space a layer has *nodes*, each of which keeps some of its *edges*, and each kept edge has one *operation*: a
slot (operation, edge of the node). Methods, mappings and relaxations only know these numbers: scores are
[layers, edges, operations]. What they mean is up to the space. In that of DARTS, a node is a sum, and its edges are the
states that it can read; in a chain, a layer is one node, whose edges are kernel sizes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from dnas.errors import SettingError
from dnas.settings import MIN_LAYERS
from dnas.space.layout import Layout
from dnas.space.network_plan import LayerPlan, Stem
from dnas.space.primitives import Chain, Conv, Norm

Slot = tuple[str, int]  # (operation, edge of the node)
Nodes = tuple[tuple[Slot, ...], ...]

# The depth of networks for CIFAR since NASNet, at which genotypes are published.
PAPER_LAYERS = 20


class LayerChoice(Hashable, Protocol):
    """What an architecture has for a layer. Hashable, compared by content."""

    @property
    def nodes(self) -> Nodes:
        """Return the slots of each node."""


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
class SearchSpace(ABC):
    """Base class of all spaces.

    Attributes:
        name: Name in an architecture file.
        nodes: Number of nodes per layer.
        inputs_per_node: Number of edges that a node keeps in an architecture.
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

    @property
    def thins(self) -> bool:
        """True if a node can keep fewer edges than `inputs_per_node`, outside the space."""
        return False

    @property
    def timed(self) -> bool:
        """True if the time of each operation on this machine can be measured, for limits on latency."""
        return False

    def quick_channels(self, seconds: float) -> int:
        """Return the initial channels of a network in the quick preset. Args: seconds: time for its training."""
        return 16

    # --- what each space defines --------------------------------------------------------------------------

    @abstractmethod
    def invalid(self) -> str | None:
        """Return the reason why the space itself cannot be used, or None. Checks of per_edge are made elsewhere."""

    @abstractmethod
    def knows(self, operation: str) -> bool:
        """Return True if the space can build this operation."""

    @abstractmethod
    def edges_of(self, node: int) -> int:
        """Return the number of edges among which a node chooses."""

    @abstractmethod
    def layer(self, nodes: Sequence[Sequence[Slot]]) -> Any:
        """Return the layer with these slots: a `LayerChoice`."""

    @abstractmethod
    def buildable(self, layer: Any) -> str | None:
        """Return the reason why no network can have this layer, or None if one can."""

    @abstractmethod
    def layer_to_json(self, layer: Any) -> dict[str, Any]:
        """Return a layer as JSON for an architecture file."""

    @abstractmethod
    def layer_from_json(self, value: Any, k: int) -> Any:
        """Return layer k of an architecture file. Raises InputError for anything else."""

    @abstractmethod
    def stem(self, name: str, inputs: int, channels: int) -> Stem:
        """Return the chains before the first layer. Args: inputs: channels of an image."""

    @abstractmethod
    def layer_plan(
        self, layer: Any, before: int, previous: int, width: int, reduction: bool, shrunk: bool
    ) -> LayerPlan:
        """Plan a layer.

        Args:
            before, previous: Channels of the outputs of the two preceding layers.
            width: Channels of its states.
            shrunk: True if the previous layer is a reduction.
        """

    def first_nodes_plan(
        self, nodes: Nodes, before: int, previous: int, width: int, reduction: bool, shrunk: bool
    ) -> LayerPlan:
        """Plan the first nodes of a layer, or all: see `layer_plan`."""
        return self.layer_plan(self.layer(nodes), before, previous, width, reduction, shrunk)

    def head(self, channels: int, outputs: int = 0, hidden: int = 0) -> Chain:
        """Return the layers between the last layer and the mean over pixels.

        Args:
            channels: Of the output of the last layer.
            outputs, hidden: `last` and `hidden` of a `Layout`, or 0.
        """
        return ()

    def features(self, channels: int, outputs: int = 0, hidden: int = 0) -> int:
        """Return the number of features of the classifier. Args: as in `head`."""
        head = self.head(channels, outputs, hidden) if outputs or hidden else self.head(channels)
        widths = (
            layer.channels if isinstance(layer, Norm) else layer.outputs
            for layer in reversed(head)
            if isinstance(layer, Norm | Conv)
        )
        return next(widths, channels)

    def layout_objection(self, layout: Layout, layers: Sequence[Any], reductions: Sequence[int]) -> str | None:
        """Return the reason why these layers cannot have this layout, or None if they can."""
        return f"a layout only applies to spaces of chains, not to the {self.name!r} space"

    @abstractmethod
    def operation_chains(
        self, operation: str, edge: int, plan: LayerPlan, previous: int, reduction: bool
    ) -> tuple[Chain, ...]:
        """Return the chains that an operation on an edge (counted over all nodes) adds to a layer.

        Args:
            plan: Plan of the layer, with any operations.
            previous: Channels of the output of the preceding layer.
        """

    def designed(self, kinds: Sequence[int]) -> list[tuple[str, tuple[Any, ...]]]:
        """Return the layers of hand-designed networks with their names, as candidates of finals, the best first.

        Args:
            kinds: 0 for each normal layer, 1 for each reduction.
        """
        return []

    @abstractmethod
    def operation_params(self, operation: str) -> int:
        """Return the parameters of an operation in a layer of 16 channels that keeps the resolution."""

    # --- what follows from it -----------------------------------------------------------------------------

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(node, edge of the node) of every edge, node-major."""
        return tuple((n, edge) for n in range(self.nodes) for edge in range(self.edges_of(n)))

    @cached_property
    def node_edges(self) -> tuple[tuple[int, int], ...]:
        """Range [first, last) of the edges of each node: (0, 2), (2, 5), (5, 9), (9, 14) in DARTS."""
        ends = np.cumsum([self.edges_of(n) for n in range(self.nodes)])
        return tuple((int(end) - self.edges_of(n), int(end)) for n, end in enumerate(ends))

    def choices(self, reduction: bool, edge: int) -> tuple[str, ...]:
        """Return the primitives of an edge in a layer of this kind."""
        return self.per_edge[reduction][edge] if self.per_edge else self.primitives

    def objection(self, nodes: Sequence[Sequence[Slot]], reduction: bool = False) -> str | None:
        """Return the reason why a layer is not in this space, with its node and slot, or None if it is."""
        if len(nodes) != self.nodes:
            return f"the layer has {len(nodes)} nodes, but the {self.name!r} space has {self.nodes}"
        for n, node in enumerate(nodes):
            if len(node) != self.inputs_per_node:
                return f"node {n} has {len(node)} inputs, but the {self.name!r} space has {self.inputs_per_node}"
            for s, (op, edge) in enumerate(node):
                problem = self._slot_objection(n, op, edge, [other for _, other in node[:s]], reduction)
                if problem:
                    return f"node {n}, slot {s}: {problem}"
        return None

    def layer_objection(self, layer: Any, reduction: bool) -> str | None:
        """Return the reason why a layer that can be built is not in this space, or None if it is."""
        return self.objection(layer.nodes, reduction)

    def _slot_objection(self, n: int, op: str, edge: int, taken: Sequence[int], reduction: bool) -> str | None:
        if op not in self.primitives:
            return f"operation {op!r} is not in the {self.name!r} space"
        if not 0 <= edge < self.edges_of(n):
            return f"input {edge} does not exist; the inputs of node {n} are 0 to {self.edges_of(n) - 1}"
        if edge in taken:
            return f"input {edge} is used twice; the inputs of a node must differ"
        if op not in (choices := self.choices(reduction, self.node_edges[n][0] + edge)):
            kind = "reduction" if reduction else "normal layer"
            return f"input {edge} of a {kind} must use {' or '.join(choices)}, got {op!r}"
        return None

    def possible_layers(self, reduction: bool = False) -> int:
        """Return the number of possible layers of this kind: 1,037,664,180 for DARTS (49 · 147 · 294 · 490)."""
        return math.prod(
            sum(
                math.prod(len(self.choices(reduction, edge)) for edge in edges)
                for edges in combinations(range(first, last), self.inputs_per_node)
            )
            for first, last in self.node_edges
        )

    def count(self, layers: int) -> int:
        """Return the number of architectures of this depth if every layer is chosen separately."""
        return int(self.possible_layers() ** (layers - 2) * self.possible_layers(True) ** 2)

    def sample(self, rng: np.random.Generator, reduction: bool) -> Any:
        """Draw a layer of this kind uniformly, provided that all edges have the same number of primitives."""
        nodes = []
        for first, last in self.node_edges:
            edges = sorted(rng.choice(last - first, self.inputs_per_node, replace=False).tolist())
            choices = [self.choices(reduction, first + edge) for edge in edges]
            ops = rng.integers([len(names) for names in choices])
            nodes.append(tuple((names[o], s) for names, o, s in zip(choices, ops, edges, strict=True)))
        return self.layer(nodes)

    def neighbours(self, layer: Any, reduction: bool) -> list[Any]:
        """Return all layers that differ in one operation or one edge of one slot."""
        return [
            self._with_slot(layer, n, s, slot)
            for n, node in enumerate(layer.nodes)
            for s in range(len(node))
            for slot in self._other_slots(node, n, s, reduction)
        ]

    def mutate(self, rng: np.random.Generator, layer: Any, reduction: bool) -> Any:
        """Change the operation or the edge (if another one exists), with equal probability, of a uniform slot."""
        n = int(rng.integers(self.nodes))
        node = layer.nodes[n]
        s = int(rng.integers(len(node)))
        slots = self._other_slots(node, n, s, reduction)
        edges = [slot for slot in slots if slot[1] != node[s][1]]
        if edges and rng.integers(2):
            return self._with_slot(layer, n, s, edges[int(rng.integers(len(edges)))])
        operations = [slot for slot in slots if slot[1] == node[s][1]]
        return self._with_slot(layer, n, s, operations[int(rng.integers(len(operations)))])

    def _other_slots(self, node: Sequence[Slot], n: int, s: int, reduction: bool) -> list[Slot]:
        """Return the alternatives for slot s of node n: another operation, or another edge with the same operation.

        An edge that does not offer this operation is listed with each operation that it offers.
        """
        op, edge = node[s]
        taken = {other for _, other in node}
        first = self.node_edges[n][0]
        slots = [(other, edge) for other in self.choices(reduction, first + edge) if other != op]
        for other in set(range(self.edges_of(n))) - taken:
            choices = self.choices(reduction, first + other)
            slots += [(name, other) for name in ((op,) if op in choices else choices)]
        return slots

    def _with_slot(self, layer: Any, n: int, s: int, slot: Slot) -> Any:
        nodes = [list(node) for node in layer.nodes]
        nodes[n][s] = slot
        return self.layer(nodes)

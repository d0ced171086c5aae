"""Limits on the delivered network, and the architectures of a space that are within them.

For given widths, parameters, multiply-accumulates and file size are sums over the layers and their operations. Memory
is a maximum over the layers, so it determines what a layer can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from dnas.space import latency, sampling
from dnas.space.architecture import Architecture, at_depth, layer_pair
from dnas.space.choosing import Group, Options, best_choice
from dnas.space.cost import PRECISIONS, Program, Reads, layer_program, peak, programs, side_after
from dnas.space.file_size import edge_bytes, facts_bytes, onnx_bytes
from dnas.space.network_plan import LayerPlan, NetworkPlan, Shape, size
from dnas.space.plan import plan
from dnas.space.primitives import PRIMITIVES, chain_cost
from dnas.space.protocol import Nodes, SearchSpace, Slot, layer_kinds, reduction_layers

# Costs of a network that can be limited. All but the last are sums.
PARAMS, MACS, SIZE, LATENCY, RAM = "params", "macs", "size", "latency", "ram"
SUMS = (PARAMS, MACS, SIZE, LATENCY)
LIMITED = (PARAMS, MACS, SIZE, RAM)  # independent of the machine
ANY = "skip_connect"  # used if any operation will do
TRIES = 20  # draws before a draw is changed to be within the limits
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Delivered:
    """The delivered network, whose costs are limited, without its architecture.

    Attributes:
        layers: Depth.
        shared: True if all normal layers are equal, and all reductions, so the depth of the search may differ.
        classes: Class names, which are stored in the exported file.
        precision: Precision of the activations: a key of `PRECISIONS`.
        times: Times of its operations in nanoseconds, see `space.latency`; empty if latency is not limited.
    """

    space: SearchSpace
    layers: int
    shared: bool
    shape: Shape
    classes: tuple[str, ...]
    precision: str
    times: Mapping[str, int] = field(default_factory=dict, repr=False)

    def deep(self, architecture: Architecture) -> Architecture:
        """Return an architecture at the depth of the delivered network."""
        return at_depth(architecture, self.layers) if self.shared else architecture

    def planned(self, architecture: Architecture) -> NetworkPlan:
        """Return the plan of the delivered network of an architecture."""
        shape = self.shape
        deep = self.deep(architecture)
        return plan(deep, channels=shape.channels, classes=shape.classes, inputs=shape.image_channels, stem=shape.stem)

    def programs(self, network: NetworkPlan) -> list[Program]:
        return programs(network, self.shape.image_size, self.shape.image_channels, self.shape.final_norm)

    def costs(self, architecture: Architecture, names: Iterable[str] = LIMITED) -> dict[str, int]:
        """Return the costs of the delivered network of an architecture, by name."""
        network = self.planned(architecture)
        counted = size(network, self.shape.image_size)
        costs: dict[str, Callable[[], int]] = {
            PARAMS: lambda: counted.params,
            MACS: lambda: counted.macs,
            SIZE: lambda: onnx_bytes(network, self.shape.final_norm, facts_bytes(self.classes)),
            LATENCY: lambda: latency.nanoseconds(self.deep(architecture), network, self.shape.image_size, self.times),
            RAM: lambda: PRECISIONS[self.precision] * max(peak(part).numbers for part in self.programs(network)),
        }
        return {name: costs[name]() for name in names}


class Feasible:
    """The architectures of a space that are within the limits.

    Args:
        limits: The maximum of each limited cost, by the names above.
    """

    def __init__(self, delivered: Delivered, limits: Mapping[str, int]) -> None:
        self.delivered, self.limits = delivered, dict(limits)
        self.space = delivered.space

    def excess(self, architecture: Architecture) -> dict[str, int]:
        """Return the costs of an architecture that exceed their limits."""
        costs = self.delivered.costs(architecture, self.limits)
        return {name: costs[name] for name, most in self.limits.items() if costs[name] > most}

    def allows(self, architecture: Architecture) -> bool:
        """Return True if an architecture is within the limits. Architectures in the space are checked by tables."""
        chosen = self._chosen(architecture)
        if chosen is None:
            return not self.excess(architecture)
        left, columns = np.array(self._left), [SUMS.index(name) for name in self._summed]
        for table, layer in zip(self._tables, chosen, strict=True):
            for (first, _), node in zip(self.space.node_edges, layer.nodes, strict=True):
                for op, source in node:
                    left -= table[first + source, self.space.primitives.index(op)][columns]
        fits = zip(map(self._fits, range(len(chosen))), chosen, strict=True)
        return (
            bool((left >= 0).all())
            and self._fixed_memory_fits
            and all(f is None or f(layer.nodes) for f, layer in fits)
        )

    def drawn(self, draw: Callable[[], Architecture]) -> Architecture:
        """Return the first draw within the limits; after `TRIES` failures, the allowed one closest to the last draw."""
        for _ in range(TRIES):
            architecture = draw()
            if self.allows(architecture):
                return architecture
        return self.within(architecture)

    def within(self, architecture: Architecture) -> Architecture:
        """Return the architecture itself if it is within the limits, otherwise the most similar one that is.

        The similarity counts the operations and inputs in common: an input with its operation counts twice as much as
        the same input with another operation. An architecture outside the space is returned unchanged.
        """
        if not architecture.in_space or self.allows(architecture):
            return architecture
        space, operations = self.space, self.space.primitives
        scores = np.zeros((len(architecture), len(space.edges), len(operations)))
        for k, layer in enumerate(architecture.layers):
            for (first, _), node in zip(space.node_edges, layer.nodes, strict=True):
                for op, source in node:
                    scores[k, first + source] += 1
                    scores[k, first + source, operations.index(op)] += 1
        found = self.best(scores, operations)
        assert found is not None, "limits that cannot be met are rejected earlier"
        return replace(found, origin=architecture.origin)

    def best(self, scores: Floats, operations: Sequence[str]) -> Architecture | None:
        """Return the architecture that maximizes the sum of the scores [L, E, O] of its operations, or None.

        The result is exact up to rounding, and None if no architecture is feasible. If layers are shared, the scores
        are those of the first layer of each kind, and L may differ from the delivered depth.
        """
        layers, reductions = len(scores), reduction_layers(len(scores))
        rows = [0, reductions[0]] if self.delivered.shared else list(range(layers))
        assert self.delivered.shared or layers == self.delivered.layers
        if not self._fixed_memory_fits:
            return None
        groups = [self._group(g, scores[row], operations) for g, row in enumerate(rows)]
        chosen = best_choice(groups, self._left)
        if chosen is None:
            return None
        genes = [self.space.layer(nodes) for nodes in chosen]
        if self.delivered.shared:
            genes = [genes[k in reductions] for k in range(layers)]
        return Architecture(tuple(genes), reductions, self.space.name)

    def least(self, name: str) -> Architecture | None:
        """Return the architecture with the least of one cost among those within the other limits."""
        others = Feasible(self.delivered, {each: most for each, most in self.limits.items() if each != name})
        if name == RAM:
            return others.least_memory()
        operations = self.space.primitives
        uses = [table[..., SUMS.index(name)] for table in self._tables]
        rows = self._rows(uses)
        return others.best(-np.stack(rows).astype(float), operations)

    def least_memory(self) -> Architecture | None:
        """Return the feasible architecture with the least memory, by bisection over memory limits."""
        zeros = np.zeros((self.delivered.layers, len(self.space.edges), len(self.space.primitives)))
        operations = self.space.primitives
        best = self.best(zeros, operations)
        low = 0
        while best is not None and low < (high := self.delivered.costs(best)[RAM]) - 1:
            middle = (low + high) // 2
            tried = Feasible(self.delivered, {**self.limits, RAM: middle}).best(zeros, operations)
            if tried is None:
                low = middle
            else:
                best = tried
        return best

    def _chosen(self, architecture: Architecture) -> list[Any] | None:
        """Return the layer of each group, or None if the architecture is outside the space or has another depth."""
        if architecture.space != self.space.name or not architecture.in_space:
            return None
        if self.delivered.shared:
            pair = layer_pair(architecture)
            return None if pair is None else list(pair)
        return list(architecture.layers) if len(architecture) == self.delivered.layers else None

    def _rows(self, groups: Sequence[Any]) -> list[Any]:
        """Expand one item per group to one item per delivered layer."""
        kinds = layer_kinds(self.delivered.layers)
        return [groups[kind] for kind in kinds] if self.delivered.shared else list(groups)

    # --- tables -------------------------------------------------------------------------------------------

    @cached_property
    def _summed(self) -> list[str]:
        """Names of the limited costs that are sums."""
        return [name for name in SUMS if name in self.limits]

    @cached_property
    def _members(self) -> list[list[int]]:
        """Delivered layers of each group."""
        kinds = layer_kinds(self.delivered.layers)
        if self.delivered.shared:
            return [[k for k, kind in enumerate(kinds) if kind == each] for each in (0, 1)]
        return [[k] for k in range(self.delivered.layers)]

    @cached_property
    def _example(self) -> NetworkPlan:
        """Network of an arbitrary architecture: all have the same widths."""
        rng = np.random.default_rng(0)
        return self.delivered.planned(sampling.sample(self.space, rng, self.delivered.layers, shared=True))

    @cached_property
    def _places(self) -> list[tuple[LayerPlan, Reads]]:
        """Plan and inputs of each delivered layer."""
        network, shape = self._example, self.delivered.shape
        found = []
        # The outputs of the two preceding layers, and whether they are the same tensor.
        stem = self.delivered.programs(network)[0]
        alone = stem.kept[0] == stem.kept[1]
        _, before = chain_cost(network.stem.first, shape.image_size)
        pixels = chain_cost(network.stem.second, before)[1] if network.stem.second else before
        widths = (network.stem.width, network.stem.width)
        for k, layer in enumerate(network.layers):
            last, solo = k == len(network.layers) - 1, not network.looks_back
            found.append((layer, Reads(*widths, before, pixels, (alone and k == 0) or solo, last or solo)))
            before, pixels = pixels, side_after(layer, before, pixels)
            widths = (widths[1], layer.outputs)
        return found

    @cached_property
    def _tables(self) -> list[npt.NDArray[np.int64]]:
        """[groups] of [E, O, 4]: use of each primitive on each edge, over all layers of the group, by `SUMS`."""
        kinds = layer_kinds(self.delivered.layers)
        layers = [self._uses(k, bool(kinds[k])) for k in range(self.delivered.layers)]
        return [np.sum([layers[k] for k in members], axis=0) for members in self._members]

    def _uses(self, k: int, reduction: bool) -> npt.NDArray[np.int64]:
        planned, reads = self._places[k]
        outer = chain_cost(planned.preprocess[1], reads.pixels)[1]
        inner = side_after(planned, reads.pixels_before, reads.pixels)
        table = np.zeros((len(self.space.edges), len(self.space.primitives), len(SUMS)), np.int64)
        for e, (_, edge) in enumerate(self.space.edges):
            stride = 2 if reduction and edge < 2 else 1
            for o, name in enumerate(self.space.primitives):
                for chain in self.space.operation_chains(name, e, planned, reads.previous, reduction):
                    side = outer if chain_cost(chain, outer)[1] == inner else inner
                    cost, _ = chain_cost(chain, side)
                    time = self.delivered.times.get(latency.key(name, planned.channels, stride, side), 0)
                    table[e, o] += cost.params, cost.macs, edge_bytes(chain), time
        return table

    @cached_property
    def _left(self) -> list[int]:
        """Remainder of each sum limit for the operations."""
        rng = np.random.default_rng(0)
        example = sampling.sample(self.space, rng, self.delivered.layers, shared=True)
        costs = self.delivered.costs(example, self._summed)
        used = dict.fromkeys(SUMS, 0)
        for table, members in zip(self._tables, self._members, strict=True):
            for (first, _), node in zip(self.space.node_edges, example.layers[members[0]].nodes, strict=True):
                for op, source in node:
                    for name, each in zip(SUMS, table[first + source, self.space.primitives.index(op)], strict=True):
                        used[name] += int(each)
        return [self.limits[name] - (costs[name] - used[name]) for name in self._summed]

    @cached_property
    def _fixed_memory_fits(self) -> bool:
        """True if the parts common to all architectures are within the memory limit: the stem, the classifier, and
        the steps of the layers before and after the nodes."""
        if RAM not in self.limits:
            return True
        stem, *_, classifier = self.delivered.programs(self._example)
        return all(peak(part).numbers <= self._numbers for part in (stem, classifier)) and all(
            max(_numbers(place, NONE), place.joined) <= self._numbers for place in self._memory_places
        )

    @cached_property
    def _numbers(self) -> int:
        """Memory limit, as a number of elements."""
        return self.limits[RAM] // PRECISIONS[self.delivered.precision]

    @cached_property
    def _memory_places(self) -> list[_Place]:
        """Delivered layers, for memory checks."""
        kinds, second = layer_kinds(self.delivered.layers), bool(self._example.stem.second)
        shrunk = [second, *map(bool, kinds)]
        return [
            _Place(self.space, planned.channels, reads, bool(kinds[k]), shrunk[k])
            for k, (planned, reads) in enumerate(self._places)
        ]

    # --- groups -------------------------------------------------------------------------------------------

    def _group(self, g: int, scores: Floats, operations: Sequence[str]) -> Group:
        """Return the choices for the layer of a group, given the scores [E, O] of the operations."""
        reduction = bool(layer_kinds(self.delivered.layers)[self._members[g][0]])
        fits = self._fits(g)
        nodes = tuple(
            self._options(g, n, scores, operations, reduction, fits is not None) for n in range(self.space.nodes)
        )
        return Group(nodes, fits)

    def _options(
        self, g: int, n: int, scores: Floats, operations: Sequence[str], reduction: bool, by_memory: bool
    ) -> Options:
        """Return the options of node n, without those that cannot be part of the best choice."""
        first, last = self.space.node_edges[n]
        used = [SUMS.index(name) for name in self._summed]
        edges, kinds = [], []
        for e in range(first, last):
            open_ = [op for op in self.space.choices(reduction, e) if scores[e, operations.index(op)] > -np.inf]
            kept = [scores[e, operations.index(op)] for op in open_]
            uses = [self._tables[g][e, self.space.primitives.index(op)][used] for op in open_]
            rows = np.array(uses, np.int64).reshape(len(open_), len(used))
            alike = [1 + _kinds(op, reduction and e - first < 2) if by_memory else 0 for op in open_]
            names = tuple((op, e - first) for op in open_)
            options = Options(names, np.array(kept, float), rows).best(alike)
            edges.append(options)
            kind = dict(zip(names, alike, strict=True))
            kinds.append([kind[name] for name in options.names])
        return _joined(edges, kinds, self.space.inputs_per_node)

    def _fits(self, g: int) -> Callable[[Nodes], bool] | None:
        """Return a check: first nodes of a layer are within the memory limit in every place of a group; None: all."""
        close, most = self._close[g], self._numbers if RAM in self.limits else 0
        if not close:
            return None
        reduction = close[0].reduction

        def fits(nodes: Nodes) -> bool:
            kinds = tuple(tuple((_kinds(op, reduction and s < 2), s) for op, s in node) for node in nodes)
            alike = _Nodes(kinds, nodes)
            return all(_numbers(place, alike) <= most for place in close)

        return fits

    @cached_property
    def _close(self) -> list[list[_Place]]:
        """Distinct places of each group in which a layer can exceed the memory limit."""
        if RAM not in self.limits:
            return [[] for _ in self._members]
        places = (dict.fromkeys(self._memory_places[k] for k in members) for members in self._members)
        return [[place for place in each if place.bound > self._numbers] for each in places]


@dataclass(frozen=True)
class _Place:
    """The properties of a layer, apart from its choices, that affect its memory."""

    space: SearchSpace
    channels: int
    reads: Reads
    reduction: bool
    shrunk: bool

    def plan(self, nodes: Nodes) -> LayerPlan:
        reads = self.reads
        return self.space.first_nodes_plan(
            nodes, reads.before, reads.previous, self.channels, self.reduction, self.shrunk
        )

    @property
    def joined(self) -> int:
        """Elements live during the final concatenation: all nodes twice, and the other input of the next layer."""
        if self.space.nodes == 1:
            return 0
        side = side_after(self.plan((((ANY, 0),),) * self.space.nodes), self.reads.pixels_before, self.reads.pixels)
        kept = 0 if self.reads.last else self.reads.previous * self.reads.pixels**2
        return kept + 2 * self.space.nodes * self.channels * side**2

    @property
    def bound(self) -> int:
        """Upper bound on the live elements of any layer here: all steps of the preprocessing, every state twice, and
        the intermediate tensors of an operation. A layer of one operation is measured with each."""
        if self.space.nodes == self.space.inputs_per_node == 1:
            edges = enumerate(self.space.edges)
            layers = [((name, edge),) for e, (_, edge) in edges for name in self.space.choices(self.reduction, e)]
            return max(peak(layer_program(self.plan((node,)), self.reads)).numbers for node in layers)
        program = layer_program(self.plan(()), self.reads, whole=False)
        inputs = sum(program.size.values())
        state = max(self.channels * side**2 for side in (self.reads.pixels_before, self.reads.pixels))
        return inputs + state * (2 * (2 + self.space.nodes) + 8)


@dataclass(frozen=True)
class _Nodes:
    """The first nodes of a layer, compared by the memory use of their operations."""

    kinds: tuple[tuple[tuple[int, int], ...], ...]
    nodes: Nodes = field(compare=False)


NONE = _Nodes((), ())


@lru_cache(100_000)
def _numbers(place: _Place, first: _Nodes) -> int:
    """Return a lower bound on the live elements of a layer with these first nodes."""
    planned = place.plan(first.nodes)
    return peak(layer_program(planned, place.reads, whole=len(first.nodes) == place.space.nodes)).numbers


@cache
def _kinds(op: str, reduces: bool) -> int:
    """Return the memory class of an operation. Operations with the same kinds and strides of layers share a class; each
    block is a class of its own."""
    if op not in PRIMITIVES:
        return _KINDS.setdefault(op, len(_KINDS))
    chain = PRIMITIVES[op].chain(2, 2 if reduces else 1)
    layers = tuple((type(layer).__name__, getattr(layer, "stride", None)) for layer in chain)
    return _KINDS.setdefault(layers, len(_KINDS))


_KINDS: dict[Any, int] = {}


def _joined(edges: Sequence[Options], kinds: Sequence[Sequence[int]], inputs: int) -> Options:
    """Return the non-dominated ways to choose this many input edges of a node and one operation on each.

    Args:
        kinds: Class of every option of each edge. Only choices with the same edges and classes are compared; if all
            classes are 0, all choices are.
    """
    apart = any(map(any, kinds))
    names: list[tuple[Slot, ...]] = []
    scores, uses, alike = [], [], []
    for number, taken in enumerate(combinations(range(len(edges)), inputs)):
        names += product(*(edges[e].names for e in taken))
        score, use, kind = np.zeros(1), np.zeros((1, edges[0].uses.shape[1]), np.int64), np.array([number])
        for e in taken:
            score = (score[:, None] + edges[e].scores).ravel()
            use = (use[:, None] + edges[e].uses).reshape(len(score), use.shape[1])
            kind = (1_000 * kind[:, None] + np.array(kinds[e], np.int64)).ravel()
        scores.append(score)
        uses.append(use)
        alike.append(kind)
    options = Options(tuple(names), np.concatenate(scores), np.concatenate(uses))
    return options.best(np.concatenate(alike).tolist() if apart else None)

"""Limits on the network that is delivered, and the architectures of a space that keep to them.

Parameters, multiply-accumulates and bytes of the file are sums over the layers and their operations, once the widths
are known. Memory is a maximum over layers, so it decides which cells a layer can have.
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
from dnas.space.architecture import Architecture, at_depth, cell_pair
from dnas.space.cell import Cell, Slot
from dnas.space.choosing import Group, Options, best_choice
from dnas.space.cost import PRECISIONS, Program, Reads, layer_program, peak, programs, side_after
from dnas.space.darts import Space, layer_kinds, reduction_layers
from dnas.space.file_size import edge_bytes, facts_bytes, onnx_bytes
from dnas.space.plan import CellPlan, NetworkPlan, Shape, cell_plan, plan, size
from dnas.space.primitives import PRIMITIVES, chain_cost

# What can be limited, as a network's costs name it. All but the last are sums.
PARAMS, MACS, SIZE, LATENCY, RAM = "params", "macs", "size", "latency", "ram"
SUMS = (PARAMS, MACS, SIZE, LATENCY)
LIMITED = (PARAMS, MACS, SIZE, RAM)  # without a machine
ANY = "skip_connect"  # where it does not matter which
TRIES = 20  # draws, before one is brought within the limits
Nodes = tuple[tuple[Slot, ...], ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Delivered:
    """The network whose costs are limited, but for its architecture.

    Attributes:
        layers: Its depth.
        shared: All normal layers have one cell, and all reductions another, so a search may be of another depth.
        classes: Their names, which the exported file holds.
        precision: Of the activations: a key of `PRECISIONS`.
        times: Nanoseconds of its operations on a machine, as of `space.latency`; empty where latency is not limited.
    """

    space: Space
    layers: int
    shared: bool
    shape: Shape
    classes: tuple[str, ...]
    precision: str
    times: Mapping[str, int] = field(default_factory=dict, repr=False)

    def deep(self, architecture: Architecture) -> Architecture:
        """An architecture at the full depth."""
        return at_depth(architecture, self.layers) if self.shared else architecture

    def planned(self, architecture: Architecture) -> NetworkPlan:
        """The network of an architecture, at its full depth."""
        shape = self.shape
        deep = self.deep(architecture)
        return plan(deep, channels=shape.channels, classes=shape.classes, inputs=shape.image_channels, stem=shape.stem)

    def programs(self, network: NetworkPlan) -> list[Program]:
        return programs(network, self.shape.image_size, self.shape.image_channels, self.shape.final_norm)

    def costs(self, architecture: Architecture, names: Iterable[str] = LIMITED) -> dict[str, int]:
        """What a network uses of what can be limited."""
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
    """The architectures of a space that keep to limits.

    Args:
        limits: The most of what is limited, by the names above.
    """

    def __init__(self, delivered: Delivered, limits: Mapping[str, int]) -> None:
        self.delivered, self.limits = delivered, dict(limits)
        self.space = delivered.space

    def excess(self, architecture: Architecture) -> dict[str, int]:
        """The costs of an architecture that are beyond their limits."""
        costs = self.delivered.costs(architecture, self.limits)
        return {name: costs[name] for name, most in self.limits.items() if costs[name] > most}

    def allows(self, architecture: Architecture) -> bool:
        """Whether an architecture keeps to the limits; of one in the space by tables, since many are asked for."""
        cells = self._cells(architecture)
        if cells is None:
            return not self.excess(architecture)
        left, columns = np.array(self._left), [SUMS.index(name) for name in self._summed]
        for table, cell in zip(self._tables, cells, strict=True):
            for (first, _), node in zip(self.space.node_edges, cell.nodes, strict=True):
                for op, source in node:
                    left -= table[first + source, self.space.primitives.index(op)][columns]
        fits = zip(map(self._fits, range(len(cells))), cells, strict=True)
        return bool((left >= 0).all()) and self._fixed_memory_fits and all(f is None or f(c.nodes) for f, c in fits)

    def drawn(self, draw: Callable[[], Architecture]) -> Architecture:
        """The first draw that keeps to the limits; after `TRIES` that do not, what is nearest to the last."""
        for _ in range(TRIES):
            architecture = draw()
            if self.allows(architecture):
                return architecture
        return self.within(architecture)

    def within(self, architecture: Architecture) -> Architecture:
        """The architecture itself where it keeps to the limits, else the one that keeps most of its operations and
        inputs; an operation on an input counts twice as much as that input with another one.

        One that lies outside the space stays as it is.
        """
        if not architecture.in_space or self.allows(architecture):
            return architecture
        space, operations = self.space, self.space.primitives
        scores = np.zeros((len(architecture), len(space.edges), len(operations)))
        for k, cell in enumerate(architecture.layers):
            for (first, _), node in zip(space.node_edges, cell.nodes, strict=True):
                for op, source in node:
                    scores[k, first + source] += 1
                    scores[k, first + source, operations.index(op)] += 1
        found = self.best(scores, operations)
        assert found is not None, "limits that cannot be met are refused before"
        return replace(found, origin=architecture.origin)

    def best(self, scores: Floats, operations: Sequence[str]) -> Architecture | None:
        """The architecture with the largest sum of scores [L, E, O] of what it keeps; None where none is feasible.

        Exact, up to sums that differ in the last digits. Where cells are shared, the scores are those of the first
        layer of each kind, and L may be another depth than the delivered one.
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
        cells = [Cell(tuple(nodes)) for nodes in chosen]
        genes = [cells[k in reductions] for k in range(layers)] if self.delivered.shared else cells
        return Architecture(tuple(genes), reductions, self.space.name)

    def least(self, name: str) -> Architecture | None:
        """The architecture that uses least of something among the others that are feasible without its limit."""
        others = Feasible(self.delivered, {each: most for each, most in self.limits.items() if each != name})
        if name == RAM:
            return others.least_memory()
        operations = self.space.primitives
        uses = [table[..., SUMS.index(name)] for table in self._tables]
        rows = self._rows(uses)
        return others.best(-np.stack(rows).astype(float), operations)

    def least_memory(self) -> Architecture | None:
        """The feasible architecture whose memory is least, by bisection over what is a limit of memory."""
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

    def _cells(self, architecture: Architecture) -> list[Cell] | None:
        """The cell of each group; None where the architecture is none of the space, or of another depth."""
        if architecture.space != self.space.name or not architecture.in_space:
            return None
        if self.delivered.shared:
            pair = cell_pair(architecture)
            return None if pair is None else list(pair)
        return list(architecture.layers) if len(architecture) == self.delivered.layers else None

    def _rows(self, groups: Sequence[Any]) -> list[Any]:
        """What there is of each group, by the delivered layers."""
        kinds = layer_kinds(self.delivered.layers)
        return [groups[kind] for kind in kinds] if self.delivered.shared else list(groups)

    # --- tables -------------------------------------------------------------------------------------------

    @cached_property
    def _summed(self) -> list[str]:
        """What of the limits is a sum."""
        return [name for name in SUMS if name in self.limits]

    @cached_property
    def _members(self) -> list[list[int]]:
        """The delivered layers of each group."""
        kinds = layer_kinds(self.delivered.layers)
        if self.delivered.shared:
            return [[k for k, kind in enumerate(kinds) if kind == each] for each in (0, 1)]
        return [[k] for k in range(self.delivered.layers)]

    @cached_property
    def _example(self) -> NetworkPlan:
        """The network of some architecture: all have its widths."""
        rng = np.random.default_rng(0)
        return self.delivered.planned(sampling.sample(self.space, rng, self.delivered.layers, shared=True))

    @cached_property
    def _places(self) -> list[tuple[CellPlan, Reads]]:
        """Of each delivered layer a cell's plan, and what it reads."""
        network, shape = self._example, self.delivered.shape
        found = []
        # The outputs of the two layers before, and whether these are one.
        stem = self.delivered.programs(network)[0]
        alone = stem.kept[0] == stem.kept[1]
        _, before = chain_cost(network.stem.first, shape.image_size)
        pixels = chain_cost(network.stem.second, before)[1] if network.stem.second else before
        widths = (network.stem.width, network.stem.width)
        for k, cell in enumerate(network.cells):
            last = k == len(network.cells) - 1
            found.append((cell, Reads(*widths, before, pixels, alone and k == 0, last)))
            before, pixels = pixels, side_after(cell, before, pixels)
            widths = (widths[1], cell.outputs)
        return found

    @cached_property
    def _tables(self) -> list[npt.NDArray[np.int64]]:
        """[groups] of [E, O, 4]: what each primitive uses on each edge, in all layers of the group, by `SUMS`."""
        kinds = layer_kinds(self.delivered.layers)
        layers = [self._uses(k, bool(kinds[k])) for k in range(self.delivered.layers)]
        return [np.sum([layers[k] for k in members], axis=0) for members in self._members]

    def _uses(self, k: int, reduction: bool) -> npt.NDArray[np.int64]:
        cell, reads = self._places[k]
        outer = chain_cost(cell.preprocess[1], reads.pixels)[1]
        inner = side_after(cell, reads.pixels_before, reads.pixels)
        table = np.zeros((len(self.space.edges), len(self.space.primitives), len(SUMS)), np.int64)
        for e, (_, source) in enumerate(self.space.edges):
            outside = source < 2
            for o, name in enumerate(self.space.primitives):
                stride, side = 2 if reduction and outside else 1, outer if outside else inner
                chain = PRIMITIVES[name].chain(cell.channels, stride)
                cost, _ = chain_cost(chain, side)
                time = self.delivered.times.get(latency.key(name, cell.channels, stride, side), 0)
                table[e, o] = cost.params, cost.macs, edge_bytes(chain), time
        return table

    @cached_property
    def _left(self) -> list[int]:
        """What the limits leave for the operations, of each sum."""
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
        """Whether all that is the same for every architecture keeps to the limit of memory: the stem, the classifier,
        and of the layers what comes before and after the nodes."""
        if RAM not in self.limits:
            return True
        stem, *_, classifier = self.delivered.programs(self._example)
        return all(peak(part).numbers <= self._numbers for part in (stem, classifier)) and all(
            max(_numbers(place, NONE), place.joined) <= self._numbers for place in self._memory_places
        )

    @cached_property
    def _numbers(self) -> int:
        """The limit of memory, in numbers."""
        return self.limits[RAM] // PRECISIONS[self.delivered.precision]

    @cached_property
    def _memory_places(self) -> list[_Place]:
        """The delivered layers."""
        kinds, second = layer_kinds(self.delivered.layers), bool(self._example.stem.second)
        shrunk = [second, *map(bool, kinds)]
        return [
            _Place(cell.channels, reads, bool(kinds[k]), shrunk[k], self.space.nodes)
            for k, (cell, reads) in enumerate(self._places)
        ]

    # --- groups -------------------------------------------------------------------------------------------

    def _group(self, g: int, scores: Floats, operations: Sequence[str]) -> Group:
        """The choices of a group's cell, by the scores [E, O] of operations."""
        reduction = bool(layer_kinds(self.delivered.layers)[self._members[g][0]])
        fits = self._fits(g)
        nodes = tuple(
            self._options(g, n, scores, operations, reduction, fits is not None) for n in range(self.space.nodes)
        )
        return Group(nodes, fits)

    def _options(
        self, g: int, n: int, scores: Floats, operations: Sequence[str], reduction: bool, by_memory: bool
    ) -> Options:
        """What node n can be, without what cannot be part of the best choice."""
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
        """Whether the first nodes of a group's cell keep to the limit of memory in all of its layers; None: all do."""
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
        """The different layers of each group in which a cell may be beyond the limit of memory."""
        if RAM not in self.limits:
            return [[] for _ in self._members]
        places = (dict.fromkeys(self._memory_places[k] for k in members) for members in self._members)
        return [[place for place in each if place.bound > self._numbers] for each in places]


@dataclass(frozen=True)
class _Place:
    """A layer, as far as the memory of a cell in it goes."""

    channels: int
    reads: Reads
    reduction: bool
    shrunk: bool
    nodes: int

    def plan(self, nodes: Nodes) -> CellPlan:
        reads = self.reads
        return cell_plan(Cell(nodes), reads.before, reads.previous, self.channels, self.reduction, self.shrunk)

    @property
    def joined(self) -> int:
        """What the concatenation at its end holds: all nodes twice, and what the next layer reads beside them."""
        side = side_after(self.plan((((ANY, 0),),) * self.nodes), self.reads.pixels_before, self.reads.pixels)
        kept = 0 if self.reads.last else self.reads.previous * self.reads.pixels**2
        return kept + 2 * self.nodes * self.channels * side**2

    @property
    def bound(self) -> int:
        """No less than any cell holds here at once: all steps of the preprocessing, every state twice, and what an
        operation has within."""
        program = layer_program(self.plan(()), self.reads, whole=False)
        inputs = sum(program.size.values())
        state = max(self.channels * side**2 for side in (self.reads.pixels_before, self.reads.pixels))
        return inputs + state * (2 * (2 + self.nodes) + 8)


@dataclass(frozen=True)
class _Nodes:
    """The first nodes of a cell; equal where their operations are alike as far as memory goes."""

    kinds: tuple[tuple[tuple[int, int], ...], ...]
    nodes: Nodes = field(compare=False)


NONE = _Nodes((), ())


@lru_cache(100_000)
def _numbers(place: _Place, first: _Nodes) -> int:
    """What a cell with these first nodes holds at least."""
    cell = place.plan(first.nodes)
    return peak(layer_program(cell, place.reads, whole=len(first.nodes) == place.nodes)).numbers


@cache
def _kinds(op: str, reduces: bool) -> int:
    """A number that operations share which are alike as far as memory goes: the kinds and strides of their layers."""
    chain = PRIMITIVES[op].chain(2, 2 if reduces else 1)
    layers = tuple((type(layer).__name__, getattr(layer, "stride", None)) for layer in chain)
    return _KINDS.setdefault(layers, len(_KINDS))


_KINDS: dict[Any, int] = {}


def _joined(edges: Sequence[Options], kinds: Sequence[Sequence[int]], inputs: int) -> Options:
    """All ways to take so many edges of a node, one operation on each, without what is dominated.

    Args:
        kinds: Of every option of each edge; only ways by the same edges and kinds are compared. All 0: all are.
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

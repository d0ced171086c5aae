"""Exact selection of the best layers under limits on their total use of resources.

A group is one layer to choose, for one place in the network or for all places that share it. Each node has options,
each with a score and its use of the resources. Scores and uses are additive, so this is a multiple-choice knapsack
problem. Its dual (a price for each resource, found by bisection) bounds the optimum from above, and any feasible choice
bounds it from below. Only layers within the gap between the two bounds can be part of a better choice. These few are
combined group by group (the dynamic program of Nemhauser and Ullmann), dropping states that are dominated or cannot
exceed the best known choice.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
# Scores of choices are sums, so equal scores may differ by rounding.
SAME = 1e-12
BISECTIONS, ROUNDS = 50, 4
FIRST_TRY = 24  # layers per group in the search for a first feasible choice
FURTHER = 8  # growth factor of that number while better choices may exist
BEAM = 500
COMPARED = 3_000  # states compared with each other if there are several resources


@dataclass(frozen=True)
class Options:
    """Options of a node: names [M], scores [M] and uses [M, R] of each resource."""

    names: tuple[Any, ...]
    scores: Floats
    uses: Counts

    def best(self, alike: Sequence[int] | None = None) -> Options:
        """Return the options that are not dominated in score and every use. The first of equal options is kept.

        Args:
            alike: Class of each option [M]; only options of the same class are compared.
        """
        order = np.lexsort((*self.uses.T[::-1], -self.scores))
        uses = self.uses[order]
        beaten = np.tril((uses[None] <= uses[:, None]).all(2), -1)
        if alike is not None:
            kinds = np.array(alike)[order]
            beaten &= kinds[None] == kinds[:, None]
        kept = np.sort(order[~beaten.any(1)])
        return Options(tuple(self.names[i] for i in kept.tolist()), self.scores[kept], self.uses[kept])


@dataclass(frozen=True)
class Group:
    """A layer to choose.

    Attributes:
        nodes: The options of each node.
        fits: Returns True if a layer whose first nodes (or all nodes) have these names is allowed. If it is not, no
            extension by further nodes may be allowed. None: all layers are.
    """

    nodes: tuple[Options, ...]
    fits: Callable[[tuple[Any, ...]], bool] | None = None

    def layers(self, prices: Floats, checked: bool = True) -> Iterator[tuple[float, tuple[int, ...]]]:
        """Yield (worth, options) of all allowed layers by decreasing worth: the score minus the price of the uses.

        Args:
            checked: False leaves it to the caller to check whether a complete layer is allowed.
        """
        worth = [node.scores - node.uses @ prices for node in self.nodes]
        order = [np.argsort(-each, kind="stable") for each in worth]
        ahead = np.cumsum([0.0] + [float(each.max()) for each in reversed(worth)])[::-1]
        queue: list[tuple[float, int, tuple[int, ...], float]] = []
        ticket = count()

        def push(places: tuple[int, ...], before: float) -> None:
            n = len(places) - 1
            if places[-1] < len(order[n]):
                value = before + float(worth[n][order[n][places[-1]]])
                heapq.heappush(queue, (-(value + float(ahead[n + 1])), next(ticket), places, before))

        push((0,), 0.0)
        while queue:
            bound, _, places, before = heapq.heappop(queue)
            n = len(places) - 1
            push((*places[:-1], places[-1] + 1), before)
            chosen = tuple(int(order[m][place]) for m, place in enumerate(places))
            whole = len(places) == len(self.nodes)
            if (checked or not whole) and not self.allows(chosen):
                continue
            if whole:
                yield -bound, chosen
            else:
                push((*places, 0), before + float(worth[n][order[n][places[-1]]]))

    def allows(self, chosen: Sequence[int]) -> bool:
        return self.fits is None or self.fits(self.named(chosen))

    def named(self, chosen: Sequence[int]) -> tuple[Any, ...]:
        return tuple(node.names[i] for node, i in zip(self.nodes, chosen, strict=False))

    def totals(self, layers: Sequence[tuple[int, ...]]) -> tuple[Floats, Counts]:
        """Return the scores [M] and uses [M, R] of layers."""
        columns = np.array(layers, np.int64).reshape(len(layers), len(self.nodes)).T
        scores = sum(node.scores[column] for node, column in zip(self.nodes, columns, strict=True))
        uses = sum(node.uses[column] for node, column in zip(self.nodes, columns, strict=True))
        return np.asarray(scores), np.asarray(uses)


Choice = tuple[tuple[int, ...], ...]


def best_choice(groups: Sequence[Group], limits: Sequence[int]) -> list[tuple[Any, ...]] | None:
    """Return the node names of every group with the largest sum of scores within the limits [R], or None."""
    bounds = np.array(limits, np.int64)
    if any(len(node.names) == 0 for group in groups for node in group.nodes):
        return None
    groups = _scaled(groups)
    if not _can_be_met(groups, bounds):
        return None
    prices = _prices(groups, bounds)
    first = [next(group.layers(prices), None) for group in groups]
    if any(each is None for each in first):
        return None
    known = [each for each in first if each is not None]
    upper = sum(worth for worth, _ in known) + float(prices @ bounds)
    incumbent = _first_choice(groups, bounds, prices)
    if incumbent is None:
        incumbent = _exhaustive(groups, bounds)
        if incumbent is None:
            return None
    score = _score(groups, incumbent)
    near = [group.layers(prices, checked=False) for group in groups]
    lists: list[list[tuple[float, tuple[int, ...]]]] = [[next(layers)] for layers in near]
    reach, everything = FIRST_TRY, False
    while not everything and upper - score > (tolerance := SAME * max(1.0, abs(score))):
        everything = True
        for layers, more, (top, _) in zip(lists, near, known, strict=True):
            least = top - (upper - score)
            while layers[-1][0] >= least and len(layers) < reach and (layer := next(more, None)):
                layers.append(layer)
            everything &= len(layers) < reach or layers[-1][0] < least
        promising = _promising(groups, [[chosen for _, chosen in layers] for layers in lists], bounds, score)
        better = _combined(groups, promising, bounds, prices, score + tolerance, 0 if everything else BEAM)
        if better is not None:
            incumbent, score = better, _score(groups, better)
        reach *= FURTHER
    return [group.named(chosen) for group, chosen in zip(groups, incumbent, strict=True)]


def _score(groups: Sequence[Group], choice: Choice) -> float:
    return sum(float(group.totals([chosen])[0][0]) for group, chosen in zip(groups, choice, strict=True))


def _promising(
    groups: Sequence[Group], lists: Sequence[Sequence[tuple[int, ...]]], bounds: Counts, least: float
) -> list[list[tuple[int, ...]]]:
    """Return the allowed layers that can be part of a choice above `least`.

    The other groups are bounded by their best and their cheapest layers. The check of whether a layer is allowed is the
    slowest one and comes last.
    """
    scores, uses = _totals(groups, lists)
    kept = [np.arange(len(each)) for each in scores]
    smaller = True
    while smaller and all(map(len, kept)):
        best = [score[rows].max() for score, rows in zip(scores, kept, strict=True)]
        cheapest = [use[rows].min(0) for use, rows in zip(uses, kept, strict=True)]
        smaller = False
        for g, rows in enumerate(kept):
            hopeful = scores[g][rows] + (sum(best) - best[g]) > least
            hopeful &= (uses[g][rows] + (np.sum(cheapest, 0) - cheapest[g]) <= bounds).all(1)
            smaller |= not hopeful.all()
            kept[g] = rows[hopeful]
    return [
        [layers[i] for i in rows.tolist() if group.allows(layers[i])]
        for group, layers, rows in zip(groups, lists, kept, strict=True)
    ]


def _scaled(groups: Sequence[Group]) -> list[Group]:
    """Scale the scores to at most 1: some methods return scores below 1e-12, too small for the tolerances."""
    most = max(float(np.abs(node.scores).max()) for group in groups for node in group.nodes)
    factor = 1 / most if 0 < most < np.inf else 1.0
    return [
        replace(group, nodes=tuple(replace(node, scores=node.scores * factor) for node in group.nodes))
        for group in groups
    ]


def _totals(groups: Sequence[Group], lists: Sequence[Sequence[tuple[int, ...]]]) -> tuple[list[Floats], list[Counts]]:
    """Return the scores and the uses of the layers of each group."""
    found = [group.totals(layers) for group, layers in zip(groups, lists, strict=True)]
    return [scores for scores, _ in found], [uses for _, uses in found]


def _can_be_met(groups: Sequence[Group], bounds: Counts) -> bool:
    """Return False only if no choice is feasible: the minimum of a use, or of their mean, exceeds its limit."""
    if (bounds < 0).any():
        return False
    shares = np.maximum(1, bounds)
    nodes = [node.uses for group in groups for node in group.nodes]
    least = np.array(sum(uses.min(0) for uses in nodes), np.int64)
    mean = sum(float((uses / shares).sum(1).min()) for uses in nodes)
    return bool((least <= bounds).all() and mean <= len(bounds) * (1 + 1e-9))


def _prices(groups: Sequence[Group], bounds: Counts) -> Floats:
    """Return a price for each resource that makes the dual bound low.

    The prices are raised one after the other until the best choice under them is within the limit of that resource.
    """
    nodes = [node for group in groups for node in group.nodes]
    most = max(len(node.names) for node in nodes)
    scores = np.full((len(nodes), most), -np.inf)
    uses = np.zeros((len(nodes), most, len(bounds)))
    for n, node in enumerate(nodes):
        scores[n, : len(node.names)], uses[n, : len(node.names)] = node.scores, node.uses
    rows = np.arange(len(nodes))
    prices = np.zeros(len(bounds))
    spread = max(1e-12, max(float(np.ptp(node.scores)) for node in nodes))
    scale = np.maximum(1.0, uses.max((0, 1)))

    def beyond(r: int, price: float) -> bool:
        prices[r] = price
        chosen = (scores - uses @ prices).argmax(1)
        return bool(uses[rows, chosen, r].sum() > bounds[r])

    for _ in range(ROUNDS if len(bounds) > 1 else 1):
        for r in range(len(bounds)):
            if not beyond(r, 0.0):
                continue
            low, high = 0.0, spread / scale[r]
            while beyond(r, high) and high < 1e12 * spread:
                low, high = high, 2 * high
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                low, high = (middle, high) if beyond(r, middle) else (low, middle)
            prices[r] = high
    return prices


def _first_choice(groups: Sequence[Group], bounds: Counts, prices: Floats) -> Choice | None:
    """Return a good feasible choice from the best layers under these prices, under higher prices, and the cheapest."""
    base = 1 / np.maximum(1, bounds)
    spread = max(1.0, max(float(np.abs(node.scores).max()) for group in groups for node in group.nodes))
    lists = []
    for group in groups:
        layers = [chosen for _, chosen in islice(group.layers(prices), FIRST_TRY)]
        for raised in (1.2 * prices, 2 * prices, 5 * prices, 1e6 * spread * base):
            layers += [chosen for _, chosen in islice(group.layers(raised), 2)]
        for r in range(len(bounds)):
            alone = 1e-3 * base
            alone[r] = 1.0
            layers += [chosen for _, chosen in islice(group.layers(1e6 * spread * alone), 1)]
        lists.append(list(dict.fromkeys(layers)))
    return _combined(groups, lists, bounds, prices, -np.inf, BEAM)


def _exhaustive(groups: Sequence[Group], bounds: Counts) -> Choice | None:
    """Return a feasible choice among all layers (except those that use more than another), or None if none exists."""
    lists = []
    for group in groups:
        kept: list[tuple[tuple[int, ...], Counts]] = []
        prices = 1e9 / np.maximum(1, bounds)
        for _, chosen in group.layers(prices):
            uses = group.totals([chosen])[1][0]
            if (uses <= bounds).all() and not any((other <= uses).all() for _, other in kept):
                kept.append((chosen, uses))
            if len(bounds) == 1:
                break
        lists.append([chosen for chosen, _ in kept])
    return _combined(groups, lists, bounds, np.zeros(len(bounds)), -np.inf)


def _combined(
    groups: Sequence[Group],
    lists: Sequence[Sequence[tuple[int, ...]]],
    bounds: Counts,
    prices: Floats,
    least: float,
    beam: int = 0,
) -> Choice | None:
    """Return the choice among these layers with the largest score if it exceeds `least`, otherwise None.

    Args:
        beam: Maximum number of states kept; 0 keeps all, which guarantees the optimum.
    """
    if any(not layers for layers in lists):
        return None
    scores, uses = _totals(groups, lists)
    worth = [float((s - u @ prices).max()) for s, u in zip(scores, uses, strict=True)]
    cheapest = [u.min(0) for u in uses]
    state_scores, state_uses = np.zeros(1), np.zeros((1, len(bounds)), np.int64)
    trail: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    for g in range(len(groups)):
        ahead, needed = sum(worth[g + 1 :]), sum(cheapest[g + 1 :], np.zeros(len(bounds), np.int64))
        size = len(scores[g])
        added_scores = (state_scores[:, None] + scores[g][None]).ravel()
        added_uses = (state_uses[:, None] + uses[g][None]).reshape(len(added_scores), len(bounds))
        hope = added_scores + (bounds - added_uses) @ prices + ahead
        left = np.flatnonzero((added_uses + needed <= bounds).all(1) & (hope > least))
        left = left[_undominated(added_scores[left], added_uses[left])]
        if beam and len(left) > beam:
            cheap = np.argsort((added_uses[left] / np.maximum(1, bounds)).max(1), kind="stable")[: beam // 4]
            best = np.argsort(-hope[left], kind="stable")[: beam - beam // 4]
            left = left[np.unique(np.concatenate([best, cheap]))]
        if not len(left):
            return None
        state_scores, state_uses = added_scores[left], added_uses[left]
        trail.append((left // size, left % size))
    state = int(state_scores.argmax())
    if not state_scores[state] > least:
        return None
    chosen: list[tuple[int, ...]] = []
    for g in reversed(range(len(groups))):
        before, layer = trail[g]
        chosen.append(lists[g][int(layer[state])])
        state = int(before[state])
    return tuple(reversed(chosen))


def _undominated(scores: Floats, uses: Counts) -> npt.NDArray[np.int64]:
    """Return the indices of the states that are not dominated in score and use; of equal states, the first."""
    order = np.lexsort((*uses.T[::-1], -scores)) if uses.shape[1] != 1 else np.lexsort((-scores, uses[:, 0]))
    if uses.shape[1] == 1:
        best = np.maximum.accumulate(scores[order])
        kept = np.concatenate([[True], scores[order][1:] > best[:-1]])
        return np.sort(order[kept[: len(order)]])
    if len(order) > COMPARED:
        return np.sort(order)
    sorted_uses = uses[order]
    kept = np.ones(len(order), bool)
    for i in range(1, len(order)):
        kept[i] = not (sorted_uses[:i][kept[:i]] <= sorted_uses[i]).all(1).any()
    return np.sort(order[kept])

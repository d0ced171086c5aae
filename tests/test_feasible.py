"""Architectures within limits: the best of them is that of brute force, and what they cost is what networks cost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dnas.space import choosing, sampling
from dnas.space.architecture import Architecture
from dnas.space.choosing import Group, Options
from dnas.space.darts import DARTS, S1
from dnas.space.darts_cell import Cell
from dnas.space.limits import Delivered, Feasible
from dnas.space.network_plan import Shape
from dnas.space.protocol import layer_kinds, reduction_layers

SHAPE = Shape(channels=4, classes=3, image_size=16, image_channels=1, stem="cifar")
NAMES = ("params", "macs", "size", "ram")
# Two nodes of one input each among three operations: 6 · 9 cells of a layer.
TINY = replace(DARTS, nodes=2, inputs_per_node=1, primitives=("max_pool_3x3", "skip_connect", "sep_conv_3x3"))


def delivered(space, layers, shared=False, shape=SHAPE, precision="int8"):
    return Delivered(space, layers, shared, shape, ("a", "b", "c"), precision)


@st.composite
def problems(draw):
    resources = draw(st.integers(0, 3))
    groups = []
    for _ in range(draw(st.integers(1, 3))):
        nodes = []
        for _ in range(draw(st.integers(1, 2))):
            count = draw(st.integers(1, 3))
            scores = draw(st.lists(st.integers(-9, 9), min_size=count, max_size=count))
            uses = [draw(st.lists(st.integers(0, 9), min_size=resources, max_size=resources)) for _ in range(count)]
            nodes.append(
                Options(tuple(range(count)), np.array(scores, float), np.array(uses, int).reshape(count, resources))
            )
        bad = draw(st.sets(st.tuples(st.integers(0, 2)) | st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3))
        fits = (lambda names, bad=bad: names[:1] not in bad and names not in bad) if draw(st.booleans()) else None
        groups.append(Group(tuple(nodes), fits))
    return groups, draw(st.lists(st.integers(0, 40), min_size=resources, max_size=resources))


@given(problems(), st.sampled_from((1.0, 1e-13, 1e6)), st.sampled_from((1, 2, choosing.FIRST_TRY)))
def test_the_best_choice_is_that_of_brute_force(problem, scale, reach):
    """Whatever the scores' scale, and however few cells are looked at first."""
    groups, limits = problem
    groups = [replace(g, nodes=tuple(replace(n, scores=scale * n.scores) for n in g.nodes)) for g in groups]
    cells = [
        [c for c in itertools.product(*(range(len(n.names)) for n in g.nodes)) if g.fits is None or g.fits(c)]
        for g in groups
    ]

    def totals(choice):
        each = [g.totals([c]) for g, c in zip(groups, choice, strict=True)]
        return sum(float(scores[0]) for scores, _ in each), sum(uses[0] for _, uses in each)

    every = [totals(choice) for choice in itertools.product(*cells)]
    feasible = [score for score, uses in every if (uses <= limits).all()]
    with patch.multiple(choosing, FIRST_TRY=reach, BEAM=max(2, reach)):
        found = choosing.best_choice(groups, limits)
    if found is None:
        assert not feasible
        return
    score, uses = totals(found)
    assert (uses <= limits).all()
    assert all(g.fits is None or g.fits(c) for g, c in zip(groups, found, strict=True))
    assert score == pytest.approx(max(feasible), abs=1e-9 * scale)


@pytest.mark.parametrize("seed", range(60))
def test_the_best_choice_is_found_where_much_is_nearly_as_good(seed):
    """Three cells of 36 each, of which a third do not fit, and one cell at a time is looked at first."""
    rng = np.random.default_rng(seed)
    every = list(itertools.product(range(6), repeat=2))
    groups, tables = [], []
    for _ in range(3):
        good = {cell for cell in every if rng.random() > 1 / 3}
        nodes = tuple(Options(tuple(range(6)), rng.random(6), rng.integers(0, 20, (6, 2))) for _ in range(2))
        groups.append(Group(nodes, lambda names, good=good: len(names) < 2 or names in good))
        cells = [cell for cell in every if cell in good]
        tables.append(groups[-1].totals(cells))
    scores = sum(np.ix_(*(score for score, _ in tables)))
    uses = [sum(np.ix_(*(use[:, r] for _, use in tables))) for r in range(2)]
    limits = [int(np.quantile(use, 0.1)) for use in uses]
    feasible = scores[(uses[0] <= limits[0]) & (uses[1] <= limits[1])]
    with patch.multiple(choosing, FIRST_TRY=1, FURTHER=2, BEAM=4):
        found = choosing.best_choice(groups, limits)
    if found is None:
        assert not len(feasible)
        return
    assert all(group.fits(cell) for group, cell in zip(groups, found, strict=True))
    each = [group.totals([cell]) for group, cell in zip(groups, found, strict=True)]
    assert (sum(use[0] for _, use in each) <= limits).all()
    assert sum(float(score[0]) for score, _ in each) == pytest.approx(feasible.max())


def cells_of(space):
    nodes = [[((op, source),) for source in range(n + 2) for op in space.primitives] for n in range(space.nodes)]
    return [Cell(picked) for picked in itertools.product(*nodes)]


class Free(Delivered):
    """Of cells that lie in no named space, so that a small one can be searched whole."""

    def planned(self, architecture):
        return super().planned(replace(architecture, space="free"))


def score(architecture, scores, space):
    total = 0.0
    for k, cell in enumerate(architecture.layers):
        for (first, _), node in zip(space.node_edges, cell.nodes, strict=True):
            total += sum(scores[k, first + source, space.primitives.index(op)] for op, source in node)
    return total


@given(st.integers(0, 10_000), st.sets(st.sampled_from(NAMES), min_size=1, max_size=2), st.floats(0.0, 0.9))
@settings(max_examples=8, deadline=None)
def test_the_best_cells_within_limits_are_those_of_brute_force(tiny_space, seed, names, quantile):
    """All pairs of cells of a small space, at three layers."""
    found, costs, pairs = tiny_space
    rng = np.random.default_rng(seed)
    scores = rng.random((3, len(TINY.edges), 3))
    limits = {name: int(np.quantile(costs[name], quantile)) for name in names}
    inside = [i for i in range(len(pairs)) if all(costs[name][i] <= most for name, most in limits.items())]
    best = Feasible(found, limits).best(scores, TINY.primitives)
    if best is None:
        assert not inside
        return
    pair = scores[[0, 1]]
    assert all(found.costs(best)[name] <= most for name, most in limits.items())
    expected = max(sum(score(Architecture((c,), (), "free"), pair[g : g + 1], TINY) for g, c in enumerate(pairs[i])) for i in inside)  # fmt: skip
    assert score(Architecture((best.layers[0], best.layers[1]), (), "free"), pair, TINY) == pytest.approx(expected)


@pytest.fixture(scope="module")
def tiny_space():
    from dnas.space import registry

    tiny = replace(TINY, name="tiny")
    registry.SPACES.register(tiny)
    found = delivered(tiny, 3, shared=True)
    pairs = list(itertools.product(cells_of(TINY), repeat=2))
    rows = [found.costs(Architecture((n, r, r), (1, 2), "tiny")) for n, r in pairs]
    yield found, {name: np.array([row[name] for row in rows]) for name in NAMES}, pairs
    registry.SPACES.forget()


@given(st.integers(0, 10_000), st.booleans(), st.sets(st.sampled_from(NAMES), min_size=1, max_size=3))
@settings(max_examples=8, deadline=None)
def test_what_is_found_keeps_to_the_limits_and_none_of_many_draws_is_better(seed, shared, names):
    rng = np.random.default_rng(seed)
    space, layers = (DARTS, S1)[seed % 2], 5
    found = delivered(
        space, layers, shared, replace(SHAPE, stem=("cifar", "halving", "imagenet")[seed % 3], image_size=32)
    )
    draws = [sampling.sample(space, rng, layers, shared=shared) for _ in range(30)]
    costs = [found.costs(each) for each in draws]
    limits = {name: int(np.quantile([row[name] for row in costs], 0.4)) for name in names}
    scores = rng.random((layers, len(space.edges), len(space.primitives)))
    kinds = layer_kinds(layers)
    if shared:
        scores = scores[[kinds.index(kind) for kind in kinds]]
    feasible = Feasible(found, limits)
    best = feasible.best(scores, space.primitives)
    inside = [a for a, row in zip(draws, costs, strict=True) if all(row[name] <= most for name, most in limits.items())]
    assume(best is not None)
    assert not feasible.excess(best) and best.reductions == reduction_layers(layers)
    rows = [0, best.reductions[0]] if shared else range(layers)

    def worth(architecture):
        own = Architecture(tuple(architecture.layers[k] for k in rows), (), "free")
        return score(own, scores[list(rows)], space)

    assert all(worth(best) >= worth(each) - 1e-9 for each in inside)
    # By tables, and by what a network costs.
    assert [each for each in draws if feasible.allows(each)] == inside
    for each in draws[:5]:
        kept = feasible.within(each)
        assert not feasible.excess(kept) and (kept is each) == (each in inside)


def test_what_cannot_be_met_has_a_least():
    found = delivered(DARTS, 4)
    least = Feasible(found, {"params": 10}).least("params")
    assert all(
        op in ("max_pool_3x3", "avg_pool_3x3", "skip_connect") for c in least.layers for n in c.nodes for op, _ in n
    )
    fewest = found.costs(least)["params"]
    zeros = np.zeros((4, len(DARTS.edges), 7))
    assert Feasible(found, {"params": fewest}).best(zeros, DARTS.primitives) is not None
    assert Feasible(found, {"params": fewest - 1}).best(zeros, DARTS.primitives) is None
    memory = found.costs(Feasible(found, {"ram": 10}).least("ram"))["ram"]
    assert Feasible(found, {"ram": memory}).best(zeros, DARTS.primitives) is not None
    assert Feasible(found, {"ram": memory - 1}).best(zeros, DARTS.primitives) is None

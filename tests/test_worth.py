"""The additive model of worth: closed forms, planted factors, the slow way of leaving out, depths and files."""

import json

import numpy as np
import pytest
from data_tools import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from dnas.errors import InputError
from dnas.rng import numpy_stream
from dnas.space.architecture import layer_pair, stack
from dnas.space.darts import DARTS
from dnas.space.protocol import layer_kinds, reduction_layers
from dnas.space.registry import get_space
from dnas.space.sampling import mutate, neighbours, sample
from dnas.supernet import worth as module
from dnas.supernet.worth import PENALTIES, Factors, Worth, counts, factors_of, fit, load_prior, shapes, strongest

LAYERS, EDGES, OPS = 6, len(DARTS.edges), len(DARTS.primitives)


def factors(rng, scale=1.0):
    shapes = ((EDGES, OPS), (LAYERS, EDGES), (LAYERS, OPS))
    return Factors(*(scale * rng.standard_normal(shape) for shape in shapes))


def planted(seed, error=0.0):
    rng = np.random.default_rng(seed)
    same = Factors(
        *(np.full(each.shape, error) for each in (factors(rng).alpha, factors(rng).beta, factors(rng).gamma))
    )
    return Worth(DARTS, factors(rng), same, 1.0, "planted")


def architectures(count, seed=0, layers=LAYERS):
    rng = numpy_stream(seed, "these")
    return [sample(DARTS, rng, layers) for _ in range(count)]


def accuracies(worth, those):
    odds = np.array([worth.of(each) for each in those])
    return list(1 / (1 + np.exp(-(odds - odds.mean()) / odds.std())))


def test_worth_is_the_sum_over_slots():
    worth = planted(1)
    architecture = architectures(1)[0]
    total = 0.0
    for k, cell in enumerate(architecture.layers):
        for n, node in enumerate(cell.nodes):
            for op, source in node:
                e, o = DARTS.edges.index((n, source)), DARTS.primitives.index(op)
                total += worth.mean.alpha[e, o] + worth.mean.beta[k, e] + worth.mean.gamma[k, o]
    assert worth.of(architecture) == pytest.approx(total)


@pytest.mark.parametrize("mapping", ["shared", "full", "decoupled"])
def test_factors_of_a_mapping_are_counted_where_they_lie(mapping):
    architecture = sample(DARTS, numpy_stream(0, "one"), LAYERS, shared=mapping == "shared")
    rows = layer_kinds(LAYERS) if mapping == "shared" else range(LAYERS)
    alpha, beta, gamma = (np.zeros(shape) for shape in shapes(DARTS, LAYERS, mapping))
    for row, cell in dict(zip(rows, architecture.layers, strict=True)).items():
        for n, node in enumerate(cell.nodes):
            for op, source in node:
                e, o = DARTS.edges.index((n, source)), DARTS.primitives.index(op)
                alpha[(e, o) if mapping == "decoupled" else (row, e, o)] += 1
                beta[row, e] += 1
                gamma[row, o] += 1
    found = factors_of(counts(architecture, DARTS, LAYERS, mapping), DARTS, LAYERS, mapping)
    for one, two in zip((found.alpha, found.beta, found.gamma), (alpha, beta, gamma), strict=True):
        assert np.array_equal(one, two)
    assert np.array_equal(found.flat, counts(architecture, DARTS, LAYERS, mapping))


@pytest.mark.parametrize("mapping", ["shared", "full", "decoupled"])
def test_no_neighbour_of_the_strongest_has_a_larger_sum(mapping):
    rng = np.random.default_rng(1)
    drawn = Factors(*(rng.standard_normal(shape) for shape in shapes(DARTS, LAYERS, mapping)))
    best = strongest(drawn, DARTS, LAYERS, {"a": 1})
    assert best.origin == {"a": 1} and best.reductions == reduction_layers(LAYERS)
    most = drawn.flat @ counts(best, DARTS, LAYERS, mapping)
    stream = numpy_stream(0, "near")
    near = [mutate(DARTS, stream, best, shared=mapping == "shared") for _ in range(200)]
    assert all(drawn.flat @ counts(each, DARTS, LAYERS, mapping) < most for each in near)


@given(st.integers(0, 2**31), st.integers(3, 12))
def test_nothing_near_the_best_is_worth_more(seed, layers):
    worth = planted(seed)
    best = worth.best(layers)
    assert best.reductions == reduction_layers(layers) and len(best) == layers
    most = worth.of(best)
    if layers == LAYERS:
        assert all(worth.of(each) <= most + 1e-9 for each in neighbours(DARTS, best))
    rng = numpy_stream(seed, "near")
    for _ in range(20):
        near = best
        for _ in range(int(rng.integers(1, 6))):
            near = mutate(DARTS, rng, near)
        assert worth.of(near) <= most + 1e-9


def test_the_best_of_shared_cells_is_a_stack_that_no_other_stack_beats():
    worth = planted(3)
    best = worth.best(9, shared=True)
    pair = layer_pair(best)
    assert pair is not None
    rng = numpy_stream(0, "pairs")
    # Layers of one kind count alike for what is shared: their means are what it is chosen by.
    kinds = np.array(layer_kinds(9))
    rows = module._rows(9, LAYERS)

    def mean_worth(architecture):
        total = 0.0
        for kind, cell in enumerate(layer_pair(architecture)):
            beta, gamma = (each[rows][kinds == kind].mean(0) for each in (worth.mean.beta, worth.mean.gamma))
            for n, node in enumerate(cell.nodes):
                for op, source in node:
                    e, o = DARTS.edges.index((n, source)), DARTS.primitives.index(op)
                    total += worth.mean.alpha[e, o] + beta[e] + gamma[o]
        return total

    most = mean_worth(best)
    for _ in range(300):
        assert mean_worth(mutate(DARTS, rng, best, shared=True)) <= most + 1e-9


def test_draws_follow_the_errors():
    sure, unsure = planted(4), planted(4, error=5.0)
    rng = numpy_stream(0, "draws")
    assert all(sure.best(LAYERS, rng=rng).layers == sure.best(LAYERS).layers for _ in range(3))
    drawn = {unsure.best(LAYERS, rng=rng).layers for _ in range(8)}
    assert len(drawn) == 8


def test_planted_factors_are_found():
    worth = planted(5)
    those = architectures(1_000)
    found = fit(those, {"a": accuracies(worth, those)}, DARTS, LAYERS)
    fresh = architectures(200, seed=1)
    assert spearmanr([worth.of(a) for a in fresh], [found.of(a) for a in fresh]).statistic > 0.99
    assert found.explained > 0.95
    assert worth.of(found.best(LAYERS)) > 0.95 * worth.of(worth.best(LAYERS))


def test_noise_explains_nothing():
    rng = np.random.default_rng(0)
    found = fit(architectures(150), {"a": list(rng.uniform(0.4, 0.6, 150))}, DARTS, LAYERS)
    assert found.explained < 0.15 and np.abs(found.mean.flat).max() < 3 * found.error.flat.max()


def test_errors_are_as_large_as_what_is_left_unexplained():
    rng, those = np.random.default_rng(0), architectures(400)
    known = fit(those, {"a": accuracies(planted(5), those)}, DARTS, LAYERS)
    noise = fit(those, {"a": list(rng.uniform(0.4, 0.6, 400))}, DARTS, LAYERS)
    # Both have the same architectures; the penalty of noise, which is larger, makes errors smaller.
    assert known.error.flat.mean() < 0.5 * noise.error.flat.mean()


def test_what_is_explained_is_what_predicting_each_from_all_others_gives(monkeypatch):
    those = architectures(24)
    values = accuracies(planted(6), those)
    for penalty in (PENALTIES[0], PENALTIES[-1]):
        monkeypatch.setattr(module, "PENALTIES", (penalty,))
        found = fit(those, {"a": values}, DARTS, LAYERS)
        x = np.stack([counts(each, DARTS, LAYERS) for each in those])
        y = np.array(module.standardised(values))
        errors = []
        for i in range(len(y)):
            others = np.arange(len(y)) != i
            mean_x, mean_y = x[others].mean(0), y[others].mean()
            centred = x[others] - mean_x
            gram = centred.T @ centred + penalty * np.eye(x.shape[1])
            weights = np.linalg.solve(gram, centred.T @ (y[others] - mean_y))
            errors.append(y[i] - mean_y - (x[i] - mean_x) @ weights)
        assert found.explained == pytest.approx(1 - np.mean(np.square(errors)) / y.var())


def test_too_few_trainings_are_refused():
    with refused("at least 3 trainings, got 2", "3"):
        fit(architectures(2), {"a": [0.5, 0.6]}, DARTS, LAYERS)


def test_data_sets_count_alike_however_hard_they_are():
    worth, those = planted(7), architectures(200)
    odds = np.array([worth.of(each) for each in those])
    odds = (odds - odds.mean()) / odds.std()
    easy, hard = 1 / (1 + np.exp(-(0.1 * odds + 3))), 1 / (1 + np.exp(-(odds - 1)))
    halves = np.arange(200) % 2 == 0
    both = {
        "easy": [v if h else None for v, h in zip(easy, halves, strict=True)],
        "hard": [None if h else v for v, h in zip(hard, halves, strict=True)],
    }
    # Each half's mean and spread are estimates of the whole's.
    assert fit(those, both, DARTS, LAYERS).explained > 0.9


@given(st.integers(3, 40))
def test_layers_of_another_depth_are_taken_for_those_that_lie_where_they_do(layers):
    rows = module._rows(layers, LAYERS)
    assert rows == sorted(rows)
    kinds, mine = layer_kinds(LAYERS), layer_kinds(layers)
    assert [kinds[row] for row in rows] == mine
    first, second = reduction_layers(layers)
    assert rows[first], rows[second] == reduction_layers(LAYERS)
    assert module._rows(LAYERS, LAYERS) == list(range(LAYERS))


def test_a_stack_is_worth_the_same_at_any_depth():
    worth = planted(8)
    rng = numpy_stream(0, "cells")
    normal, reduction = DARTS.sample(rng, False), DARTS.sample(rng, True)
    values = [worth.of(stack(normal, reduction, layers)) for layers in (6, 12, 20)]
    assert values[1:] == pytest.approx([values[0]] * 2)


def test_a_file_holds_it_and_a_broken_one_is_refused(tmp_path):
    worth = planted(9, error=0.25)
    data = json.loads(json.dumps(worth.to_json()))
    again = Worth.from_json(data)
    assert again.to_json() == data
    assert again.mean.flat == pytest.approx(worth.mean.flat, abs=1e-4)
    for broken in (
        {**data, "format": "other"},
        {**data, "space": "nowhere"},
        {**data, "mean": {**data["mean"], "alpha": [[0.0]]}},
        {**data, "error": {**data["error"], "beta": None}},
        {key: value for key, value in data.items() if key != "explained"},
        {**data, "mean": {k: v[:4] if k != "alpha" else v for k, v in data["mean"].items()}},
    ):
        with pytest.raises(InputError):
            Worth.from_json(broken)
    path = tmp_path / "prior.json"
    path.write_text("{")
    with refused("--prior", "prior.json"):
        load_prior(str(path))
    with refused("--prior 'nobody'", "pictures"):
        load_prior("nobody")


@pytest.mark.parametrize("name", module.PRIORS)
def test_shipped_priors_are_of_their_space_and_say_where_they_come_from(name):
    prior = load_prior(name)
    assert prior.space is get_space(prior.space.name)
    assert prior.source and 0 < prior.explained < 1
    best = prior.best(prior.layers)
    assert prior.of(best) > max(prior.of(each) for each in architectures(300))

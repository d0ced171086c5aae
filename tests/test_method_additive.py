"""`additive`, Bayesian optimisation by a sum of factors: docs/methods/additive.md."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from trial_tools import searched

from dnas.errors import InputError
from dnas.methods.additive import MUTANTS, PARENTS, expected_improvement
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.searching.judging import judged
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.supernet.ridge import Ridge, fit
from dnas.supernet.worth import PENALTIES, Factors, counts, shapes, standardised

ACTS = {
    "initial": ({}, 1),
    "batch_size": ({}, 1),
    "candidates": ({}, 30),
    "acquisition": ({}, "thompson"),
}
SMALL = {"candidates": 60}
LEARNS = {"candidates": 150}
MAPPINGS = ["shared", "full", "decoupled"]
LAYERS = 4


def method(mapping=None, budget=40, **options):
    made = create("additive", mapping, {"candidates": 60, **options}, DARTS)
    made.budget = budget
    return made


def run(made, score, trials, seed=0):
    return judged(made, LAYERS, seed, [], lambda i, c: score(c.architecture), lambda: False, trials)


def planted(mapping, seed=0):
    """Accuracies of 0.5, more or less, by a sum of factors: architecture → accuracy."""
    rng = np.random.default_rng(seed)
    factors = Factors(*(rng.standard_normal(shape) for shape in shapes(DARTS, LAYERS, mapping)))
    return lambda architecture: 1 / (1 + np.exp(-0.1 * factors.flat @ counts(architecture, DARTS, LAYERS, mapping)))


def sure(weights, mapping):
    """A model that has no doubt."""
    features = len(weights)
    return Ridge(weights, np.zeros(features), 0.0, np.eye(features), np.ones(features), 1.0, 1e-12, 100)


# --- what is tried next ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "deviation", "best"), [(0.0, 1.0, 0.5), (2.0, 0.3, 1.0), (-1.0, 2.0, 1.5), (0.0, 0.5, 6.0)]
)
def test_expected_improvement_is_its_integral(mean, deviation, best):
    end = max(mean, best) + 12 * deviation
    integral, _ = quad(lambda y: (y - best) * norm.pdf(y, mean, deviation), best, end, epsabs=0)
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert found == pytest.approx([integral], rel=1e-6, abs=0)


def test_the_least_improvement_still_has_an_order():
    found = expected_improvement(np.linspace(-37, 5, 500), np.ones(500), 0.0)
    assert (found > 0).all() and (np.diff(found) > 0).all()
    assert expected_improvement(np.array([-1e6, 1e6]), np.ones(2), 0.0) == pytest.approx([0.0, 1e6])


def test_a_round_tries_those_of_which_most_improvement_is_to_be_expected():
    """Against the posterior with explicit priors, over the architectures that the model was asked for."""
    made = method(batch_size=3)
    history = run(made, planted("shared"), 20)
    asked = []
    features = made._features
    made._features = lambda architectures, layers: (asked.append(architectures), features(architectures, layers))[1]
    proposed = [candidate.architecture for candidate in made.propose(history, LAYERS, 0)]
    judged_, pool = asked
    assert judged_ == [trial.architecture for trial in history] and len(set(pool)) == 60
    assert not set(pool) & set(judged_)
    x, z = ([counts(each, DARTS, LAYERS, "shared") for each in those] for those in (judged_, pool))
    y = np.array(standardised([trial.score for trial in history]))
    model = fit(np.stack(x), y, PENALTIES)
    design, queries = (np.column_stack([np.ones(len(those)), np.stack(those)]) for those in (x, z))
    prior = model.penalty * np.diag([0.0, *np.ones(len(x[0]))])
    covariance = model.variance * np.linalg.inv(design.T @ design + prior)
    mean = queries @ covariance @ design.T @ y / model.variance
    deviation = np.sqrt(np.einsum("ni,ij,nj->n", queries, covariance, queries))
    gain = deviation * (norm.pdf(u := (mean - y.max()) / deviation) + u * norm.cdf(u))
    assert proposed == [pool[i] for i in np.argsort(-gain)[:3]]


def test_thompson_sampling_tries_the_best_under_one_draw_each_and_none_twice():
    made, rng = method(acquisition="thompson"), np.random.default_rng(0)
    features = rng.standard_normal((30, 5))
    weights = rng.standard_normal(5)
    order = np.argsort(-features @ weights)
    assert made.chosen(sure(weights, "shared"), features, 0.0, 4, 0, 0) == list(order[:4])
    x, y = rng.standard_normal((8, 5)), rng.standard_normal(8)
    model = fit(x, y, (1.0,))
    draws = model.draws(numpy_stream(3, "acquisition", 7), 6)
    found = made.chosen(model, features, 0.0, 6, 3, 7)
    assert found[0] == int((features @ draws[0]).argmax()) and len(set(found)) == 6


def test_the_pool_has_the_strongest_of_draws_and_mutants_of_the_best():
    made = method(candidates=50)
    history = run(method("shared", budget=24, initial=12), planted("shared"), 24)
    weights = np.random.default_rng(1).standard_normal(len(counts(history[0].architecture, DARTS, LAYERS, "shared")))
    pool = made.pool(sure(weights, "shared"), history, history, LAYERS, 0)
    value = [weights @ counts(each, DARTS, LAYERS, "shared") for each in pool]
    rng = numpy_stream(0, "all")
    others = [sampling.sample(DARTS, rng, LAYERS, shared=True) for _ in range(200)]
    # All draws of a model without doubt are one.
    assert value[0] > max(value[1:]) and value[0] > max(weights @ counts(a, DARTS, LAYERS, "shared") for a in others)
    parents = sorted(history, key=lambda trial: -trial.score)[:PARENTS]

    def slots(architecture):
        return {(k, n, *slot) for k in (0, 1) for n, node in enumerate(architecture.layers[k].nodes) for slot in node}

    near = [each for each in pool if min(len(slots(each) - slots(t.architecture)) for t in parents) <= 3]
    assert len(near) >= 0.9 * MUTANTS * 50


# --- the history -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_what_is_proposed_is_a_function_of_history_layers_and_seed(mapping):
    made = method(mapping, budget=16)
    history = run(made, planted(mapping), 16)
    assert len({trial.architecture for trial in history}) == 16
    assert all(len(set(t.architecture.layers)) == (2 if mapping == "shared" else LAYERS) for t in history[:8])
    for length in (0, 5, 8, 14):
        once = made.propose(history[:length], LAYERS, 0)
        again = method(mapping, budget=16).propose(history[:length], LAYERS, 0)
        assert once == again
        assert [c.architecture for c in once] == [t.architecture for t in history[length : length + len(once)]]
    assert made.propose(history, LAYERS, 1) != made.propose(history, LAYERS, 0)
    assert {len(c.architecture) for c in made.propose([], 5, 0)} == {5}


def test_failed_trials_teach_nothing_and_come_not_again():
    made = method(budget=None, initial=4, batch_size=2)
    first = [c.architecture for c in made.propose([], LAYERS, 0)]
    failed = [Trial(a, None) for a in first]
    again = [c.architecture for c in made.propose(failed, LAYERS, 0)]
    assert len(again) == 2 and not set(again) & set(first)
    uniform = run(create("random", None, {}, DARTS), planted("shared"), 6)
    assert first + again == [trial.architecture for trial in uniform]
    history = [Trial(first[0], None), *(Trial(a, 0.4 + i / 10) for i, a in enumerate(first[1:]))]
    asked = []
    features = made._features
    made._features = lambda architectures, layers: (asked.append(architectures), features(architectures, layers))[1]
    made.propose(history, LAYERS, 0)
    assert asked[0] == first[1:] and not set(asked[1]) & set(first)


def test_trials_of_one_score_are_no_obstacle():
    assert len(run(method(budget=12), lambda architecture: 0.25, 12)) == 12


@pytest.mark.parametrize(("mapping", "least"), [("shared", 1.5), ("decoupled", 0.6), ("full", 0.4)])
@pytest.mark.parametrize("acquisition", ["ei", "thompson"])
def test_planted_factors_are_found(mapping, least, acquisition):
    """The last proposals are better than uniform ones: the more so, the fewer factors there are to know."""
    score = planted(mapping)
    learnt = run(method(mapping, 60, initial=30, acquisition=acquisition), score, 60)
    drawn = run(create("random", "shared" if mapping == "shared" else "full", {}, DARTS), score, 60)
    odds = [[np.log(t.score / (1 - t.score)) for t in history] for history in (learnt, drawn)]
    spread = np.std(odds[1])
    assert np.mean(odds[0][-14:]) > np.mean(odds[1]) + least * spread
    assert mapping == "full" or max(odds[0]) > max(odds[1]) + 0.5 * spread


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "initial", "batch"), [(1, 1, 1), (16, 8, 2), (80, 40, 10), (300, 40, 10), (None, 40, 10)]
)
def test_short_searches_have_rounds_too(budget, initial, batch):
    made = method(budget=budget)
    first = made.propose([], LAYERS, 0)
    assert len(first) == initial
    assert len(made.propose([Trial(c.architecture, 0.5) for c in first], LAYERS, 0)) == batch


def test_a_round_larger_than_its_pool_is_refused():
    with pytest.raises(InputError, match="--option batch_size=10 must be at most candidates=5"):
        method(candidates=5)


# --- a whole search ----------------------------------------------------------------------------------------


def search(mapping, known=()):
    found, scores, _ = searched("additive", mapping, SMALL, 6, known)
    return found.architecture, scores


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_search_gives_an_architecture_and_the_same_bits_also_when_it_is_resumed(mapping):
    architecture, scores = search(mapping)
    assert architecture.in_space and len(architecture) == 3 and len(scores) == 6
    assert search(mapping, scores[:4]) == (architecture, scores)

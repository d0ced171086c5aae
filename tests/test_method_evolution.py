"""`evolution` (Real et al. 2017, 2019): docs/methods/evolution.md."""

from collections import Counter, deque
from dataclasses import replace
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from trial_tools import searched

from dnas.errors import InputError
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.searching.judging import judged
from dnas.space import sampling
from dnas.space.darts import DARTS

ACTS = {
    "mode": ({"population": 3}, "tournament"),
    "population": ({}, 6),
    "sample": ({"population": 3}, 9),
    "children": ({"population": 3}, 3),
    "identity": ({"population": 3}, 1.0),
}
MODES = ("aging", "tournament")


def method(mapping=None, budget=100, **options):
    made = create("evolution", mapping, options, DARTS)
    made.budget = budget
    return made


def genes(architecture, shared):
    """One gene for every choice that there is: normal and reduction where cells are shared, else one a layer."""
    if not shared:
        return list(architecture.layers)
    normal = {cell for k, cell in enumerate(architecture.layers) if k not in architecture.reductions}
    reduction = {architecture.layers[k] for k in architecture.reductions}
    assert len(normal) == len(reduction) == 1
    return [*normal, *reduction]


def changes(one, two, shared):
    """(gene, node, (op, input) that only the first has, … that only the second has) of every slot that differs."""
    return [
        (g, n, gone, come)
        for g, (x, y) in enumerate(zip(genes(one, shared), genes(two, shared), strict=True))
        for n, (a, b) in enumerate(zip(x.nodes, y.nodes, strict=True))
        for gone, come in zip(sorted(set(a) - set(b)), sorted(set(b) - set(a)), strict=True)
    ]


def uniform(counts, cells):
    """Whether counts pass a χ² test at 1e-6 against `cells`: a number of equal ones, or their probabilities."""
    law = cells if isinstance(cells, dict) else dict.fromkeys(range(cells), 1 / cells)
    total = sum(counts.values())
    assert set(counts) <= set(law) and min(law.values()) * total > 5
    statistic = sum((counts[key] - p * total) ** 2 / (p * total) for key, p in law.items())
    return statistic < chi2.ppf(1 - 1e-6, len(law) - 1)


def scored(candidates, scores):
    return [Trial(c.architecture, s) for c, s in zip(candidates, scores, strict=True)]


def parents_of(children, history, shared=True):
    """For every child the number of the only trial that it is one change from."""
    found = []
    for child in children:
        near = [i for i, t in enumerate(history) if len(changes(t.architecture, child.architecture, shared)) == 1]
        assert len(near) == 1
        found += near
    return found


def match(architecture, target, shared=True):
    """As OneMax: the share of inputs, and of inputs with their operation, that are those of the target."""
    pairs = zip(genes(architecture, shared), genes(target, shared), strict=True)
    nodes = [(node, y.nodes[n]) for x, y in pairs for n, node in enumerate(x.nodes)]
    inputs = sum(len({s for _, s in one} & {s for _, s in other}) for one, other in nodes)
    return (inputs + sum(len(set(one) & set(other)) for one, other in nodes)) / (4 * len(nodes))


# --- the mutation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_a_mutant_is_valid_and_one_slot_away_and_every_choice_is_uniform(shared):
    """Cell, node and slot are uniform; then another operation of 6 or, as often, another input of those free."""
    architecture = sampling.sample(DARTS, numpy_stream(0, "sample"), 3, shared=shared)
    rng = numpy_stream(1, "sample")
    places, kinds, operations, inputs = Counter(), Counter(), Counter(), Counter()
    for _ in range(10_000):
        mutant = sampling.mutate(DARTS, rng, architecture, shared=shared)
        assert mutant.in_space and mutant.reductions == architecture.reductions
        ((g, n, (op, source), (new_op, new_source)),) = changes(architecture, mutant, shared)
        slot = genes(architecture, shared)[g].nodes[n].index((op, source))
        places[(g * 4 + n) * 2 + slot] += 1
        assert (op == new_op) != (source == new_source)
        kinds[n > 0, op == new_op] += 1
        if op == new_op:
            taken = {other for _, other in genes(architecture, shared)[g].nodes[n]}
            free = [other for other in range(n + 2) if other not in taken]
            inputs[n, free.index(new_source)] += 1
        else:
            operations[[other for other in DARTS.primitives if other != op].index(new_op)] += 1
    assert uniform(places, 16 if shared else 24)
    assert uniform(operations, 6)
    assert kinds[False, True] == 0  # node 0 has both of its inputs
    assert uniform(Counter({kind: kinds[True, bool(kind)] for kind in (0, 1)}), 2)
    for n in (2, 3):
        assert uniform(Counter({i: inputs[n, i] for i in range(n)}), n)


def test_the_law_of_the_test_would_notice_a_bias():
    assert not uniform(Counter({0: 600, 1: 400}), 2)


# --- the population ----------------------------------------------------------------------------------------


class Asynchronous:
    """The two papers' loops as they are written: a population that is kept and changed."""

    def __init__(self, mode, size, sample, children, seed, shared, layers=4):
        self.mode, self.size, self.sample, self.children = mode, size, sample, children
        self.seed, self.shared, self.layers = seed, shared, layers

    def run(self, score, count):
        evaluated = []

        def evaluate(architecture):
            value = score(len(evaluated), architecture)
            evaluated.append(architecture)
            return architecture, -1.0 if value is None else value, len(evaluated)

        population = deque()
        for i in range(self.size):
            rng = numpy_stream(self.seed, "candidate", i)
            population.append(evaluate(sampling.sample(DARTS, rng, self.layers, shared=self.shared)))
        draws = numpy_stream(self.seed, "tournament").random((count, self.sample))
        while len(evaluated) < count:
            bred = []
            for number in range(len(evaluated), len(evaluated) + self.children):
                rng = numpy_stream(self.seed, "candidate", number)
                drawn = []
                for u in draws[number]:
                    free = [one for one in population if self.mode == "aging" or one not in drawn]
                    drawn.append(free[int(u * len(free))])
                parent = drawn[0]
                for other in drawn[1:]:
                    if other[1] >= parent[1]:
                        parent = other
                if self.mode == "tournament":
                    worst = drawn[0]
                    for other in drawn[1:]:
                        if other[1] < worst[1]:
                            worst = other
                    population.remove(worst)
                rng.random()
                bred.append(sampling.mutate(DARTS, rng, parent[0], shared=self.shared))
            for child in bred:
                population.append(evaluate(child))
                if self.mode == "aging":
                    population.popleft()
            assert len(population) == self.size
        return evaluated[:count]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mapping", ["shared", "full"])
@given(
    seed=st.integers(0, 2**31), sample=st.integers(1, 5), children=st.integers(1, 4), spare=st.integers(0, 3),
    fails=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=8)
def test_the_replayed_population_is_the_one_that_the_papers_keep(mode, mapping, seed, sample, children, spare, fails):
    size = children + sample + spare
    target = sampling.sample(DARTS, numpy_stream(seed, "target"), 4)

    def score(number, architecture):
        if fails and number % 3 == 1:
            return None
        return match(architecture, target, False)

    made = method(mapping, mode=mode, population=size, sample=sample, children=children)
    count = size + 5 * children
    history = judged(made, 4, seed, [], lambda i, c: score(i, c.architecture), lambda: False, count)
    expected = Asynchronous(mode, size, sample, children, seed, mapping == "shared").run(score, count)
    assert [trial.architecture for trial in history] == expected


def population(seed=0, size=3, shared=True):
    return [sampling.sample(DARTS, numpy_stream(seed, "population", i), 4, shared=shared) for i in range(size)]


def test_the_oldest_goes_even_if_it_is_the_best():
    made = method(population=3, sample=100)  # so many that the best of the living is among them
    history = [Trial(a, s) for a, s in zip(population(), (0.9, 0.2, 0.1), strict=True)]
    (child,) = made.propose(history, 4, 0)
    assert parents_of([child], history) == [0]
    history.append(Trial(sampling.sample(DARTS, numpy_stream(9, "sample"), 4, shared=True), 0.3))
    for seed in range(5):
        assert parents_of(made.propose(history, 4, seed), history) == [3]
    history.append(Trial(sampling.sample(DARTS, numpy_stream(8, "sample"), 4, shared=True), 0.0))
    history.append(Trial(sampling.sample(DARTS, numpy_stream(7, "sample"), 4, shared=True), 0.1))
    for seed in range(5):  # numbers 3, 4 and 5 live
        assert parents_of(made.propose(history, 4, seed), history) == [3]
    assert made.choose(history) == history[0].architecture  # the best of all is not forgotten


def test_in_tournaments_the_best_lives_for_ever():
    made = method(mode="tournament", population=3, sample=3)
    history = [Trial(a, s) for a, s in zip(population(), (0.9, 0.2, 0.1), strict=True)]
    for i, score in enumerate((0.05, 0.5, 0.4, 0.3, 0.0)):
        assert parents_of(made.propose(history, 4, 1), history) == [0]
        history.append(Trial(sampling.sample(DARTS, numpy_stream(i, "later"), 4, shared=True), score))
    history.append(Trial(sampling.sample(DARTS, numpy_stream(9, "later"), 4, shared=True), 1.0))
    assert parents_of(made.propose(history, 4, 1), history) == [8]


@pytest.mark.parametrize("mode", MODES)
def test_with_one_drawn_it_is_a_random_walk_that_no_score_moves(mode):
    made = method(mode=mode, population=4, sample=1)
    architectures = population(size=4)
    counts = Counter()
    for seed in range(400):
        one = made.propose([Trial(a, 0.1 * i) for i, a in enumerate(architectures)], 4, seed)
        other = made.propose([Trial(a, None if i else 0.9) for i, a in enumerate(architectures)], 4, seed)
        assert one == other
        counts[parents_of(one, [Trial(a, 0.0) for a in architectures])[0]] += 1
    assert uniform(counts, 4)


def test_a_long_random_walk_is_uniform_over_operations_and_inputs():
    """Mutation is symmetric, so that its stationary law is the uniform one."""
    made = method("full", population=1, sample=1)
    history = judged(made, 3, 0, [], lambda i, c: i / 4000, lambda: False, 4000)
    cells = [cell for trial in history[100::60] for cell in trial.architecture.layers]
    for n in (1, 3):
        assert uniform(Counter(DARTS.primitives.index(cell.nodes[n][0][0]) for cell in cells), 7)
    pairs = Counter(tuple(source for _, source in cell.nodes[1]) for cell in cells)
    assert uniform(pairs, dict.fromkeys([(0, 1), (0, 2), (1, 2)], 1 / 3))


def test_the_rank_of_the_parent_has_the_law_of_the_best_of_s():
    """Of P = 4 and S = 2: with replacement P(rank ≤ r) = 1 - ((P - r) / P)²; a pair has 3, 2, 1 of 6 for ranks 1, 2, 3."""
    architectures = population(size=4)
    history = [Trial(a, s) for a, s in zip(architectures, (0.2, 0.8, 0.6, 0.4), strict=True)]
    rank = {1: 0, 2: 1, 3: 2, 0: 3}
    laws = {
        "aging": {r: ((4 - r) ** 2 - (3 - r) ** 2) / 16 for r in range(4)},
        "tournament": {r: (3 - r) / comb(4, 2) for r in range(3)},
    }
    for mode, law in laws.items():
        made = method(mode=mode, population=4, sample=2)
        counts = Counter(rank[parents_of(made.propose(history, 4, seed), history)[0]] for seed in range(600))
        assert uniform(counts, law)


@pytest.mark.parametrize("mode", MODES)
def test_who_failed_is_worse_than_any(mode):
    history = [Trial(a, s) for a, s in zip(population(), (None, 0.0, None), strict=True)]
    sample = 100 if mode == "aging" else 3
    made = method(mode=mode, population=3, sample=sample)
    for seed in range(5):
        assert parents_of(made.propose(history, 4, seed), history) == [1]
    assert made.choose(history) == history[1].architecture
    # All failed: it goes on all the same.
    assert made.propose([replace(trial, score=None) for trial in history], 4, 0)


@pytest.mark.parametrize(("mode", "trials"), [("aging", 800), ("tournament", 400)])
def test_evolution_finds_what_random_draws_do_not(mode, trials):
    """The score is as OneMax, of a hidden architecture."""
    target = sampling.sample(DARTS, numpy_stream(0, "target"), 4, shared=True)

    def found(made):
        history = judged(made, 4, 0, [], lambda i, c: match(c.architecture, target), lambda: False, trials)
        return match(made.choose(history), target)

    assert found(method(mode=mode, population=20, sample=10)) >= 0.9
    assert found(create("random", None, {}, DARTS)) <= 0.6


# --- rounds, and what is pure ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_round_is_bred_from_what_was_judged_before_it(mode):
    """So its trials can run side by side: none of them depends on another's score."""
    made = method(mode=mode, population=6, sample=2, children=3)
    first = made.propose([], 4, 5)
    assert len(first) == 6
    history = scored(first, (0.1, 0.6, 0.3, 0.2, 0.5, 0.4))
    second = made.propose(history, 4, 5)
    assert len(second) == 3
    third = [made.propose(history + scored(second, s), 4, 5) for s in ((0.9, 0.0, 0.1), (0.0, 0.1, 0.9))]
    assert len(third[0]) == 3 and third[0] != third[1]
    # The same once more, with another object.
    again = method(mode=mode, population=6, sample=2, children=3)
    assert again.propose(history + scored(second, (0.9, 0.0, 0.1)), 4, 5) == third[0]
    assert made.propose(history, 4, 6) != second


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_the_first_population_is_what_random_search_draws(mapping):
    first = method(mapping, population=5).propose([], 4, 3)
    history = judged(create("random", mapping, {}, DARTS), 4, 3, [], lambda i, c: 0.5, lambda: False, 5)
    assert [c.architecture for c in first] == [t.architecture for t in history]
    assert all(c.architecture.origin == {"method": "evolution", "mapping": mapping} for c in first)
    assert len(set(first[0].architecture.layers)) == (2 if mapping == "shared" else 4)


def test_identity_is_the_share_of_children_that_are_their_parent():
    history = [Trial(a, 0.5) for a in population()]
    same = 0
    for seed in range(400):
        (child,) = method(population=3, identity=0.25).propose(history, 4, seed)
        same += child.architecture in [trial.architecture for trial in history]
    assert uniform(Counter({0: same, 1: 400 - same}), {0: 0.25, 1: 0.75})
    (child,) = method(population=3, identity=1.0).propose(history, 4, 0)
    assert child.architecture in [trial.architecture for trial in history]


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "budget", "size", "sample"),
    [
        ("aging", 1, 2, 2), ("aging", 16, 4, 2), ("aging", 100, 25, 6), ("aging", 400, 100, 25),
        ("aging", 20_000, 100, 25), ("tournament", 16, 4, 2), ("tournament", 20_000, 1000, 2),
    ],
)  # fmt: skip
def test_sizes_follow_the_number_of_trials_up_to_the_published_ones(mode, budget, size, sample):
    made = method(mode=mode, budget=budget)
    assert (made.population, made.sample) == (size, sample)
    assert len(made.propose([], 3, 0)) == size


def test_a_population_that_a_round_would_use_up_is_refused_or_made_larger():
    for options, least in (
        ({"children": 5}, 5),
        ({"mode": "tournament", "children": 5}, 6),
        ({"mode": "tournament", "sample": 4, "children": 5}, 8),
    ):
        with pytest.raises(InputError, match=f"population={least - 1} is too small .* at least {least}"):
            method(population=least - 1, **options)
        assert method(population=least, **options).population == least
        assert method(budget=4, **options).population == least
    assert method(population=3, sample=10).population == 3  # with replacement


def test_paper_settings():
    shared, full = method().paper_settings("cifar10"), method("full").paper_settings("cifar100")
    assert shared["search"] == {"layers": 11, "channels": 24, "trials": 20_000, "epochs": 25}
    assert shared["train"] == {"layers": 20}
    assert full["search"] == {"layers": 14, "batch_size": 96, "trials": 20_000, "epochs": 25}
    assert full["train"] == {"channels": 50}


# --- a whole search ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_search_gives_a_whole_architecture_and_the_same_bits(mapping):
    found, scores, made = searched("evolution", mapping, {}, 6)
    assert found.architecture.in_space and len(found.architecture) == 3
    assert len(scores) == made.budget == 6 and made.population == 2
    again, more, _ = searched("evolution", mapping, {}, 6)
    assert (found.architecture, scores) == (again.architecture, more)
    # A search that was stopped proposes the same again, and goes on.
    history = judged(made, 3, 0, scores[:4], lambda i, c: scores[i], lambda: False, 6)
    assert history == judged(made, 3, 0, [], lambda i, c: scores[i], lambda: False, 6)
    assert made.choose(history) == found.architecture
    assert made.propose([], 3, 1) != made.propose([], 3, 0)

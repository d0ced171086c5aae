"""`spos` (Guo et al. 2020): docs/methods/spos.md."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_spos_tools import method, network, sampled, standalone
from method_tools import kept
from sampling_tools import QUANTILE, Watched, chi_squared, new_search, run

from dnas.data.augment import normalise
from dnas.errors import InputError
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS, Space
from dnas.space.darts_cell import Cell

SMALL = {"population": 4, "generations": 3, "parents": 2}
# Few architectures of many are of the first generation, which no other option of the evolution changes.
EVOLVING = {"population": 2, "generations": 12, "parents": 2}
ACTS = {
    "partial_channels": (SMALL, 2),
    "population": (EVOLVING, 4),
    "generations": (EVOLVING, 3),
    "parents": ({"population": 10, "generations": 3}, 1),
    "mutants": (EVOLVING, 0.0),
    "crossovers": (EVOLVING, 0.0),
    "mutation_probability": (EVOLVING, 0.9),
}


def slots(architecture):
    return [slot for cell in architecture.layers for node in cell.nodes for slot in node]


# --- judging ----------------------------------------------------------------------------------------------


def test_every_architecture_is_judged_by_its_own_statistics_and_judging_moves_nothing():
    search = new_search("spos", {}, "full")
    for step in range(4):
        search.step(step)
    one, other = sampled(2, layers=3, shared=False)
    before, _ = search.capture()
    before = {k: v.clone() for k, v in before.items()}
    first = search.accuracy(one)
    search.accuracy(other)
    assert search.accuracy(one) == first
    after, _ = search.capture()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not list(search.supernet.buffers())  # nothing is remembered from another architecture
    # The accuracy of the standalone network, whose batch norms take the statistics of the images that it judges.
    plain, _, _ = standalone(search)
    chosen = [{e: DARTS.primitives.index(op) for e, op in layer.items()} for layer in kept(one)]
    images = normalise(search.pool.images[search.validation_part], search.info)
    hits = network(plain, chosen, images).argmax(1) == search.pool.labels[search.validation_part]
    assert first == pytest.approx(float(hits.float().mean()))
    # Other statistics give other outputs: those of half of the images.
    assert not torch.allclose(network(plain, chosen, images)[:12], network(plain, chosen, images[:12]), atol=1e-3)


# --- evolution --------------------------------------------------------------------------------------------


def judged(searcher, score, layers=4, seed=0, generations=None):
    """The history of an evolution on a function of the architecture."""
    history = []
    while candidates := searcher.propose(history, layers, seed):
        history += [Trial(c.architecture, score(c.architecture), c.share) for c in candidates]
        if generations is not None and len(history) >= generations * searcher.options.population:
            break
    return history


def convolutions(architecture):
    return sum(op == "sep_conv_3x3" for op, _ in slots(architecture)) / len(slots(architecture))


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_thousand_different_architectures_are_judged_in_twenty_generations(mapping):
    searcher = method(mapping)
    history = judged(searcher, convolutions)
    assert len(history) == 1000 and len({trial.architecture for trial in history}) == 1000
    assert all(trial.share == 1.0 and trial.architecture.in_space for trial in history)
    if mapping == "shared":
        assert all(len({t.architecture.layers[k] for k in (0, 3)}) == 1 for t in history)
        assert all(len({t.architecture.layers[k] for k in (1, 2)}) == 1 for t in history)
    else:
        assert len(set(history[-1].architecture.layers)) > 2
    assert searcher.choose(history) == max(history, key=lambda trial: trial.score).architecture


def test_evolution_finds_what_chance_does_not():
    found = judged(method("shared"), convolutions)
    chance = max(convolutions(a) for a in sampled(1000))
    assert max(t.score for t in found) > chance + 0.25
    generations = [max(t.score for t in found[i : i + 50]) for i in range(0, 1000, 50)]
    assert generations[-1] > generations[9] > generations[0]


def test_a_generation_is_a_function_of_the_history_and_the_seed():
    searcher = method(**SMALL)
    history = judged(searcher, convolutions, generations=2)
    state = np.random.get_state()[1].copy()
    one, again, other = (searcher.propose(history, 4, seed) for seed in (0, 0, 1))
    assert one == again and one != other
    assert (state == np.random.get_state()[1]).all()
    worse = [Trial(t.architecture, 1 - t.score) for t in history]
    assert searcher.propose(worse, 4, 0) != one
    assert [c.architecture for c in searcher.propose([], 4, 0)] != [c.architecture for c in one]


def test_every_generation_draws_anew(monkeypatch):
    """What was drawn before is refused, so a stream that begins again would not show in the result."""
    searcher = method(mutants=0.0, crossovers=0.02)
    history = judged(searcher, convolutions, generations=2)
    drawn, sample = [], Space.sample
    spy = lambda *arguments, **options: drawn.append(sample(*arguments, **options)) or drawn[-1]
    monkeypatch.setattr(Space, "sample", spy)
    for length in (0, 50, 100):
        searcher.propose(history[:length], 4, 0)
    assert len(drawn) == len(set(drawn))


@pytest.mark.parametrize(
    ("mutants", "crossovers", "counts"), [(0.5, 0.5, (25, 25, 0)), (0.2, 0.5, (10, 25, 15)), (0.0, 0.3, (0, 15, 35))]
)
def test_a_generation_is_half_mutants_half_crossovers_and_the_rest_uniform(monkeypatch, mutants, crossovers, counts):
    searcher = method("full", mutants=mutants, crossovers=crossovers)
    history = judged(searcher, convolutions, generations=1)
    made = {"mutate": [], "cross": []}
    for kind, children in made.items():
        original = getattr(searcher, kind)
        spy = lambda *arguments, original=original, children=children: (
            children.append(original(*arguments)) or children[-1]
        )
        monkeypatch.setattr(searcher, kind, spy)
    candidates = [list(c.architecture.layers) for c in searcher.propose(history, 4, 0)]
    kinds = [next((kind for kind, children in made.items() if c in children), "uniform") for c in candidates]
    assert tuple(kinds.count(kind) for kind in ("mutate", "cross", "uniform")) == counts


@pytest.mark.parametrize("parents", [1, 3])
def test_parents_are_the_best_of_all_generations_and_of_equals_the_first(parents):
    """Nodes of children that are crossed come from the elite; the best lies in the first generation of three."""
    searcher = method("full", population=10, generations=9, parents=parents, mutants=0.0, crossovers=0.5)
    pool = sampled(30, layers=3, shared=False)
    scores = [0.1] * 30
    for rank, i in enumerate((3, 17, 25)):
        scores[i] = 0.9 - 0.1 * rank
    scores[29] = 0.7  # as good as 25, and later
    candidates = searcher.propose([Trial(a, s) for a, s in zip(pool, scores, strict=True)], 3, 0)
    elite = [pool[i] for i in (3, 17, 25)][:parents]
    nodes = [
        [{a.layers[k].nodes[n] for a in elite} for n in range(4)]  # allowed in layer k, node n
        for k in range(3)
    ]
    children = [c.architecture for c in candidates[:5]]
    inside = [all(c.layers[k].nodes[n] in nodes[k][n] for k in range(3) for n in range(4)) for c in children]
    if parents == 1:  # crossed with itself it is itself, which is known
        assert not any(inside)
    else:
        assert all(inside)
        used = {node for c in children for node in c.layers[0].nodes}
        assert all(used & {a.layers[0].nodes[n] for n in range(4)} for a in elite)


def test_mutants_come_from_the_best():
    searcher = method("full", parents=1, mutants=0.5, crossovers=0.0, mutation_probability=0.05)
    pool = sampled(50, shared=False)
    history = [Trial(a, 1.0 if i == 31 else 0.5) for i, a in enumerate(pool)]
    candidates = [c.architecture for c in searcher.propose(history, 4, 0)]
    differing = [sum(a != b for a, b in zip(slots(c), slots(pool[31]), strict=True)) for c in candidates]
    assert max(differing[:25]) < 15 and min(differing[25:]) > 15  # of 32


def test_a_failed_trial_is_no_parent():
    searcher = method("full", population=2, generations=3, parents=1, mutants=1.0, crossovers=0.0)
    one, other = sampled(2, shared=False)
    searcher.mutate = lambda rng, genes: pytest.fail() if tuple(genes) == one.layers else list(other.layers)
    searcher.propose([Trial(one, None), Trial(other, 0.1)], 4, 0)


def test_children_that_are_known_are_replaced_by_uniform_ones():
    searcher = method("full")
    history = judged(searcher, convolutions, generations=1)
    searcher.mutate = lambda rng, genes: list(genes)
    searcher.cross = lambda rng, one, other: list(one)
    candidates = [c.architecture for c in searcher.propose(history, 4, 0)]
    assert len(candidates) == len(set(candidates)) == 50
    assert not set(candidates) & {t.architecture for t in history}


def test_a_space_of_two_architectures_is_exhausted_and_the_search_ends():
    two = sampled(2)

    searcher = create("spos", "shared", SMALL, DARTS)
    searcher.uniform = lambda rng, layers: two[int(rng.integers(2))]
    searcher.mutate = searcher.cross = lambda rng, genes, *other: list(genes)
    history = judged(searcher, convolutions)
    assert len(history) == 12 and {t.architecture for t in history} == set(two)


def cell_of(*nodes):
    return Cell(tuple(nodes))


START = cell_of(
    (("skip_connect", 0), ("skip_connect", 1)),
    (("skip_connect", 0), ("skip_connect", 1)),
    (("skip_connect", 0), ("skip_connect", 1)),
    (("skip_connect", 0), ("skip_connect", 1)),
)


@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_each_operation_and_each_input_is_redrawn_with_the_mutation_probability(probability):
    """An operation becomes another with p · 6/7. Both inputs of node n stay with (1 - p n/(n+1))²: of the n + 1 states
    that the other input leaves free, one is the old one."""
    draws = 3000
    rng = numpy_stream(0, "test")
    searcher = method(mutation_probability=probability)
    mutants = [searcher.mutate(rng, [START])[0] for _ in range(draws)]

    def near(count, of, p):
        return abs(count - of * p) <= 4 * math.sqrt(of * p * (1 - p)) + 1e-9

    operations = Counter(op for m in mutants for node in m.nodes for op, _ in node)
    changed = sum(operations.values()) - operations["skip_connect"]
    assert near(changed, 8 * draws, probability * 6 / 7)
    assert chi_squared([operations[op] for op in DARTS.primitives if op != "skip_connect"]) < QUANTILE[5]
    for n in range(4):
        stay = sum(tuple(source for _, source in m.nodes[n]) == (0, 1) for m in mutants)
        assert near(stay, draws, (1 - probability * n / (n + 1)) ** 2), n
    if probability == 1.0:  # node 1: first {0, 2} beside 1, then of the two that are free beside that
        pairs = Counter(tuple(source for _, source in m.nodes[1]) for m in mutants)
        for pair, p in {(0, 1): 0.25, (0, 2): 0.5, (1, 2): 0.25}.items():
            assert near(pairs[pair], draws, p)


def test_a_crossed_node_comes_from_either_parent_with_its_inputs_and_operations():
    other = cell_of(
        (("max_pool_3x3", 0), ("sep_conv_5x5", 1)),
        (("max_pool_3x3", 1), ("sep_conv_5x5", 2)),
        (("max_pool_3x3", 2), ("sep_conv_5x5", 3)),
        (("max_pool_3x3", 3), ("sep_conv_5x5", 4)),
    )
    rng = numpy_stream(0, "test")
    searcher = method("full")
    masks = Counter()
    for _ in range(1600):
        (child,) = searcher.cross(rng, [START], [other])
        assert all(node in (START.nodes[n], other.nodes[n]) for n, node in enumerate(child.nodes))
        masks[tuple(node == other.nodes[n] for n, node in enumerate(child.nodes))] += 1
    assert len(masks) == 16 and chi_squared(list(masks.values())) < 44.3  # 15 degrees of freedom


@given(seed=st.integers(0, 2**31), shared=st.booleans(), layers=st.integers(3, 8))
@settings(deadline=None, max_examples=25)
def test_children_lie_in_the_space(seed, shared, layers):
    """An architecture of the space is checked when it is made: 2 distinct inputs a node, 7 operations."""
    searcher = method("shared" if shared else "full", **SMALL, mutation_probability=0.5)
    history = [Trial(a, i / 4) for i, a in enumerate(sampled(4, layers, shared, seed))]
    for candidate in searcher.propose(history, layers, seed):
        architecture = candidate.architecture
        assert architecture.in_space and len(architecture) == layers
        assert architecture.reductions == (layers // 3, 2 * layers // 3)
        assert Architecture.from_json(architecture.to_json()) == architecture
        if shared:
            normal = [k for k in range(layers) if k not in architecture.reductions]
            assert len({architecture.layers[k] for k in normal}) == 1
            assert len({architecture.layers[k] for k in architecture.reductions}) == 1


# --- options and settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mutants": 0.6}, "mutants=0.6"),
        ({"mutants": 0.0, "crossovers": 0.0}, "cannot be used together"),
        ({"parents": 51}, "parents=51"),
        ({"mutants": 0.0, "mutation_probability": 0.2}, "mutation_probability=0.2"),
        ({"generations": 1}, "generations"),
        ({"mutation_probability": 0.0}, "mutation_probability"),
    ],
)
def test_options_that_could_not_act_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        method(**options)


def test_the_defaults_are_the_papers_and_the_quick_preset_judges_a_tenth():
    options = method().options
    assert (options.population, options.generations, options.parents) == (50, 20, 10)
    assert (options.mutants, options.crossovers, options.mutation_probability) == (0.5, 0.5, 0.1)
    quick = create("spos", None, dict(type(method()).quick["options"]), DARTS).options
    assert quick.population * quick.generations == 100 and quick.parents * 5 == quick.population
    assert method("shared").paper_settings("cifar10") == {"search": {}, "train": {"layers": 20}}
    assert method("full").paper_settings("cifar10")["search"]["layers"] == 20
    with pytest.raises(InputError, match="decoupled"):
        method("decoupled")


# --- the whole search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_search_gives_the_best_judged_architecture_and_the_same_bits_for_the_same_seed(mapping):
    one, again, other = Watched(), Watched(), Watched()
    found, same = (run("spos", SMALL, mapping, session=s) for s in (one, again))
    assert found.architecture.in_space and len(found.architecture) == 3
    assert found.architecture == same.architecture and one.shown == again.shown and found.cost == same.cost
    assert run("spos", SMALL, mapping, seed=1, session=other).architecture != found.architecture
    assert found.cost["architectures_evaluated"] == 12 and not found.parameters
    scores = [shown["accuracy"] for shown in one.shown.values() if "accuracy" in shown]
    assert len(scores) == 12
    search = new_search("spos", SMALL, mapping)
    for step in range(6):
        search.step(step)
    assert search.accuracy(found.architecture) == max(scores)


@pytest.mark.parametrize("stop", [4, 6, 6 + 2, 6 + 5])
def test_going_on_from_a_checkpoint_gives_the_same_bits(stop):
    """After a step, after the last one, in the first generation that is judged, and in the second."""
    whole = Watched(capture_at=stop)
    expected = run("spos", SMALL, session=whole)
    resumed = Watched(resume_from=whole.checkpoint)
    found = run("spos", SMALL, session=resumed)
    assert found.architecture == expected.architecture and found.cost == expected.cost
    assert resumed.shown == {step: shown for step, shown in whole.shown.items() if step > stop}

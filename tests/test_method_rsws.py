"""`rsws` (Li & Talwalkar 2019): docs/methods/rsws.md."""

import math

import numpy as np
import pytest
import torch
from sampling_tools import QUANTILE, Watched, chi_squared, new_search, path_of, run, settings

from dnas.errors import InputError
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.supernet.mapping import SHARED

SMALL = {"rounds": 2, "candidates": 5, "finalists": 2, "share": 0.5}
LEARNS = {"rounds": 1, "candidates": 40, "finalists": 4, "share": 0.5}
ACTS = {
    "partial_channels": (SMALL, 2),
    "rounds": (SMALL | {"rounds": 1, "candidates": 2}, 12),
    "candidates": (SMALL | {"rounds": 1}, 24),
    "share": (SMALL | {"rounds": 1, "candidates": 12, "finalists": 1, "share": 0.1}, 0.9),
    "finalists": (SMALL | {"rounds": 1, "candidates": 12, "finalists": 1, "share": 0.1}, 12),
}


def method(mapping=SHARED, **options):
    return create("rsws", mapping, options, DARTS)


def judged(searcher, score, layers=4, seed=0):
    """The history on a function of architecture and share; and how many were proposed at a time."""
    history, sizes = [], []
    while candidates := searcher.propose(history, layers, seed):
        history += [Trial(c.architecture, score(c.architecture, c.share), c.share) for c in candidates]
        sizes.append(len(candidates))
    return history, sizes


# Planted accuracies of operations: a sum over all edges ranks architectures.
PLANTED = dict(zip(DARTS.primitives, (0.1, 0.2, 0.3, 0.7, 0.6, 0.5, 0.4), strict=True))


def planted(architecture, share=1.0):
    slots = [op for cell in architecture.layers for node in cell.nodes for op, _ in node]
    return sum(PLANTED[op] for op in slots) / len(slots)


# --- the law of paths and of candidates -------------------------------------------------------------------


def test_every_step_executes_another_uniform_path_of_two_edges_a_node():
    active = torch.stack([path_of(method("full"), step, 4) for step in range(800)])
    assert (active.sum(3) <= 1).all() and (active.any(3).sum(2) == 8).all()
    for e in range(14):
        assert chi_squared(active[:, :, e].sum((0, 1))) < QUANTILE[6]
    for first, last in ((2, 5), (5, 9), (9, 14)):
        assert chi_squared(active[:, :, first:last].any(3).sum((0, 1))) < QUANTILE[9]
    assert len({tuple(a.flatten().tolist()) for a in active}) == 800
    assert not torch.equal(path_of(method(), 0, seed=0), path_of(method(), 0, seed=1))


def test_none_is_no_candidate():
    assert "none" not in method().operations and method().operations == DARTS.primitives


def test_candidates_are_uniform_in_every_round_and_rounds_differ():
    searcher = method("full", rounds=2, candidates=400)
    history, _ = judged(searcher, planted, layers=3)
    rounds = [history[:400], history[410:810]]
    for trials in rounds:
        slots = [op for t in trials for cell in t.architecture.layers for node in cell.nodes for op, _ in node]
        assert chi_squared([slots.count(op) for op in DARTS.primitives]) < QUANTILE[6]
    assert not {t.architecture for t in rounds[0]} & {t.architecture for t in rounds[1]}


def test_shared_cells_are_shared_by_candidates_too():
    (first, *_) = method(SHARED).propose([], 6, 0)
    assert first.architecture.layers[0] == first.architecture.layers[5] != first.architecture.layers[2]
    (first, *_) = method("full").propose([], 6, 0)
    assert len(set(first.architecture.layers)) == 6


# --- rounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [1, 3])
def test_in_each_round_a_thousand_are_scored_on_few_images_and_the_best_ten_on_all(rounds):
    history, sizes = judged(method(rounds=rounds), planted)
    assert sizes == [1000, 10] * rounds
    for r in range(rounds):
        candidates, finalists = history[1010 * r :][:1000], history[1010 * r + 1000 :][:10]
        assert {t.share for t in candidates} == {0.0256} and {t.share for t in finalists} == {1.0}
        order = sorted(candidates, key=lambda t: -t.score)
        assert [t.architecture for t in finalists] == [t.architecture for t in order[:10]]


def test_the_best_on_all_images_wins_whatever_it_had_on_few():
    """Few images rank by the planted accuracies, all images the other way round."""
    searcher = method(rounds=2, candidates=50)
    history, _ = judged(searcher, lambda a, share: planted(a) if share < 1 else 1 - planted(a))
    finalists = [t for t in history if t.share == 1]
    assert len(finalists) == 20
    found = searcher.choose(history)
    assert found == min(finalists, key=lambda t: planted(t.architecture)).architecture
    assert planted(found) < max(planted(t.architecture) for t in history)


def test_of_equals_the_first_are_finalists():
    history, _ = judged(method(rounds=1, candidates=20, finalists=3), lambda a, share: 0.5)
    assert [t.architecture for t in history[20:]] == [t.architecture for t in history[:3]]
    assert method().choose(history) == history[0].architecture


def test_proposals_are_a_function_of_history_and_seed():
    searcher = method(**SMALL)
    state = np.random.get_state()[1].copy()
    for length in (0, 5, 7):
        history = judged(searcher, planted)[0][:length]
        one, again, other = (searcher.propose(history, 4, seed) for seed in (0, 0, 1))
        assert one == again
        assert (one == other) == (length == 5)  # finalists are in the history, not drawn
    assert (state == np.random.get_state()[1]).all()


# --- options and settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [({"finalists": 11, "candidates": 10}, "finalists=11"), ({"share": 1.0}, "share"), ({"rounds": 0}, "rounds")],
)
def test_options_that_could_not_act_are_refused(options, named):
    with pytest.raises(InputError, match=named):
        method(**options)


def test_settings_of_the_paper():
    """24 channels, 150 epochs and a clipped gradient of 1 in the authors' script; 10 batches of 64 of 25,000 images."""
    assert method().paper_settings("cifar10") == {
        "search": {"channels": 24, "epochs": 150, "clip_norm": 1.0},
        "train": {"layers": 20},
    }
    full = method("full").paper_settings("cifar100")
    assert full["search"] == {"layers": 14, "batch_size": 96, "epochs": 150, "clip_norm": 1.0}
    assert full["train"] == {"channels": 50}
    options = method().options
    assert (options.rounds, options.candidates, options.finalists) == (5, 1000, 10)
    assert math.ceil(options.share * 25_000) == 640
    assert int(150 * 25_000 / 64 / 10_000) == options.rounds
    with pytest.raises(InputError, match="decoupled"):
        method("decoupled")


# --- the whole search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_search_gives_the_best_finalist_and_the_same_bits_for_the_same_seed(mapping):
    one, again = Watched(), Watched()
    found, same = (run("rsws", SMALL, mapping, session=s) for s in (one, again))
    assert found.architecture.in_space and len(found.architecture) == 3
    assert found.architecture == same.architecture and one.shown == again.shown and found.cost == same.cost
    assert run("rsws", SMALL, mapping, seed=1).architecture != found.architecture
    scores = [shown["accuracy"] for shown in one.shown.values() if "accuracy" in shown]
    assert len(scores) == found.cost["architectures_evaluated"] == 14
    search = new_search("rsws", SMALL, mapping)
    for step in range(6):
        search.step(step)
    finalists = scores[5:7] + scores[12:14]
    assert search.accuracy(found.architecture) == max(finalists)
    # The first candidate's score is that on half of the validation images.
    rng = numpy_stream(0, "candidate", 0)
    first = sampling.sample(DARTS, rng, 3, shared=mapping == SHARED)
    assert search.accuracy(first, 12) == scores[0] and len(search.validation_part) == 24


def test_operations_that_are_not_drawn_rest():
    """As spos, whose tests say more: the weights of a step's path alone move."""
    search = new_search("rsws", {}, "full", weight_decay=0.1)
    search.step(0)
    before = {p: p.detach().clone() for p in search.weights}
    active = search.method.mixing(search.mapping, search.progress(1)).active
    parts = search.supernet.parts(active)
    search.step(1)
    assert parts
    for p, executed in parts.items():
        pieces = zip(p.detach().chunk(len(executed)), before[p].chunk(len(executed)), executed, strict=True)
        assert all(torch.equal(now, was) != moves for now, was, moves in pieces)


@pytest.mark.parametrize("stop", [4, 6, 6 + 3, 6 + 6, 6 + 9])
def test_going_on_from_a_checkpoint_gives_the_same_bits(stop):
    """After a step, after the last one, among candidates, among finalists, and in the second round."""
    whole = Watched(capture_at=stop)
    expected = run("rsws", SMALL, session=whole)
    resumed = Watched(resume_from=whole.checkpoint)
    found = run("rsws", SMALL, session=resumed)
    assert found.architecture == expected.architecture and found.cost == expected.cost
    assert resumed.shown == {step: shown for step, shown in whole.shown.items() if step > stop}


def test_a_search_out_of_time_takes_the_best_of_what_was_judged():
    found = run("rsws", SMALL, seconds=1e-9)
    assert found.cost["architectures_evaluated"] == 1 and found.architecture.in_space
    assert settings(seconds=1e-9).seconds > 0

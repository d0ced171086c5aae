"""`nasnet` (Zoph et al. 2018): docs/methods/nasnet.md."""

from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from trial_tools import searched

from dnas.errors import InputError
from dnas.methods.nasnet import Controller, surrogate
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import numpy_stream, torch_stream
from dnas.searching.judging import judged
from dnas.space import sampling
from dnas.space.darts import DARTS, Space

ACTS = {
    "hidden": ({}, 7),
    "initial_range": ({}, 2.0),
    "learning_rate": ({}, 0.3),
    "batch_size": ({}, 1),
    "inner_epochs": ({}, 1),
    "clip": ({"ratio": "token"}, 0.9),
    "ratio": ({}, "token"),
    "entropy_weight": ({}, 100.0),
    "baseline_decay": ({"learning_rate": 0.1}, 0.0),
}
T = 32  # 2 cells × 4 nodes × (2 inputs + 2 operations)


def method(mapping=None, budget=80, **options):
    made = create("nasnet", mapping, options, DARTS)
    made.budget = budget
    return made


def controller(space=DARTS, cells=2, hidden=8, initial_range=0.1, seed=0):
    return Controller(cells, space, hidden, initial_range, torch_stream(seed, "test"))


def probabilities(model, tokens):
    """[N, T], of each token given those before."""
    return model(tokens).exp().gather(2, tokens[..., None])[..., 0]


def scored(candidates, scores):
    return [Trial(c.architecture, s) for c, s in zip(candidates, scores, strict=True)]


def run(made, score, trials, seed=0, layers=4):
    return judged(made, layers, seed, [], lambda i, c: score(c.architecture), lambda: False, trials)


# --- the controller's law ----------------------------------------------------------------------------------


@pytest.mark.parametrize("initial_range", [0.1, 5.0])
def test_no_node_reads_a_state_twice_and_every_token_is_legal_in_ten_thousand_samples(initial_range):
    """With weights up to 5 the law of one token is far from uniform, so its first choice would come again."""
    tokens = controller(hidden=4, initial_range=initial_range).sample(10_000, torch_stream(0, "sample"))
    assert tokens.shape == (10_000, T)
    for first in range(0, T, 4):
        node = first // 4 % 4
        one, other, *operations = tokens[:, first : first + 4].T
        assert (one != other).all()
        assert all(((s >= 0) & (s < node + 2)).all() for s in (one, other))
        assert all(((o >= 5) & (o < 12)).all() for o in operations)
    if initial_range == 5.0:
        assert max(Counter(tokens[:, 12].tolist()).values()) > 5000
    else:
        assert len({tuple(pair) for pair in tokens[:, 12:14].tolist()}) == 20
        assert len(set(tokens[:, 14].tolist())) == 7


TOYS = [Space("one", 1, 2, ("a", "b", "c")), Space("two", 2, 2, ("a", "b"))]


@pytest.mark.parametrize("space", TOYS, ids=lambda space: space.name)
def test_the_law_sums_to_one_over_all_sequences_and_samples_follow_it(space):
    states, q = space.nodes + 1, len(space.primitives)
    nodes = [
        [[*inputs, *(states + o for o in ops)] for inputs in permutations(range(n + 2), 2) for ops in product(range(q), repeat=2)]
        for n in range(space.nodes)
    ]  # fmt: skip
    everything = torch.tensor([[token for part in parts for token in part] for parts in product(*nodes)])
    model = controller(space, 1, initial_range=1.5)
    law = probabilities(model, everything).prod(1).detach()
    assert law.sum().item() == pytest.approx(1, abs=1e-12)
    assert law.max() > 5 * law.min()
    count = 20_000
    drawn = Counter(map(tuple, model.sample(count, torch_stream(1, "sample")).tolist()))
    expected = law * count
    observed = torch.tensor([drawn[tuple(row)] for row in everything.tolist()])
    assert observed.sum() == count
    often = expected > 5
    rest = (count - observed[often].sum() - (expected[~often].sum())) ** 2 / expected[~often].sum().clamp_min(1)
    statistic = ((observed - expected) ** 2 / expected)[often].sum() + rest
    assert statistic < chi2.ppf(1 - 1e-6, int(often.sum()))


def test_a_token_depends_on_all_before_it_and_on_none_after():
    model = controller(initial_range=1.0)
    tokens = model.sample(1, torch_stream(0, "sample"))
    for t in (2, 15):
        other = tokens.clone()
        other[0, t] = 5 + (tokens[0, t] - 4) % 7
        same = torch.isclose(model(tokens), model(other), rtol=0, atol=0).all(2)[0]
        assert same[: t + 1].all() and not same[t + 1 :].any()


def test_weights_start_uniform_and_the_first_architectures_are_nearly_uniform():
    """A.2: 100 units, weights in ± 0.1."""
    made = method()
    made.propose([], 4, 0)
    model = made._learnt.controller
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert model.lstm.hidden_size == 100 and model.lstm.num_layers == 1
    assert weights.abs().max() <= 0.1 and weights.std() == pytest.approx(0.2 / 12**0.5, rel=0.01)
    p = probabilities(model, model.sample(200, torch_stream(0, "sample")))
    uniform = torch.tensor([[1 / (n + 2), 1 / (n + 1), 1 / 7, 1 / 7] for n in range(4)] * 2).flatten()
    assert (p / uniform).log().abs().max() < 0.35


def test_tokens_are_a_normal_and_a_reduction_cell_or_every_layer():
    cell = [0, 1, 5, 6, 2, 0, 7, 8, 3, 1, 9, 10, 4, 2, 11, 5]
    nodes = (
        (("max_pool_3x3", 0), ("avg_pool_3x3", 1)),
        (("sep_conv_3x3", 0), ("skip_connect", 2)),
        (("dil_conv_3x3", 1), ("sep_conv_5x5", 3)),
        (("max_pool_3x3", 2), ("dil_conv_5x5", 4)),
    )
    other, swapped = [1, 0, 5, 6, *cell[4:]], (("avg_pool_3x3", 0), ("max_pool_3x3", 1))
    shared = method().architecture(cell + other, 5)
    assert shared.reductions == (1, 3)
    assert all(shared.layers[k].nodes == nodes for k in (0, 2, 4))
    assert all(shared.layers[k].nodes == (swapped, *nodes[1:]) for k in (1, 3))
    third = [1, 0, 5, 5, *cell[4:]]
    full = method("full").architecture(cell + third + cell, 3)
    assert [layer.nodes[0] for layer in full.layers] == [nodes[0], (("max_pool_3x3", 0), ("max_pool_3x3", 1)), nodes[0]]
    assert full.in_space and full.origin["method"] == "nasnet"


# --- PPO ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", ["architecture", "token"])
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=8)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(ratio, seed):
    """∂L/∂(logit of v at t) = -mean A (1[a_t = v] - π(v)), here summed up in the biases."""
    made = method(ratio=ratio, entropy_weight=0.0)
    model = controller(initial_range=1.0, seed=seed)
    tokens = model.sample(6, torch_stream(seed, "sample"))
    advantages = torch.randn(6, generator=torch_stream(seed, "advantage"), dtype=torch.float64)
    laws = model(tokens)
    loss = made.loss(laws, laws.detach(), tokens, advantages)
    assert loss.item() == pytest.approx(-advantages.mean().item() * (1 if ratio == "architecture" else T), abs=1e-12)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, retain_graph=True)
    reinforce = -(advantages * probabilities(model, tokens).log().sum(1)).mean()
    for mine, theirs in zip(grads, torch.autograd.grad(reinforce, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    chosen = torch.nn.functional.one_hot(tokens, 12)
    closed = -(advantages[:, None, None] * (chosen - laws.exp())).mean(0).detach()
    bias = grads[[name for name, _ in model.named_parameters()].index("bias")]
    torch.testing.assert_close(bias, closed, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.3, 2.0, 0), (0.7, -2.0, 0), (1.3, -2.0, 1), (0.7, 2.0, 1), (1.1, 2.0, 1), (0.9, -2.0, 1),
        (1.19, 2.0, 1), (1.21, 2.0, 0), (0.81, -2.0, 1), (0.79, -2.0, 0),
    ],
)  # fmt: skip
def test_beyond_the_clip_there_is_no_gradient_where_the_ratio_went_the_right_way(ratio, advantage, slope):
    r = torch.tensor([[ratio], [1.0]], dtype=torch.float64, requires_grad=True)
    loss = surrogate(r, torch.tensor([advantage, 0.0], dtype=torch.float64), 0.2)
    loss.backward()
    assert r.grad.flatten().tolist() == pytest.approx([-advantage * slope / 2, 0])
    bound = ratio if slope else (1.2 if ratio > 1 else 0.8)
    assert loss.item() == pytest.approx(-advantage * bound / 2)


def test_a_ratio_is_that_of_an_architecture_or_of_each_token():
    """Two tokens by factors 1.15 and 1.15: below the clip at 1.2 each, above it together."""
    tokens = torch.tensor([[0, 1]])
    old = torch.tensor([[[0.2, 0.8], [0.6, 0.4]]], dtype=torch.float64).log()
    factors = torch.tensor([[[1.15, 1.0], [1.0, 1.15]]], dtype=torch.float64).log().requires_grad_()
    advantages = torch.ones(1, dtype=torch.float64)
    for ratio, value, reached in (("architecture", -1.2, False), ("token", -2.3, True)):
        loss = method(ratio=ratio, entropy_weight=0.0).loss(old + factors, old, tokens, advantages)
        assert loss.item() == pytest.approx(value)
        (grad,) = torch.autograd.grad(loss, factors)
        assert bool(grad.any()) == reached


def test_the_entropy_is_that_of_every_token_and_makes_the_loss_smaller():
    made = method(entropy_weight=0.5)
    model = controller(initial_range=1.0)
    tokens = model.sample(3, torch_stream(0, "sample"))
    laws = model(tokens)
    loss = made.loss(laws, laws.detach(), tokens, torch.zeros(3, dtype=torch.float64))
    p = laws.exp()
    expected = sum(-v * v.log() for v in p[p > 0]) / 3
    assert 30 < expected < 3 * T
    assert loss.item() == pytest.approx(-0.5 * expected.item(), rel=1e-12)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    assert all(g.isfinite().all() for g in grads) and any(g.any() for g in grads)


def advantages_of(made, scores):
    """What every update of a search with these scores is told, [updates][batch], and how often."""
    seen = []
    loss = made.loss
    made.loss = lambda laws, old, tokens, advantages: (
        seen.append((old, advantages)) or loss(laws, old, tokens, advantages)
    )
    history = []
    while len(history) < len(scores):
        history += scored(made.propose(history, 3, 0), scores[len(history) : len(history) + made.batch])
    made.propose(history, 3, 0)
    epochs = made.options.inner_epochs
    for first in range(0, len(seen), epochs):
        assert all(torch.equal(old, seen[first][0]) for old, _ in seen[first : first + epochs])
    assert len(seen) * made.batch == len(scores) * epochs
    return [a.tolist() for _, a in seen[::epochs]]


def test_the_baseline_is_a_moving_average_of_the_accuracies_before_and_failures_are_the_worst():
    """The first batch has none before it: its mean. A failure counts as the lowest accuracy so far."""
    made = method(batch_size=2, hidden=4, baseline_decay=0.9)
    scores = [0.5, 0.7, None, 0.9, 0.2, None]
    got = advantages_of(made, scores)
    first = 0.6
    second = 0.9 * (0.9 * first + 0.1 * 0.5) + 0.1 * 0.7
    third = 0.9 * (0.9 * second + 0.1 * 0.5) + 0.1 * 0.9
    expected = [[0.5 - first, 0.7 - first], [0.5 - second, 0.9 - second], [0.2 - third, 0.2 - third]]
    assert got == [pytest.approx(row) for row in expected]
    assert advantages_of(method(batch_size=2, hidden=4), [None, None, 0.5, 0.5]) == [[0, 0], [0.5, 0.5]]


# --- a pure function of the history -------------------------------------------------------------------------


def match(best):
    """0.5 to 0.9: how many (operation, input) pairs, and operations, a node has in common with the best one's."""

    def score(architecture):
        pairs = [
            (a, b)
            for x, y in zip(architecture.layers, best.layers, strict=True)
            for a, b in zip(x.nodes, y.nodes, strict=True)
        ]
        same = sum(len(set(a) & set(b)) + len({o for o, _ in a} & {o for o, _ in b}) / 2 for a, b in pairs)
        return 0.5 + 0.4 * same / (3 * len(pairs))

    return score


BEST = {m: sampling.sample(DARTS, numpy_stream(99, "planted"), 4, shared=m == "shared") for m in ("shared", "full")}


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_what_is_proposed_is_a_function_of_history_layers_and_seed(mapping):
    made = method(mapping, budget=90, hidden=8)
    history = run(made, match(BEST[mapping]), 12)
    assert made.batch == 3 and len({trial.architecture for trial in history}) > 6
    for length in range(13):
        fresh = method(mapping, budget=90, hidden=8).propose(history[:length], 4, 0)
        assert made.propose(history[:length], 4, 0) == fresh  # goes back where it must
        assert [c.architecture for c in fresh] == [
            t.architecture for t in history[length : length + 3 - length % 3]
        ] or length > 9
        assert len(fresh) == 3 - length % 3
    changed = [replace(history[0], score=0.99), *history[1:]]
    one, two = made.propose(changed[:9], 4, 0), made.propose(history[:9], 4, 0)
    assert one == method(mapping, budget=90, hidden=8).propose(changed[:9], 4, 0) != two
    assert made.propose([], 4, 1) != made.propose([], 4, 0)
    assert {len(c.architecture) for c in made.propose([], 5, 0)} == {5}


def test_updates_are_made_once_with_the_tokens_that_were_judged():
    made = method(budget=90, hidden=8)
    updates = []
    update = made._update

    def watched(learnt, tokens):
        updates.append(len(learnt.trials))
        written = [made.architecture(row, 4) for row in tokens.tolist()]
        assert written == [trial.architecture for trial in learnt.trials[-3:]]
        update(learnt, tokens)

    made._update = watched
    history = run(made, match(BEST["shared"]), 12)
    made.propose(history, 4, 0)
    assert updates == [3, 6, 9, 12]


def test_nothing_global_is_drawn():
    before = torch.get_rng_state()
    made = method(budget=4, hidden=8)
    run(made, match(BEST["shared"]), 4)
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_a_planted_architecture_better_than_random_draws():
    score = match(BEST["shared"])
    learnt, drawn = (run(m, score, 160) for m in (method(budget=160), create("random", None, {}, DARTS)))
    means = [sum(t.score for t in h[-40:]) / 40 for h in (learnt, drawn)]
    assert means[0] > means[1] + 0.05
    assert max(t.score for t in learnt) > max(t.score for t in drawn) + 0.02
    made = method(budget=160)
    assert made.choose(learnt) == max(learnt, key=lambda t: t.score).architecture


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "batch", "rate"),
    [(1, 1, 0.035), (16, 2, 0.00875), (100, 4, 0.0040935), (300, 10, 0.0036252), (800, 20, 0.0029924), (20_000, 20, 3.5e-4), (10**6, 20, 3.5e-4)],
)  # fmt: skip
def test_batches_and_rate_are_the_published_ones_where_there_are_trials_enough(budget, batch, rate):
    made = method(budget=budget)
    assert made.batch == len(made.propose([], 3, 0)) == batch
    assert made.rate == pytest.approx(rate, rel=1e-4)
    assert made._learnt.optimizer.param_groups[0]["lr"] == made.rate
    assert method(budget=budget, learning_rate=0.01).rate == 0.01


def test_where_nobody_said_how_many_trials_there_are_it_plans_for_those_of_any_search():
    """With the published 20 and 3.5e-4 some hundred trials would teach it nothing."""
    made, told = method(budget=None), method(budget=100)
    assert (made.batch, made.rate) == (told.batch, told.rate)


@pytest.mark.parametrize(("option", "value"), [("clip", 0.1), ("ratio", "token")])
def test_with_one_step_a_batch_there_is_nothing_to_clip(option, value):
    with pytest.raises(InputError, match=f"--option {option}={value} does not apply to inner_epochs=1"):
        method(inner_epochs=1, **{option: value})


def test_paper_settings():
    shared, full = method().paper_settings("cifar10"), method("full").paper_settings("cifar100")
    assert shared["search"] == {"layers": 8, "channels": 32, "trials": 20_000, "epochs": 20}
    assert shared["train"] == {"layers": 20}
    assert full["search"] == {"layers": 14, "batch_size": 96, "trials": 20_000, "epochs": 20}
    assert full["train"] == {"channels": 50}


# --- a whole search ----------------------------------------------------------------------------------------


def search(mapping, known=()):
    found, scores, _ = searched("nasnet", mapping, {}, 6, known)
    return found.architecture, scores


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_search_gives_an_architecture_and_the_same_bits_also_when_it_is_resumed(mapping):
    architecture, scores = search(mapping)
    assert architecture.in_space and len(architecture) == 3 and len(scores) == 6
    assert search(mapping) == (architecture, scores)
    assert search(mapping, scores[:3]) == (architecture, scores)

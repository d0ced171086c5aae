"""`bananas` (White et al. 2021): docs/methods/bananas.md."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_bananas_tools import architectures, method
from trial_tools import searched

from dnas.errors import InputError
from dnas.methods.bananas import BANANAS, BANANASOptions, Ensemble, thompson
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.searching.judging import judged
from dnas.space.darts import DARTS

FEW = {"predictor_epochs": 40}
PUBLISHED = BANANAS.paper_options
SMALL = {"predictor_epochs": 20, "predictors": 2, "predictor_layers": 3, "candidates": 20}
ACTS = {
    "initial": (FEW, 1),
    "batch_size": (FEW, 1),
    "candidates": (FEW, 30),
    "candidates_from": (FEW, "random"),
    "parents": ({**FEW, "candidates": 50}, 1),
    "mutations": (FEW, 1),
    "encoding": (FEW, "path"),
    "predictors": (FEW, 3),
    "predictor_layers": (FEW, 1),
    "predictor_width": (FEW, 3),
    "predictor_epochs": (FEW, 3),
    "predictor_learning_rate": (FEW, 1e-5),
    "standardise": (FEW, False),
    "loss": ({"predictor_epochs": 100}, "mape"),
    "lower_bound": ({"predictor_epochs": 100, "candidates": 100, "loss": "mape"}, 49.0),
}


def run(made, score, trials, seed=0, layers=4):
    return judged(made, layers, seed, [], lambda i, c: score(c.architecture), lambda: False, trials)


def convolutions(architecture):
    """0.5 to 0.9: how many separable convolutions the normal cell has, and how many max-poolings the reduction."""
    normal, reduction = (
        [op for node in architecture.layers[k].nodes for op, _ in node] for k in (0, architecture.reductions[0])
    )
    return 0.5 + 0.4 * (normal.count("sep_conv_3x3") + reduction.count("max_pool_3x3")) / 16


# --- the predictors ----------------------------------------------------------------------------------------


def ensemble(columns, inputs=11_204, seed=0, **options):
    return Ensemble(BANANASOptions(**options), columns, inputs, torch_stream(seed, "test"))


def test_networks_have_the_published_shape_and_law():
    """10 layers of 20, Glorot's law for all 11,204 inputs, and no bias."""
    made = ensemble(400, predictors=3, **PUBLISHED)
    assert [tuple(w.shape) for w in made.weights] == [(3, 400, 20), *[(3, 20, 20)] * 9, (3, 20, 1)]
    for w, fans in zip(made.weights, [11_224, *[40] * 9, 21], strict=True):
        limit = (6 / fans) ** 0.5
        assert w.abs().max() <= limit
        if w.numel() > 1000:
            assert w.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
    assert not any(b.any() for b in made.biases)


def test_an_ensemble_is_its_networks_one_by_one():
    made = ensemble(12, predictors=3, predictor_layers=2)
    with torch.no_grad():
        for b in made.biases:
            b.normal_(generator=torch_stream(1, "bias"))
    x = torch.randn(5, 12, generator=torch_stream(2, "x"))
    w, b = made.weights, made.biases
    for m in range(3):
        hidden = torch.relu(torch.relu(x @ w[0][m] + b[0][m]) @ w[1][m] + b[1][m])
        expected = (hidden @ w[2][m] + b[2][m])[:, 0]
        torch.testing.assert_close(made(x)[m], expected)
        torch.testing.assert_close(made(torch.stack([x, x + 1, x]))[m], made(x + (m == 1))[m])


@pytest.mark.parametrize("layers", [1, 3, 10])
def test_the_gradient_is_that_of_autograd(layers):
    made = ensemble(7, inputs=7, predictors=3, predictor_layers=layers)
    with torch.no_grad():
        made.numbers += 0.1 * torch.randn(len(made.numbers), generator=torch_stream(1, "numbers"))
    x, y, weights = (torch.randn(3, 6, *more, generator=torch_stream(2, "x")) for more in ((7,), (), ()))
    written = torch.full_like(made.numbers, 9.0)
    made.gradient(x, y, weights, written)
    leaves = [part.clone().requires_grad_() for part in (*made.weights, *made.biases)]
    hidden = x
    for k, (weight, bias) in enumerate(zip(leaves[: layers + 1], leaves[layers + 1 :], strict=True)):
        hidden = (hidden.relu() if k else hidden) @ weight + bias
    loss = (weights * (hidden[..., 0] - y).abs()).mean(1).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves)])
    assert expected.count_nonzero() > 50
    torch.testing.assert_close(written, expected)


def test_inputs_that_are_always_zero_change_nothing():
    """What justifies leaving them out: neither a prediction nor a gradient knows of them."""
    narrow, wide = (ensemble(n, predictors=2, predictor_epochs=40) for n in (6, 9))
    with torch.no_grad():
        for mine, theirs in zip(narrow.weights, wide.weights, strict=True):
            theirs[:, : mine.shape[1]] = mine
    left_out = wide.weights[0][:, 6:].clone()
    x = (torch.rand(40, 6, generator=torch_stream(0, "x")) < 0.4).float()
    y, ones = x @ torch.arange(6.0), torch.ones(40)
    padded = torch.cat([x, torch.zeros(40, 3)], 1)
    narrow.fit(x, y, ones, torch_stream(0, "order"))
    wide.fit(padded, y, ones, torch_stream(0, "order"))
    torch.testing.assert_close(narrow(x), wide(padded))
    assert torch.equal(left_out, wide.weights[0][:, 6:])


def test_members_differ_and_agree_more_on_what_they_have_seen():
    """The spread over members is smaller where they were trained, and there they are right."""
    made = method(predictor_epochs=150)
    trials = [Trial(a, convolutions(a)) for a in architectures(30)]
    others = architectures(60, seed=1)
    predictions = made.predict(trials, [t.architecture for t in trials] + others, 0, 30)
    assert predictions.shape == (5, 90)
    spread = predictions.std(0, correction=0)
    assert 0 < spread[:30].mean() < spread[30:].mean() / 2
    errors = torch.tensor([100 * (1 - t.score) for t in trials])
    assert (predictions[:, :30].mean(0) - errors).abs().mean() < 0.2 * errors.std()


def test_predictors_rank_architectures_that_they_have_not_seen():
    made = method(predictor_epochs=60)
    trials = [Trial(a, convolutions(a)) for a in architectures(90)]
    others = architectures(80, seed=1)
    mean = made.predict(trials, others, 0, 90).mean(0)
    truth = torch.tensor([100 * (1 - convolutions(a)) for a in others])
    assert torch.corrcoef(torch.stack([mean, truth]))[0, 1] > 0.4


class Spied(Ensemble):
    """Keeps what it was fitted to, and predicts 0 and 2 in turn."""

    def fit(self, x, y, weights, generator):
        Spied.seen = (x, y, weights)

    def __call__(self, x):
        return torch.arange(self.options.predictors)[:, None] % 2 * 2.0 * torch.ones(len(x))


@pytest.fixture
def spied(monkeypatch):
    monkeypatch.setattr("dnas.methods.bananas.Ensemble", Spied)
    trials = [Trial(a, s) for a, s in zip(architectures(3), (0.9, 0.8, 0.4), strict=True)]

    def fitted(**options):
        predictions = method(**options).predict(trials, architectures(2, seed=1), 0, 3)
        return *Spied.seen, predictions

    return fitted


def test_predictors_learn_errors_in_their_standard_deviation(spied):
    """Errors are 10, 20 and 60 per cent: their mean is 30, their standard deviation √(1400 / 3)."""
    x, y, weights, predictions = spied()
    sd = (1400 / 3) ** 0.5
    torch.testing.assert_close(y, torch.tensor([-20, -10, 30]) / sd, atol=1e-5, rtol=0)
    assert weights.tolist() == [1, 1, 1]
    assert x.shape[0] == 3 and set(x.unique().tolist()) == {0, 1}
    for row, a in zip(x, architectures(3), strict=True):
        assert row.sum() == len(method().edges(a)) == 16
    assert predictions[0].tolist() == pytest.approx([30, 30])
    assert predictions[1].tolist() == pytest.approx([30 + 2 * sd] * 2)
    _, y, weights, predictions = spied(standardise=False)
    assert y.tolist() == pytest.approx([10, 20, 60]) and weights.tolist() == [1, 1, 1]
    assert predictions[1].tolist() == [2, 2]
    x, *_ = spied(encoding="path")
    for row, a in zip(x, architectures(3), strict=True):
        assert row.sum() == len(method().encoding(a)) > 16


def test_the_published_loss_is_relative_to_the_error_above_a_bound(spied):
    """|(ŷ - 4.5) / (y - 4.5) - 1| = |ŷ - y| / (y - 4.5), in whichever units ŷ is learnt."""
    _, y, weights, _ = spied(loss="mape", standardise=False)
    guess = torch.tensor([12.0, 12.0, 12.0])
    published = ((guess - 4.5) / (torch.tensor([10.0, 20.0, 60.0]) - 4.5) - 1).abs()
    torch.testing.assert_close(weights * (guess - y).abs(), published)
    _, y, weights, _ = spied(loss="mape")
    sd = (1400 / 3) ** 0.5
    torch.testing.assert_close(weights * ((guess - 30) / sd - y).abs(), published)
    _, _, weights, _ = spied(loss="mape", standardise=False, lower_bound=15.0)
    assert weights.tolist() == pytest.approx([10, 1 / 5, 1 / 45])  # 10 lies below: as if 0.1 above


def test_a_fit_minimises_the_weighted_absolute_error():
    """Two answers to one question: that of more weight wins; of equal ones, the median."""
    x, y = torch.ones(3, 1), torch.tensor([0.0, 1.0, 5.0])
    for weights, answer in (([1, 1, 1], 1), ([5, 1, 1], 0), ([1, 1, 5], 5)):
        made = ensemble(1, inputs=1, predictors=2, predictor_layers=1, predictor_epochs=300)
        made.fit(x, y, torch.tensor(weights, dtype=torch.float32), torch_stream(0, "order"))
        assert made(x)[:, 0].tolist() == pytest.approx([answer] * 2, abs=0.1)


def test_one_trial_or_equal_ones_are_enough_to_go_on():
    made = method(initial=1, batch_size=2)
    (a,) = architectures(1)
    assert len(made.propose([Trial(a, 0.5)], 4, 0)) == 2
    assert made.predict([Trial(a, 0.5)], architectures(3, 1), 0, 1).isfinite().all()


# --- the acquisition ---------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_thompson_without_spread_is_the_order_of_the_means(seed):
    means = torch.randn(20, generator=torch_stream(seed, "means"))
    order = thompson(means.expand(5, 20), torch_stream(seed, "draws"))
    assert torch.equal(order, means.argsort()) and order[0] == means.argmin()


def test_thompson_draws_every_candidate_from_its_own_normal_law():
    """P(a first) = Φ(1 / √(1² + 3²)) for means 0 and 1 and deviations 1 and 3, over the members alone."""
    predictions = torch.tensor([[-1.0, -2.0], [1.0, 4.0]])
    generator = torch_stream(0, "draws")
    share = sum(int(thompson(predictions, generator)[0] == 0) for _ in range(4000)) / 4000
    expected = torch.distributions.Normal(0, 1).cdf(torch.tensor(1 / 10**0.5)).item()
    assert share == pytest.approx(expected, abs=5 * (0.25 / 4000) ** 0.5)
    pairs = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    share = sum(int(thompson(pairs, generator)[0] == 0) for _ in range(4000)) / 4000
    assert share == pytest.approx(0.5, abs=5 * (0.25 / 4000) ** 0.5)  # not one draw for both


# --- what is proposed --------------------------------------------------------------------------------------


def distance(one, two):
    """Slots that differ, in the pair of cells."""
    return sum(
        len(set(a) - set(b))
        for k in (0, one.reductions[0])
        for a, b in zip(one.layers[k].nodes, two.layers[k].nodes, strict=True)
    )


def test_the_first_are_those_of_random_search():
    made, random = method(), create("random", None, {}, DARTS)
    first = [c.architecture for c in made.propose([], 4, 3)]
    drawn = run(random, convolutions, 10, seed=3)
    assert first == [trial.architecture for trial in drawn]
    assert [c.architecture for c in made.propose(drawn[:7], 4, 3)] == first[7:]


def test_candidates_are_mutations_of_the_best_and_new():
    made = method(budget=None, candidates=300, candidates_from="mutation", mutations=1, parents=2)
    history = run(made, convolutions, 10)
    candidates = []
    made.predict = lambda trials, queries, *_: candidates.extend(queries) or torch.zeros(1, len(queries))
    assert len(made.propose(history, 4, 0)) == 10 and len(candidates) == 300
    best = sorted(history, key=lambda t: -t.score)
    near = [[distance(a, t.architecture) for t in best] for a in candidates]
    first, second = (sum(row[i] == 1 for row in near) for i in range(2))
    assert first > 80 and second > 80 and first + second < 300
    assert [row[0] == 1 for row in near[:first]] == [True] * first  # the best one's come first
    assert [row[1] == 1 for row in near[first : first + second]] == [True] * second
    assert all(min(row) > 1 for row in near[first + second :])  # then uniform ones
    encodings = [made.encoding(a) for a in [*candidates, *(t.architecture for t in history)]]
    assert len(set(encodings)) == len(encodings)


def test_the_parents_take_turns_and_candidates_are_one_to_three_mutations_away():
    made = method(budget=None, candidates=200, parents=2)
    history = run(made, convolutions, 10)
    candidates = []
    made.predict = lambda trials, queries, *_: candidates.extend(queries) or torch.zeros(1, len(queries))
    made.propose(history, 4, 0)
    best = sorted(history, key=lambda t: -t.score)[:2]
    near = [min(range(2), key=lambda i: distance(a, best[i].architecture)) for a in candidates]
    far = [distance(a, best[i].architecture) for i, a in zip(near, candidates, strict=True)]
    assert len(candidates) == 200 and set(far) == {1, 2, 3}
    # A third each, less those that were there or met in a slot.
    assert all(30 < far.count(steps) < 100 for steps in (1, 2, 3))
    assert 80 < near.count(0) < 120 and 35 < near[:100].count(0) < 65


def test_candidates_of_the_ablation_are_uniform_and_others_in_every_round():
    made = method(budget=None, candidates_from="random")
    history = run(made, convolutions, 10)
    rounds = []
    made.predict = lambda trials, queries, *_: rounds.append(queries) or torch.zeros(1, len(queries))
    made.propose(history, 4, 0)
    made.propose(history + [Trial(a, 0.5) for a in rounds[0][:10]], 4, 0)
    assert [len(queries) for queries in rounds] == [300, 300] and not set(rounds[0]) & set(rounds[1])
    assert min(distance(a, t.architecture) for a in rounds[0] for t in history) > 5


def test_what_is_proposed_has_the_least_draws():
    made = method(budget=None, batch_size=3, candidates=20)
    history = run(made, convolutions, 10)
    queries = []

    def predict(trials, candidates, seed, number):
        queries[:] = candidates
        assert [t.architecture for t in trials] == [t.architecture for t in history] and (seed, number) == (5, 10)
        return torch.tensor([float((i * 7 + 3) % 20) for i in range(20)]).expand(5, 20)

    made.predict = predict
    chosen = [c.architecture for c in made.propose(history, 4, 5)]
    assert chosen == [queries[i] for i in sorted(range(20), key=lambda i: (i * 7 + 3) % 20)[:3]]


def test_failed_trials_teach_nothing_and_come_not_again():
    made = method(budget=None, initial=4, batch_size=2, candidates=100, mutations=1)
    first = [c.architecture for c in made.propose([], 4, 0)]
    failed = [Trial(a, None) for a in first]
    again = [c.architecture for c in made.propose(failed, 4, 0)]
    assert len(again) == 2 and not set(again) & set(first)
    assert again == [t.architecture for t in run(create("random", None, {}, DARTS), convolutions, 6)][4:]
    seen = []
    made.predict = lambda trials, queries, *_: seen.append((trials, queries)) or torch.zeros(1, len(queries))
    history = [*failed[:2], *(Trial(a, 0.5) for a in first[2:])]
    made.propose(history, 4, 0)
    ((trials, queries),) = seen
    assert trials == history[2:] and not set(queries) & set(first)
    assert all(min(distance(q, a) for a in first[2:]) == 1 for q in queries)


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_what_is_proposed_is_a_function_of_history_layers_and_seed(mapping):
    made = method(mapping, budget=16)
    history = run(made, convolutions, 16)
    assert len({trial.architecture for trial in history}) == 16
    assert all(len(set(t.architecture.layers)) == (2 if mapping == "shared" else 4) for t in history[:8])
    for length in (0, 5, 8, 10, 14):
        once, again = made.propose(history[:length], 4, 0), method(mapping, budget=16).propose(history[:length], 4, 0)
        assert once == again
        assert [c.architecture for c in once] == [t.architecture for t in history[length : length + len(once)]]
    assert made.propose(history, 4, 1) != made.propose(history, 4, 0)
    assert {len(c.architecture) for c in made.propose([], 5, 0)} == {5}


def test_nothing_global_is_drawn():
    before = torch.get_rng_state()
    run(method(budget=4), convolutions, 4)
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_a_planted_best_better_than_random_draws():
    learnt, drawn = (
        [run(made, convolutions, 60, seed) for seed in range(3)]
        for made in (method(budget=60), create("random", None, {}, DARTS))
    )
    late = [sum(t.score for h in runs for t in h[-20:]) / 60 for runs in (learnt, drawn)]
    best = [sum(max(t.score for t in h) for h in runs) / 3 for runs in (learnt, drawn)]
    assert late[0] > late[1] + 0.06 and best[0] > best[1] + 0.02
    assert method().choose(learnt[0]) == max(learnt[0], key=lambda t: t.score).architecture


# --- options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "initial", "batch"), [(1, 1, 1), (3, 2, 1), (16, 8, 2), (40, 10, 5), (100, 10, 10), (None, 10, 10)]
)
def test_rounds_are_the_published_ones_where_there_are_trials_enough(budget, initial, batch):
    made = method(budget=budget, predictor_epochs=1)
    first = made.propose([], 3, 0)
    assert len(first) == initial
    assert len(made.propose([Trial(c.architecture, 0.5) for c in first], 3, 0)) == batch


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"candidates": 5}, "batch_size=10"),
        ({"candidates_from": "random", "parents": 1}, "parents=1"),
        ({"candidates_from": "random", "mutations": 1}, "mutations=1"),
        ({"lower_bound": 2.0}, "lower_bound=2.0"),
    ],
)
def test_options_that_could_not_act_are_refused(options, named):
    with pytest.raises(InputError, match=f"--option {named}"):
        method(**options)


def test_paper_settings():
    shared, full = method().paper_settings("cifar10"), method("full").paper_settings("cifar100")
    network = {"layers": 20, "channels": 36, "batch_size": 96, "learning_rate_min": 0.0}
    assert shared == {"search": {"trials": 100, "epochs": 50, **network}, "train": {"layers": 20}}
    assert full["search"] == {"layers": 14, "batch_size": 96, "trials": 100, "epochs": 50}
    assert full["train"] == {"channels": 50}


# --- a whole search ----------------------------------------------------------------------------------------


def search(mapping, known=()):
    found, scores, _ = searched("bananas", mapping, FEW, 6, known)
    return found.architecture, scores


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_search_gives_an_architecture_and_the_same_bits_also_when_it_is_resumed(mapping):
    architecture, scores = search(mapping)
    assert architecture.in_space and len(architecture) == 3 and len(scores) == 6
    assert search(mapping) == (architecture, scores)
    assert search(mapping, scores[:4]) == (architecture, scores)

"""`enas` (Pham et al. 2018): docs/methods/enas.md."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from method_enas_tools import CONVOLUTIONS, controller, forced, sampled, texts, toy

from dnas.data.splits import DataInfo, Split
from dnas.methods.enas import ENAS, Controller, ENASOptions, advantages, greedy, reinforce, sampling
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline import config
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.searching.search import Search
from dnas.settings import SupernetSettings
from dnas.space.darts import DARTS, Space

LEARNS = {
    "controller_steps": 10,
    "hidden": 32,
    "reward_images": 128,
    "convolution_bias": 0.0,
    "tanh_constant": 5.0,
    "operation_tanh_reduction": 1.0,
    "controller_learning_rate": 0.02,
    "baseline_decay": 0.9,
    "aggregates": 10,
    "finalists": 10,
}
# Of the defaults only what takes time is less.
SMALL = {"controller_steps": 2, "aggregates": 3, "finalists": 3, "hidden": 16}
ACTS = {
    "partial_channels": ({}, 2),
    "hidden": ({}, 32),
    "tanh_constant": ({}, 2.0),
    "operation_tanh_reduction": ({}, 1.0),
    "convolution_bias": ({}, 0.0),
    "normal_cell_bias": ({}, 2.0),
    "controller_learning_rate": ({}, 0.02),
    "controller_beta1": ({}, 0.9),
    "controller_epsilon": ({}, 1e-8),
    "controller_steps": ({}, 31),
    "aggregates": ({}, 11),
    "reward_images": ({}, 3),
    "baseline_decay": ({}, 0.5),
    "entropy_weight": ({}, 1.0),
    "finalists": ({}, 1),
}
QUICK = {"controller_steps": 2, "aggregates": 3, "reward_images": 4, "finalists": 4}


def grads(loss, made):
    found = torch.autograd.grad(loss, list(made.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, made.parameters(), strict=True)]


# --- how it begins --------------------------------------------------------------------------------------------


def test_the_initial_parameters_are_uniform_but_for_the_operations_bias():
    state = torch.get_rng_state()
    made = Controller(DARTS, 6, True, ENASOptions(), 1)
    assert torch.equal(state, torch.get_rng_state())
    parameters = dict(made.named_parameters())
    bias = parameters.pop("bias").tolist()
    assert bias == [10.0 if o in CONVOLUTIONS else 0.0 for o in range(7)]
    for name, p in parameters.items():
        assert p.abs().max() <= 0.1 and p.abs().max() > 0.09, name
        assert p.mean().abs() < 0.06 * math.sqrt(3 / p.numel()) + 1e-9, name
    assert parameters["lstm"].shape == (128, 256)
    other = dict(Controller(DARTS, 6, True, ENASOptions(), 2).named_parameters())
    assert all(not torch.equal(p, other[name]) for name, p in parameters.items())


def test_convolutions_are_likelier_at_first_and_the_most_in_normal_cells():
    """Without all else: logits 0.44 tanh(10) ± 0.25 of four convolutions and ∓ 0.25 of three others; inputs equal."""
    made = controller()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name != "bias":
                p.zero_()
    seen = []

    def record(t, logits):
        seen.append(logits.softmax(1)[0])
        return greedy(t, logits)

    made(record, 1)
    for cell, edge in enumerate([0.44 * math.tanh(10) + 0.5, 0.44 * math.tanh(10)]):
        share = math.exp(edge) / (4 * math.exp(edge) + 3)
        for n in range(4):
            first, second, *operations = seen[16 * cell + 4 * n : 16 * cell + 4 * n + 4]
            assert first.tolist() == pytest.approx([1 / (n + 2)] * (n + 2))
            assert second.tolist() == pytest.approx([0.0] + [1 / (n + 1)] * (n + 1))
            for p in operations:
                assert p[CONVOLUTIONS].tolist() == pytest.approx([share] * 4)


def test_the_published_bias_holds_the_convolutions_where_they_are():
    """tanh(10) is 1 in single precision, so nothing that a convolution earns reaches its logit."""
    for bias, held in ((10.0, True), (0.0, False)):
        made = controller(convolution_bias=bias).float()
        written = sampled(made, 50)
        (reached,) = torch.autograd.grad(written.log_probability[0], [made.bias])
        assert (reached[CONVOLUTIONS] == 0).all() == held
        assert (reached[:3] != 0).all()


# --- REINFORCE ------------------------------------------------------------------------------------------------


@given(share=st.integers(1, 9), first=st.floats(0, 1), second=st.floats(0, 1), baseline=st.floats(-2, 2))
@settings(deadline=None, max_examples=30)
def test_gradient_of_a_bandit_with_two_arms(share, first, second, baseline):
    """p (1 - p) (r₁ - r₂), for ten draws that come exactly by the probability p, whatever the baseline."""
    p = share / 10
    logit = torch.tensor(math.log(p / (1 - p)), dtype=torch.float64, requires_grad=True)
    arms = torch.tensor([1.0] * share + [-1.0] * (10 - share), dtype=torch.float64)
    rewards = [first] * share + [second] * (10 - share)
    loss = reinforce(F.logsigmoid(arms * logit), [r - baseline for r in rewards])
    (gradient,) = torch.autograd.grad(loss, [logit])
    assert -gradient.item() == pytest.approx(p * (1 - p) * (first - second), abs=1e-6)


def test_gradient_over_all_texts_is_that_of_the_expected_reward():
    made = toy(1)
    rewards = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = grads(-(made(forced(texts()), 8).log_probability.exp() * rewards).sum(), made)
    log = made(forced(texts()), 8).log_probability
    weighted = (8 * log.exp().detach() * (rewards - 0.3)).tolist()
    for got, want in zip(grads(reinforce(log, weighted), made), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    assert max(g.abs().max() for g in expected) > 1e-3


def test_the_baseline_starts_at_the_first_reward_and_moves_before_it_is_used():
    """R - b after b ← b + 0.01 (R - b) is 0.99 (R - b before)."""
    found, baseline = advantages([0.5, 0.7, 0.1], None, 0.99)
    second = 0.5 + 0.01 * 0.2
    assert found == pytest.approx([0.0, 0.99 * 0.2, 0.99 * (0.1 - second)])
    assert baseline == pytest.approx(second + 0.01 * (0.1 - second))
    found, baseline = advantages([0.4], 1.0, 0.9)
    assert found == pytest.approx([-0.54]) and baseline == pytest.approx(0.94)


class Judge:
    """What `after_epoch` needs of a search: judges by a rule, and keeps what it was asked and told."""

    def __init__(self, made, rule):
        self.mapping, self.rule, self.memory = made, rule, {}
        self.asked, self.losses = [], []

    def accuracy(self, architecture, images, first):
        self.asked.append((architecture, images, first))
        return self.rule(architecture)

    def follow(self, loss):
        self.losses.append(loss.item())


def test_an_epoch_of_the_controller():
    """What is judged on what, and the loss from it: the texts' probabilities by what they earned."""
    method = create("enas", "shared", {"controller_steps": 3, "aggregates": 4, "entropy_weight": 0.5}, DARTS)
    made, progress = method.mapping(5, 0), Progress(2, 4, step=11, draw=1, seed=3)
    search = Judge(made, lambda a: a.count("skip_connect") / 40)
    assert method.after_epoch(search, progress) is None
    assert len(search.asked) == 12
    assert {images for _, images, _ in search.asked} == {160}
    # The third epoch's, and other images for each step.
    assert [first for _, _, first in search.asked] == [160 * step for step in (6, 7, 8) for _ in range(4)]
    baseline = None
    for step in range(3):
        written = made(sampling(progress.generator(step)), 4)
        asked = [a for a, _, _ in search.asked[4 * step : 4 * step + 4]]
        assert made.architectures(written.tokens, {}) == asked
        loss = 0.0
        for a, log, entropy in zip(asked, written.log_probability.tolist(), written.entropy.tolist(), strict=True):
            reward = a.count("skip_connect") / 40 + 0.5 * entropy
            baseline = reward if baseline is None else 0.99 * baseline + 0.01 * reward
            loss -= log * (reward - baseline) / 4
        assert search.losses[step] == pytest.approx(loss, rel=1e-5)
    assert search.memory == {"baseline": pytest.approx(baseline)}
    assert len({a for a, _, _ in search.asked}) == 12


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_the_controller_learns_what_is_best_in_fewer_than_500_steps(seed):
    """Inputs and operations earn by themselves, and the likeliest text becomes the one that earns most."""
    space = Space("darts", nodes=2, inputs_per_node=2, primitives=DARTS.primitives)
    method = ENAS(ENASOptions(convolution_bias=0.0), "shared", space)
    made = method.mapping(3, seed)
    made.written_kinds = [False]
    optimizer = method.optimizer(made, None)
    generator = torch.Generator().manual_seed(seed)
    worth = torch.randperm(7, generator=generator) / 6
    states = [torch.randperm(n + 2, generator=generator) / (n + 1) for n in range(2)]

    def rewards(tokens):
        nodes = tokens.view(len(tokens), 2, 2, 2)
        return sum(states[n][nodes[:, n, 0]].sum(1) + worth[nodes[:, n, 1]].sum(1) for n in range(2)) / 6.5

    baseline, step = None, 0
    # 1 + 0 of the first node's inputs, 1 + ½ of the second's, and four times the best operation.
    while (earned := rewards(made(greedy, 1).tokens).item()) < 0.9999 and step < 500:
        assert step or earned < 0.9
        for _ in range(10):
            written = made(sampling(torch_stream(seed, "test", step)), 10)
            advantage, baseline = advantages(rewards(written.tokens).tolist(), baseline, 0.99)
            for p, g in zip(made.parameters(), grads(reinforce(written.log_probability, advantage), made), strict=True):
                p.grad = g
            optimizer.step()
            step += 1
    assert step < 500


# --- the search -----------------------------------------------------------------------------------------------


def pictures(count=32):
    split = Split(
        torch.randint(0, 256, (count, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8),
        torch.arange(count) % 4,
    )
    return split, DataInfo("digits", tuple("abcd"), 1, 8, (0.5,), (0.29,), False)


def shape(**changes):
    values = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 8, "watch_images": 0} | changes
    return SupernetSettings(**values).resolved(32, 0.0, 8)


def new_search(mapping="shared", seed=0, options=QUICK, **changes):
    return Search(create("enas", mapping, options, DARTS), shape(**changes), *pictures(), seed, "cpu")


def run(mapping="shared", seed=0, options=QUICK, session=None, **changes):
    method = create("enas", mapping, options, DARTS)
    return search_supernet(method, shape(**changes), *pictures(), seed=seed, session=session or Session(None, {}))


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_only_sampled_operations_are_executed_and_get_gradients(mapping):
    """8 of the 14 · 7 operations of a layer; every step its own sample."""
    search = new_search(mapping, layers=4)
    seen = set()
    for step in range(3):
        progress = search.progress(step)
        mixing = search.method.mixing(search.mapping, progress)
        assert torch.equal(mixing.psi, mixing.active.float())
        assert mixing.active.sum((1, 2)).tolist() == [8] * 4 and mixing.active.sum(2).max() == 1
        assert torch.equal(mixing.active[0], mixing.active[3]) == (mapping == "shared")
        again = search.method.mixing(search.mapping, progress)
        assert torch.equal(again.active, mixing.active)
        loss = search.weight_loss(search.batch(step, 0), step)
        loss.backward()
        for k, cell in enumerate(search.supernet.cells):
            for source, leaving in zip(cell.sources, cell.leaving, strict=True):
                for name, chain in source.apart.items():
                    o = DARTS.primitives.index(name)
                    for p in chain.parameters():
                        by_edge = (
                            torch.zeros(len(leaving)) if p.grad is None else p.grad.view(len(leaving), -1).norm(dim=1)
                        )
                        assert ((by_edge > 0) == mixing.active[k, leaving, o]).all()
        search.supernet.zero_grad()
        seen.add(tuple(mixing.active.flatten().tolist()))
    assert len(seen) == 3
    assert all(p.grad is None for p in search.mapping.parameters())


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_search_gives_the_best_finalist_and_the_same_bits_for_the_same_seed(mapping):
    state = torch.get_rng_state()
    found, again, other = (run(mapping, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert found.architecture == again.architecture != other.architecture
    assert found.architecture.in_space and found.architecture.origin == {"method": "enas", "mapping": mapping}
    assert all(torch.equal(found.parameters[k], v) for k, v in again.parameters.items())
    assert found.cost == again.cost and found.cost["architectures_evaluated"] == 2 * 2 * 3 + 4

    mine = new_search(mapping)
    start = [p.detach().clone() for p in mine.mapping.parameters()]
    for step in range(4):
        mine.step(step)
        if step % 2:
            mine.method.after_epoch(mine, mine.progress(step, 1))
    assert all(not torch.equal(a, b) for a, b in zip(start, mine.mapping.parameters(), strict=True))
    finalists = [c.architecture for c in mine.method.finalists(mine.mapping, mine.progress(3, 1))]
    assert len(finalists) == len(set(finalists)) == 4
    accuracies = [mine.accuracy(a) for a in finalists]
    assert found.architecture == finalists[accuracies.index(max(accuracies))]
    assert finalists != [c.architecture for c in mine.method.finalists(mine.mapping, Progress(seed=1))]


def test_greedy_decoding_is_what_is_watched():
    method = create("enas", "shared", {}, DARTS)
    made = controller(scale=1.0)
    tokens = made(greedy, 1).tokens
    assert [method.derive(made, Progress())] == made.architectures(tokens, {})

    def likeliest(t, logits):
        assert (logits.max(1).values == logits[:, tokens[0, t]]).all()
        return tokens[:, t]

    made(likeliest, 1)


def test_going_on_from_a_checkpoint_gives_the_same_bits():
    """After the controller's first steps, so that its Adam and the baseline are on their way."""

    def go(search, first, last):
        for step in range(first, last):
            search.step(step)
            if step % 2:
                search.method.after_epoch(search, search.progress(step, 1))
        return search.capture()

    tensors, state = go(new_search(epochs=3), 0, 6)
    kept, kept_state = go(new_search(epochs=3), 0, 3)
    second = new_search(epochs=3, seed=0)
    second.restore(Checkpoint(1, {k: v.clone() for k, v in kept.items()}, {"loop": kept_state}))
    assert kept_state["memory"]["baseline"] > 0
    got, got_state = go(second, 3, 6)
    assert [k for k, v in tensors.items() if not torch.equal(v, got[k])] == []
    assert state == got_state


class Stopped(Exception):
    pass


class Stops(Session):
    """Stops after some steps with a checkpoint, or goes on from one."""

    def __init__(self, stop=None, checkpoint=None):
        super().__init__(None, {})
        self.stop, self.checkpoint = stop, checkpoint

    def start(self, stage, title, steps):
        return self.checkpoint

    def step_done(self, step, shown, capture):
        if step == self.stop:
            tensors, state = capture()
            tensors = {k: v.clone() for k, v in tensors.items()}
            raise Stopped(Checkpoint(1, tensors, {"step": step, "loop": state}))


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_a_search_that_stops_among_its_finalists_goes_on_with_them(seconds):
    """Also where the time was up, so that the steps did not reach the end: one step, and one finalist."""
    whole = run(seconds=seconds)
    with pytest.raises(Stopped) as stopped:
        run(seconds=seconds, session=Stops(2 if seconds else 6))
    checkpoint = stopped.value.args[0]
    assert len(checkpoint.state["loop"]["scores"]) == (1 if seconds else 2)
    rest = run(seconds=seconds, session=Stops(checkpoint=checkpoint))
    assert rest.architecture == whole.architecture
    assert rest.cost == whole.cost


# --- settings -------------------------------------------------------------------------------------------------


def test_the_papers_settings():
    method = create("enas", None, {}, DARTS)
    paper = SupernetSettings(**method.paper_settings("cifar10")["search"]).resolved(50_000, 0.0, 32)
    assert (paper.layers, paper.channels, paper.epochs, paper.batch_size) == (8, 20, 150, 160)
    assert paper.weight_images == 45_000 and paper.nesterov and paper.weight_decay == 2e-4
    assert [e for e in range(150) if paper.rate(e) == 0.05] == [0, 10, 30, 70]
    assert method.paper_settings("cifar10")["train"] == {"layers": 20}
    whole = create("enas", "full", {}, DARTS).paper_settings("cifar100")
    assert whole["search"]["layers"] == 14 and whole["search"]["batch_size"] == 160
    assert whole["search"]["epochs"] == 150 and whole["train"] == {"channels": 50}
    optimizer = method.optimizer(method.mapping(3, 0), None)
    group = SimpleNamespace(**optimizer.param_groups[0])
    assert (group.lr, group.betas, group.eps, group.weight_decay) == (0.0035, (0.0, 0.999), 1e-3, 0)
    assert (method.options.controller_steps, method.options.aggregates) == (30, 10)


def test_a_quick_search_trains_the_weights_longer_and_the_controller_less():
    _, info = pictures()

    def resolved(**given):
        return config.resolve({"method": "enas", "command": "search", **given}, info, 1437, "")[0]

    quick = resolved()
    assert (quick.options["controller_steps"], quick.search.epochs, quick.search.learning_rate) == (3, 30, 0.025)
    assert (quick.search.layers, quick.search.batch_size, quick.search.train_share) == (6, 64, 0.9)
    assert resolved(options={"controller_steps": 5}).options["controller_steps"] == 5
    paper = resolved(preset="paper")
    assert (paper.options["controller_steps"], paper.search.epochs) == (30, 150)

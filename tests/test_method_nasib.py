"""`nasib` (Singh et al. 2019): docs/methods/nasib.md, a reconstruction."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import NODES, kept, parameters

from dnas.data.splits import DataInfo, Split
from dnas.methods import nasib
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS

ACTS = {
    "partial_channels": ({}, 2),
    "with_none": ({}, True),
    "initial_scale": ({}, 1.0),
    "temperature": ({}, 0.1),
}
FIRST, LAST = Progress(0, 5), Progress(4, 5)


def at(share, step=0, epochs=11, **where):
    """A progress of which a share has passed."""
    return Progress(round(share * (epochs - 1)), epochs, step=step, **where)


def counts(method, mapping, progress, steps):
    """How often each operation is executed on each edge of each layer: [L, E, O]."""
    seen = 0
    for step in range(steps):
        seen = seen + method.mixing(mapping, Progress(progress.epoch, progress.epochs, step=step)).active.double()
    return seen


# --- the schedule ---------------------------------------------------------------------------------------------


def test_exploration_falls_from_one_to_zero_along_a_cosine():
    method = create("nasib", None, {}, DARTS)
    for share, epsilon in ((0, 1), (0.2, (1 + math.cos(0.2 * math.pi)) / 2), (0.5, 0.5), (1, 0)):
        assert method.exploration(at(share)) == pytest.approx(epsilon, abs=1e-15)
    assert 0.904 < method.exploration(at(0.2)) < 0.905
    assert method.exploration(Progress(0, 1)) == 0  # a single epoch is the last one


@given(short=st.integers(2, 40), factor=st.integers(1, 20), warmup=st.integers(0, 5))
@settings(deadline=None)
def test_another_budget_compresses_the_schedule_and_changes_nothing_else(short, factor, warmup):
    method = create("nasib", None, {}, DARTS)
    long = (short - 1) * factor + 1
    one = [method.exploration(Progress(warmup + e, warmup + short, warmup)) for e in range(short)]
    two = [method.exploration(Progress(warmup + e * factor, warmup + long, warmup)) for e in range(short)]
    assert one == pytest.approx(two, abs=1e-12)
    assert one[0] == 1 and one[-1] == pytest.approx(0, abs=1e-15) and one == sorted(one, reverse=True)
    assert all(method.exploration(Progress(e, warmup + short, warmup)) == 1 for e in range(warmup))


# --- the draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_at_first_operations_are_uniform_whatever_alpha(mapping_name):
    """χ² of 6 degrees of freedom an edge: 98 and more of them in all, far from 3 standard deviations."""
    method = create("nasib", mapping_name, {}, DARTS)
    observed = counts(method, parameters(method, 5, 0, 2.0), FIRST, 1500)
    rows = [0, 1] if mapping_name == "shared" else range(5)  # layers 0 and 1 are of either kind
    chi = ((observed[list(rows)] - 1500 / 7) ** 2 / (1500 / 7)).sum().item()
    degrees = 6 * 14 * len(rows)
    assert abs(chi - degrees) < 4 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@pytest.mark.parametrize(("share", "temperature"), [(1.0, 1.0), (1.0, 2.5), (0.3, 1.0)])
def test_then_they_follow_the_mixture_of_uniform_and_softmax(mapping_name, share, temperature):
    method = create("nasib", mapping_name, {"temperature": temperature}, DARTS)
    mapping = parameters(method, 5, 1, 0.8)
    observed = counts(method, mapping, at(share), 1500)
    logits = sum(term.detach() for term in mapping.terms()).expand(5, 14, 7) / temperature
    epsilon = (1 + math.cos(math.pi * share)) / 2
    law = epsilon / 7 + (1 - epsilon) * logits.exp() / logits.exp().sum(-1, keepdim=True)
    rows = [0, 1] if mapping_name == "shared" else range(5)
    chi = ((observed - 1500 * law) ** 2 / (1500 * law))[list(rows)].sum().item()
    degrees = 6 * 14 * len(rows)
    assert abs(chi - degrees) < 5 * math.sqrt(2 * degrees)
    assert ((observed - 1500 / 7) ** 2 / (1500 / 7))[list(rows)].sum() > 2 * degrees


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_layers_draw_apart_unless_they_share_a_cell(mapping_name):
    method = create("nasib", mapping_name, {}, DARTS)
    mapping = method.mapping(6, 0)
    for progress in (FIRST, LAST, at(0.5)):
        active = method.mixing(mapping, progress).active
        assert torch.equal(active[0], active[1]) == (mapping_name == "shared")
        assert not torch.equal(active[0], active[2])
        again = method.mixing(mapping, progress).active
        assert torch.equal(active, again)
        other = Progress(progress.epoch, progress.epochs, draw=1)
        assert not torch.equal(active, method.mixing(mapping, other).active)


def test_each_edge_explores_by_itself_and_whether_it_does_says_nothing_about_what_is_drawn(monkeypatch):
    method = create("nasib", "full", {}, DARTS)
    mapping = method.mapping(3, 0).double()
    table, spread = torch.zeros(2, 7), 0.0
    for step in range(1000):
        mixing = method.mixing(mapping, at(0.5, step))
        choice = mixing.active.float().argmax(-1)
        # What exploits has a gradient in alpha.
        (gradient,) = torch.autograd.grad((mixing.operations * mixing.active).sum(), [mapping.alpha])
        exploits = (gradient.abs().sum(-1) > 0).long()
        table += torch.stack([torch.bincount(choice[exploits == i], minlength=7) for i in (0, 1)])
        spread += (exploits.sum(1) - 7.0).square().mean().item() / 1000
    assert table.sum() == 42_000
    assert abs(table[1].sum() / 42_000 - 0.5) < 4 * 0.5 / math.sqrt(42_000)
    expected = table.sum(1, keepdim=True) / 7
    assert ((table - expected) ** 2 / expected).sum() < 32.9  # 12 degrees of freedom, 99.9 %
    assert spread == pytest.approx(14 / 4, rel=0.15)  # the variance of 14 independent draws

    counters, generator = [], Progress.generator
    monkeypatch.setattr(Progress, "generator", lambda self, *c: counters.append(c) or generator(self, *c))
    method.mixing(mapping, FIRST)
    assert len(counters) == len(set(counters)) == 2


# --- the gradient ---------------------------------------------------------------------------------------------


def gumbel_softmax(method, mapping, progress):
    """[L, E, O] of the softened draw, with the noise that the method draws."""
    exponential = torch.empty(mapping.rows, 14, 7, dtype=torch.float64).exponential_(generator=progress.generator(0))
    noise = mapping.over_layers(-exponential.log())
    logits = sum(term.detach() for term in mapping.terms()) / method.options.temperature + noise
    return torch.softmax(logits, -1)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 3.0]))
@settings(deadline=None, max_examples=10)
def test_gradient_of_what_exploits_is_the_closed_form(mapping_name, seed, temperature):
    """dL/dalpha_o = G_i p_i (δ_io - p_o) / τ for the operation i that is executed; weights are 1 to the bit."""
    method = create("nasib", mapping_name, {"temperature": temperature}, DARTS)
    mapping = parameters(method, 4, seed, 1.0)
    progress = Progress(4, 5, step=seed % 1000)
    mixing = method.mixing(mapping, progress)
    assert torch.equal(mixing.psi.detach(), mixing.active.double())
    assert (mixing.active.sum(-1) == 1).all() and (mixing.edges == 1).all()
    p = gumbel_softmax(method, mapping, progress)
    assert torch.equal(mixing.active, torch.nn.functional.one_hot(p.argmax(-1), 7).bool())
    g = torch.randn(4, 14, 7, generator=torch_stream(seed, "cotangent"), dtype=torch.float64) * mixing.active
    gradients = torch.autograd.grad((g * mixing.psi).sum(), list(mapping.parameters()))
    by_layer = ((g * p).sum(-1, keepdim=True) * mixing.active - (g * p).sum(-1, keepdim=True) * p) / temperature
    kind = torch.tensor([0, 1, 1, 0])
    expected = {
        "shared": [torch.stack([by_layer[kind == t].sum(0) for t in (0, 1)])],
        "full": [by_layer],
        "decoupled": [by_layer.sum(0, keepdim=True), by_layer.sum(1)],
    }[mapping_name]
    assert mapping.beta is None
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_what_explores_has_no_gradient(mapping_name):
    method = create("nasib", mapping_name, {}, DARTS)
    mapping = parameters(method, 4, 0, 1.0)
    for share, least, most in ((0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)):
        moved, seen = 0, 0
        for step in range(50):
            mixing = method.mixing(mapping, at(share, step))
            rows = torch.autograd.grad((mixing.psi * mixing.active).sum(), [mapping.alpha])[0].abs().sum(-1)
            moved, seen = moved + (rows > 0).sum().item(), seen + rows.numel()
        if mapping_name != "decoupled":  # where an alpha serves all layers, and one of them exploits
            assert least <= moved / seen <= most
        assert (moved == 0) == (share == 0)


# --- what is derived ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_the_strongest_edges_by_the_law_without_noise_are_derived(mapping_name):
    method = create("nasib", mapping_name, {"temperature": 0.7}, DARTS)
    mapping = parameters(method, 5, 3, 1.0)
    logits = sum(term.detach() for term in mapping.terms()).expand(5, 14, 7) / 0.7
    law = logits.exp() / logits.exp().sum(-1, keepdim=True)
    torch.testing.assert_close(method.scores(mapping, FIRST).detach(), law, rtol=1e-9, atol=0)
    for k, layer in enumerate(kept(method.derive(mapping, LAST))):
        for first, last in NODES:
            strength, choice = law[k, first:last].max(-1)
            edges = set((strength.topk(2).indices + first).tolist())
            assert edges == {e for e in layer if first <= e < last}
            assert all(layer[e] == DARTS.primitives[choice[e - first]] for e in edges)


def test_it_is_called_a_reconstruction():
    method = create("nasib", None, {}, DARTS)
    assert "reconstruction" in method.title and "reconstructed" in method.paper
    assert "RECONSTRUCTION" in nasib.__doc__


# --- the search -----------------------------------------------------------------------------------------------


def pictures(count=32):
    split = Split(
        torch.randint(0, 256, (count, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8),
        torch.arange(count) % 4,
    )
    return split, DataInfo("digits", tuple("abcd"), 1, 8, (0.5,), (0.29,), False)


def shape(**changes):
    values = {"layers": 3, "channels": 8, "epochs": 3, "warmup_epochs": 0, "batch_size": 8, "watch_images": 0}
    return GradientSettings(**(values | {"architecture_learning_rate": 0.1} | changes)).resolved(32, 0.0, 8)


def new_search(mapping="shared", options=None, **changes):
    return Search(create("nasib", mapping, options or {}, DARTS), shape(**changes), *pictures(), 0, "cpu")


def run(mapping="shared", seed=0, options=None, **changes):
    method = create("nasib", mapping, options or {}, DARTS)
    return search_supernet(method, shape(**changes), *pictures(), seed=seed, session=Session(None, {}))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_only_drawn_operations_are_executed_and_get_gradients(mapping):
    """One of 7 on each of the 14 edges; in both steps, and in the epochs of either kind."""
    search = new_search(mapping)
    for step, draw in ((0, 0), (2, 1), (5, 1)):
        progress = search.progress(step, draw)
        active = search.method.mixing(search.mapping, progress).active
        assert active.sum((1, 2)).tolist() == [14] * 3
        loss = search.architecture_loss(search.batch(step, draw), step)
        loss.backward()
        for k, cell in enumerate(search.supernet.cells):
            for source, leaving in zip(cell.sources, cell.leaving, strict=True):
                for name, chain in source.apart.items():
                    o = DARTS.primitives.index(name)
                    for p in chain.parameters():
                        gradient = torch.zeros_like(p) if p.grad is None else p.grad
                        reached = gradient.view(len(leaving), -1).norm(dim=1) > 0
                        assert (reached == active[k, leaving, o]).all()
        search.supernet.zero_grad()


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_search_gives_the_same_bits_for_the_same_seed(mapping):
    state = torch.get_rng_state()
    found, again, other = (run(mapping, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert found.architecture == again.architecture != other.architecture
    assert found.architecture.in_space and len(found.architecture) == 3
    assert all(torch.equal(v, again.parameters[k]) for k, v in found.parameters.items())
    assert all(v.abs().max() > 0.05 for v in found.parameters.values())
    if mapping == "shared":
        assert found.architecture.layers[1] == found.architecture.layers[2]


def test_alpha_rests_while_all_is_explored_and_moves_then():
    """Equal alpha and its decay: Adam has nothing to follow in the first epoch."""
    search = new_search()
    for step in range(2):
        search.step(step)
    assert (search.mapping.alpha == 0).all()
    for step in range(2, 6):
        search.step(step)
    assert search.mapping.alpha.abs().max() > 0.05


def test_going_on_from_a_checkpoint_gives_the_same_bits():
    whole, first, second = (new_search("decoupled") for _ in range(3))
    for step in range(6):
        whole.step(step)
    for step in range(3):
        first.step(step)
    tensors, state = first.capture()
    second.restore(Checkpoint(1, {k: v.clone() for k, v in tensors.items()}, {"loop": state}))
    for step in range(3, 6):
        second.step(step)
    expected, got = whole.capture()[0], second.capture()[0]
    assert [k for k, v in expected.items() if not torch.equal(v, got[k])] == []


def test_the_settings_of_a_paper_run():
    paper = create("nasib", None, {}, DARTS).paper_settings("cifar10")
    assert paper == {"search": {"warmup_epochs": 0}, "train": {"layers": 20}}
    whole = create("nasib", "decoupled", {}, DARTS).paper_settings("cifar10")
    assert whole == {"search": {"warmup_epochs": 0, "layers": 20}}

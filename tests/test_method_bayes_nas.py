"""`bayes-nas` (Zhou et al. 2019): docs/methods/bayes-nas.md."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from method_bayes_nas_tools import small_search
from method_tools import ALWAYS, kept, parameters
from supernet_search_tools import bits, new_search, pictures

from dnas.errors import InputError
from dnas.methods.bayes_nas import SMALLEST_OMEGA, switches
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline import config
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS

ACTS = {
    "partial_channels": ({}, 2),
    "initial_scale": ({}, 0.1),
    "lambda_edges": ({}, 1.0),
    "lambda_operations": ({}, 1.0),
    "updates": ({}, 1),
    "draws": ({}, 1),
}
LAYERS = 4
KIND = torch.tensor([0, 1, 1, 0])  # reductions of 4 layers lie at 1 and 2
NAMES = ("edges", "operations")


def positive(shape, seed, low=0.1, high=3.0):
    generator = torch_stream(seed, "test", 1)
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def prepared(mapping_name="shared", seed=0, **options):
    """A method, and a mapping in float64 whose switches, ω and γ are all different."""
    method = create("bayes-nas", mapping_name, options, DARTS)
    mapping = parameters(method, LAYERS, seed, 1.0)
    with torch.no_grad():
        for n, (name, buffer) in enumerate(mapping.named_buffers()):
            if name.startswith(("omega", "gamma", "relevance")):
                buffer.copy_(positive(buffer.shape, seed + n))
    return method, mapping


def buffers(mapping, what):
    return [mapping.get_buffer(f"{what}_{name}").clone() for name in NAMES]


# --- switches and their penalty -------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_switches_are_one_at_first_and_mix_as_they_are(mapping_name):
    method = create("bayes-nas", mapping_name, {}, DARTS)
    mapping = method.mapping(LAYERS, 0)
    mixing = method.mixing(mapping, ALWAYS)
    assert method.operations == DARTS.primitives
    for ones in (mixing.operations, mixing.edges, *buffers(mapping, "omega"), *buffers(mapping, "gamma")):
        assert (ones == 1).all()
    assert mixing.operations.shape == (LAYERS, 14, 7) and mixing.edges.shape == (LAYERS, 14)
    method, mapping = prepared(mapping_name)
    mixing = method.mixing(mapping, ALWAYS)
    a, b = mapping.alpha, mapping.beta
    operations, edges = {
        "shared": lambda: (a[KIND], b[KIND]),
        "full": lambda: (a, b),
        "decoupled": lambda: (a[0] * mapping.gamma[:, None, :], b),
    }[mapping_name]()
    assert torch.equal(mixing.operations, operations) and torch.equal(mixing.edges, edges)
    torch.testing.assert_close(mixing.psi, edges[:, :, None] * operations)
    assert mixing.psi.min() < 0 < mixing.psi.max()


def test_initial_scale_spreads_the_switches_around_one():
    mapping = create("bayes-nas", "full", {"initial_scale": 0.1}, DARTS).mapping(20, 0)
    for table in mapping.parameters():
        assert table.mean().item() == pytest.approx(1, abs=0.02)
        assert table.std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@hypothesis_settings(deadline=None, max_examples=10)
def test_penalty_is_the_reweighted_norm_and_its_gradient_the_weighted_sign(mapping_name, seed):
    """Each switch once: under `shared` one switch stands for all layers of a type."""
    method, mapping = prepared(mapping_name, seed, lambda_edges=0.3, lambda_operations=0.07)
    omega_edges, omega_operations = buffers(mapping, "omega")
    edges, operations = (switch.detach() for switch in switches(mapping))
    assert edges.shape == (mapping.rows, 14) and operations.shape == (mapping.rows, 14, 7)
    penalty = method.penalty(mapping, ALWAYS)
    expected = 0.3 * (omega_edges * edges.abs()).sum() + 0.07 * (omega_operations * operations.abs()).sum()
    torch.testing.assert_close(penalty, expected)
    named = dict(mapping.named_parameters())
    grads = dict(zip(named, torch.autograd.grad(penalty, list(named.values())), strict=True))
    torch.testing.assert_close(grads["beta"], 0.3 * omega_edges * edges.sign())
    pull = 0.07 * omega_operations * operations.sign()
    if mapping_name == "decoupled":
        gamma = mapping.gamma.detach()
        torch.testing.assert_close(grads["alpha"][0], (pull * gamma[:, None, :]).sum(0))
        torch.testing.assert_close(grads["gamma"], (pull * mapping.alpha.detach()).sum(1))
    else:
        torch.testing.assert_close(grads["alpha"], pull)


# --- the updates of ω and γ -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@hypothesis_settings(deadline=None, max_examples=15)
def test_an_update_is_that_of_the_paper(mapping_name, seed):
    """ω² = 1/γ - c/γ² with c = 1/(1/γ + H/λ); γ = |s|/ω; 1/γ_eo is 1/γ_eo + 1/γ_e of the new ones."""
    method, mapping = prepared(mapping_name, seed, lambda_edges=0.3, lambda_operations=0.07)
    before = buffers(mapping, "gamma")
    values = [switch.detach().clone() for switch in switches(mapping)]
    curvature = [positive(value.shape, seed + 7, 1e-3, 1.0) for value in values]
    method.update(mapping, curvature)
    fresh = []
    for n, weight in enumerate((0.3, 0.07)):
        c = 1 / (1 / before[n] + curvature[n] / weight)
        omega = torch.sqrt(1 / before[n] - c / before[n] ** 2)
        torch.testing.assert_close(buffers(mapping, "omega")[n], omega, rtol=1e-9, atol=0)
        fresh.append(values[n].abs() / omega)
    edges, operations = buffers(mapping, "gamma")
    torch.testing.assert_close(edges, fresh[0], rtol=1e-9, atol=0)
    for e, o in itertools.product(range(14), range(7)):
        expected = 1 / (1 / fresh[1][:, e, o] + 1 / fresh[0][:, e])
        torch.testing.assert_close(operations[:, e, o], expected, rtol=1e-9, atol=0)
    # A child is never more relevant than its parent.
    assert (operations < edges[..., None]).all()
    assert torch.equal(torch.stack(values[0].unbind()), switches(mapping)[0])


def one_edge(s, gamma, h, weight=0.01):
    """ω and γ of edge 0 of the first row after an update."""
    method, mapping = prepared("full", 0, lambda_edges=weight)
    edges, operations = switches(mapping)
    with torch.no_grad():
        mapping.beta[0, 0] = s
        mapping.get_buffer("gamma_edges")[0, 0] = gamma
    curvature = torch.ones_like(edges).detach(), torch.ones_like(operations).detach()
    curvature[0][0, 0] = h
    method.update(mapping, curvature)
    return mapping.get_buffer("omega_edges")[0, 0].item(), mapping.get_buffer("gamma_edges")[0, 0].item()


def test_limits_of_the_curvature():
    """None: the smallest ω. Infinite: ω = 1/√γ. A small γ loses nothing, where 1/γ - c/γ² would."""
    assert one_edge(0.5, 2.0, 0.0) == (SMALLEST_OMEGA, 0.5 / SMALLEST_OMEGA)
    omega, gamma = one_edge(-0.5, 4.0, 1e15)
    assert omega == pytest.approx(1 / math.sqrt(4.0)) and gamma == pytest.approx(0.5 * math.sqrt(4.0))
    assert one_edge(0.5, 1e-12, 0.04)[0] == pytest.approx(math.sqrt(0.04 / 0.01), rel=1e-9)
    assert one_edge(0.5, 0.0, 0.04)[0] == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("s", [0.05, 0.7, -1.5])
@pytest.mark.parametrize("h", [0.01, 0.3])
def test_updates_at_fixed_switches_converge_to_the_positive_root(s, h):
    """γ ω = |s| and ω² = h/(1 + γh) give γ² - s² γ - s²/h = 0."""
    weight = 0.1
    method, mapping = prepared("full", 0, lambda_edges=weight)
    with torch.no_grad():
        mapping.beta.fill_(s)
    curvature = [torch.full_like(switch, h).detach() for switch in switches(mapping)]
    for _ in range(200):
        method.update(mapping, curvature)
    root = (s**2 + math.sqrt(s**4 + 4 * s**2 * weight / h)) / 2
    torch.testing.assert_close(mapping.get_buffer("gamma_edges"), torch.full((LAYERS, 14), root, dtype=torch.float64))


def test_an_edge_that_goes_takes_its_operations_along():
    method, mapping = prepared("full")
    with torch.no_grad():
        mapping.beta[2, 3] = 0.0
        mapping.alpha[1, 5, 4] = 0.0
    curvature = [torch.ones_like(switch).detach() for switch in switches(mapping)]
    for _ in range(3):  # γ = 0 does not turn into something that is no number
        method.update(mapping, curvature)
    edges, operations = buffers(mapping, "gamma")
    assert edges[2, 3] == 0 and (operations[2, 3] == 0).all() and operations[1, 5, 4] == 0
    assert int((operations == 0).sum()) == 8 and operations.isfinite().all()


def test_where_the_data_want_a_switch_it_stays_and_where_they_do_not_it_goes():
    """The loss ½ a (s - t)² has the curvature a, and under the penalty its minimum at t without λω/a of its size.

    Together they find the maximum of the marginal likelihood: γ = t² - λ/a, or 0 where that is negative.
    """
    method, mapping = prepared("full", 0, lambda_edges=0.01)
    wanted = torch.linspace(-1, 1, 14, dtype=torch.float64).repeat(LAYERS, 1)
    with torch.no_grad():
        for what in ("omega", "gamma"):
            mapping.get_buffer(f"{what}_edges").fill_(1)
        curvature = torch.full_like(mapping.beta, 0.5), torch.ones_like(mapping.alpha)
        for _ in range(100):
            shrunk = (wanted.abs() - 0.01 * mapping.get_buffer("omega_edges") / 0.5).clamp_min(0)
            mapping.beta.copy_(wanted.sign() * shrunk)
            method.update(mapping, curvature)
    edges, operations = buffers(mapping, "gamma")
    expected = (wanted**2 - 0.01 / 0.5).clamp_min(0)
    assert 0 < (expected == 0).sum() < (expected > 0).sum()
    torch.testing.assert_close(edges, expected, rtol=1e-6, atol=1e-12)
    assert (operations[expected == 0] < 1e-12).all()


class Stub:
    def __init__(self, mapping):
        self.mapping = mapping


@pytest.mark.parametrize(
    ("epochs", "warmup", "updates", "expected"),
    [
        (10, 1, 3, [3, 6, 9]),
        (10, 0, 3, [3, 6, 9]),
        (5, 1, 3, [2, 3, 4]),
        (4, 1, 3, [1, 2, 3]),
        (2, 1, 3, [1]),
        (6, 2, 1, [5]),
        (3, 1, 100, [1, 2]),
    ],
)
def test_updates_come_evenly_after_the_warm_up_the_last_at_the_end(epochs, warmup, updates, expected, monkeypatch):
    method, mapping = prepared("shared", updates=updates)
    done = []
    monkeypatch.setattr(method, "curvature", lambda search, progress: progress.epoch)
    monkeypatch.setattr(method, "update", lambda mapping, epoch: done.append(epoch))
    for epoch in range(epochs):
        assert method.after_epoch(Stub(mapping), Progress(epoch, epochs, warmup)) is None
    assert done == expected


# --- what comes out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_operations_and_edges_are_ranked_by_relevance_and_not_by_the_switches(mapping_name):
    method, mapping = prepared(mapping_name)
    relevance = mapping.get_buffer("relevance")
    rows = relevance[KIND] if mapping_name == "shared" else relevance
    assert torch.equal(method.scores(mapping, ALWAYS), rows)
    genes = kept(method.derive(mapping, ALWAYS))
    for k, layer in enumerate(genes):
        assert len(layer) == 8
        assert all(op == DARTS.primitives[int(rows[k, e].argmax())] for e, op in layer.items())
        for first, last in ((0, 2), (2, 5), (5, 9), (9, 14)):
            best = rows[k, first:last].amax(1).topk(2).indices + first
            assert {e for e in layer if first <= e < last} == set(best.tolist())
    with torch.no_grad():
        mapping.alpha.add_(5)
        mapping.beta.neg_()
    assert kept(method.derive(mapping, ALWAYS)) == genes


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@hypothesis_settings(deadline=None, max_examples=15)
def test_relevance_is_where_gamma_would_come_to_rest(mapping_name, seed):
    """γ* = max(0, s² - λ/H); of an operation it is no more than its edge's, as γ is. Where it is 0, H s²/λ ranks."""
    method, mapping = prepared(mapping_name, seed, lambda_edges=0.5, lambda_operations=0.2)
    s = [switch.detach().clone() for switch in switches(mapping)]
    curvature = [positive(value.shape, seed + 7, 1e-3, 1.0) for value in s]
    method.update(mapping, curvature)
    found = mapping.get_buffer("relevance")
    edge, operation = (v**2 - weight / h for v, h, weight in zip(s, curvature, (0.5, 0.2), strict=True))
    on, off = [], []
    for r, e, o in itertools.product(range(len(found)), range(14), range(7)):
        ours, its = operation[r, e, o].item(), edge[r, e].item()
        if min(ours, its) > 0:
            on.append(found[r, e, o].item())
            assert on[-1] == pytest.approx(1 / (1 / ours + 1 / its), abs=2e-8)
        else:
            off.append((curvature[1][r, e, o] * s[1][r, e, o] ** 2, found[r, e, o]))
    assert off and min(on, default=1.0) > max(rank for _, rank in off) > 0
    in_order = [rank.item() for _, rank in sorted(off, key=lambda pair: pair[0].item())]
    assert in_order == sorted(in_order) and len(set(in_order)) == len(in_order)


def test_what_the_loss_depends_on_more_is_more_relevant_after_one_update():
    """Where γ itself, which has not come to rest, is smaller."""
    method, mapping = prepared("full")
    with torch.no_grad():
        for table in (*mapping.parameters(), *(mapping.get_buffer(f"gamma_{name}") for name in NAMES)):
            table.fill_(1)
    edges, operations = (torch.ones_like(switch) for switch in switches(mapping))
    operations += torch.arange(7, dtype=operations.dtype) - 0.99
    method.update(mapping, (edges, operations))
    assert (mapping.get_buffer("relevance").diff(dim=-1) > 0).all()
    assert (mapping.get_buffer("gamma_operations").diff(dim=-1) < 0).all()
    # Of all on an edge that the prior switches off the same holds: they are no ties.
    method.update(mapping, (1e-3 * edges, operations))
    assert (mapping.get_buffer("relevance").diff(dim=-1) > 0).all()


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_what_cannot_matter_comes_last(mapping_name):
    """A loss that is curved nowhere, and switches that are 0: ranks are numbers, and the lowest there are."""
    method, mapping = prepared(mapping_name)
    curvature = [torch.ones_like(switch).detach() for switch in switches(mapping)]
    curvature[1][0, 3] = 0
    with torch.no_grad():
        mapping.beta[1, 5] = 0
    curvature[1][1, 5] = 0  # an edge without output has no curvature in its operations either
    method.update(mapping, curvature)
    found = mapping.get_buffer("relevance")
    assert found.isfinite().all() and (found[0, 3] == 0).all() and (found[1, 5] == 0).all()
    assert int((found == 0).sum()) == 14


def test_what_goes_with_nothing_is_refused():
    for options in ({"with_none": True}, {"lambda_edges": 0.0}, {"lambda_operations": 0.0}, {"updates": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            create("bayes-nas", None, options, DARTS)


def test_presets_are_single_level_without_decay_of_the_switches():
    _, info = pictures()
    for preset, mapping in itertools.product(("quick", "paper"), MAPPINGS):
        method = create("bayes-nas", mapping, {}, DARTS)
        search = config.preset_settings(preset, method, info, 50_000)["search"]
        shape = GradientSettings(**search).resolved(50_000, config.paper_travel(method), 8)
        assert (shape.update, shape.architecture_weight_decay, shape.warmup_epochs) == ("single-level", 0.0, 1)
        # From 1 a switch must be able to reach 0.
        assert shape.architecture_steps * shape.architecture_learning_rate > 0.7
        if preset == "paper":
            assert (shape.epochs, shape.learning_rate, shape.learning_rate_min) == (4, 0.1, 0.1)
            assert (shape.layers, shape.channels, shape.batch_size) == (
                (8, 36, 18) if mapping == "shared" else (20, 16, 64)
            )


def test_the_penalty_takes_part_in_the_search():
    """Without cross-entropy's gradient, i.e. at a far larger λ, all switches move towards 0 by Adam's step."""
    search = small_search(options={"lambda_edges": 1e4, "lambda_operations": 1e4})
    search.step(search.settings.steps_per_epoch)
    for table in search.mapping.parameters():
        torch.testing.assert_close(table.detach(), torch.full_like(table, 0.95), rtol=1e-4, atol=0)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_gives_an_architecture_and_is_a_function_of_its_seed(mapping_name):
    split, info = pictures()
    method = create("bayes-nas", mapping_name, {"draws": 2}, DARTS)
    shape = new_search("bayes-nas", batch_size=16, update="single-level", options={"partial_channels": 1}).settings
    found = [search_supernet(method, shape, split, info, seed=seed, session=Session(None, {})) for seed in (0, 0, 1)]
    assert found[0].architecture == found[1].architecture and found[0].architecture.in_space
    assert len(found[0].architecture) == 3
    if mapping_name == "shared":
        assert len(set(found[0].architecture.layers)) == 2
    for name, value in found[0].parameters.items():
        assert torch.equal(value, found[1].parameters[name]) and value.isfinite().all()
    assert {"omega_edges", "omega_operations", "gamma_edges", "gamma_operations"} < found[0].parameters.keys()
    assert not torch.equal(found[0].parameters["gamma_operations"], found[2].parameters["gamma_operations"])


def epoch_of(search, epoch):
    steps = search.settings.steps_per_epoch
    for step in range(epoch * steps, (epoch + 1) * steps):
        search.step(step)
    search.method.after_epoch(search, search.progress(step, 1))


def test_a_restored_search_goes_on_as_if_nothing_had_been():
    """In the middle, after an update: ω and γ are part of what is kept."""
    whole = small_search()
    for epoch in range(2):
        epoch_of(whole, epoch)
    tensors, state = bits(whole)
    assert (tensors["mapping.gamma_operations"] != 1).any() and (tensors["mapping.omega_edges"] != 1).any()
    other = small_search()
    other.restore(Checkpoint(0, tensors, {"loop": state}))
    for epoch in range(2, 4):
        epoch_of(whole, epoch)
        epoch_of(other, epoch)
    mine, theirs = bits(whole)[0], bits(other)[0]
    assert mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())
    assert not torch.equal(mine["mapping.gamma_operations"], tensors["mapping.gamma_operations"])

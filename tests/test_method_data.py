"""`data` (Chang et al. 2019): docs/methods/data.md, and what the authors' public code does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, kept, parameters, with_gradient
from sparse_tools import (
    assert_executes_only_what_is_active,
    assert_goes_on_to_the_same_bits,
    by_layer,
    drawn,
    found,
)

from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import expand, gumbel

ACTS = {
    "partial_channels": ({}, 2),
    "with_none": ({}, False),
    "initial_scale": ({}, 0.5),
    "draws": ({}, 1),
    "temperature": ({}, 0.5),
    "temperature_end": ({}, 0.1),
    "probability": ({}, "relu"),
    "average": ({}, False),
    "approximation_weight": ({}, 0.0),
}


def probability(mapping, kind="softmax"):
    """p [L, 14, O], written out."""
    logits = sum(term.detach() for term in mapping.terms())
    mass = torch.exp(logits) if kind == "softmax" else (1 + logits).clamp_min(0)
    return mass / mass.sum(2, keepdim=True)


def draws_of(mapping, progress, count, temperature, p):
    """Soft and hard draws [L, M, 14, O] of this step's noise, written out."""
    noise = gumbel(mapping, (count, 14, p.shape[2]), progress.generator())
    e = torch.exp((p.clamp_min(1e-10).log()[:, None] + noise) / temperature)
    soft = e / e.sum(3, keepdim=True)
    return soft, torch.nn.functional.one_hot(soft.argmax(3), p.shape[2]).double()


def straight_through_gradient(g, soft, hard, temperature, average):
    """dL/d log p [L, 14, O] for G = dL/d(mixing weights), by hand."""
    code = hard.amax(1)
    total = code.sum(2, keepdim=True)
    to_code = (g - (g * code / total).sum(2, keepdim=True)) / total if average else g
    # What reaches the maximum shares its gradient: those that chose the operation, or all where none did.
    reaching = (hard == code[:, None]).double()
    u = to_code[:, None] * reaching / reaching.sum(1, keepdim=True)
    return (soft * (u - (soft * u).sum(3, keepdim=True)) / temperature).sum(1)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 1000), draws=st.integers(1, 7))
@settings(deadline=None, max_examples=10)
def test_a_code_has_the_drawn_operations_and_no_others(mapping_name, seed, step, draws):
    method = create("data", mapping_name, {"draws": draws}, DARTS)
    binary = create("data", mapping_name, {"draws": draws, "average": False}, DARTS)
    mapping = parameters(method, 5, seed, 1.0)
    progress = Progress(1, 9, 0, step, 0, seed)
    _, hard = draws_of(mapping, progress, draws, 4.5, probability(mapping))
    code = (hard.sum(1) > 0).double()
    mixing, added = method.mixing(mapping, progress), binary.mixing(mapping, progress)
    assert torch.equal(added.operations.detach(), code)
    torch.testing.assert_close(mixing.operations.detach(), code / code.sum(2, keepdim=True), rtol=1e-12, atol=0)
    assert torch.equal(mixing.active, code.bool()) and torch.equal(added.active, code.bool())
    assert code.sum(2).min() >= 1 and code.sum(2).max() <= draws
    assert (mixing.edges == 1).all()


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_an_operation_is_in_a_code_unless_all_draws_miss_it(draws):
    """P(code_o = 1) = 1 - (1 - p_o)^M at every temperature. 112,000 codes: a standard deviation of at most 0.0015."""
    row = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 1.5, 0.2])
    p = torch.exp(row) / torch.exp(row).sum()
    method = create("data", "full", {"draws": draws}, DARTS)
    mapping = method.mapping(80, 0)
    with torch.no_grad():
        mapping.alpha.copy_(row.expand(80, 14, 8))
    codes = [drawn(method, mapping, Progress(epoch, 11, 0), 100) > 0 for epoch in (0, 10)]
    frequencies = codes[0].float().mean((0, 1, 2))
    torch.testing.assert_close(frequencies, 1 - (1 - p) ** draws, rtol=0, atol=0.007)
    assert torch.equal(*codes)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@pytest.mark.parametrize(("average", "draws"), [(True, 4), (False, 4), (False, 1), (True, 2)])
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=4)
def test_gradient_is_that_of_the_soft_draws(mapping_name, average, draws, seed):
    method = create("data", mapping_name, {"draws": draws, "average": average}, DARTS)
    mapping = parameters(method, 4, seed, 1.0)
    progress = Progress(1, 3, 0, 7, 1, seed)
    _, g, grads = with_gradient(method, mapping, seed, progress)
    # τ lies halfway between 5 and 1.
    soft, hard = draws_of(mapping, progress, draws, 3.0, probability(mapping))
    expected = straight_through_gradient(g, soft, hard, 3.0, average)
    torch.testing.assert_close(grads["alpha"], by_layer(expected, mapping_name, 4), rtol=1e-7, atol=1e-11)
    if mapping_name == "decoupled":
        torch.testing.assert_close(grads["gamma"], expected.sum(1), rtol=1e-7, atol=1e-11)
    assert grads["alpha"].sum(2).abs().max() < 1e-10


def test_through_the_supernet_only_drawn_operations_speak():
    """And each says <∂L/∂y, O_o(x)>, as if it alone were in the network's sum."""
    method = create("data", "full", {"draws": 3}, DARTS)
    mapping = parameters(method, 3, 5, 1.0)
    progress = Progress(1, 3, 0, 7, 1, 5)
    supernet = build_supernet(DARTS, method.operations, layers=3, channels=4, classes=3, partial=1).double()
    images = torch.randn(2, 3, 6, 6, generator=torch_stream(5, "images"), dtype=torch.float64)

    def loss(mixing):
        return torch.nn.functional.cross_entropy(supernet(images, mixing), torch.tensor([0, 1]))

    mixing = method.mixing(mapping, progress)
    (grad,) = torch.autograd.grad(loss(mixing), [mapping.alpha])
    leaf = mixing.operations.detach().requires_grad_()
    (everything,) = torch.autograd.grad(loss(expand(leaf, None, 3)), leaf)
    soft, hard = draws_of(mapping, progress, 3, 3.0, probability(mapping))
    expected = straight_through_gradient(everything * mixing.active, soft, hard, 3.0, True)
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad, expected, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_rectified_probabilities_are_those_of_the_authors_code(mapping_name):
    method = create("data", mapping_name, {"probability": "relu", "average": False}, DARTS)
    mapping = parameters(method, 4, 0, 0.7)
    p = probability(mapping, "relu")
    assert 0 < (p == 0).float().mean() < 0.5
    torch.testing.assert_close(method.scores(mapping, ALWAYS).detach(), p, rtol=1e-12, atol=0)
    progress = Progress(1, 3, 0, 7, 1, 0)
    _, g, grads = with_gradient(method, mapping, 0, progress)
    soft, hard = draws_of(mapping, progress, 4, 3.0, p)
    assert not (hard.amax(1) * (p == 0)).any()
    to_log = straight_through_gradient(g, soft, hard, 3.0, False)
    mass = (1 + sum(term.detach() for term in mapping.terms())).clamp_min(0)
    # Of what has no probability, neither logarithm nor rectifier passes a gradient.
    passed = torch.where(mass > 0, to_log, 0.0)
    expected = torch.where(mass > 0, passed / mass, 0.0)
    expected -= (mass > 0) * passed.sum(2, keepdim=True) / mass.sum(2, keepdim=True)
    torch.testing.assert_close(grads["alpha"], by_layer(expected, mapping_name, 4), rtol=1e-7, atol=1e-9)
    with torch.no_grad():
        mapping.alpha.fill_(-5)  # dead on every edge: still a code
    mixing = method.mixing(mapping, progress)
    assert mixing.operations.isfinite().all() and mixing.active.any(2).all()


@pytest.mark.parametrize(
    ("epoch", "epochs", "warmup", "temperature"),
    [(0, 100, 0, 5.0), (99, 100, 0, 1.0), (1, 9, 0, 4.5), (1, 5, 2, 5.0), (3, 5, 2, 3.0), (4, 5, 2, 1.0)],
)
def test_the_temperature_falls_linearly_to_its_end_in_the_last_epoch(epoch, epochs, warmup, temperature):
    method = create("data", "full", {}, DARTS)
    mapping = parameters(method, 3, 0, 1.0)
    progress = Progress(epoch, epochs, warmup, 3, 0, 5)
    _, g, grads = with_gradient(method, mapping, 0, progress)
    soft, hard = draws_of(mapping, progress, 4, temperature, probability(mapping))
    expected = straight_through_gradient(g, soft, hard, temperature, True)
    torch.testing.assert_close(grads["alpha"], expected, rtol=1e-8, atol=1e-12)


def test_draws_are_shared_by_the_layers_of_a_cell_and_differ_elsewhere():
    counts = {}
    for name in MAPPINGS:
        method = create("data", name, {"initial_scale": 0}, DARTS)
        mapping = method.mapping(8, 0)
        one = method.mixing(mapping, Progress(0, 9, 0, 4, 0, 1)).active
        assert torch.equal(one, method.mixing(mapping, Progress(0, 9, 0, 4, 0, 1)).active)
        for other in (Progress(0, 9, 0, 5, 0, 1), Progress(0, 9, 0, 4, 1, 1), Progress(0, 9, 0, 4, 0, 2)):
            assert not torch.equal(one, method.mixing(mapping, other).active)
        counts[name] = len(one.unique(dim=0))
    assert counts == {"shared": 2, "full": 8, "decoupled": 8}


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_the_penalty_is_the_distance_of_the_probabilities_from_the_code(mapping_name):
    method = create("data", mapping_name, {"approximation_weight": 0.3}, DARTS)
    mapping = parameters(method, 6, 1, 1.0)
    progress = Progress(1, 3, 0, 5, 1, 9)
    p, code = probability(mapping), method.mixing(mapping, progress).operations.detach()
    kinds = ([0, 1, 3, 5], [2, 4])  # reductions of 6 layers lie at 2 and 4
    expected = sum(
        float((p[k, e] - code[k, e]).abs().sum()) / (len(kind) * 14 * 8)
        for kind in kinds
        for k in kind
        for e in range(14)
    )
    penalty = method.penalty(mapping, progress)
    assert penalty.item() == pytest.approx(0.3 * expected, rel=1e-9)
    # The code is held fixed: the gradient is that of the probabilities alone.
    (grad,) = torch.autograd.grad(penalty, [mapping.alpha])
    sign = (p - code).sign()
    of_layers = torch.tensor([4.0, 4, 2, 4, 2, 4])[:, None, None].double()
    by_hand = 0.3 * p * (sign - (p * sign).sum(2, keepdim=True)) / (of_layers * 14 * 8)
    torch.testing.assert_close(grad, by_layer(by_hand, mapping_name, 6), rtol=1e-7, atol=1e-14)
    free = create("data", mapping_name, {"approximation_weight": 0.0}, DARTS)
    assert free.penalty(mapping, progress) is None


def test_edges_are_ranked_by_probabilities_without_draws():
    for name in MAPPINGS:
        method = create("data", name, {}, DARTS)
        mapping = parameters(method, 4, 0, 1.0)
        expected = probability(mapping)
        torch.testing.assert_close(method.scores(mapping, ALWAYS).detach(), expected, rtol=1e-12, atol=0)
        for k, layer in enumerate(kept(method.derive(mapping, Progress(0, 3, 0, 7)))):
            best = expected[k, :, 1:].max(1)
            for first, last in ((0, 2), (2, 5), (5, 9), (9, 14)):
                top = best.values[first:last].argsort(descending=True)[:2] + first
                assert {e for e in layer if first <= e < last} == set(top.tolist())
            assert all(op == method.operations[1 + best.indices[e]] for e, op in layer.items())


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_only_the_operations_of_the_code_are_executed(monkeypatch, mapping_name):
    """Of 8 alike, four draws find 8 (1 - (7/8)^4) = 3.3 on average."""
    for share in assert_executes_only_what_is_active(monkeypatch, "data", mapping_name):
        assert 0.3 < share < 0.52


def test_paper_settings_are_those_of_the_authors_code():
    shared = create("data", "shared", {}, DARTS).paper_settings("cifar10")
    own = {"epochs": 100, "warmup_epochs": 0, "architecture_weight_decay": 0.0}
    assert shared == {"search": own, "train": {"layers": 20}}
    assert create("data", "full", {}, DARTS).paper_settings("cifar10") == {"search": {"layers": 20, **own}}


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_gives_an_architecture_and_the_same_bits_for_the_same_seed(mapping_name):
    state = torch.get_rng_state()
    one, again, other = (found("data", mapping_name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert one[0].in_space and one[0].origin == {"method": "data", "mapping": mapping_name}
    assert one == again and one[1] != other[1]


def test_a_search_goes_on_to_the_same_bits():
    assert_goes_on_to_the_same_bits("data")

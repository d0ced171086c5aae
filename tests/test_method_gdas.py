"""`gdas` (Dong & Yang 2019): docs/methods/gdas.md."""

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
    new_search,
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
    "temperature": ({}, 0.5),
    "temperature_end": ({}, 5.0),
}


def soft(mapping, progress, temperature):
    """p [L, 14, 8] of this step's noise, written out."""
    logits = sum(term.detach() for term in mapping.terms())
    e = torch.exp((logits + gumbel(mapping, (14, 8), progress.generator())) / temperature)
    return e / e.sum(2, keepdim=True)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 1000), epoch=st.integers(0, 8))
@settings(deadline=None, max_examples=10)
def test_every_edge_has_one_operation_of_weight_one_to_the_bit(mapping_name, seed, step, epoch):
    method = create("gdas", mapping_name, {}, DARTS)
    mapping = method.mapping(5, seed)
    mixing = method.mixing(mapping, Progress(epoch, 9, 0, step, 0, seed))
    assert mixing.operations.dtype == torch.float32 and mixing.operations.shape == (5, 14, 8)
    assert set(mixing.operations.detach().flatten().tolist()) == {0.0, 1.0}
    assert (mixing.operations.detach().sum(2) == 1).all()
    assert torch.equal(mixing.active, mixing.operations.detach() == 1)
    assert (mixing.edges == 1).all()


def test_operations_are_drawn_by_the_softmax_at_every_temperature():
    """The Gumbel-max law. 112,000 draws: the standard deviation of a frequency is at most 0.0015."""
    row = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 1.5, 0.2])
    expected = torch.exp(row) / torch.exp(row).sum()
    method = create("gdas", "full", {}, DARTS)
    mapping = method.mapping(80, 0)
    with torch.no_grad():
        mapping.alpha.copy_(row.expand(80, 14, 8))
    by_epoch = [drawn(method, mapping, Progress(epoch, 11, 0), 100) for epoch in (0, 10)]
    frequencies = by_epoch[0].mean((0, 1, 2))
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0.007)
    # More than that: the temperature does not enter what is drawn.
    assert torch.equal(*by_epoch)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=4)
def test_gradient_through_the_supernet_is_the_closed_form(mapping_name, seed):
    """dL/dA_eo = g · p_i (δ_io - p_o) / τ with g = <∂L/∂y, O_i>; the other operations say nothing."""
    method = create("gdas", mapping_name, {}, DARTS)
    mapping = parameters(method, 3, seed, 1.0)
    progress = Progress(1, 3, 0, 7, 1, seed)
    supernet = build_supernet(DARTS, method.operations, layers=3, channels=4, classes=3, partial=1).double()
    images = torch.randn(2, 3, 6, 6, generator=torch_stream(seed, "images"), dtype=torch.float64)

    def loss(mixing):
        return torch.nn.functional.cross_entropy(supernet(images, mixing), torch.tensor([0, 1]))

    mixing = method.mixing(mapping, progress)
    grads = torch.autograd.grad(loss(mixing), list(mapping.parameters()))
    leaf = mixing.operations.detach().requires_grad_()
    g = torch.autograd.grad(loss(expand(leaf, None, 3, active=mixing.active)), leaf)[0].sum(2, keepdim=True)
    # τ lies halfway between 10 and 0.1.
    p = soft(mapping, progress, 5.05)
    chosen = mixing.active.double()
    assert torch.equal(p.argmax(2), chosen.argmax(2))
    expected = g * (chosen * p).sum(2, keepdim=True) * (chosen - p) / 5.05
    assert expected.abs().max() > 0
    torch.testing.assert_close(grads[0], by_layer(expected, mapping_name), rtol=1e-7, atol=1e-14)
    if mapping_name == "decoupled":
        torch.testing.assert_close(grads[1], expected.sum(1), rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize(
    ("epoch", "epochs", "warmup", "temperature"),
    [
        (0, 12, 0, 10.0),
        (11, 12, 0, 0.1),
        (1, 12, 0, 9.1),
        (249, 250, 0, 0.1),
        (1, 5, 2, 10.0),
        (2, 5, 2, 10.0),
        (3, 5, 2, 5.05),
        (4, 5, 2, 0.1),
    ],
)
def test_the_temperature_falls_linearly_to_its_end_in_the_last_epoch(epoch, epochs, warmup, temperature):
    """Seen in the gradient: that of a softmax at this temperature, at the noise of this step."""
    method = create("gdas", "full", {}, DARTS)
    mapping = parameters(method, 3, 0, 1.0)
    progress = Progress(epoch, epochs, warmup, 3, 0, 5)
    _, g, grads = with_gradient(method, mapping, 0, progress)
    p = soft(mapping, progress, temperature)
    expected = p * (g - (p * g).sum(2, keepdim=True)) / temperature
    torch.testing.assert_close(grads["alpha"], expected, rtol=1e-8, atol=1e-12)


def test_draws_are_shared_by_the_layers_of_a_cell_and_differ_elsewhere():
    drawn = {}
    for name in MAPPINGS:
        method = create("gdas", name, {"initial_scale": 0}, DARTS)
        mapping = method.mapping(8, 0)
        one = method.mixing(mapping, Progress(0, 9, 0, 4, 0, 1)).active
        assert torch.equal(one, method.mixing(mapping, Progress(0, 9, 0, 4, 0, 1)).active)
        for other in (Progress(0, 9, 0, 5, 0, 1), Progress(0, 9, 0, 4, 1, 1), Progress(0, 9, 0, 4, 0, 2)):
            assert not torch.equal(one, method.mixing(mapping, other).active)
        drawn[name] = len({str(layer.tolist()) for layer in one})
    assert drawn == {"shared": 2, "full": 8, "decoupled": 8}


def test_edges_are_ranked_by_probabilities_without_draws():
    for name in MAPPINGS:
        method = create("gdas", name, {}, DARTS)
        mapping = parameters(method, 4, 0, 1.0)
        e = torch.exp(sum(term.detach() for term in mapping.terms()))
        expected = e / e.sum(2, keepdim=True)
        torch.testing.assert_close(method.scores(mapping, ALWAYS).detach(), expected, rtol=1e-12, atol=0)
        derived = {str(kept(method.derive(mapping, Progress(0, 3, 0, step)))) for step in range(5)}
        assert len(derived) == 1
        for k, layer in enumerate(kept(method.derive(mapping, ALWAYS))):
            best = expected[k, :, 1:].max(1)
            for first, last in ((0, 2), (2, 5), (5, 9), (9, 14)):
                top = best.values[first:last].argsort(descending=True)[:2] + first
                assert {e for e in layer if first <= e < last} == set(top.tolist())
            assert all(op == method.operations[1 + best.indices[e]] for e, op in layer.items())


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_only_the_drawn_operation_of_each_edge_is_executed(monkeypatch, mapping_name):
    assert assert_executes_only_what_is_active(monkeypatch, "gdas", mapping_name) == [1 / 8, 1 / 8]


def test_paper_settings_are_those_of_the_authors():
    shared = create("gdas", "shared", {}, DARTS).paper_settings("cifar10")
    assert shared["train"] == {"layers": 20}
    assert shared["search"] == {
        "epochs": 250,
        "warmup_epochs": 0,
        "batch_size": 256,
        "weight_decay": 5e-4,
        "nesterov": True,
        "order": "weights-first",
    }
    full = create("gdas", "full", {}, DARTS).paper_settings("cifar10")
    assert full == {"search": {"layers": 20, **shared["search"]}}
    search = new_search("gdas")
    moved = []
    search.weight_step, search.architecture_step = lambda step: moved.append("weights"), lambda step: moved.append("A")
    search.step(0)
    assert moved == ["weights", "A"]
    assert search.weight_optimizer.defaults["nesterov"]


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_gives_an_architecture_and_the_same_bits_for_the_same_seed(mapping_name):
    state = torch.get_rng_state()
    one, again, other = (found("gdas", mapping_name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert one[0].in_space and one[0].origin == {"method": "gdas", "mapping": mapping_name}
    assert one == again and one[1] != other[1]


def test_a_search_goes_on_to_the_same_bits():
    assert_goes_on_to_the_same_bits("gdas")

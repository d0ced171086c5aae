"""`darts-2nd` (Liu et al. 2019): docs/methods/darts-2nd.md. The update by itself, with the paper's toy problem: tests/test_bilevel.py."""

from dataclasses import replace

import pytest
import torch
from method_tools import ALWAYS, kept, parameters, with_gradient
from plain import PlainSupernet, copy_weights, weight_pairs
from tiny_gradient import INFO, assert_goes_on_to_the_same_bits, found, new_search

from dnas.methods.registry import create
from dnas.pipeline.config import resolve
from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS
from dnas.training import updates

# option → (options around it, a value with which a search is another one)
ACTS = {
    "partial_channels": ({}, 2),
    "with_none": ({}, False),
    "initial_scale": ({}, 0.5),
    "relaxation": ({}, "sigmoid"),
}


def double_search(mapping_name):
    """A search in float64 whose weights have momentum, and whose architecture is far from its start."""
    search = new_search("darts-2nd", mapping_name, channels=4, learning_rate=0.2, weight_decay=0.05)
    search.supernet.double()
    search.mapping.double()
    generator = torch_stream(0, "test")
    with torch.no_grad():
        for p in search.mapping.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    parts = search.parts
    search.parts = lambda step, draw: [replace(part, images=part.images.double()) for part in parts(step, draw)]
    search.batch = lambda step, draw: search.parts(step, draw)[0]
    search.weight_step(0)
    return search


def exact(search, step):
    """∂/∂alpha of L_val(w', alpha) through the virtual step, at w' held fixed, and at w; by a plain net's derivatives."""
    settings, method = search.settings, search.method
    plain = PlainSupernet(method.operations, layers=3, channels=4, classes=4, inputs=1, partial=1).double()
    copy_weights(search.supernet, plain)
    momenta = {}
    for weight, where, twin in weight_pairs(search.supernet, plain):
        momenta[twin] = search.weight_optimizer.state[weight]["momentum_buffer"][where].clone()
    named = dict(plain.named_parameters())

    def loss(draw, weights):
        batch = search.batch(step, draw)
        mixing = method.mixing(search.mapping, search.progress(step, draw))
        logits = torch.func.functional_call(plain, weights, (batch.images, mixing))
        return torch.nn.functional.cross_entropy(logits, batch.labels)

    grads = torch.autograd.grad(loss(0, named), list(named.values()), create_graph=True)
    xi = settings.rate(search.progress(step).epoch)
    moved = {
        name: w - xi * (settings.momentum * momenta[w] + g + settings.weight_decay * w)
        for (name, w), g in zip(named.items(), grads, strict=True)
    }
    ahead = {name: w.detach().requires_grad_() for name, w in moved.items()}
    architecture = search.architecture
    return (
        torch.autograd.grad(loss(1, moved), architecture),
        torch.autograd.grad(loss(1, ahead), architecture),
        torch.autograd.grad(loss(1, named), architecture),
    )


def of_the_step(search, step):
    """The gradients along which a search moves its architecture."""
    seen = []
    search._move_architecture = lambda batch, step, loss, grads: seen.append(grads)
    search.architecture_step(step)
    (grads,) = seen
    return grads


def relative(got, expected):
    got, expected = (torch.cat([t.flatten() for t in ts]) for ts in (got, expected))
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_step_of_a_search_follows_the_exact_gradient_through_the_virtual_step(mapping_name, monkeypatch):
    """On a supernet in float64, with momentum and decay; so small a radius that no kink of a ReLU or maximum is crossed."""
    monkeypatch.setattr(updates, "RADIUS", 1e-7)
    search = double_search(mapping_name)
    weights = [w.detach().clone() for w in search.weights]
    whole, without_second_order, first_order = exact(search, 1)
    got = of_the_step(search, 1)
    assert relative(got, whole) < 1e-5
    # What it would be without the Hessian, or without the step at all, is far from that.
    assert relative(without_second_order, whole) > 0.05 and relative(first_order, whole) > 0.05
    assert all(torch.equal(w, before) for w, before in zip(search.weights, weights, strict=True))


def test_a_step_costs_four_passes_where_the_first_order_takes_one():
    search = new_search("darts-2nd")
    before = search.cost["step_equivalents"]
    search.architecture_step(0)
    assert search.cost["step_equivalents"] - before == 4


# --- the setting -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_the_second_order_reaches_the_run_under_every_preset_and_mapping(mapping_name, preset, source):
    info = type(INFO)(**{**vars(INFO), "source": source})
    chosen = {"method": "darts-2nd", "mapping": mapping_name, "preset": preset}
    config, _ = resolve(chosen, info, 50_000, "")
    twin, _ = resolve({**chosen, "method": "darts"}, info, 50_000, "")
    assert config.search.update == "second-order" and twin.search.update == "first-order"
    # In all else it is searched and trained as darts.
    assert config.search.model_dump() == {**twin.search.model_dump(), "update": "second-order"}
    assert config.train == twin.train


def test_with_first_order_updates_it_is_darts_to_the_bit():
    assert found("darts-2nd", update="first-order")[2] == found("darts")[2]
    assert found("darts-2nd")[2] != found("darts")[2]


# --- the relaxation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_the_relaxation_is_that_of_darts(mapping_name):
    one, two = (create(name, mapping_name, {}, DARTS) for name in ("darts-2nd", "darts"))
    results = [with_gradient(method, parameters(method, 4, 0, 1.0), 0) for method in (one, two)]
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][2][key], grad) for key, grad in results[1][2].items())
    mapping = parameters(one, 4, 0, 1.0)
    assert kept(one.derive(mapping, ALWAYS)) == kept(two.derive(mapping, ALWAYS))
    assert one.operations[0] == "none" and mapping.beta is None


# --- a whole search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_is_a_function_of_its_seed(mapping_name):
    one, again, other = (found("darts-2nd", mapping_name, seed=seed) for seed in (0, 0, 1))
    assert one == again and one[2] != other[2]
    assert one[0].in_space and len(one[0]) == 3


def test_a_search_goes_on_to_the_same_bits():
    assert_goes_on_to_the_same_bits("darts-2nd", "decoupled")

"""Mixing weights from terms: sums before a softmax, products after a sigmoid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.supernet.relaxation import (
    MixingWeights,
    edge_softmax,
    expand,
    layer_softmax,
    sigmoid,
    softmax,
    straight_through,
)

NODES = ((0, 2), (2, 5), (5, 9), (9, 14))
seeds = st.integers(0, 2**31)


def draw(seed, *shape):
    return 2 * torch.randn(shape, generator=torch_stream(seed, "test"), dtype=torch.float64)


@given(seed=seeds, count=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_softmax_normalises_the_sum_of_the_terms(seed, count):
    terms = [
        draw(seed + i, *shape) for i, shape in zip(range(count), ((1, 14, 7), (3, 1, 7), (3, 14, 1)), strict=False)
    ]
    got = softmax(terms)
    product = torch.ones((), dtype=torch.float64)
    for term in terms:
        product = product * torch.exp(term)
    torch.testing.assert_close(got, product / product.sum(-1, keepdim=True), rtol=1e-10, atol=0)
    torch.testing.assert_close(got.sum(-1), torch.ones(got.shape[:2], dtype=torch.float64))


@given(seed=seeds, temperature=st.sampled_from([0.1, 0.5, 10.0]))
@settings(deadline=None, max_examples=20)
def test_a_temperature_divides_the_sum_of_the_terms(seed, temperature):
    terms = [draw(seed, 1, 14, 7), draw(seed + 1, 3, 1, 7)]
    expected = torch.exp((terms[0] + terms[1]) / temperature)
    got = softmax(terms, temperature)
    torch.testing.assert_close(got, expected / expected.sum(-1, keepdim=True), rtol=1e-9, atol=1e-300)


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_straight_through_is_one_hot_with_the_gradient_of_the_soft_weights(seed):
    soft = softmax([draw(seed, 3, 14, 7)]).requires_grad_()
    hard = straight_through(soft)
    assert torch.equal(hard.detach(), torch.nn.functional.one_hot(soft.argmax(-1), 7).double())
    g = draw(seed + 1, 3, 14, 7)
    assert torch.equal(torch.autograd.grad((g * hard).sum(), soft)[0], g)


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_sigmoids_are_multiplied_and_do_not_compete(seed):
    terms = [draw(seed, 1, 14, 7), draw(seed + 1, 3, 1, 7)]
    got = sigmoid(terms)
    expected = 1 / ((1 + torch.exp(-terms[0])) * (1 + torch.exp(-terms[1])))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    terms[0][0, 3, 2] += 1
    changed = (sigmoid(terms) != got).nonzero()
    assert {(e, o) for _, e, o in changed.tolist()} == {(3, 2)}
    torch.testing.assert_close(sigmoid(terms[:1]), torch.sigmoid(terms[0]))


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_edges_compete_within_their_node(seed):
    logits = draw(seed, 3, 14)
    got = edge_softmax(logits, DARTS)
    for first, last in NODES:
        torch.testing.assert_close(got[:, first:last].sum(1), torch.ones(3, dtype=torch.float64))
        for e in range(first, last):
            torch.testing.assert_close(
                got[:, e] / got[:, first], torch.exp(logits[:, e] - logits[:, first]), rtol=1e-9, atol=0
            )
    shifted = logits.clone()
    shifted[:, 5:9] += 3.0
    torch.testing.assert_close(edge_softmax(shifted, DARTS), got)


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_under_the_layers_softmax_all_edges_compete(seed):
    logits = draw(seed, 3, 14)
    got = layer_softmax(logits)
    torch.testing.assert_close(got, torch.exp(logits) / torch.exp(logits).sum(1, keepdim=True), rtol=1e-9, atol=0)


def test_one_hot_limits():
    logits = torch.zeros(1, 14, 7, dtype=torch.float64)
    logits[:, :, 4] = 50.0
    weights = softmax([logits])
    assert (weights[..., 4] == 1).all() and (weights.sum(-1) - weights[..., 4]).max() < 1e-20
    assert (sigmoid([logits * 2 - 50])[..., 4] == 1).all() and sigmoid([logits * 2 - 50])[..., 0].max() < 1e-20


def test_psi_is_the_product_of_edges_and_operations():
    operations, edges = draw(0, 3, 14, 7), draw(1, 3, 14)
    psi = MixingWeights(operations, edges, edges).psi
    assert all(
        psi[k, e, o] == operations[k, e, o] * edges[k, e] for k in range(3) for e in (0, 7, 13) for o in range(7)
    )


@pytest.mark.parametrize("layers", [1, 5])
def test_expanding_fills_in_layers_edges_and_bypass(layers):
    operations, edges, bypass = draw(0, 1, 14, 7), draw(1, layers, 14), draw(2, layers, 14)
    plain = expand(operations, None, layers)
    assert plain.operations.shape == (layers, 14, 7)
    assert all(torch.equal(row, operations[0]) for row in plain.operations)
    assert (plain.edges == 1).all() and (plain.bypass == 1).all() and plain.edges.shape == (layers, 14)
    weighted = expand(operations, edges, layers)
    assert torch.equal(weighted.edges, edges) and torch.equal(weighted.bypass, edges)
    apart = expand(operations, edges, layers, bypass)
    assert torch.equal(apart.edges, edges) and torch.equal(apart.bypass, bypass)


def test_detached_weights_are_equal_and_need_no_gradient():
    operations = draw(0, 3, 14, 7).requires_grad_()
    mixing = expand(operations, operations[..., 0], 3)
    assert mixing.psi.requires_grad
    detached = mixing.detach()
    assert not (detached.operations.requires_grad or detached.edges.requires_grad or detached.bypass.requires_grad)
    assert torch.equal(detached.psi, mixing.psi)

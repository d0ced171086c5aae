"""`darts` (Liu et al. 2019): docs/methods/darts.md."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, kept, parameters, with_gradient

from dnas.methods.registry import create
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS

# For every option: options around it, and a value with which a search is another one.
ACTS = {
    "partial_channels": ({}, 4),
    "with_none": ({}, False),
    "initial_scale": ({}, 0.5),
    "relaxation": ({}, "sigmoid"),
}


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.01, 1.0, 3.0]))
@settings(deadline=None, max_examples=10)
def test_gradient_is_the_closed_form_and_sums_to_zero_on_each_edge(mapping_name, seed, scale):
    """dL/dα_eo = p_eo (G_eo - Σ_q p_eq G_eq), added over the layers that share an alpha."""
    method = create("darts", mapping_name, {}, DARTS)
    mapping = parameters(method, 4, seed, scale)
    psi, g, grads = with_gradient(method, mapping, seed)
    by_layer = psi * (g - (psi * g).sum(2, keepdim=True))
    kind = torch.tensor([0, 1, 1, 0])  # reductions of 4 layers lie at 1 and 2
    expected = {
        "shared": torch.stack([by_layer[kind == t].sum(0) for t in (0, 1)]),
        "full": by_layer,
        "decoupled": by_layer.sum(0, keepdim=True),
    }[mapping_name]
    torch.testing.assert_close(grads["alpha"], expected, rtol=1e-9, atol=1e-12)
    assert grads["alpha"].sum(2).abs().max() < 1e-11
    if mapping_name == "decoupled":
        torch.testing.assert_close(grads["gamma"], by_layer.sum(1), rtol=1e-9, atol=1e-12)
    assert mapping.beta is None


def test_equal_parameters_mix_all_operations_equally_and_every_edge_counts_once():
    method = create("darts", None, {"initial_scale": 0}, DARTS)
    mixing = method.mixing(method.mapping(3, 0), ALWAYS)
    assert method.operations[0] == "none" and len(method.operations) == 8
    assert (mixing.operations == 1 / 8).all() and (mixing.edges == 1).all()


def test_far_parameters_give_one_operation_and_export_it():
    method = create("darts", "full", {}, DARTS)
    mapping = method.mapping(3, 0).double()
    choice = torch.randint(1, 8, (3, 14), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mapping.alpha.copy_(100 * torch.nn.functional.one_hot(choice, 8) - 50)
    psi = method.mixing(mapping, ALWAYS).psi
    torch.testing.assert_close(psi, torch.nn.functional.one_hot(choice, 8).double(), rtol=0, atol=1e-12)
    for k, layer in enumerate(kept(method.derive(mapping, ALWAYS))):
        assert len(layer) == 8
        assert all(op == method.operations[choice[k, e]] for e, op in layer.items())

"""`pc-darts` (Xu et al. 2020): docs/methods/pc-darts.md."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, NODES, changed_parts, kept, parameters, with_gradient

from dnas.methods.registry import create
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS

# For every option: options around it, and a value with which a search is another one.
ACTS = {
    "partial_channels": ({}, 1),
    "with_none": ({}, False),
    "initial_scale": ({}, 0.5),
    "relaxation": ({}, "sigmoid"),
    "edge_normalisation": ({}, False),
}
# What it must change, among other things.
CHANGES = {
    "partial_channels": {"logits"},
    "with_none": {"initial", "operations", "logits"},
    "initial_scale": {"initial"},
    "relaxation": {"operations", "logits"},
    "edge_normalisation": {"initial", "edges", "bypass", "logits"},
}


@pytest.mark.parametrize("option", ACTS)
def test_every_option_changes_its_part_of_a_search(option):
    assert changed_parts("pc-darts", ACTS[option][0], option, ACTS[option][1]) >= CHANGES[option]


def test_pc_darts_has_as_many_architecture_parameters_as_its_paper_says():
    """14 edges with 8 operations or 7, and with a weight of their own; twice, or once a layer."""
    assert create("pc-darts", None, {}, DARTS).mapping(8, 0).count() == 252
    assert create("pc-darts", None, {"with_none": False}, DARTS).mapping(8, 0).count() == 224
    assert create("pc-darts", None, {"edge_normalisation": False}, DARTS).mapping(8, 0).count() == 224
    for layers, with_none, without in ((8, 1008, 896), (14, 1764, 1568), (20, 2520, 2240)):
        assert create("pc-darts", "full", {}, DARTS).mapping(layers, 0).count() == with_none
        assert create("pc-darts", "full", {"with_none": False}, DARTS).mapping(layers, 0).count() == without


@pytest.mark.parametrize("with_none", [True, False])
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.01, 1.0, 3.0]))
@settings(deadline=None, max_examples=10)
def test_gradient_of_softmax_mixing_is_darts_closed_form(with_none, seed, scale):
    """dL/dα_eo = p_eo (G_eo - Σ_q p_eq G_eq), summing to 0 on each edge."""
    method = create("pc-darts", "full", {"edge_normalisation": False, "with_none": with_none}, DARTS)
    mapping = parameters(method, 4, seed, scale)
    psi, g, grads = with_gradient(method, mapping, seed)
    p = torch.exp(mapping.alpha.detach())
    p = p / p.sum(2, keepdim=True)
    torch.testing.assert_close(psi, p, rtol=1e-12, atol=0)
    expected = p * (g - (p * g).sum(2, keepdim=True))
    torch.testing.assert_close(grads["alpha"], expected, rtol=1e-9, atol=1e-12)
    assert grads["alpha"].sum(2).abs().max() < 1e-12


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_gradient_of_beta_sums_to_zero_in_every_node_of_pc_darts(mapping_name):
    """As with any softmax, here over the incoming edges of a node."""
    method = create("pc-darts", mapping_name, {}, DARTS)
    _, _, grads = with_gradient(method, parameters(method, 6, 0, 1.0))
    for first, last in NODES:
        assert grads["beta"][:, first:last].sum(1).abs().max() < 1e-12
    assert grads["beta"].abs().max() > 1e-3


def test_none_takes_its_share_and_changes_the_ranking_of_edges():
    """Asked in issue 16 of pt.darts: leaving `none` out of the softmax is not the same as not choosing it."""
    method = create("pc-darts", "full", {"edge_normalisation": False}, DARTS)
    mapping = parameters(method, 3, 0, 0.1)
    with torch.no_grad():
        mapping.alpha[:, 4, 0] = 5.0  # edge 4, from node 0 to node 1, is mostly `none`
        mapping.alpha[:, 4, 3] = 2.0  # and else strongly one operation
    assert all(4 not in layer for layer in kept(method.derive(mapping, ALWAYS)))
    assert "none" not in {op for layer in kept(method.derive(mapping, ALWAYS)) for op in layer.values()}
    without = create("pc-darts", "full", {"edge_normalisation": False, "with_none": False}, DARTS)
    twin = parameters(without, 3, 0, 1.0)
    with torch.no_grad():
        twin.alpha.copy_(mapping.alpha[:, :, 1:])
    assert all(layer[4] == "skip_connect" for layer in kept(without.derive(twin, ALWAYS)))

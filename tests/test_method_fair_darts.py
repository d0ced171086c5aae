"""`fair-darts` (Chu et al. 2020): docs/methods/fair-darts.md."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, NODES, kept, parameters, with_gradient
from tiny_gradient import assert_goes_on_to_the_same_bits, found, new_search

from dnas.errors import InputError
from dnas.methods.registry import create
from dnas.network.network import build
from dnas.pipeline.config import resolve
from dnas.pipeline.presets import paper_travel
from dnas.space.darts import DARTS
from dnas.space.published import load_published
from dnas.supernet.derive import top_edges
from dnas.supernet.mapping import MAPPINGS

FAR = {"initial_scale": 2.0}
# option → (options around it, a value with which a search is another one)
ACTS = {
    "partial_channels": ({}, 2),
    "initial_scale": ({}, 0.5),
    "zero_one_weight": ({}, 1.0),
    "zero_one_loss": (FAR, "l1"),
    "derivation": (FAR, "threshold"),
    "threshold": ({**FAR, "derivation": "threshold"}, 0.6),
}


def logistic(x):
    return 1 / (1 + torch.exp(-x))


# --- the relaxation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.01, 1.0, 3.0]))
@settings(deadline=None, max_examples=10)
def test_weights_are_products_of_sigmoids_and_the_gradient_their_closed_form(mapping_name, seed, scale):
    """dL/dalpha = Σ_k G_k w_k (1 - σ(alpha)) over the layers k that share an alpha; so for gamma over edges."""
    method = create("fair-darts", mapping_name, {}, DARTS)
    mapping = parameters(method, 4, seed, scale)
    psi, g, grads = with_gradient(method, mapping, seed)
    a = logistic(mapping.alpha.detach())
    kind = torch.tensor([0, 1, 1, 0])  # reductions of 4 layers lie at 1 and 2
    if mapping_name == "decoupled":
        c = logistic(mapping.gamma.detach())
        torch.testing.assert_close(psi, a * c[:, None], rtol=1e-12, atol=0)
        torch.testing.assert_close(grads["gamma"], (g * psi).sum(1) * (1 - c), rtol=1e-9, atol=1e-12)
        expected = (g * psi).sum(0, keepdim=True) * (1 - a)
    elif mapping_name == "full":
        torch.testing.assert_close(psi, a, rtol=1e-12, atol=0)
        expected = g * a * (1 - a)
    else:
        torch.testing.assert_close(psi, a[kind], rtol=1e-12, atol=0)
        expected = torch.stack([g[kind == t].sum(0) for t in (0, 1)]) * a * (1 - a)
    torch.testing.assert_close(grads["alpha"], expected, rtol=1e-9, atol=1e-12)
    assert mapping.beta is None


@given(seed=st.integers(0, 2**31), e=st.integers(0, 13), o=st.integers(0, 6))
@settings(deadline=None, max_examples=20)
def test_operations_are_independent(seed, e, o):
    """∂σ_eo/∂alpha_e'q is 0 except at (e, o) itself: no operation pays for another's rise."""
    method = create("fair-darts", "full", {}, DARTS)
    mapping = parameters(method, 3, seed, 1.0)
    (grad,) = torch.autograd.grad(method.mixing(mapping, ALWAYS).psi[1, e, o], [mapping.alpha])
    assert [tuple(place) for place in grad.nonzero().tolist()] == [(1, e, o)]


def test_the_start_is_one_half_everywhere_and_every_edge_counts_once():
    """Zero init, as the public code; so a node starts with 3.5 per edge."""
    method = create("fair-darts", None, {}, DARTS)
    mixing = method.mixing(method.mapping(6, 0), ALWAYS)
    assert method.operations == DARTS.primitives and "none" not in method.operations
    assert (mixing.operations == 0.5).all() and (mixing.edges == 1).all() and (mixing.bypass == 1).all()
    for n, (first, last) in enumerate(NODES):
        assert (mixing.psi[:, first:last].sum((1, 2)) == 3.5 * (n + 2)).all()
    decoupled = create("fair-darts", "decoupled", {}, DARTS)
    assert (decoupled.mixing(decoupled.mapping(6, 0), ALWAYS).psi == 0.25).all()


# --- the zero-one loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mapping_name", "count"), [("shared", 196), ("full", 490), ("decoupled", 98 + 35)])
@pytest.mark.parametrize("loss", ["l2", "l1"])
@given(seed=st.integers(0, 2**31), weight=st.sampled_from([0.5, 10.0]))
@settings(deadline=None, max_examples=10)
def test_zero_one_loss_and_its_gradient(mapping_name, count, loss, seed, weight):
    """L2: -w01 (2/N)(σ - ½) σ (1 - σ); L1: -w01 sign(σ - ½) σ (1 - σ) / N; over all N parameters of 5 layers."""
    method = create("fair-darts", mapping_name, {"zero_one_weight": weight, "zero_one_loss": loss}, DARTS)
    mapping = parameters(method, 5, seed, 1.0)
    penalty = method.penalty(mapping, ALWAYS)
    tables = list(mapping.parameters())
    assert sum(p.numel() for p in tables) == count
    total = 0.0
    for p, grad in zip(tables, torch.autograd.grad(penalty, tables), strict=True):
        s = logistic(p.detach())
        slope = 2 * (s - 0.5) if loss == "l2" else (s - 0.5).sign()
        torch.testing.assert_close(grad, -weight / count * slope * s * (1 - s), rtol=1e-9, atol=1e-15)
        total += float(((s - 0.5) ** 2).sum() if loss == "l2" else (s - 0.5).abs().sum())
    assert penalty.item() == pytest.approx(-weight * total / count, rel=1e-12)


@pytest.mark.parametrize("loss", ["l2", "l1"])
@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_at_the_start_the_zero_one_loss_has_no_gradient(mapping_name, loss):
    """A saddle: the cross-entropy must break the symmetry."""
    method = create("fair-darts", mapping_name, {"zero_one_loss": loss}, DARTS)
    mapping = method.mapping(5, 0)
    for grad in torch.autograd.grad(method.penalty(mapping, ALWAYS), list(mapping.parameters())):
        assert (grad == 0).all()


@pytest.mark.parametrize("loss", ["l2", "l1"])
def test_alone_it_drives_every_parameter_away_from_zero_monotonically(loss):
    """From ±ε each goes to its own side, and its sigmoid to 0 or 1."""
    method = create("fair-darts", None, {"zero_one_loss": loss, "initial_scale": 1e-3}, DARTS)
    mapping = method.mapping(4, 0).double()
    start = mapping.alpha.detach().clone()
    optimizer = torch.optim.Adam(mapping.parameters(), 0.1)
    far = start.abs()
    for _ in range(300):
        optimizer.zero_grad()
        method.penalty(mapping, ALWAYS).backward()
        optimizer.step()
        now = mapping.alpha.detach().clone()
        assert (now.abs() > far).all()
        far = now.abs()
    assert (now.sign() == start.sign()).all()
    assert ((now.sigmoid() - 0.5).abs() > 0.45).all()


def test_the_limits_of_the_loss():
    """All at ½: 0. All decided: -w01/4, or -w01/2. Without weight there is none."""
    for loss, end in (("l2", 2.5), ("l1", 5.0)):
        method = create("fair-darts", None, {"zero_one_loss": loss}, DARTS)
        mapping = method.mapping(4, 0).double()
        assert method.penalty(mapping, ALWAYS).item() == 0
        with torch.no_grad():
            mapping.alpha.copy_(torch.where(torch.arange(7) == 3, 60.0, -60.0).expand(2, 14, 7))
        assert method.penalty(mapping, ALWAYS).item() == pytest.approx(-end, rel=1e-12)
        assert method.mixing(mapping, ALWAYS).psi.sum().item() == pytest.approx(
            4 * 14, rel=1e-12
        )  # one operation an edge
    none = create("fair-darts", None, {"zero_one_weight": 0}, DARTS)
    assert none.penalty(none.mapping(3, 0), ALWAYS) is None


def test_the_loss_is_for_the_architecture_only():
    search, plain = (new_search("fair-darts", options=FAR | {"zero_one_weight": weight}) for weight in (10.0, 0.0))
    batch = search.batch(0, 1)
    penalty = search.method.penalty(search.mapping, search.progress(0, 1)).item()
    assert penalty < -0.1
    assert search.architecture_loss(batch, 0).item() == pytest.approx(
        plain.architecture_loss(batch, 0).item() + penalty, rel=1e-5
    )
    assert search.weight_loss(batch, 0).item() == plain.weight_loss(batch, 0).item()


# --- derivations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), minimum=st.sampled_from([None, 0.3, 0.6]))
@settings(deadline=None, max_examples=15)
def test_threshold_keeps_of_the_top_edges_the_operations_that_reach_it(mapping_name, seed, minimum):
    """The published derivation: at most two edges a node, each with its best operation, if that has σ ≥ 0.85 (unless set)."""
    options = {"derivation": "threshold"} | ({} if minimum is None else {"threshold": minimum})
    method = create("fair-darts", mapping_name, options, DARTS)
    mapping = parameters(method, 5, seed, 2.0)
    psi = method.mixing(mapping, ALWAYS).psi.detach()
    best = psi.amax(2)
    top = kept(top_edges(psi, DARTS.primitives, DARTS))
    plain = create("fair-darts", mapping_name, {}, DARTS)
    assert kept(plain.derive(mapping, ALWAYS)) == top
    got = kept(method.derive(mapping, ALWAYS))
    for k, layer in enumerate(top):
        expected = {e: op for e, op in layer.items() if best[k, e] >= (0.85 if minimum is None else minimum)}
        if any(DARTS.edges[e][1] < 2 for e in expected):  # else the layer would lose its output: tests/test_derive.py
            assert got[k] == expected


def test_top_2_ranks_edges_by_their_best_sigmoid_not_by_their_sum():
    method = create("fair-darts", "full", {}, DARTS)
    mapping = method.mapping(3, 0)
    with torch.no_grad():
        mapping.alpha[:, 5] = 1.0  # all operations of edge 5 are good
        mapping.alpha[:, 6:8, 4] = 2.0  # one operation of edges 6 and 7 is better
    for layer in kept(method.derive(mapping, ALWAYS)):
        assert {e: op for e, op in layer.items() if 5 <= e < 9} == {6: "sep_conv_5x5", 7: "sep_conv_5x5"}


def test_a_published_genotype_of_a_threshold_is_derived_again_and_builds():
    """FairDARTS_a: nodes with one or no input. σ = 0.9 for what it has, 0.8 for an operation more on each edge."""
    published = load_published("FairDARTS_a", 8)
    method = create("fair-darts", "full", {"derivation": "threshold"}, DARTS)
    mapping = method.mapping(8, 0)
    with torch.no_grad():
        mapping.alpha.fill_(-5.0)
        mapping.alpha[:, :, 1] = math.log(0.8 / 0.2)
        for k, layer in enumerate(kept(published)):
            for e, op in layer.items():
                mapping.alpha[k, e, DARTS.primitives.index(op)] = math.log(0.9 / 0.1)
    derived = method.derive(mapping, ALWAYS)
    assert not derived.in_space and kept(derived) == kept(published)
    assert build(derived, 4, 3).eval()(torch.zeros(1, 3, 8, 8)).isfinite().all()


# --- options and settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"threshold": 0.5}, "threshold=0.5"),
        ({"zero_one_weight": 0, "zero_one_loss": "l1"}, "zero_one_loss=l1"),
        ({"with_none": True}, "with_none"),
        ({"threshold": 1.0, "derivation": "threshold"}, "threshold must be below 1, got 1.0"),
        ({"zero_one_weight": -1}, "zero_one_weight must be at least 0, got -1"),
    ],
)
def test_options_that_could_not_act_are_refused(options, named):
    with pytest.raises(InputError, match=f"--option {named}"):
        create("fair-darts", None, options, DARTS)


def test_paper_settings_are_the_public_codes():
    """bs 128, SGD .005 → .001, Adam 3e-3 (.9, .999) with decay 1e-3, 50 epochs without warm-up."""
    method = create("fair-darts", None, {}, DARTS)
    search = method.Settings(**method.paper_settings("cifar10")["search"]).resolved(50_000, 1.0, 32)
    assert (search.batch_size, search.epochs, search.warmup_epochs, search.layers) == (128, 50, 0, 8)
    assert (search.learning_rate, search.learning_rate_min, search.weight_decay) == (0.005, 0.001, 3e-4)
    assert (search.architecture_learning_rate, search.architecture_beta1) == (3e-3, 0.9)
    assert (search.architecture_beta2, search.architecture_weight_decay) == (0.999, 1e-3)
    assert paper_travel(method) == pytest.approx(29.4)
    for data, layers, batch in (("cifar10", 20, 128), ("cifar100", 14, 128)):
        whole = create("fair-darts", "decoupled", {}, DARTS).paper_settings(data)["search"]
        assert (whole["layers"], whole["batch_size"], whole["architecture_beta1"]) == (layers, batch, 0.9)
        assert "warmup_epochs" not in whole


def test_adams_first_moment_reaches_a_quick_run():
    method = create("fair-darts", None, {}, DARTS)
    config, _ = resolve({"method": "fair-darts"}, new_search("fair-darts").info, 500, "")
    (group,) = method.optimizer(method.mapping(3, 0), config.search).param_groups
    assert group["betas"] == (0.9, 0.999)


# --- a whole search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_is_a_function_of_its_seed(mapping_name):
    one, again, other = (found("fair-darts", mapping_name, seed=seed) for seed in (0, 0, 1))
    assert one == again and one[2] != other[2]
    assert one[0].in_space and len(one[0]) == 3


def test_a_search_goes_on_to_the_same_bits():
    assert_goes_on_to_the_same_bits("fair-darts", "decoupled")


def test_a_search_breaks_the_symmetry_of_its_start():
    """After one step of the cross-entropy no two operations of an edge are alike."""
    search = new_search("fair-darts", "full")
    search.step(0)
    assert (search.mapping.alpha.detach().abs() > 0).all()

"""`dnas` (Xu & He 2022): docs/methods/dnas.md. Equations are the paper's; what follows from them is checked here."""

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, NODES, changed_parts, kept, parameters, with_gradient

from dnas.errors import InputError
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.supernet.derive import top_edges

# For every option: options around it, and a value with which a search is another one.
ACTS = {
    "partial_channels": ({}, 2),
    "with_none": ({}, True),
    "initial_scale": ({}, 0.5),
    "beta_softmax": ({}, "layer"),
    "bypass": ({}, "one"),
    "zero_one_weight": ({}, 1.0),
    "zero_one_on": ({}, "psi"),
    "skip_dropout": ({}, 0.6),
    "skip_dropout_schedule": ({}, "pdarts"),
    "alpha_groups": ({}, 2),
    "derivation": ({}, "threshold"),
    "threshold": ({"derivation": "threshold"}, 0.25),
}
# What it must change, among other things.
CHANGES = {
    "partial_channels": {"logits"},
    "with_none": {"initial", "operations", "penalty"},
    "initial_scale": {"initial"},
    "beta_softmax": {"edges", "bypass", "logits"},
    "bypass": {"bypass", "logits"},
    "zero_one_weight": {"penalty"},
    "zero_one_on": {"penalty"},
    "skip_dropout": {"skip_dropout", "logits"},
    "skip_dropout_schedule": {"skip_dropout", "logits"},
    "alpha_groups": {"initial", "operations", "logits"},
    "derivation": {"derived"},
    "threshold": {"derived"},
}


@pytest.mark.parametrize("option", ACTS)
def test_every_option_changes_its_part_of_a_search(option):
    assert changed_parts("dnas", ACTS[option][0], option, ACTS[option][1]) >= CHANGES[option]


def swaps(architecture):
    """How often two layers exchange the operations of two edges that both keep in both layers."""
    return sum(
        one[e] == two[f] and one[f] == two[e] and one[e] != one[f]
        for one, two in combinations(kept(architecture), 2)
        for e, f in combinations(sorted(one.keys() & two.keys()), 2)
    )


# --- psi as a function of alpha, beta and gamma (eqs. 4, 5) -----------------------------------------------


@pytest.mark.parametrize(("softmax", "groups"), [("node", NODES), ("layer", ((0, 14),))])
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.01, 1.0, 3.0]))
@settings(deadline=None, max_examples=10)
def test_gradients_of_dnas_are_the_three_marginals_of_one_tensor(softmax, groups, seed, scale):
    """With the factors 1 - σ(alpha), 1 - σ(gamma) and the softmax's correction within each group of edges."""
    method = create("dnas", None, {"beta_softmax": softmax}, DARTS)
    mapping = parameters(method, 5, seed, scale)
    psi, g, grads = with_gradient(method, mapping, seed)
    m = g * psi
    a = 1 / (1 + torch.exp(-mapping.alpha.detach()[0]))
    c = 1 / (1 + torch.exp(-mapping.gamma.detach()))
    torch.testing.assert_close(grads["alpha"][0], (1 - a) * m.sum(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(grads["gamma"], (1 - c) * m.sum(1), rtol=1e-9, atol=1e-12)
    by_edge = m.sum(2)
    for first, last in groups:
        exponentials = torch.exp(mapping.beta.detach()[:, first:last])
        b = exponentials / exponentials.sum(1, keepdim=True)
        expected = by_edge[:, first:last] - b * by_edge[:, first:last].sum(1, keepdim=True)
        got = grads["beta"][:, first:last]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
        assert got.sum(1).abs().max() < 1e-12
        # psi itself is the product of the three factors.
        product = b[:, :, None] * a[None, first:last] * c[:, None]
        torch.testing.assert_close(psi[:, first:last], product, rtol=1e-12, atol=0)
    assert grads["beta"].abs().max() > 0


@pytest.mark.parametrize("groups", [1, 2])
def test_log_psi_of_dnas_has_no_interaction_of_three(groups):
    """Every mixed third difference over layer, edge and operation is 0 (with two alphas: within a layer type)."""
    method = create("dnas", None, {"alpha_groups": groups}, DARTS)
    mapping = parameters(method, 8, 3, 1.5)
    log = method.mixing(mapping, ALWAYS).psi.detach().log()
    normal = log[mapping.kind == 0]
    for tensor in [normal, log] if groups == 1 else [normal]:
        assert tensor.diff(dim=0).diff(dim=1).diff(dim=2).abs().max() < 1e-12
    if groups == 2:
        assert log.diff(dim=0).diff(dim=1).diff(dim=2).abs().max() > 0.1


def test_a_table_for_every_layer_has_interactions_of_three():
    method = create("dnas", "full", {}, DARTS)
    log = method.mixing(parameters(method, 8, 3, 1.0), ALWAYS).psi.detach().log()
    assert log.diff(dim=0).diff(dim=1).diff(dim=2).abs().max() > 0.1


def test_psi_of_dnas_is_no_low_rank_tensor():
    """A row and column scaling of one matrix a layer, and of full multilinear rank all the same."""
    method = create("dnas", None, {}, DARTS)
    mapping = parameters(method, 8, 0, 1.0)
    psi = method.mixing(mapping, ALWAYS).psi.detach()
    unfolded = [psi.movedim(dim, 0).flatten(1) for dim in range(3)]
    assert [int(torch.linalg.matrix_rank(u)) for u in unfolded] == [8, 14, 7]
    ratios = psi[0] / psi[1]
    assert int(torch.linalg.matrix_rank(ratios)) == 1


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_no_two_layers_of_dnas_swap_operations_between_two_edges(scale, seed):
    """A cross ratio of two edges and two operations is the same in every layer."""
    method = create("dnas", None, {}, DARTS)
    mapping = parameters(method, 12, seed, scale)
    assert swaps(method.derive(mapping, ALWAYS)) == 0


def test_pc_darts_with_a_table_for_every_layer_does_swap():
    """The counter-check of the test above: were `swaps` blind, this would be 0 too."""
    method = create("pc-darts", "full", {}, DARTS)
    assert sum(swaps(method.derive(parameters(method, 12, seed, 1.0), ALWAYS)) for seed in range(5)) > 0


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=15)
def test_beta_ranks_edges_and_never_chooses_operations(seed):
    """The operation of an edge is argmax_j σ(alpha_ij) σ(gamma_kj)."""
    method = create("dnas", None, {}, DARTS)
    mapping = parameters(method, 6, seed, 1.0)
    choice = (mapping.alpha.sigmoid() * mapping.gamma.sigmoid()[:, None, :]).argmax(2)
    before = kept(method.derive(mapping, ALWAYS))
    with torch.no_grad():
        mapping.beta.copy_(3 * torch.randn(6, 14, generator=torch_stream(seed, "other"), dtype=torch.float64))
    after = kept(method.derive(mapping, ALWAYS))
    assert before != after
    for genes in (before, after):
        for k, layer in enumerate(genes):
            assert all(op == DARTS.primitives[choice[k, e]] for e, op in layer.items())


@pytest.mark.parametrize(("softmax", "rank"), [("node", 227), ("layer", 238)])
def test_what_can_be_identified_from_psi(softmax, rank):
    """The rank of the Jacobian of log psi at L = 8, below the 266 parameters."""
    method = create("dnas", None, {"beta_softmax": softmax}, DARTS)
    mapping = parameters(method, 8, 0, 1.0)
    log = method.mixing(mapping, ALWAYS).psi.log().flatten()
    rows = torch.autograd.grad(
        log, list(mapping.parameters()), torch.eye(len(log), dtype=torch.float64), is_grads_batched=True
    )
    jacobian = torch.cat([row.flatten(1) for row in rows], 1)
    assert jacobian.shape == (8 * 98, 266)
    assert int(torch.linalg.matrix_rank(jacobian)) == rank


# --- counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "decoupled", "full"), [(8, 266, 784), (14, 392, 1372), (20, 518, 1960)])
def test_dnas_has_as_many_architecture_parameters_as_the_paper_says(layers, decoupled, full):
    """The paper compares with the operations' table alone, without beta."""
    assert create("dnas", None, {}, DARTS).mapping(layers, 0).count() == decoupled
    mapping = create("dnas", "full", {}, DARTS).mapping(layers, 0)
    assert mapping.alpha.numel() == full
    assert mapping.count() == full + 14 * layers


# --- limits -----------------------------------------------------------------------------------------------


def test_without_gamma_and_beta_dnas_is_fairdarts_with_one_alpha():
    method = create("dnas", None, {}, DARTS)
    mapping = parameters(method, 5, 0, 1.0)
    with torch.no_grad():
        mapping.gamma.fill_(60.0)
    operations = method.mixing(mapping, ALWAYS).operations
    expected = (1 / (1 + torch.exp(-mapping.alpha))).expand(5, 14, 7)
    torch.testing.assert_close(operations, expected, rtol=1e-12, atol=0)
    with torch.no_grad():
        mapping.gamma.fill_(-60.0)
    assert method.mixing(mapping, ALWAYS).operations.max() < 1e-25


def test_with_softmax_and_without_gamma_it_is_pc_darts_with_a_beta_for_every_layer():
    decoupled = create("pc-darts", "decoupled", {}, DARTS)
    mapping = parameters(decoupled, 5, 0, 1.0)
    with torch.no_grad():
        mapping.gamma.fill_(0.7)  # any constant: a softmax does not see it
    full = create("pc-darts", "full", {}, DARTS)
    twin = parameters(full, 5, 1, 1.0)
    with torch.no_grad():
        twin.alpha.copy_(mapping.alpha.expand(5, 14, 8))
        twin.beta.copy_(mapping.beta)
    one, two = decoupled.mixing(mapping, ALWAYS), full.mixing(twin, ALWAYS)
    torch.testing.assert_close(one.operations, two.operations)
    assert torch.equal(one.edges, two.edges)
    with torch.no_grad():
        mapping.gamma[:, 0] += 1.0
    assert (decoupled.mixing(mapping, ALWAYS).operations - two.operations).abs().max() > 0.01


def descend(method, mapping, steps=400, rate=0.1):
    optimizer = torch.optim.Adam(mapping.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        method.penalty(mapping, ALWAYS).backward()
        optimizer.step()
        yield


def test_the_zero_one_loss_on_psi_drives_psi_to_zero():
    """The reason of reading A5: from the default start there is no other way away from ½."""
    method = create("dnas", None, {"zero_one_on": "psi"}, DARTS)
    mapping = method.mapping(4, 0).double()
    assert 0.04 < method.mixing(mapping, ALWAYS).psi.max() < 0.13
    for _ in descend(method, mapping, steps=300, rate=0.5):
        pass
    assert method.mixing(mapping, ALWAYS).psi.max() < 1e-5


def test_the_zero_one_loss_on_factors_drives_every_sigmoid_away_from_one_half():
    """Monotonically, each to its own side."""
    method = create("dnas", None, {}, DARTS)
    mapping = method.mapping(4, 0).double()
    start = torch.cat([mapping.alpha.flatten(), mapping.gamma.flatten()]).detach().clone()
    far = start.abs()
    for _ in descend(method, mapping):
        now = torch.cat([mapping.alpha.flatten(), mapping.gamma.flatten()]).detach()
        assert (now.abs() > far).all()
        far = now.abs()
    assert (now.sign() == start.sign()).all()
    assert ((now.sigmoid() - 0.5).abs() > 0.45).all()
    assert 0.1 < (now > 0).double().mean() < 0.9


# --- the zero-one loss (Chu et al. 2020) -------------------------------------------------------------------


@pytest.mark.parametrize("on", ["factors", "alpha", "gamma"])
@given(seed=st.integers(0, 2**31), weight=st.sampled_from([0.5, 10.0]))
@settings(deadline=None, max_examples=10)
def test_gradient_of_the_zero_one_loss(on, seed, weight):
    """-w01 (2/N) (σ - ½) σ (1 - σ), with N the number of values that the loss sees."""
    method = create("dnas", None, {"zero_one_on": on, "zero_one_weight": weight}, DARTS)
    mapping = parameters(method, 5, seed, 1.0)
    loss = method.penalty(mapping, ALWAYS)
    seen = {"factors": ("alpha", "gamma"), "alpha": ("alpha",), "gamma": ("gamma",)}[on]
    count = sum({"alpha": 98, "gamma": 35}[name] for name in seen)
    grads = torch.autograd.grad(loss, list(mapping.parameters()), allow_unused=True)
    total = 0.0
    for (name, p), grad in zip(mapping.named_parameters(), grads, strict=True):
        if name not in seen:
            assert grad is None
            continue
        s = 1 / (1 + torch.exp(-p.detach()))
        torch.testing.assert_close(grad, -weight * (2 / count) * (s - 0.5) * s * (1 - s), rtol=1e-9, atol=1e-15)
        total += float(((s - 0.5) ** 2).sum())
    assert loss.item() == pytest.approx(-weight * total / count, rel=1e-12)


def test_gradient_of_the_zero_one_loss_is_exactly_zero_at_zero():
    method = create("dnas", None, {"initial_scale": 0}, DARTS)
    mapping = method.mapping(5, 0)
    for grad in torch.autograd.grad(method.penalty(mapping, ALWAYS), [mapping.alpha, mapping.gamma]):
        assert (grad == 0).all()


def test_the_zero_one_loss_on_a_product_sees_every_layer():
    method = create("dnas", None, {"zero_one_on": "product"}, DARTS)
    mapping = parameters(method, 5, 0, 1.0)
    a, c = mapping.alpha.detach().sigmoid()[0], mapping.gamma.detach().sigmoid()
    values = [a[i, j] * c[k, j] for k in range(5) for i in range(14) for j in range(7)]
    expected = -10 * sum((v - 0.5) ** 2 for v in values) / len(values)
    assert method.penalty(mapping, ALWAYS).item() == pytest.approx(expected.item(), rel=1e-12)


def test_pc_darts_and_dnas_without_weight_have_no_penalty():
    pc_darts = create("pc-darts", None, {}, DARTS)
    assert pc_darts.penalty(pc_darts.mapping(3, 0), ALWAYS) is None
    plain = create("dnas", None, {"zero_one_weight": 0}, DARTS)
    assert plain.penalty(plain.mapping(3, 0), ALWAYS) is None


# --- skip dropout ----------------------------------------------------------------------------------------


def test_constant_skip_dropout_is_the_papers_rate_everywhere():
    method = create("dnas", None, {}, DARTS)
    assert {method.skip_dropout(Progress(e, 50, 15)) for e in range(50)} == {0.2}
    pc_darts = create("pc-darts", None, {}, DARTS)
    assert {pc_darts.skip_dropout(Progress(e, 50, 15)) for e in range(50)} == {0.0}


def test_decaying_skip_dropout_is_that_of_p_darts_at_its_length():
    """P-DARTS searches 25 epochs, 10 of them with the architecture at rest."""
    method = create("dnas", None, {"skip_dropout": 0.3, "skip_dropout_schedule": "pdarts"}, DARTS)
    for epoch in range(25):
        expected = 0.3 * (25 - epoch - 1) / 25 if epoch < 10 else 0.3 * math.exp(-0.2 * (epoch - 10))
        assert method.skip_dropout(Progress(epoch, 25, 10)) == pytest.approx(expected, rel=1e-12)


@given(epochs=st.integers(1, 600), warmup=st.integers(0, 599))
@settings(deadline=None, max_examples=50)
def test_decaying_skip_dropout_has_the_same_rate_in_the_last_epoch_whatever_the_length(epochs, warmup):
    """That of P-DARTS in the last of its epochs; and the full rate in the first after the warm-up."""
    warmup = min(warmup, epochs - 1)
    method = create("dnas", None, {"skip_dropout_schedule": "pdarts"}, DARTS)
    rates = [method.skip_dropout(Progress(e, epochs, warmup)) for e in range(warmup, epochs)]
    assert rates[-1] == pytest.approx(0.2 * math.exp(-0.2 * 14), rel=1e-9)
    assert len(rates) == 1 or rates[0] == pytest.approx(0.2, rel=1e-12)
    assert all(a > b for a, b in pairwise(rates))


# --- options ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["factors", "alpha", "gamma", "product", "psi"])
def test_every_target_of_the_zero_one_loss_is_its_own(value):
    penalties = {}
    for on in ("factors", "alpha", "gamma", "product", "psi"):
        method = create("dnas", None, {"zero_one_on": on}, DARTS)
        penalties[on] = method.penalty(parameters(method, 4, 0, 1.5), ALWAYS).item()
    assert [on for on, penalty in penalties.items() if penalty == penalties[value]] == [value]


def test_threshold_keeps_of_the_top_edges_those_that_are_strong_enough():
    method = create("dnas", None, {"derivation": "threshold", "threshold": 0.25}, DARTS)
    mapping = parameters(method, 6, 0, 1.0)
    psi = method.mixing(mapping, ALWAYS).psi
    strength = (mapping.alpha.sigmoid() * mapping.gamma.sigmoid()[:, None, :]).amax(2)
    top = kept(top_edges(psi, method.operations, DARTS))
    got = kept(method.derive(mapping, ALWAYS))
    for k in range(6):
        assert got[k] == {e: op for e, op in top[k].items() if strength[k, e] >= 0.25}
    assert sum(map(len, got)) < sum(map(len, top))


def test_threshold_is_one_half_unless_set():
    mapping = parameters(create("dnas", None, {}, DARTS), 6, 0, 1.0)
    with torch.no_grad():
        mapping.alpha += 1
        mapping.gamma += 1
    unset, half, other = (
        create("dnas", None, {"derivation": "threshold", **options}, DARTS).derive(mapping, ALWAYS)
        for options in ({}, {"threshold": 0.5}, {"threshold": 0.6})
    )
    assert unset == half != other


@pytest.mark.parametrize(
    ("name", "mapping", "options", "named"),
    [
        ("dnas", None, {"tau": 1}, "tau"),
        ("pc-darts", None, {"zero_one_weight": 1}, "zero_one_weight"),
        ("dnas", "shared", {"alpha_groups": 2}, "alpha_groups=2"),
        ("dnas", "full", {"alpha_groups": 2}, "alpha_groups=2"),
        ("dnas", "full", {"zero_one_on": "gamma"}, "zero_one_on=gamma"),
        ("dnas", None, {"threshold": 0.5}, "threshold=0.5"),
    ],
)
def test_options_that_could_not_act_are_refused(name, mapping, options, named):
    with pytest.raises(InputError, match=f"--option {named}"):
        create(name, mapping, options, DARTS)

"""`snas` (Xie et al. 2019): docs/methods/snas.md."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import ALWAYS, kept, parameters, with_gradient
from sparse_tools import INFO, SPLIT, assert_goes_on_to_the_same_bits, by_layer, drawn, found, new_search, tiny

from dnas.errors import InputError
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.methods.snas import RESOURCES
from dnas.searching.search import Search
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.supernet.costs import resources
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import gumbel

ACTS = {
    "partial_channels": ({}, 2),
    "with_none": ({}, False),
    "initial_scale": ({}, 0.5),
    "temperature": ({}, 0.5),
    "temperature_end": ({}, 0.3),
    "resource_weight": ({}, 1.0),
    "resource": ({"resource_weight": 1.0}, "params"),
}
WITH_NONE = ("none", *DARTS.primitives)


def concrete(mapping, progress, temperature, operations=8):
    """Z [L, 14, O] of this step's noise, written out."""
    logits = sum(term.detach() for term in mapping.terms())
    e = torch.exp((logits + gumbel(mapping, (14, operations), progress.generator())) / temperature)
    return e / e.sum(2, keepdim=True)


# --- the relaxation -----------------------------------------------------------------------------------------


def test_the_largest_weight_is_drawn_by_the_softmax_at_every_temperature():
    """The Gumbel-max law. 112,000 draws: the standard deviation of a frequency is at most 0.0015."""
    row = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 1.5, 0.2])
    expected = torch.exp(row) / torch.exp(row).sum()
    method = create("snas", "full", {}, DARTS)
    mapping = method.mapping(80, 0)
    with torch.no_grad():
        mapping.alpha.copy_(row.expand(80, 14, 8))
    choices = [drawn(method, mapping, Progress(epoch, 11, 0), 100).argmax(-1) for epoch in (0, 5)]
    frequencies = torch.bincount(choices[0].flatten(), minlength=8) / choices[0].numel()
    torch.testing.assert_close(frequencies, expected, rtol=0, atol=0.007)
    assert torch.equal(*choices)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_draws_are_one_hot_when_cold_and_uniform_when_hot(mapping_name):
    cold = create("snas", mapping_name, {"temperature": 1e-4}, DARTS)
    hot = create("snas", mapping_name, {"temperature": 1e6}, DARTS)
    mapping = parameters(cold, 4, 0, 1.0)
    progress = Progress(0, 2, 0)
    one_hot = cold.mixing(mapping, progress).operations.detach()
    torch.testing.assert_close(one_hot.amax(2), torch.ones(4, 14).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(one_hot.sum(2), torch.ones(4, 14).double(), rtol=0, atol=1e-9)
    uniform = hot.mixing(mapping, progress).operations.detach()
    torch.testing.assert_close(uniform, torch.full((4, 14, 8), 1 / 8).double(), rtol=0, atol=1e-4)
    assert cold.mixing(mapping, progress).active is None and (cold.mixing(mapping, progress).edges == 1).all()


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31), step=st.integers(0, 1000))
@settings(deadline=None, max_examples=10)
def test_gradient_is_the_closed_form_of_this_steps_draw(mapping_name, seed, step):
    """dL/dalpha_eo = Z_eo (G_eo - Σ_q Z_eq G_eq) / λ."""
    method = create("snas", mapping_name, {}, DARTS)
    mapping = parameters(method, 4, seed, 1.0)
    progress = Progress(1, 3, 0, step, 1, seed)
    psi, g, grads = with_gradient(method, mapping, seed, progress)
    z = concrete(mapping, progress, 0.515)  # halfway between 1 and 0.03
    torch.testing.assert_close(psi, z, rtol=1e-9, atol=1e-15)
    expected = z * (g - (z * g).sum(2, keepdim=True)) / 0.515
    torch.testing.assert_close(grads["alpha"], by_layer(expected, mapping_name, 4), rtol=1e-7, atol=1e-11)
    if mapping_name == "decoupled":
        torch.testing.assert_close(grads["gamma"], expected.sum(1), rtol=1e-7, atol=1e-11)


def test_gradient_of_the_loss_and_the_price_is_a_finite_difference_with_the_same_noise():
    """Pathwise: the draw moves with alpha, while the noise stays."""
    search = new_search("snas", options={"resource_weight": 0.3})
    search.mapping.double()
    search.supernet.double()
    batch = search.batch(1, 0)
    images = batch.images.double()

    def loss():
        mixing = search.method.mixing(search.mapping, search.progress(1))
        logits = search.supernet(images, mixing)
        price = search.method.penalty(search.mapping, search.progress(1))
        return torch.nn.functional.cross_entropy(logits, batch.labels) + price

    (grad,) = torch.autograd.grad(loss(), [search.mapping.alpha])
    alpha = search.mapping.alpha
    places = [(0, 3, 4), (1, 9, 1), (1, 0, 3)]
    for place in places:
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                alpha[place] += sign * 1e-5
                sides.append(loss())
                alpha[place] -= sign * 1e-5
        assert grad[place].item() == pytest.approx(float(sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-9)
    assert grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("epoch", "epochs", "warmup", "temperature"),
    [(0, 150, 0, 1.0), (149, 150, 0, 0.03), (1, 98, 0, 0.99), (1, 5, 2, 1.0), (3, 5, 2, 0.515), (4, 5, 2, 0.03)],
)
def test_the_temperature_falls_linearly_to_its_end_in_the_last_epoch(epoch, epochs, warmup, temperature):
    method = create("snas", "full", {}, DARTS)
    mapping = parameters(method, 3, 0, 1.0)
    progress = Progress(epoch, epochs, warmup, 3, 0, 5)
    expected = concrete(mapping, progress, temperature)
    torch.testing.assert_close(method.mixing(mapping, progress).operations.detach(), expected, rtol=1e-8, atol=1e-12)


def test_draws_are_shared_by_the_layers_of_a_cell_and_differ_elsewhere():
    counts = {}
    for name in MAPPINGS:
        method = create("snas", name, {"initial_scale": 0}, DARTS)
        mapping = method.mapping(8, 0)
        one = method.mixing(mapping, Progress(0, 9, 0, 4, 0, 1)).operations.detach()
        assert torch.equal(one, method.mixing(mapping, Progress(0, 9, 0, 4, 0, 1)).operations)
        for other in (Progress(0, 9, 0, 5, 0, 1), Progress(0, 9, 0, 4, 1, 1), Progress(0, 9, 0, 4, 0, 2)):
            assert not torch.equal(one, method.mixing(mapping, other).operations)
        counts[name] = len(one.unique(dim=0))
        assert all(len(layer.unique(dim=0)) == 14 for layer in one)
    assert counts == {"shared": 2, "full": 8, "decoupled": 8}


def test_edges_are_ranked_by_probabilities_without_draws():
    for name in MAPPINGS:
        method = create("snas", name, {}, DARTS)
        mapping = parameters(method, 4, 0, 1.0)
        e = torch.exp(sum(term.detach() for term in mapping.terms()))
        expected = e / e.sum(2, keepdim=True)
        torch.testing.assert_close(method.scores(mapping, ALWAYS).detach(), expected, rtol=1e-12, atol=0)
        for k, layer in enumerate(kept(method.derive(mapping, Progress(0, 3, 0, 7)))):
            best = expected[k, :, 1:].max(1)
            for first, last in ((0, 2), (2, 5), (5, 9), (9, 14)):
                top = best.values[first:last].argsort(descending=True)[:2] + first
                assert {e for e in layer if first <= e < last} == set(top.tolist())
            assert all(op == method.operations[1 + best.indices[e]] for e, op in layer.items())


# --- resources ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [4, 16, 22])
def test_resources_of_a_normal_cell_are_those_of_the_authors_counts(c):
    """Layer 0 at 32 pixels; stride 1 on every edge."""
    y = 32 * 32
    expected = {"none": (0, 0, 0), "skip_connect": (0, 0, 2 * c * y)}
    expected |= dict.fromkeys(("max_pool_3x3", "avg_pool_3x3"), (0, 9 * c * y, 2 * c * y))
    for k in (3, 5):
        separable, dilated = 2 * (c * k * k + c * c), c * k * k + c * c
        expected[f"sep_conv_{k}x{k}"] = (separable, separable * y, 8 * c * y + separable)
        expected[f"dil_conv_{k}x{k}"] = (dilated, dilated * y, 4 * c * y + dilated)
    table = resources(DARTS, WITH_NONE, 4, c, 32)
    assert table.shape == (4, 14, 8, 3)
    for e in range(14):
        assert {name: tuple(map(int, row)) for name, row in zip(WITH_NONE, table[0, e], strict=True)} == expected


def test_resources_of_reductions_follow_stride_width_and_resolution():
    """Layers 1 and 2 of 4 reduce: widths 8, 16, 32, 32; sides 16 → 8 → 4 and 4."""
    table = resources(DARTS, WITH_NONE, 4, 8, 16)
    sources = [source for _, source in DARTS.edges]
    for k, c, before, after in ((1, 16, 16, 8), (2, 32, 8, 4), (3, 32, 4, 4)):
        x, y = c * before**2, c * after**2
        for e in range(14):
            row = dict(zip(WITH_NONE, table[k, e].tolist(), strict=True))
            strided = k < 3 and sources[e] < 2
            pool = (0, 9 * y, (x if strided else y) + y)
            assert tuple(row["max_pool_3x3"]) == tuple(row["avg_pool_3x3"]) == pool
            skip = (c * c, c * y, 2 * x + y + c * c) if strided else (0, 0, 2 * y)
            assert tuple(row["skip_connect"]) == skip
            size = 2 * (9 * c + c * c)
            assert tuple(row["sep_conv_3x3"]) == (size, size * after**2, (x if strided else y) + 7 * y + size)


@pytest.mark.parametrize("image_size", [32, 9])
def test_differences_of_networks_are_differences_of_their_operations(image_size):
    """Against the count of whole networks, which knows nothing of this table; pools have no multiplications there."""
    rng = np.random.default_rng(0)
    table = resources(DARTS, WITH_NONE, 5, 8, image_size)[..., RESOURCES.index("flops")]
    seen = []
    for _ in range(4):
        architecture = sampling.sample(DARTS, rng, 5)
        own = sum(
            table[k, e, WITH_NONE.index(op)].item()
            for k, layer in enumerate(kept(architecture))
            for e, op in layer.items()
            if "pool" not in op
        )
        seen.append(size(plan(architecture, channels=8, classes=3), image_size).macs - own)
    assert len(set(seen)) == 1 and seen[0] > 0


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@pytest.mark.parametrize("resource", ["all", *RESOURCES])
def test_the_price_is_the_mean_logarithm_of_what_the_draw_uses(mapping_name, resource):
    method = create("snas", mapping_name, {"resource": resource, "resource_weight": 0.2}, DARTS)
    mapping = parameters(method, 6, 1, 2.0)
    progress = Progress(1, 3, 0, 5, 1, 9, channels=8, image_size=12)
    z = method.mixing(mapping, progress).operations.detach()
    table = resources(DARTS, method.operations, 6, 8, 12)
    columns = range(3) if resource == "all" else [RESOURCES.index(resource)]
    price = 0.0
    for kind in ([0, 1, 3, 5], [2, 4]):  # reductions of 6 layers lie at 2 and 4
        for k in kind:
            for e in range(14):
                for r in columns:
                    used = float((z[k, e] * table[k, e, :, r]).sum())
                    price += math.log(max(1.0, used)) / len(columns) / len(kind)
    assert method.penalty(mapping, progress).item() == pytest.approx(0.2 * price, rel=1e-9)


def test_what_costs_nothing_has_no_price_and_no_gradient():
    method = create("snas", "full", {"resource": "params"}, DARTS)
    mapping = method.mapping(3, 0).double()
    with torch.no_grad():
        mapping.alpha.fill_(-60)
        mapping.alpha[..., 1] = 60  # a pool
    price = method.penalty(mapping, Progress(0, 2))
    assert price.item() == 0
    assert not torch.autograd.grad(price, [mapping.alpha])[0].any()
    free = create("snas", "full", {"resource_weight": 0}, DARTS)
    assert free.penalty(mapping, ALWAYS) is None


def test_the_price_alone_leads_to_the_cheapest_operations():
    """Of multiplications: the identity, and where it would be a factorised reduction, a pool."""
    method = create("snas", "full", {"resource": "flops", "resource_weight": 1.0, "with_none": False}, DARTS)
    mapping = method.mapping(3, 0)
    optimizer = torch.optim.Adam(mapping.parameters(), 0.1)
    for step in range(150):
        optimizer.zero_grad()
        method.penalty(mapping, Progress(0, 2, 0, step)).backward()
        optimizer.step()
    best = method.scores(mapping, ALWAYS).argmax(2)
    for e, (_, source) in enumerate(DARTS.edges):
        for k in range(3):
            name = DARTS.primitives[best[k, e]]
            assert name.endswith("pool_3x3") if k > 0 and source < 2 else name == "skip_connect"


def test_the_price_is_that_of_the_draw_in_the_loss_at_the_searchs_own_size():
    search = new_search("snas", options={"resource_weight": 1.0})
    batch = search.batch(1, 0)
    total = search.architecture_loss(batch, 1)
    entropy = torch.nn.functional.cross_entropy(search.logits(batch, 1, relaxed=True), batch.labels)
    z = search.method.mixing(search.mapping, search.progress(1)).operations
    table = resources(DARTS, search.method.operations, 3, 8, 8).float()
    price = torch.einsum("keo,keor->ker", z, table).clamp_min(1).log().mean(2).sum(1)
    expected = price[0] + (price[1] + price[2]) / 2  # layers 1 and 2 of 3 reduce
    assert (total - entropy).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_resource_without_a_weight_is_refused():
    with pytest.raises(InputError, match="--option resource=params does not apply"):
        create("snas", None, {"resource": "params", "resource_weight": 0.0}, DARTS)


# --- the search ---------------------------------------------------------------------------------------------


def test_paper_settings_are_those_of_the_authors():
    shared = create("snas", "shared", {}, DARTS).paper_settings("cifar10")
    own = {"epochs": 150, "warmup_epochs": 0, "update": "single-level"}
    assert shared == {"search": own, "train": {"layers": 20}}
    assert create("snas", "decoupled", {}, DARTS).paper_settings("cifar10") == {"search": {"layers": 20, **own}}


def test_weights_and_alpha_follow_one_batch_of_all_images():
    method, shape = tiny("snas")
    search = Search(method, shape, SPLIT, INFO, 0, "cpu")
    assert shape.steps_per_epoch == 2 and len(search.train_part) == 24
    before = [p.detach().clone() for p in (*search.architecture, *search.weights)]
    drawn_for = []
    mixing = method.mixing
    method.mixing = lambda mapping, progress: (
        drawn_for.append((progress.step, progress.draw)),
        mixing(mapping, progress),
    )[1]
    search.step(0)
    # For the logits, for the price, and for the share of the gradient that is the price's: one and the same draw.
    assert len(drawn_for) > 1 and set(drawn_for) == {(0, 0)}
    for old, new in zip(before, (*search.architecture, *search.weights), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_gives_an_architecture_and_the_same_bits_for_the_same_seed(mapping_name):
    state = torch.get_rng_state()
    one, again, other = (found("snas", mapping_name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert one[0].in_space and one[0].origin == {"method": "snas", "mapping": mapping_name}
    assert one == again and one[1] != other[1]


def test_a_search_goes_on_to_the_same_bits():
    assert_goes_on_to_the_same_bits("snas")

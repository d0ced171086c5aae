"""`nasp` (Yao et al. 2020): docs/methods/nasp.md."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from method_tools import NODES, kept, with_gradient
from tiny_gradient import INFO, assert_goes_on_to_the_same_bits, found, new_search

from dnas.errors import InputError
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline.config import resolve
from dnas.pipeline.presets import paper_travel
from dnas.rng import torch_stream
from dnas.searching.watch import epoch_metrics
from dnas.space.darts import DARTS
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import MixingWeights

# option → (options around it, a value with which a search is another one)
ACTS = {
    "partial_channels": ({}, 2),
    "initial_scale": ({}, 0.5),
    "complexity_weight": ({}, 100.0),
}
WEIGHTS, ARCHITECTURE = Progress(draw=0), Progress(draw=1)
# 2 · (16 · k² + 16² + 32) for a separable convolution, half of it for a dilated one; nothing else has parameters.
PARAMS = torch.tensor([0, 0, 0, 864, 1376, 432, 688], dtype=torch.float64)


def in_the_box(method, layers, seed):
    """Parameters all over the box, in float64."""
    mapping = method.mapping(layers, seed).double()
    generator = torch_stream(seed, "test")
    with torch.no_grad():
        for p in mapping.parameters():
            p.copy_(torch.rand(p.shape, generator=generator, dtype=torch.float64))
    return mapping


def values(mapping, layers):
    """[L, E, O], A of every layer; reductions of 3 layers lie at 1 and 2."""
    if len(list(mapping.parameters())) == 2:
        return (mapping.alpha * mapping.gamma[:, None]).detach()
    alpha = mapping.alpha.detach()
    return alpha if len(alpha) == layers else alpha[torch.tensor([0, 1, 1])]


def projected(a):
    """1 for the best operation of each edge, on the two edges of each node whose best is best."""
    one = torch.zeros_like(a)
    for k in range(len(a)):
        for first, last in NODES:
            best = sorted(
                ((max(row), e, row.index(max(row))) for e, row in enumerate(a[k].tolist()) if first <= e < last)
            )
            for _, e, o in best[-2:]:
                one[k, e, o] = 1
    return one


# --- the projection --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_both_steps_are_at_the_projection_and_eight_operations_of_a_cell_are_executed(mapping_name, seed):
    method = create("nasp", mapping_name, {}, DARTS)
    mapping = in_the_box(method, 3, seed)
    expected = projected(values(mapping, 3))
    assert (expected.sum((1, 2)) == 8).all()
    sparse, whole = method.mixing(mapping, WEIGHTS), method.mixing(mapping, ARCHITECTURE)
    assert torch.equal(sparse.psi, expected) and torch.equal(whole.psi.detach(), expected)
    assert torch.equal(sparse.active, expected.bool()) and whole.active is None
    # The bypass of partial channels is open where the edge is kept, in both.
    assert torch.equal(sparse.bypass, expected.sum(2)) and torch.equal(whole.bypass, expected.sum(2))
    assert not sparse.psi.requires_grad and not sparse.bypass.requires_grad
    # What is exported is what was trained.
    derived = torch.zeros_like(expected)
    for k, layer in enumerate(kept(method.derive(mapping, ARCHITECTURE))):
        for e, op in layer.items():
            derived[k, e, DARTS.primitives.index(op)] = 1
    assert torch.equal(derived, expected)
    assert mapping.beta is None


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_projecting_twice_is_projecting_once(seed):
    method = create("nasp", "full", {}, DARTS)
    mapping = in_the_box(method, 3, seed)
    once = method.mixing(mapping, WEIGHTS).psi
    with torch.no_grad():
        mapping.alpha.copy_(once)
    assert torch.equal(method.mixing(mapping, WEIGHTS).psi, once)


def test_ties_go_to_the_first_operation_and_edge():
    """With the public code's start, all ½, and at the walls of the box."""
    method = create("nasp", None, {"initial_scale": 0}, DARTS)
    mapping = method.mapping(3, 0)
    assert (mapping.alpha == 0.5).all()
    for wall in (0.5, 0.0, 1.0):
        with torch.no_grad():
            mapping.alpha.fill_(wall)
        active = method.mixing(mapping, WEIGHTS).active
        assert [tuple(place[1:]) for place in active[:1].nonzero().tolist()] == [
            (first + i, 0) for first, _ in NODES for i in (0, 1)
        ]


# --- the gradient ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_the_gradient_at_the_projection_moves_a_itself(mapping_name, seed):
    """dL/dA = dL/dĀ for all operations, added over the layers that share an A; the product rule if decoupled."""
    method = create("nasp", mapping_name, {}, DARTS)
    mapping = in_the_box(method, 3, seed)
    _, g, grads = with_gradient(method, mapping, seed, ARCHITECTURE)
    if mapping_name == "decoupled":
        alpha, gamma = mapping.alpha.detach(), mapping.gamma.detach()[:, None]
        torch.testing.assert_close(grads["alpha"], (g * gamma).sum(0, keepdim=True), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(grads["gamma"], (g * alpha).sum(1), rtol=1e-12, atol=1e-14)
        return
    expected = g if mapping_name == "full" else torch.stack([g[0], g[1] + g[2]])
    torch.testing.assert_close(grads["alpha"], expected, rtol=1e-12, atol=1e-14)
    assert (grads["alpha"] != 0).all()


@pytest.mark.parametrize("partial", [1, 2])
def test_the_gradient_is_that_of_the_discrete_network(partial):
    """By central differences of the loss around Ā, for operations that are chosen, that are not, and on shut edges."""
    method = create("nasp", "full", {"partial_channels": partial}, DARTS)
    mapping = in_the_box(method, 3, 0)
    shape = {"layers": 3, "channels": 4, "classes": 3, "partial": partial}
    supernet = build_supernet(DARTS, method.operations, **shape).double()
    images = torch.randn(3, 3, 6, 6, generator=torch_stream(0, "images"), dtype=torch.float64)

    def loss(mixing):
        return torch.nn.functional.cross_entropy(supernet(images, mixing), torch.tensor([0, 1, 2]))

    mixing = method.mixing(mapping, ARCHITECTURE)
    value = loss(mixing)
    assert value.item() == pytest.approx(loss(method.mixing(mapping, WEIGHTS)).item(), rel=1e-10)
    (grad,) = torch.autograd.grad(value, [mapping.alpha])
    active = method.mixing(mapping, WEIGHTS).active
    shut = ~active.any(2)
    places = [active.nonzero()[5], (~active & ~shut[:, :, None]).nonzero()[7], *shut.nonzero()[[0, -1]]]
    assert len(places) == 4
    for k, e, o in [tuple((*place.tolist(), 4)[:3]) for place in places]:
        sides = []
        for h in (1e-5, -1e-5):
            operations = mixing.operations.detach().clone()
            operations[k, e, o] += h
            sides.append(loss(MixingWeights(operations, torch.ones(3, 14, dtype=torch.float64), mixing.bypass)).item())
        assert grad[k, e, o].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-9)
        assert abs(grad[k, e, o]) > 1e-6


def test_the_weights_of_operations_that_are_not_chosen_have_no_gradient():
    search = new_search("nasp", "full")
    active = search.method.mixing(search.mapping, search.progress(0, 0)).active
    loss = search.weight_loss(search.batch(0, 0), 0)
    weights = list(search.supernet.parameters())
    grads = dict(zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True))
    seen = {False: 0, True: 0}
    for k, cell in enumerate(search.supernet.cells):
        for block, leaving in zip(cell.sources, cell.leaving, strict=True):
            for name, chain in block.apart.items():
                for t, e in enumerate(leaving):
                    chosen = bool(active[k, e, DARTS.primitives.index(name)])
                    for weight in chain.parameters():
                        part = None if grads[weight] is None else grads[weight].reshape(len(leaving), -1)[t]
                        assert chosen == (part is not None and bool(part.any()))
                        seen[chosen] += 1
    assert seen[True] > 20 and seen[False] > 5 * seen[True]


def test_a_step_starts_from_a_not_from_its_projection_and_ends_in_the_box():
    """Adam's first step has the size of the learning rate, against the sign of the gradient at Ā with its decay."""
    search = new_search("nasp", "full", {"initial_scale": 0.3}, architecture_learning_rate=0.05)
    before = search.mapping.alpha.detach().clone()
    (grad,) = torch.autograd.grad(search.architecture_loss(search.batch(0, 1), 0), [search.mapping.alpha])
    search.architecture_step(0)
    step = 0.05 * (grad + 1e-3 * before).sign()
    got = search.mapping.alpha.detach()
    clear = grad.abs() > 1e-3
    assert clear.float().mean() > 0.5
    torch.testing.assert_close(got[clear], (before - step).clamp(0, 1)[clear], rtol=0, atol=1e-4)
    assert ((before - step < 0) & clear).any() and ((before - step > 1) & clear).any()
    assert got.min() == 0 and got.max() == 1


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_every_factor_stays_in_the_box(mapping_name):
    search = new_search("nasp", mapping_name, architecture_learning_rate=0.6)
    for step in range(2):
        search.step(step)
        for p in search.mapping.parameters():
            assert p.min() == 0 and p.max() == 1


def test_with_planted_costs_the_cheapest_operations_and_edges_are_found():
    """A loss linear in Ā, whose gradient is the same everywhere: prox and box lead to its minimum."""
    method = create("nasp", "full", {"initial_scale": 0}, DARTS)
    mapping = method.mapping(3, 0).double()
    costs = torch.randn(3, 14, 7, generator=torch_stream(0, "costs"), dtype=torch.float64)
    worst = projected(costs)
    with torch.no_grad():
        mapping.alpha.copy_(0.5 + 0.01 * worst)  # it starts from the most expensive
    assert torch.equal(method.mixing(mapping, WEIGHTS).psi, worst)
    optimizer = torch.optim.SGD(mapping.parameters(), 1e-2)
    for _ in range(14):  # 0.14 · 3.4, the largest cost, is not yet the distance to a wall
        optimizer.zero_grad()
        (method.mixing(mapping, ARCHITECTURE).psi * costs).sum().backward()
        optimizer.step()
        with torch.no_grad():
            method.project(mapping)
    assert torch.equal(method.mixing(mapping, WEIGHTS).psi, projected(-costs))


# --- complexity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_complexity_is_the_share_of_parameters_of_what_is_chosen(mapping_name, seed):
    """η Σ Ā² p_o / Σ p, in the mean over layers; its gradient 2 η p_o / Σ p where Ā is 1, and 0 elsewhere."""
    method = create("nasp", mapping_name, {"complexity_weight": 0.5}, DARTS)
    mapping = in_the_box(method, 3, seed)
    chosen = projected(values(mapping, 3))
    penalty = method.penalty(mapping, ARCHITECTURE)
    assert penalty.item() == pytest.approx(0.5 * float((chosen * PARAMS).sum()) / 3360 / 3, rel=1e-9, abs=1e-15)
    (grad,) = torch.autograd.grad(penalty, [mapping.alpha])
    by_layer = 0.5 * 2 * chosen * PARAMS / 3360 / 3
    if mapping_name == "decoupled":
        expected = (by_layer * mapping.gamma.detach()[:, None]).sum(0, keepdim=True)
    else:
        expected = by_layer if mapping_name == "full" else torch.stack([by_layer[0], by_layer[1] + by_layer[2]])
    torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-12)


def test_without_weight_there_is_no_penalty():
    method = create("nasp", None, {}, DARTS)
    assert method.penalty(method.mapping(3, 0), ARCHITECTURE) is None


# --- the start, options and settings ---------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_the_start_is_one_half_with_noise_by_the_seed(mapping_name):
    method = create("nasp", mapping_name, {}, DARTS)
    one, again, other = (method.mapping(6, seed) for seed in (0, 0, 1))
    for p, q, r in zip(one.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) and not torch.equal(p, r)
        assert 0 < (p - 0.5).abs().max() < 1e-2 and len(p.unique()) > 0.9 * p.numel()
    wide = create("nasp", mapping_name, {"initial_scale": 5.0}, DARTS).mapping(6, 0)
    assert all(p.min() == 0 and p.max() == 1 for p in wide.parameters())


def test_none_is_no_candidate_and_no_option():
    method = create("nasp", None, {}, DARTS)
    assert method.operations == DARTS.primitives
    with pytest.raises(InputError, match="unknown --option with_none of method nasp"):
        create("nasp", None, {"with_none": True}, DARTS)


@pytest.mark.parametrize("update", ["second-order", "single-level"])
def test_updates_that_proximal_iterations_do_not_have_are_refused(update):
    with pytest.raises(InputError, match=rf"search.update '{update}'.*first-order"):
        resolve({"method": "nasp", "search": {"update": update}}, INFO, 100, "")


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_settings_are_those_of_darts(preset):
    """A parameter can go 50 · 391 · 3e-4 = 5.9 times the width of its box, whatever the preset."""
    config, method = resolve({"method": "nasp", "preset": preset}, INFO, 50_000, "")
    assert paper_travel(method) == pytest.approx(50 * 391 * 3e-4)
    search = config.search
    assert search.update == "first-order" and search.warmup_epochs == 0
    assert search.architecture_steps * search.architecture_learning_rate == pytest.approx(5.865, rel=1e-3)
    if preset == "paper":
        assert (search.batch_size, search.epochs, search.layers, search.channels) == (64, 50, 8, 16)
        assert (search.learning_rate, search.architecture_learning_rate) == (0.025, 3e-4)
    assert create("nasp", "full", {}, DARTS).paper_settings("cifar100")["search"]["layers"] == 14


# --- a whole search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_a_search_is_a_function_of_its_seed(mapping_name):
    one, again, other = (found("nasp", mapping_name, seed=seed) for seed in (0, 0, 1))
    assert one == again and one[2] != other[2]
    assert one[0].in_space and len(one[0]) == 3


def test_a_search_goes_on_to_the_same_bits():
    assert_goes_on_to_the_same_bits("nasp", "decoupled")


def test_taking_operations_away_loses_nothing():
    """What is watched as the supernet and what would be derived are one network."""
    search = new_search("nasp", "full", watch_images=8)
    for step in range(2):
        search.step(step)
        metrics = epoch_metrics(search, step)
        assert metrics["supernet_accuracy"] == metrics["derived_accuracy"]

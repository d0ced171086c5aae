"""`drnas` (Chen et al. 2021): docs/methods/drnas.md."""

import pytest
import torch
from method_tools import changed_parts, parameters
from torch.distributions import Dirichlet

from dnas.errors import InputError
from dnas.methods.drnas import concentration, draw
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline.config import draft
from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.space.registry import get_space
from dnas.supernet.mapping import MAPPINGS

# For every option: options around it, and a value with which a search is another one.
ACTS = {
    "partial_channels": ({}, 2),
    "initial_scale": ({}, 0.5),
    "distance": ({"distance_weight": 1.0}, "kl"),
    "distance_weight": ({}, 1.0),
}
CHANGES = {
    "partial_channels": {"logits"},
    "initial_scale": {"initial"},
    "distance": {"penalty"},
    "distance_weight": {"penalty"},
}
DRAWS = 40_000
C = torch.tensor([0.3, 1.0, 2.5, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("option", ACTS)
def test_every_option_changes_its_part_of_a_search(option):
    assert changed_parts("drnas", ACTS[option][0], option, ACTS[option][1]) >= CHANGES[option]


def draws(learnt, there=None, count=DRAWS, seed=0):
    there = torch.ones_like(learnt, dtype=torch.bool) if there is None else there
    return draw(learnt.expand(count, -1), there.expand(count, -1), torch_stream(seed, "draws"))


def test_draws_have_the_mean_and_variance_of_the_law():
    """c / s and c (s - c) / (s² (s + 1)), s = Σ c; ± 5 standard errors."""
    found = draws(C)
    total = C.sum()
    mean, variance = C / total, C * (total - C) / (total**2 * (total + 1))
    assert torch.allclose(found.sum(-1), torch.ones(DRAWS, dtype=torch.float64))
    assert ((found.mean(0) - mean).abs() < 5 * (variance / DRAWS).sqrt()).all()
    assert torch.allclose(found.var(0), variance, rtol=0.06)


def test_what_an_edge_has_not_is_not_drawn_and_the_rest_has_the_law_without_it():
    there = torch.tensor([True, False, True, True])
    found = draws(C, there)
    assert not found[:, 1].any()
    left = C[there]
    total = left.sum()
    mean, variance = left / total, left * (total - left) / (total**2 * (total + 1))
    assert ((found[:, there].mean(0) - mean).abs() < 5 * (variance / DRAWS).sqrt()).all()
    assert torch.allclose(found[:, there].var(0), variance, rtol=0.06)


@pytest.mark.parametrize("closed", [None, 1])
def test_the_gradient_of_draws_is_that_of_the_expectation(closed):
    """E Σ v_o θ_o² = Σ v_o c_o (c_o + 1) / (s (s + 1)); its gradient, within 5 standard errors of the mean of draws."""
    there = torch.ones(4, dtype=torch.bool)
    if closed is not None:
        there[closed] = False
    v = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    c = C.clone().requires_grad_()
    total = c[there].sum()
    (expected,) = torch.autograd.grad((v * c * (c + 1))[there].sum() / (total * (total + 1)), c)
    each = C.expand(DRAWS, -1).clone().requires_grad_()
    found = draw(each, there.expand(DRAWS, -1), torch_stream(1, "draws"))
    (slopes,) = torch.autograd.grad((v * found.square()).sum(), each)
    error = slopes.std(0) / DRAWS**0.5
    assert ((slopes.mean(0) - expected).abs() <= 5 * error + 1e-12).all() and expected.abs().max() > 0.05


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_layers_that_share_a_cell_share_a_draw(mapping):
    method = create("drnas", mapping, {}, DARTS)
    learnt = parameters(method, 6, 0, 1.0)
    psi = method.mixing(learnt, Progress(seed=3, step=5)).psi
    assert torch.allclose(psi.sum(-1), torch.ones(6, 14, dtype=torch.float64))
    assert torch.equal(psi[0], psi[1]) == (mapping == "shared")
    assert not torch.equal(psi, method.mixing(learnt, Progress(seed=3, step=6)).psi)
    # The mean over draws is what is ranked.
    many = torch.stack([method.mixing(learnt, Progress(seed=3, step=k)).psi.detach() for k in range(400)]).mean(0)
    assert (many - method.scores(learnt, Progress())).abs().max() < 0.1


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_concentrations_are_one_more_than_elu_of_the_sum_of_terms(mapping):
    method = create("drnas", mapping, {}, DARTS)
    learnt = parameters(method, 4, 1, 2.0)
    found, there = concentration(learnt)
    logits = sum(learnt.terms()).expand(4, -1, -1).detach().double()
    expected = torch.where(logits > 0, 1 + logits, logits.exp())
    assert torch.allclose(learnt.over_layers(found).detach(), expected) and there.all()


def test_distances_in_closed_form():
    """Half the square of c - 1; and the divergence of torch's own Dirichlets. Both 0 for the uniform law."""
    for distance in ("l2", "kl"):
        method = create("drnas", "full", {"distance": distance, "distance_weight": 2.0}, DARTS)
        learnt = parameters(method, 3, 1, 1.0)
        c = concentration(learnt)[0].detach()
        if distance == "l2":
            expected = (c - 1).square().sum()
        else:
            expected = 2 * torch.distributions.kl_divergence(Dirichlet(c), Dirichlet(torch.ones_like(c))).sum()
        assert method.penalty(learnt, Progress()).item() == pytest.approx(expected.item(), rel=1e-5)
        assert abs(method.penalty(parameters(method, 3, 1, 0.0), Progress()).item()) < 1e-5


@pytest.mark.parametrize("distance", ["l2", "kl"])
def test_spaces_with_an_edge_s_own_operations(distance):
    space = get_space("s1")
    method = create("drnas", "full", {"distance": distance}, space)
    learnt = method.mapping(4, 0)
    mixing = method.mixing(learnt, Progress())
    (mixing.psi.square().sum() + method.penalty(learnt, Progress())).backward()
    there = method.allowed[learnt.kind]
    assert not mixing.psi[~there].any() and learnt.alpha.grad.isfinite().all()
    assert torch.equal(learnt.alpha.grad != 0, there)


def test_the_global_random_state_is_put_back():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = draws(C, count=3), draws(C, count=3)
    assert torch.equal(one, two) and not torch.equal(one, draws(C, count=3, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_could_not_act_is_refused():
    with pytest.raises(InputError, match="distance=kl does not apply to distance_weight=0"):
        create("drnas", None, {"distance": "kl", "distance_weight": 0.0}, DARTS)
    with pytest.raises(InputError, match="search.eigenvalue cannot be used with drnas"):
        draft({"method": "drnas", "search": {"eigenvalue": True}})

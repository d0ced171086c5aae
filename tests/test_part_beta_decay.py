"""β-decay: its value, its gradient under every mapping, its schedule, and that it holds the largest logits down."""

import pytest
import torch
from parts_tools import run_whole, search_with, taken

from dnas.methods.protocol import Progress
from dnas.parts.beta_decay import smooth_maximum
from dnas.rng import torch_stream
from dnas.space.protocol import layer_kinds
from dnas.supernet.mapping import Decoupled, Full, Shared

LAYERS, EDGES, OPERATIONS = 4, 5, 3
SEARCH = type("Search", (), {})

ACTS = {"weight": ({}, 100.0)}


def mapping_of(cls, **details):
    return cls(LAYERS, EDGES, OPERATIONS, scale=2.0, **details).double()


@pytest.mark.parametrize("cls", [Shared, Full, Decoupled])
def test_the_gradient_is_the_softmax_of_the_logits_over_all_edges(cls):
    """∂/∂a_o of log Σ exp a is softmax(a)_o; a parameter has the sum over the layers and edges that it serves."""
    mapping = mapping_of(cls)
    smooth_maximum(mapping).backward()
    alpha = mapping.alpha.detach()
    share = LAYERS * EDGES
    if cls is Full:
        assert torch.allclose(mapping.alpha.grad, alpha.softmax(-1) / share)
    elif cls is Shared:
        kinds = torch.tensor(layer_kinds(LAYERS)).bincount()
        assert torch.allclose(mapping.alpha.grad, alpha.softmax(-1) * kinds[:, None, None] / share)
    else:
        softmax = (alpha + mapping.gamma.detach()[:, None]).softmax(-1)
        assert torch.allclose(mapping.alpha.grad[0], softmax.sum(0) / share)
        assert torch.allclose(mapping.gamma.grad, softmax.sum(1) / share)
    assert mapping.beta.grad is None


def test_equal_logits_have_the_logarithm_of_their_number_and_closed_ones_do_not_count():
    mapping = Full(LAYERS, EDGES, OPERATIONS, scale=0.0)
    assert smooth_maximum(mapping).item() == pytest.approx(torch.tensor(3.0).log().item())
    allowed = torch.ones(2, EDGES, OPERATIONS, dtype=torch.bool)
    allowed[:, :, 0] = False
    assert smooth_maximum(Full(LAYERS, EDGES, OPERATIONS, scale=0.0, allowed=allowed)).item() == pytest.approx(
        torch.tensor(2.0).log().item()
    )


def test_the_weight_grows_linearly_from_nothing_to_the_option():
    (part,) = taken("beta-decay", beta_decay={"weight": 8.0})
    search = SEARCH()
    search.mapping = mapping_of(Full)
    found = [part.penalty(search, Progress(epoch, epochs=7, warmup_epochs=2)) for epoch in range(7)]
    assert found[:3] == [None] * 3
    assert [each.item() for each in found[3:]] == pytest.approx(
        [weight * smooth_maximum(search.mapping).item() for weight in (2.0, 4.0, 6.0, 8.0)]
    )


@pytest.mark.parametrize(("name", "mapping"), [("dnas", "decoupled"), ("darts", "shared")])
def test_a_search_with_it_ends_with_lower_logits(name, mapping):
    plain, decayed = (
        run_whole(search_with(parts, name, mapping, epochs=3)).mapping for parts in ((), taken("beta-decay"))
    )
    assert smooth_maximum(decayed) < smooth_maximum(plain) - 0.05


def test_what_closes_an_edge_keeps_its_gradient_finite():
    allowed = torch.rand(2, EDGES, OPERATIONS, generator=torch_stream(0, "test")) > 0.5
    allowed[..., 0] = True
    mapping = Decoupled(LAYERS, EDGES, OPERATIONS, allowed=allowed)
    smooth_maximum(mapping).backward()
    assert mapping.alpha.grad.isfinite().all() and mapping.gamma.grad.isfinite().all()

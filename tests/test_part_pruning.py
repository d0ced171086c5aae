"""Pruning: the cost against the network's own count, the rule, and that what is closed stays so and is not derived."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from parts_tools import run_whole, search_with, taken

from dnas import parts
from dnas.errors import InputError
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.parts.pruning import weak
from dnas.rng import torch_stream
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.space.registry import get_space
from dnas.supernet.costs import resources
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import MixingWeights, path

ACTS = {"weight": ({}, 10.0), "resource": ({"weight": 10.0}, "params"), "threshold": ({}, 0.5)}
LAST = Progress(epoch=4, epochs=5, channels=8, image_size=8)


def pruning(**options):
    return taken("pruning", pruning=options)


def scores_of(seed=0, layers=4, operations=7):
    return torch.rand(layers, 14, operations, generator=torch_stream(seed, "scores"), dtype=torch.float64)


@pytest.mark.parametrize("resource", ["params", "macs"])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_the_price_is_the_log_of_the_expected_cost(resource, mapping):
    """Its gradient in the logits of a softmax: p (c - Σ p c) / (1 + cost), summed over the layers of a table."""
    (part,) = pruning(weight=3.0, resource=resource)
    search = search_with([part], "darts", mapping, {"with_none": False})
    found = part.penalty(search, LAST)
    table = resources(DARTS, search.method.operations, 3, 8, 8)[..., ("params", "macs").index(resource)]
    logits = sum(t.double() for t in search.mapping.terms()).expand(3, -1, -1)
    p = logits.softmax(-1)
    cost = (p * table).sum()
    assert found.item() == pytest.approx(3 * math.log1p(cost.item()), rel=1e-5)
    slope = 3 * p * (table - (p * table).sum(-1, keepdim=True)) / (1 + cost)
    rows = [slope[search.mapping.kind == k].sum(0) for k in (0, 1)] if mapping == "shared" else [slope]
    expected = slope.sum(0, keepdim=True) if mapping == "decoupled" else torch.cat([r.view(-1, 14, 7) for r in rows])
    (found_slope,) = torch.autograd.grad(found, [search.mapping.alpha])
    assert torch.allclose(found_slope.double(), expected.detach(), atol=1e-6)
    # Of an architecture it is what that has.
    has = path(search.method.derive(search.mapping, LAST), search.method.operations, DARTS)
    search.method.mixing = lambda *_: has
    cost = (has.psi.double() * table).sum().item()
    assert part.metrics(search, LAST)[f"pruning.{resource}"] == pytest.approx(cost, rel=1e-6)


def test_weight_and_level_grow_from_nothing_over_the_epochs_in_which_the_architecture_moves():
    (part,) = pruning(weight=4.0, threshold=0.8)
    search = search_with([part], "darts", epochs=6, warmup_epochs=1)
    steps = search.settings.steps_per_epoch
    assert part.penalty(search, search.progress(0)) is None and part.closing(search, steps) is None
    levels = []
    search.closings.ranking = lambda progress: torch.ones(3, 14, 8)
    for epoch in (2, 5):
        progress = search.progress(epoch * steps, draw=1)
        cost = part.metrics(search, progress)["pruning.macs"]
        levels.append(part.penalty(search, progress).item() / math.log1p(cost))
    assert levels == pytest.approx([1.0, 4.0], rel=1e-5)


@pytest.mark.parametrize("level", [0.2, 0.7, 1.0])
def test_what_is_weak_is_closed(level):
    scores = scores_of()
    found = weak(scores, DARTS.primitives, DARTS, level)
    for k in range(4):
        for first, last in DARTS.node_edges:
            strengths = sorted((scores[k, e].max().item() for e in range(first, last)), reverse=True)
            for e in range(first, last):
                best = scores[k, e].max().item()
                for o in range(7):
                    expected = scores[k, e, o].item() < level * best or best < level * strengths[1]
                    assert found[k, e, o].item() == expected
    left = ~found
    if level == 1:
        assert (left.sum(-1) <= 1).all() and all((left[:, a:b].any(-1).sum(1) == 2).all() for a, b in DARTS.node_edges)


def test_equals_stay_and_so_does_what_is_closed_already():
    assert not weak(torch.ones(3, 14, 7), DARTS.primitives, DARTS, 1.0).any()
    scores = scores_of()
    once = weak(scores, DARTS.primitives, DARTS, 0.9)
    again = weak(scores.masked_fill(once, -math.inf), DARTS.primitives, DARTS, 0.9)
    assert not (again & ~once).any()


def test_none_is_closed_at_last_however_strong_it_is():
    operations = ("none", *DARTS.primitives)
    scores = scores_of(operations=8)
    scores[..., 0] = 5.0
    assert not weak(scores, operations, DARTS, 0.99)[..., 0].all()
    last = weak(scores, operations, DARTS, 1.0)
    assert last[..., 0].all() and all(((~last)[:, a:b].any(-1).sum(1) == 2).all() for a, b in DARTS.node_edges)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("name", ["darts", "dnas", "gdas", "bayes-nas", "nasp"])
def test_the_last_epoch_trains_what_is_derived(name, mapping):
    search = search_with(pruning(), name, mapping, epochs=4, batch_size=4)
    steps, seen = search.settings.steps_per_epoch, []
    for step in range(4 * steps):
        search.step(step)
        seen.append(search.closings.closed)
    assert all(not (before & ~after).any() for before, after in pairwise(seen))
    last = seen[3 * steps]
    assert torch.equal(last, seen[-1])
    progress = search.progress(4 * steps - 1, draw=1)
    derived = search.closings.derived(progress)
    assert derived.in_space
    kept = path(derived, search.method.operations, DARTS).active
    # Ties, where a method's ranking has them, stay open until the end.
    assert (kept <= ~last).all()
    if name in ("darts", "dnas", "nasp"):
        assert torch.equal(kept, ~last)
        mixing = search.mixing(progress)
        assert torch.equal(mixing.psi != 0, kept) and (mixing.psi[kept] > 0).all()


def test_the_weights_of_what_is_closed_rest():
    search = search_with(pruning(), "dnas", epochs=4, batch_size=4, weight_decay=0.1)
    steps = search.settings.steps_per_epoch
    for step in range(3 * steps + 1):
        search.step(step)
    before = [w.detach().clone() for w in search.weights]
    search.step(3 * steps + 1)
    places = {id(w): b for w, b in zip(search.weights, before, strict=True)}
    closed = search.closings.closed
    assert closed.any()
    for owned in search.owned():
        resting = closed[owned.layer, owned.edges, owned.operation]
        now, then = (w.detach().reshape(len(resting), -1) for w in (owned.weight, places[id(owned.weight)]))
        assert torch.equal(now[resting], then[resting])


def test_what_is_closed_has_no_weight():
    """Neither do the channels that partial channels leave out, on an edge without operations."""
    search = search_with(pruning(), "pc-darts")
    layers, edges, operations = search.closings.closed.shape
    closed = torch.zeros(layers, edges, operations, dtype=torch.bool)
    closed[0, 0], closed[0, 5, 0] = True, True
    search.closings.closed = closed
    ones = MixingWeights(torch.ones(layers, edges, operations), torch.ones(layers, edges), torch.ones(layers, edges))
    for active in (None, torch.ones_like(closed)):
        mixing = search.closings.applied(replace(ones, active=active))
        assert torch.equal(mixing.operations, (~closed).float())
        assert torch.equal(mixing.bypass, (~closed.all(-1)).float()) and not mixing.bypass[0, 0]
        assert mixing.active is None if active is None else torch.equal(mixing.active, ~closed)


def test_a_dear_network_costs_less_with_a_price():
    costs = []
    for weight in (0.0, 100.0):
        search = run_whole(search_with(pruning(weight=weight), "darts", "full", epochs=4))
        table = resources(DARTS, search.method.operations, 3, 8, 8)[..., 1]
        kept = path(search.closings.derived(LAST), search.method.operations, DARTS).psi
        costs.append(float((kept * table).sum()))
    assert costs[1] < 0.5 * costs[0]


def test_edges_with_operations_of_their_own():
    space = get_space("s1")
    method = create("darts", "full", {}, space)
    scores = torch.rand(4, 14, len(method.operations), generator=torch_stream(0, "scores"))
    kinds = method.mapping(4, 0).kind
    scores[~method.allowed[kinds]] = 0.0
    left = ~weak(scores, method.operations, space, 1.0)
    assert (left.sum(-1) <= 1).all() and (left <= method.allowed[kinds]).all()


def test_another_derivation_beside_it_is_refused():
    method = create("fair-darts", None, {"derivation": "threshold"}, DARTS)
    with pytest.raises(InputError, match="derivation=threshold cannot be used with --with pruning"):
        parts.check(pruning(), method, GradientSettings())

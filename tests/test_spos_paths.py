import math
from collections import Counter

import numpy as np
import pytest
import torch
from method_spos_tools import method, network, sampled, standalone
from method_tools import NODES, kept
from plain import PlainSupernet, copy_weights
from sampling_tools import QUANTILE, chi_squared, new_search, path_of

from dnas.methods.protocol import Progress
from dnas.space.darts import DARTS
from dnas.supernet.build import build_supernet
from dnas.supernet.relaxation import path

# --- paths ------------------------------------------------------------------------------------------------


def test_paths_are_uniform_over_pairs_of_inputs_and_over_operations_of_each_edge():
    steps, layers = 1000, 4
    active = torch.stack([path_of(method("full"), step, layers) for step in range(steps)])
    edges = active.any(3)
    assert (active.sum(3) <= 1).all()
    for first, last in NODES:
        assert (edges[..., first:last].sum(2) == 2).all()
        pairs = Counter(map(tuple, edges[..., first:last].flatten(0, 1).int().tolist()))
        possible = math.comb(last - first, 2)
        assert len(pairs) == possible
        if possible > 1:
            assert chi_squared(list(pairs.values())) < QUANTILE[possible - 1]
    for e in range(14):
        assert chi_squared(active[:, :, e].sum((0, 1))) < QUANTILE[6]


def test_operations_of_two_edges_and_of_two_layers_are_independent():
    """All 49 pairs, of the two edges of node 0 in one layer and of one of them in two layers."""
    active = torch.stack([path_of(method("full"), step, 4) for step in range(1500)])
    choice = active[:, :, :2].int().argmax(3)  # both edges of node 0 are always there
    for one, other in ((choice[:, 0, 0], choice[:, 0, 1]), (choice[:, 0, 0], choice[:, 1, 0])):
        assert chi_squared(torch.bincount(7 * one + other, minlength=49)) < QUANTILE[48]


def test_paths_of_shared_cells_are_one_of_normal_layers_and_one_of_reductions():
    for step in range(5):
        active = path_of(method("shared"), step, 6)  # reductions at 2 and 4
        assert all(torch.equal(active[0], active[k]) for k in (1, 3, 5))
        assert torch.equal(active[2], active[4]) and not torch.equal(active[0], active[2])
        full = path_of(method("full"), step, 6)
        assert len({tuple(layer.flatten().tolist()) for layer in full}) == 6


def test_a_path_is_a_function_of_seed_step_and_draw():
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = path_of(method(), 3)
    assert torch.equal(first, path_of(method(), 3))
    for other in ({"step": 4}, {"step": 3, "seed": 1}, {"step": 3, "draw": 1}):
        assert not torch.equal(first, path_of(method(), **other))
    assert torch.equal(state, torch.get_rng_state()) and (numbers == np.random.get_state()[1]).all()


def test_the_mixing_weights_of_a_path_are_ones():
    mixing = method().mixing(method().mapping(4, 0), Progress(step=1))
    assert torch.equal(mixing.operations, mixing.active.float())
    assert torch.equal(mixing.edges, mixing.active.any(2).float()) and torch.equal(mixing.bypass, mixing.edges)


@pytest.mark.parametrize(("mapping", "partial"), [("shared", 1), ("full", 2)])
def test_what_a_step_does_not_execute_rests_to_the_bit(mapping, partial):
    """Weights and their momenta, over steps with momentum and decay; what is executed moves, in every step."""
    search = new_search("spos", {"partial_channels": partial}, mapping, weight_decay=0.1, batch_size=8)
    optimizer = search.weight_optimizer

    def parts():
        found = {}
        for k, cell in enumerate(search.supernet.cells):
            for block, leaving in zip(cell.sources, cell.leaving, strict=True):
                for name, chain in block.apart.items():
                    for i, weight in enumerate(chain.parameters()):
                        memory = optimizer.state.get(weight, {}).get("momentum_buffer", torch.zeros_like(weight))
                        for t, e in enumerate(leaving):
                            key = (k, e, DARTS.primitives.index(name), i)
                            found[key] = [x.detach().view(len(leaving), -1)[t].clone() for x in (weight, memory)]
        return found

    rested = moved = 0
    before = parts()
    for step in range(6):
        active = search.method.mixing(search.mapping, search.progress(step)).active
        search.step(step)
        after = parts()
        for key, (weight, memory) in before.items():
            same = [torch.equal(a, b) for a, b in zip((weight, memory), after[key], strict=True)]
            assert same == ([False, False] if active[key[:3]] else [True, True]), (step, key)
            rested, moved = rested + all(same), moved + (not any(same))
        before = after
    assert rested > moved > 100


def test_a_step_of_a_path_is_that_of_the_network_that_it_is():
    """Executed weights move as if nothing else were there: SGD on the path's own network, with the clipped gradient."""
    search = new_search("spos", {}, "full", clip_norm=0.05, weight_decay=0.01)
    plain, architecture, weights = standalone(search)
    images = search.batch(0, 0)
    loss = torch.nn.functional.cross_entropy(network(plain, architecture, images.images), images.labels)
    grads = torch.autograd.grad(loss, weights)
    norm = torch.nn.utils.get_total_norm(grads)
    assert norm > 0.05
    expected = [
        w.detach() - 0.025 * (0.05 / (norm + 1e-6) * g + 0.01 * w.detach()) for w, g in zip(weights, grads, strict=True)
    ]
    assert search.step(0) == pytest.approx(loss.item(), rel=1e-4)
    moved, _, now = standalone(search)
    assert moved is not plain
    for a, b in zip(now, expected, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_path_is_the_standalone_network_with_its_weights(seed):
    shape = {"layers": 4, "channels": 8, "classes": 5}
    supernet = build_supernet(DARTS, DARTS.primitives, partial=1, **shape).double()
    plain = PlainSupernet(DARTS.primitives, partial=1, **shape).double()
    copy_weights(supernet, plain)
    (architecture,) = sampled(1, shared=False, seed=seed)
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = [{e: DARTS.primitives.index(op) for e, op in layer.items()} for layer in kept(architecture)]
    mixing = path(architecture, DARTS.primitives, DARTS).to(images)
    torch.testing.assert_close(supernet(images, mixing), network(plain, chosen, images), rtol=1e-9, atol=1e-9)

"""OLES: the cosines against a plain oracle, the rule, and that what is frozen rests to the bit while the rest moves."""

import pytest
import torch
import torch.nn.functional as F
from parts_tools import run_whole, search_with, taken

from dnas.kernels import native
from dnas.parts.oles import cosines
from dnas.rng import torch_stream

SMALL = {"threshold": 1.0, "steps": 1}
ACTS = {"threshold": ({}, -1.0), "steps": ({}, 3)}


def oles(**options):
    return taken("oles", oles=options)


def copies(search):
    return [w.detach().clone() for w in search.weights]


@pytest.mark.parametrize("name", ["dnas", "gdas"])
def test_cosines_are_those_of_all_weights_of_an_operation_on_an_edge(name):
    """`gdas` executes one operation an edge: elsewhere there is nothing to compare."""
    search = search_with(oles(), name, "full")
    search.architecture_step(0)
    search.weight_step(0)
    training, validation = search._compared[0], search._compared[1]
    found, known = cosines(search, training, validation)
    of = {id(w): pair for w, *pair in zip(search.weights, training, validation, strict=True)}
    seen = torch.zeros_like(known)
    for k, cell in enumerate(search.supernet.cells):
        for block, leaving in zip(cell.sources, cell.leaving, strict=True):
            for operation, chain in block.apart.items():
                o = search.method.operations.index(operation)
                for t, e in enumerate(leaving):
                    sides = []
                    for side in range(2):
                        grads = [of[id(w)][side] for w in chain.parameters()]
                        parts = [torch.zeros(1) if g is None else g.chunk(len(leaving))[t].flatten() for g in grads]
                        sides.append(torch.cat(parts).double())
                    if all(side.any() for side in sides):
                        seen[k, e, o] = True
                        assert found[k, e, o].item() == pytest.approx(
                            F.cosine_similarity(*sides, dim=0).item(), abs=1e-6
                        )
    assert torch.equal(seen, known) and seen.any() and (name == "dnas") == bool(known[:, :, -1].all())


def test_an_operation_is_judged_by_the_mean_of_n_steps_and_then_anew():
    (part,) = oles(threshold=0.5, steps=2)
    search = search_with([part])
    state = search.states["oles"]
    owned = next(iter(search.owned()))
    ones = [torch.ones_like(w) if w is owned.weight else None for w in search.weights]
    against = [None if g is None else -g for g in ones]
    place = (owned.layer, owned.edges[0], owned.operation)
    part.compare(search, ones, ones)  # 1
    assert state["count"][place] == 1 and not state["frozen"].any()
    part.compare(search, ones, ones)  # 1: the mean is 1
    assert state["count"][place] == 0 and state["sum"][place] == 0 and not state["frozen"].any()
    part.compare(search, ones, against)  # -1
    part.compare(search, ones, ones)  # 1: the mean is 0
    assert state["frozen"][place] and int(state["frozen"].sum()) == len(owned.edges)
    assert part.metrics(search, search.progress(0))["oles.frozen"] > 0


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_what_is_frozen_rests_to_the_bit_and_its_neighbours_move(backend):
    if backend == "native" and not native.available():
        pytest.skip("no C compiler on this machine")
    with native.only_torch() if backend == "torch" else torch.enable_grad():
        search = search_with(oles(threshold=-1.0), weight_decay=0.1)
        search.step(0)  # so that there is momentum
        assert not search.states["oles"]["frozen"].any()
        generator = torch_stream(0, "test")
        frozen = torch.rand(search.states["oles"]["frozen"].shape, generator=generator) < 0.5
        frozen[0, :, -1] = True
        search.states["oles"]["frozen"].copy_(frozen)
        before = copies(search)
        search.step(1)
    was = {id(w): old for w, old in zip(search.weights, before, strict=True)}
    of_operations = set()
    for owned in search.owned():
        of_operations.add(id(owned.weight))
        now, old = owned.weight.detach().chunk(len(owned.edges)), was[id(owned.weight)].chunk(len(owned.edges))
        for e, a, b in zip(owned.edges, now, old, strict=True):
            assert torch.equal(a, b) == bool(frozen[owned.layer, e, owned.operation])
    assert all(not torch.equal(w, was[id(w)]) for w in search.weights if id(w) not in of_operations)


@pytest.mark.parametrize("order", ["architecture-first", "weights-first"])
def test_a_search_freezes_what_does_not_agree(order):
    search = run_whole(search_with(oles(threshold=1.0, steps=2), epochs=3, order=order))
    assert search.states["oles"]["frozen"].sum() > 100 and not search._compared
    after = copies(search)
    search.step(3)
    owned = {id(each.weight) for each in search.owned()}
    rested = [torch.equal(w, old) for w, old in zip(search.weights, after, strict=True) if id(w) in owned]
    assert sum(rested) > 0.9 * len(rested)

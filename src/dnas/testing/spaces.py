"""The contract of a search space: samples, mutants, neighbors and derived architectures are members, also in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

import torch

from dnas.methods.registry import get_method
from dnas.network.network import build, params
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.space.protocol import LayerChoice, SearchSpace
from dnas.space.registry import SPACES
from dnas.supernet import derive
from dnas.testing.planted import LAYERS, SIDE, plant
from dnas.testing.record import REAL, Options, objection, search

DRAWS = 30
FEW = 2000  # the maximum number of layers of a kind to enumerate


def check_space(name: str, methods: Sequence[str] = ("dnas", "random")) -> None:
    """Check the whole contract of a space, registered or from another package.

    Args:
        methods: The methods to search in it.
    """
    assert name in SPACES, f"{name!r} is no space; register it, or give its package an entry point for it"
    for check in CHECKS_OF_A_SPACE:
        check(SPACES[name])
    for method in methods:
        check_space_searched(SPACES[name], method)


def check_space_members(space: SearchSpace) -> None:
    """Check that samples, mutants and neighbors lie in the space, that mutants are neighbors and differ in one slot."""
    rng = numpy_stream(0, "test-space")
    for reduction in (False, True):
        for _ in range(DRAWS):
            layer = space.sample(rng, reduction)
            _require_member(space, layer, reduction, "a draw")
            mutant, neighbours = space.mutate(rng, layer, reduction), space.neighbours(layer, reduction)
            assert len({*neighbours, layer}) == len(neighbours) + 1, f"neighbors of {layer} in {space.name} repeat"
            assert mutant in neighbours, f"a mutant of {layer} in {space.name} is not one of its neighbors"
            for neighbour in neighbours:
                _require_member(space, neighbour, reduction, "a neighbor")
                changed = sum(len({*a} - {*b}) for a, b in zip(layer.nodes, neighbour.nodes, strict=True))
                assert changed == 1, f"a neighbor of {layer} in {space.name} differs in {changed} slots"


def check_space_objects(space: SearchSpace) -> None:
    """Check that problems of layers outside the space are reported with node and slot."""
    layer = space.sample(numpy_stream(0, "test-space"), False)
    (_, source), *rest = layer.nodes[0]
    strange = [
        ((("no_such_operation", source), *rest), "node 0, slot 0"),
        (((layer.nodes[0][0][0], space.edges_of(0)), *rest), "node 0, slot"),
        ((*layer.nodes[0], layer.nodes[0][0]), "node 0"),
    ]
    for node, place in strange:
        said = space.objection((node, *layer.nodes[1:]))
        assert said and place in said, f"{space.name} says {said!r} of the node {node}, where it should name {place}"
    said = space.objection(layer.nodes[1:])
    assert said and "nodes" in said, f"{space.name} says {said!r} of a layer with a node too few"


def check_space_counts(space: SearchSpace) -> None:
    """Check `possible_layers`, the number of layers, by enumerating neighbors if there are few."""
    for reduction in (False, True):
        if (said := space.possible_layers(reduction)) > FEW:
            continue
        known = {space.sample(numpy_stream(0, "test-space"), reduction)}
        new = list(known)
        while new:
            new = list({n for layer in new for n in space.neighbours(layer, reduction)} - known)
            known.update(new)
        assert len(known) == said, f"{space.name} counts {said} layers, but enumerating neighbors gives {len(known)}"


def check_space_files(space: SearchSpace) -> None:
    """Check that architectures survive saving and loading, and that their networks have the planned size and run."""
    for number in range(3):
        drawn = sampling.sample(space, numpy_stream(number, "test-space"), LAYERS)
        read = Architecture.from_json(json.loads(drawn.dumps()))
        assert read == drawn and hash(read) == hash(drawn), f"an architecture of {space.name} comes back as another"
        network = build(drawn, 8, 3)
        planned = size(plan(drawn, channels=8, classes=3), SIDE).params
        assert params(network) == planned, f"{planned} parameters of {drawn} are planned, and {params(network)} built"
        logits = network.eval()(torch.zeros(2, 3, SIDE, SIDE))
        assert logits.shape == (2, 3), f"a network of {space.name} gives {tuple(logits.shape)}, not logits [2, 3]"


def check_space_derives(space: SearchSpace) -> None:
    """Check that the top edges are a member for all scores, including ties."""
    operations = ("none", *space.primitives)
    for number, scale in enumerate((0.0, 1.0, 30.0)):
        shape = (LAYERS, len(space.edges), len(operations))
        scores = scale * torch.randn(shape, generator=torch_stream(number, "test-scores"))
        found = derive.top_edges(scores, operations, space)
        assert found.space == space.name, f"what is derived in {space.name} says {found.space!r}"


def check_space_searched(space: SearchSpace, method: str, options: Options | None = None) -> None:
    """Check that a search of real networks ends in the space, and that it resumes bit for bit, under each mapping."""
    for mapping in get_method(method).mappings:
        again = partial(search, method, mapping, options, size=REAL, planted=None, space=space)
        found = again()
        problem = objection(found.found.architecture, found.method)
        assert problem is None, f"the architecture that {method} finds in {space.name} {problem}"
        checkpoints = found.session.checkpoints
        for checkpoint in {id(each): each for each in (checkpoints[len(checkpoints) // 2], checkpoints[-1])}.values():
            differing = found.differences(again(start=checkpoint))
            step = checkpoint.state["step"]
            assert not differing, f"resumed from step {step}, {method} in {space.name} ends with others: {differing}"
        # As `--finals` and the random baseline do.
        plant(mapping, 1, space)


CHECKS_OF_A_SPACE = (
    check_space_members,
    check_space_objects,
    check_space_counts,
    check_space_files,
    check_space_derives,
)


def _require_member(space: SearchSpace, layer: LayerChoice, reduction: bool, what: str) -> None:
    problem = space.objection(layer.nodes, reduction)
    assert problem is None, f"{what} of {space.name} lies outside it: {problem}"

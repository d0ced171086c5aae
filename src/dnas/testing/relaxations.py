"""The contract of a relaxation: weights of the operations under every mapping, for a method that takes any."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS, Mapping, mapping_class
from dnas.supernet.relaxation import RELAXATIONS
from dnas.testing.behaviour import (
    check_deterministic,
    check_finds_planted,
    check_resumes,
    check_searches,
    global_state,
)
from dnas.testing.declaration import check_schedules
from dnas.testing.planted import LAYERS

CARRIER = "darts"  # the method that takes it
SHARES = (0.0, 0.5, 1.0)
_EDGES, _OPERATIONS = len(DARTS.edges), len(DARTS.primitives)


def check_relaxation(name: str, mapping: str | None = None) -> None:
    """Check the whole contract of a relaxation, registered or from another package.

    Args:
        mapping: Check only this mapping; by default all.
    """
    assert name in RELAXATIONS, f"{name!r} is no relaxation; register it, or give its package an entry point for it"
    for attribute in ("title", "paper"):
        assert getattr(RELAXATIONS[name], attribute), f"the relaxation {name} needs a {attribute}"
    for each in (mapping,) if mapping else MAPPINGS:
        check_relaxation_weights(name, each)
        check_relaxation_closes(name, each)
        for check in (check_searches, check_deterministic, check_resumes, check_schedules, check_finds_planted):
            check(CARRIER, each, {"relaxation": name})


def check_relaxation_weights(name: str, mapping: str) -> None:
    """Check that weights are finite, non-negative and deterministic, and that they follow their parameters.

    The parameters must get gradients, and a larger parameter must not reduce the weight of its operation.
    """
    for number, scale in enumerate((1e-3, 1.0, 10.0)):
        table = _mapping(mapping, scale, number)
        for share in SHARES:
            with global_state(0, name):
                weights = _weights(name, table.terms(), share)
            assert weights.isfinite().all() and (weights >= 0).all(), f"{name} gives weights below 0 or not finite"
            assert torch.equal(weights, _weights(name, table.terms(), share)), f"{name} draws; it must not"
            raised = torch.zeros(_EDGES, _OPERATIONS)
            raised[:, 1] = 0.5
            more = _weights(name, [table.terms()[0] + raised, *table.terms()[1:]], share)
            worse = float((weights - more).detach()[..., 1].max())
            assert worse <= 1e-5, f"{name} lowers the weight of an operation whose parameters rise, by {worse:.2g}"
    table = _mapping(mapping, 1e-3, 0)
    _weights(name, table.terms(), 0.0).square().sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in table.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), f"{name}: {key} gets no gradient"


def check_relaxation_closes(name: str, mapping: str) -> None:
    """Check that an operation with terms of -∞ has weight 0, and that the gradients of the others are finite."""
    allowed = torch.ones(2, _EDGES, _OPERATIONS, dtype=torch.bool)
    allowed[:, ::2, 0] = False
    table = _mapping(mapping, 1.0, 0, allowed)
    weights = _weights(name, table.terms(), 0.5)
    assert (weights[:, ::2, 0] == 0).all(), f"{name} gives weight to what an edge has not, whose terms are {-math.inf}"
    weights.square().sum().backward()  # type: ignore[no-untyped-call]
    for key, parameter in table.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and gradient.isfinite().all(), (
            f"{name}: where an operation is closed, the gradient of {key} is not finite"
        )


def _mapping(name: str, scale: float, seed: int, allowed: Tensor | None = None) -> Mapping:
    return mapping_class(name)(LAYERS, _EDGES, _OPERATIONS, with_edges=False, scale=scale, seed=seed, allowed=allowed)


def _weights(name: str, terms: Sequence[Tensor], share: float) -> Tensor:
    weights = RELAXATIONS[name].operations(terms, share)
    there, wanted = tuple(weights.shape), (LAYERS, _EDGES, _OPERATIONS)
    assert there == wanted, f"{name} gives weights of the shape {there}, not {wanted}"
    return weights

"""Combine the effects of several parts on a search step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dnas.methods.protocol import GradientMethod, Progress, SupernetMethod
from dnas.parts.protocol import Part, SearchView
from dnas.space.architecture import Architecture
from dnas.supernet import derive
from dnas.supernet.relaxation import MixingWeights


class Closings:
    """Operations that parts have closed: their mixing weight is 0, and they cannot be derived.

    The relaxation ignores them (`Mapping.close`), so that their weight is shared among the others. If a relaxation
    executes all operations, the closed ones are also computed: compiled kernels process a layer as a whole, in a
    fraction of the time that torch needs for some of its operations.

    Attributes:
        closed: [L, E, O] of bool on the CPU.
    """

    def __init__(self, method: SupernetMethod, mapping: Any, shape: tuple[int, int, int]) -> None:
        self.method, self.mapping = method, mapping
        self.closed = torch.zeros(shape, dtype=torch.bool)
        self._barrier = getattr(mapping, "barrier", None)  # operations that edges lack from the start

    def add(self, *more: Tensor | None) -> None:
        """Also close these operations, permanently."""
        closed = self.closed
        for each in more:
            closed = closed if each is None else closed | each
        if torch.equal(closed, self.closed):
            return
        space = self.method.space
        left = (~closed).any(-1)
        derivable = ~closed & ~derive.closed(self.method.operations, space, len(closed))
        assert torch.equal(left, derivable.any(-1)), "an edge is left without an operation that can be derived"
        for first, last in space.node_edges:
            assert (left[:, first:last].sum(1) >= space.inputs_per_node).all(), "a node is left without enough inputs"
        self.closed = closed
        self.mapping.close(closed)

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Restore the state of a checkpoint, which is empty if no part was in use."""
        if kept:
            self.closed = torch.zeros_like(self.closed)
            self.mapping.barrier, self.mapping.closed = self._barrier, None
            self.add(kept["closed"])

    def applied(self, mixing: MixingWeights) -> MixingWeights:
        """Return the mixing weights without the closed operations."""
        if not self.closed.any():
            return mixing
        left = ~self.closed
        return replace(
            mixing,
            operations=mixing.operations * left.to(mixing.operations),
            bypass=mixing.bypass * left.any(-1).to(mixing.bypass),
            active=None if mixing.active is None else mixing.active & left,
        )

    def ranking(self, progress: Progress) -> Tensor:
        """Return the scores that the method ranks by, [L, E, O] on the CPU, and -∞ for closed operations.

        They are computed as if nothing were closed: the relaxation gives no comparable weights to operations that
        are the only ones on their edges.
        """
        assert isinstance(self.method, GradientMethod)
        now, self.mapping.barrier = self.mapping.barrier, self._barrier
        try:
            with torch.no_grad():
                scores = self.method.scores(self.mapping, progress)
        finally:
            self.mapping.barrier = now
        return scores.cpu().masked_fill(self.closed, -math.inf)

    def derived(self, progress: Progress) -> Architecture | None:
        """Return the architecture that the method derives or, if operations are closed, the top edges of the rest."""
        if not self.closed.any():
            return self.method.derive(self.mapping, progress)
        assert isinstance(self.method, GradientMethod)
        return self.method.top_edges(self.ranking(progress))


def skip_dropout(with_parts: Sequence[Part], search: SearchView, progress: Progress) -> float:
    """Return the probability of dropping the identity's output, set by the method or by a part."""
    rates = [part.skip_dropout(search, progress) for part in with_parts]
    own: float = search.method.skip_dropout(progress)
    return 1 - (1 - own) * math.prod(1 - rate for rate in rates) if any(rates) else own


@contextmanager
def perturbed(with_parts: Sequence[Part], search: SearchView, step: int) -> Iterator[None]:
    """Keep the architecture parameters, within the block, at the values that the parts need for the weight step."""
    offsets = [offset for part in with_parts if (offset := part.offsets(search, step)) is not None]
    if not offsets:
        yield
        return
    saved = [p.detach().clone() for p in search.architecture]
    try:
        with torch.no_grad():
            for p, *added in zip(search.architecture, *offsets, strict=True):
                p.add_(sum(added))
            search.method.project(search.mapping)
        yield
    finally:
        with torch.no_grad():
            for p, original in zip(search.architecture, saved, strict=True):
                p.copy_(original)


def those_that_move(
    with_parts: Sequence[Part], search: SearchView, executed: Tensor | None, grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, Sequence[Tensor | None]]:
    """Return the operations whose weights are updated and the gradients without those of the other operations.

    Args:
        executed: The operations that the loss executed, [L, E, O]; None: all.
        grads: The gradients of the weights in the supernet.

    Returns:
        The operations are [L, E, O]; None: all.
    """
    resting = [rest for part in with_parts if (rest := part.resting(search)) is not None]
    resting.append(search.closings.closed)
    if not any(rest.any() for rest in resting):
        return executed, grads
    moving = ~torch.stack(resting).any(0)
    if executed is not None:
        moving &= executed
    left = dict(zip(search.weights, grads, strict=True))
    for owned in search.owned():
        gradient, moves = left[owned.weight], moving[owned.layer, owned.edges, owned.operation]
        if gradient is not None and not moves.all():
            rows = gradient.reshape(len(moves), -1) * moves.to(gradient)[:, None]
            left[owned.weight] = rows.view(gradient.shape) if moves.any() else None
    return moving, list(left.values())

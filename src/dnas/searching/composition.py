"""What several parts make of a step of a search, together."""

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
    """Which operations parts have closed, and what follows for a search: their weight is 0, and they cannot be derived.

    The relaxation does not see them (`Mapping.close`), so that the others share what they had. Where a relaxation
    executes all operations the closed ones are computed, too: compiled kernels take a cell as a whole, in a fraction of
    the time that torch takes for some of its operations.

    Attributes:
        closed: [L, E, O] of bool on the CPU.
    """

    def __init__(self, method: SupernetMethod, mapping: Any, shape: tuple[int, int, int]) -> None:
        self.method, self.mapping = method, mapping
        self.closed = torch.zeros(shape, dtype=torch.bool)
        self._barrier = getattr(mapping, "barrier", None)  # what edges have not, from the beginning

    def add(self, *more: Tensor | None) -> None:
        """Close these, too, for good."""
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
        """Be as a checkpoint says; nothing is in there where no part took part."""
        if kept:
            self.closed = torch.zeros_like(self.closed)
            self.mapping.barrier, self.mapping.closed = self._barrier, None
            self.add(kept["closed"])

    def applied(self, mixing: MixingWeights) -> MixingWeights:
        """Mixing weights without what is closed."""
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
        """[L, E, O] on the CPU: what the method ranks by, as if nothing were closed, for operations that are alone on
        their edges cannot be compared by what the relaxation gives them; -∞ where they are closed."""
        assert isinstance(self.method, GradientMethod)
        now, self.mapping.barrier = self.mapping.barrier, self._barrier
        try:
            with torch.no_grad():
                scores = self.method.scores(self.mapping, progress)
        finally:
            self.mapping.barrier = now
        return scores.cpu().masked_fill(self.closed, -math.inf)

    def derived(self, progress: Progress) -> Architecture | None:
        """What the method derives; where something is closed, the top edges of the rest."""
        if not self.closed.any():
            return self.method.derive(self.mapping, progress)
        assert isinstance(self.method, GradientMethod)
        return self.method.top_edges(self.ranking(progress))


def skip_dropout(with_parts: Sequence[Part], search: SearchView, progress: Progress) -> float:
    """The probability with which the identity's output is dropped, by the method or a part."""
    rates = [part.skip_dropout(search, progress) for part in with_parts]
    own: float = search.method.skip_dropout(progress)
    return 1 - (1 - own) * math.prod(1 - rate for rate in rates) if any(rates) else own


@contextmanager
def perturbed(with_parts: Sequence[Part], search: SearchView, step: int) -> Iterator[None]:
    """Within it, the architecture parameters are where the parts want them for the weight step."""
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
    """[L, E, O]: the operations whose weights move, None: all; and the gradients without those of the others.

    Args:
        executed: [L, E, O], the operations that the loss executed; None: all.
        grads: Of the supernet's weights.
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

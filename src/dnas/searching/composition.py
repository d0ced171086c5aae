"""What several parts make of a step of a search, together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dnas.parts.protocol import Part, SearchView


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

"""Signal and noise of a differentiable search: agreement of its two halves, margin, saturation.

The gradients of the even and of the odd architecture steps come from different batches. The sum of each half shows
where its batches alone would have moved the parameters, so noise, in which the halves differ, can be separated from
the signal that they have in common. This costs two sums of the size of the parameters and no pass through the
supernet. The search does not depend on it.

Whatever both halves share does not count as noise: the weights of one supernet (and so its seed) and the trajectory of
the parameters. If the halves disagree, the batches do not determine the architecture. If they agree, it is determined
for these weights only, and other seeds may lead to other weights; for this, see the agreement between seeds
(`space/agreement.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dnas.space.protocol import SearchSpace
from dnas.supernet import derive

# A parameter is saturated from this share of its maximum travel: it moved the same way in at least three of four steps.
AT_LIMIT = 0.5


class Halves(nn.Module):
    """Sums of architecture gradients over the even and the odd steps, and of their squares over all steps.

    Args:
        parameters: The architecture parameters.
    """

    steps: Tensor  # [2], numbers of even and odd steps

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
        for i, p in enumerate(parameters):
            self.register_buffer(f"sums_{i}", torch.zeros(2, *p.shape, dtype=p.dtype, device=p.device))
            self.register_buffer(f"squares_{i}", torch.zeros_like(p, requires_grad=False))

    @torch.no_grad()
    def add(self, step: int, grads: Sequence[Tensor]) -> None:
        """Add the gradients of the loss on the data, without penalties, which do not depend on the batch.

        Args:
            step: Number of the step, whose parity selects the half.
        """
        self.steps[step % 2] += 1
        for i, g in enumerate(grads):
            self.get_buffer(f"sums_{i}")[step % 2] += g
            self.get_buffer(f"squares_{i}").add_(g * g)

    @property
    def known(self) -> bool:
        """True if both halves have at least one step."""
        return bool((self.steps > 0).all())

    def travels(self, rate: float) -> list[tuple[Tensor, Tensor]]:
        """Return how far the even and the odd half alone would have moved each parameter.

        The movement is that of Adam over n steps, the number of steps of both halves together:
        -rate · n · (mean gradient of the half) / √(mean square of all). The common scale makes all parameters equally
        noisy. Without it, those with the largest gradients would rank first or last in both halves, which would look
        like agreement.
        """
        count = int(self.steps.sum())
        found = []
        for i in range(sum(name.startswith("sums_") for name, _ in self.named_buffers())):
            sums, scale = self.get_buffer(f"sums_{i}"), (self.get_buffer(f"squares_{i}") / count).sqrt()
            shape = (2, *(1 for _ in scale.shape))
            mean = sums / self.steps.view(shape).to(sums)
            # Parameters without gradients would not have moved.
            both = -rate * count * mean / scale.masked_fill(scale == 0, 1)
            found.append((both[0], both[1]))
        return found

    def reached(self) -> list[Tensor]:
        """Return, for every parameter tensor, a mask of the elements that have ever had a gradient."""
        count = sum(name.startswith("squares_") for name, _ in self.named_buffers())
        return [self.get_buffer(f"squares_{i}") > 0 for i in range(count)]


def margin(one: Tensor, two: Tensor, operations: Sequence[str], space: SearchSpace) -> float | None:
    """Return how far the kept scores exceed the rejected ones, in units of their noise; 0 is chance level.

    Given the scores [L, E, O] of two halves, each half chooses and the other evaluates the choice, which avoids the
    selection bias of choosing and evaluating on the same scores. Evaluated are the operation of every kept edge
    against the next best on this edge, and in every node the weakest kept edge against the best of the others. The
    unit is the standard deviation of such a distance, estimated from the differences of the halves over all open
    operations of a node.

    Returns None if the halves do not differ or if there was no choice.
    """
    closed = derive.closed(operations, space, len(one))
    one, two = (scores.detach().to("cpu", torch.float64) for scores in (one, two))
    noise = _noise(one - two, closed, space)
    distances: list[Tensor] = []
    for chooses, judges in ((one, two), (two, one)):
        ranked, names = chooses.masked_fill(closed, -torch.inf).sort(dim=-1, descending=True, stable=True)
        judged = judges.gather(-1, names)
        between = judged[..., 0] - judged[..., 1] if judged.shape[-1] > 1 else None
        chosen = ranked[..., 1].isfinite() if between is not None else None
        for first, last in space.node_edges:
            order = ranked[:, first:last, 0].argsort(dim=-1, descending=True, stable=True) + first
            kept, others = order[:, : space.inputs_per_node], order[:, space.inputs_per_node :]
            if between is not None and chosen is not None:
                distance = between.gather(-1, kept) / noise[:, None]
                distances.append(distance[chosen.gather(-1, kept)])
            if others.shape[-1]:
                pair = judged[..., 0].gather(-1, torch.stack([kept[:, -1], others[:, 0]], -1))
                distances.append((pair[:, 0] - pair[:, 1]) / noise)
    found = torch.cat(distances)
    found = found[found.isfinite()]
    return float(found.mean()) if len(found) else None


def _noise(difference: Tensor, closed: Tensor, space: SearchSpace) -> Tensor:
    """Return the standard deviation [L] of the difference between the halves, within the nodes of each layer.

    The difference of a score between two halves has twice the variance of the score in one half, as does the distance
    of two scores in one half.
    """
    squares, freedom = torch.zeros(len(difference), dtype=torch.float64), torch.zeros(len(difference))
    for first, last in space.node_edges:
        there = ~closed[:, first:last].flatten(1)
        values = difference[:, first:last].flatten(1).masked_fill(~there, 0)
        count = there.sum(1)
        mean = values.sum(1) / count
        squares += ((values - mean[:, None]).square() * there).sum(1)
        freedom += count - 1
    return (squares / freedom).sqrt()


def saturation(
    parameters: Sequence[Tensor], initial: Sequence[Tensor], limit: float, reached: Sequence[Tensor]
) -> float | None:
    """Return the share of parameters close to the maximum travel for this number of steps.

    Args:
        limit: Maximum travel: that of Adam if all gradients have the same sign, steps · rate.
        reached: Masks of the elements that count: those that had a gradient.
    """
    far = [
        (p.detach() - start.detach()).abs()[there] >= AT_LIMIT * limit
        for p, start, there in zip(parameters, initial, reached, strict=True)
    ]
    count = sum(len(each) for each in far)
    return sum(int(each.sum()) for each in far) / count if count else None

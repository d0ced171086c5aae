"""Whether a search by gradients knows something: agreement of its two halves, margin, saturation.

The gradients of the even and of the odd architecture steps come from different batches. Each half's sum says where the
parameters would have gone by its batches alone, so that noise, in which the halves differ, can be told from what they
have in common. That costs two sums of the parameters' size and no pass through the supernet; nothing that the search
does depends on it.

What both halves share is no noise to them: the weights of one supernet, and so its seed, and the way that the
parameters took. So halves that do not agree show that the batches do not decide. Halves that do agree show no more than
that these weights decide; other seeds may have others. That is what the agreement between seeds is for
(`space/agreement.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dnas.space.darts import Space
from dnas.supernet import derive

# Of its limit of travel, from which on a parameter is saturated: it went the same way in three of four steps or more.
AT_LIMIT = 0.5


class Halves(nn.Module):
    """Sums of architecture gradients over the even steps and over the odd ones, and of their squares over all.

    Args:
        parameters: Those that the gradients are of.
    """

    steps: Tensor  # [2], how many of each

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
        for i, p in enumerate(parameters):
            self.register_buffer(f"sums_{i}", torch.zeros(2, *p.shape, dtype=p.dtype, device=p.device))
            self.register_buffer(f"squares_{i}", torch.zeros_like(p, requires_grad=False))

    @torch.no_grad()
    def add(self, step: int, grads: Sequence[Tensor]) -> None:
        """The gradients of the data's loss, without penalties, which are equal whatever the batch.

        Args:
            step: Even or odd.
        """
        self.steps[step % 2] += 1
        for i, g in enumerate(grads):
            self.get_buffer(f"sums_{i}")[step % 2] += g
            self.get_buffer(f"squares_{i}").add_(g * g)

    @property
    def known(self) -> bool:
        """Whether both halves have begun."""
        return bool((self.steps > 0).all())

    def travels(self, rate: float) -> list[tuple[Tensor, Tensor]]:
        """For every parameter how far the even and the odd half alone would have carried it.

        As Adam would in as many steps as both had, n: -rate · n · (mean gradient of the half) / √(mean square of all).
        The common scale makes all parameters equally noisy. Without it those with the largest gradients would come out
        best or worst in both halves, which would look like agreement where there is none.
        """
        count = int(self.steps.sum())
        found = []
        for i in range(sum(name.startswith("sums_") for name, _ in self.named_buffers())):
            sums, scale = self.get_buffer(f"sums_{i}"), (self.get_buffer(f"squares_{i}") / count).sqrt()
            shape = (2, *(1 for _ in scale.shape))
            mean = sums / self.steps.view(shape).to(sums)
            # Where there was no gradient, nothing would have moved.
            both = -rate * count * mean / scale.masked_fill(scale == 0, 1)
            found.append((both[0], both[1]))
        return found

    def reached(self) -> list[Tensor]:
        """For every parameter which of its numbers ever had a gradient."""
        count = sum(name.startswith("squares_") for name, _ in self.named_buffers())
        return [self.get_buffer(f"squares_{i}") > 0 for i in range(count)]


def margin(one: Tensor, two: Tensor, operations: Sequence[str], space: Space) -> float | None:
    """How far what is kept stands above what is not, in units of its own noise; 0 by chance.

    Of the scores [L, E, O] of two halves, each chooses and the other judges: that way the choice, which is made for
    being large, does not flatter its own distance. Judged is every kept edge's operation against that edge's next
    best, and in every node the weakest kept edge against the best of the others. The unit is the standard deviation of
    such a distance, known from the differences of the halves: within a node, over all that is open there.

    None where the halves do not differ, or where nothing could be chosen.
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


def _noise(difference: Tensor, closed: Tensor, space: Space) -> Tensor:
    """[L]: the standard deviation of the halves' difference within the nodes of a layer.

    A score's difference between two halves has twice the variance of the score in one of them, as has the distance of
    two scores in one half.
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
    """The share of parameters that stand at their limit of travel, to which the number of steps carried them.

    Args:
        limit: How far Adam goes whose gradients all have one sign: steps · rate.
        reached: Which numbers count: those that had a gradient.
    """
    far = [
        (p.detach() - start.detach()).abs()[there] >= AT_LIMIT * limit
        for p, start, there in zip(parameters, initial, reached, strict=True)
    ]
    count = sum(len(each) for each in far)
    return sum(int(each.sum()) for each in far) / count if count else None

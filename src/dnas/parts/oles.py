"""OLES: an operation stops learning when what it learns does not carry over (Jiang et al., NeurIPS 2023).

    M_o = mean over the last n steps of cos( ∂L_train/∂w_o , ∂L_val/∂w_o )

w_o are all weights of one operation on one edge of one layer. Where M_o is below a threshold after n steps in which the
operation was executed, its weights rest from then on: it has begun to fit the training half, and more of it would make
it look worse on the validation half, by which the architecture parameters judge it against operations without weights.
Else the count begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import Progress
from dnas.parts.protocol import Part, PartOptions, SearchView


class OLESOptions(PartOptions):
    """The public code's values, for searches of 50 epochs of 391 steps."""

    threshold: float = Field(0.4, ge=-1, le=1, description="least mean cosine with which an operation goes on learning")
    steps: int = Field(20, ge=1, description="n: steps that are averaged before an operation is judged")


class OLES(Part):
    """Compares the gradients of both halves, operation by operation, and freezes."""

    name = "oles"
    title = "Operation-level early stopping"
    paper = "Jiang et al., Operation-Level Early Stopping for Robustifying Differentiable NAS, NeurIPS 2023"
    Options = OLESOptions
    options: OLESOptions
    updates = ("first-order",)  # the others have no gradients of both halves to compare
    compares = True

    def begin(self, search: SearchView) -> dict[str, Tensor]:
        """`sum` of cosines, `count` of steps and `frozen`, each [L, E, O]."""
        shape = (search.settings.layers, len(search.method.space.edges), len(search.method.operations))
        return {
            "sum": torch.zeros(shape, dtype=torch.float64),
            "count": torch.zeros(shape, dtype=torch.int64),
            "frozen": torch.zeros(shape, dtype=torch.bool),
        }

    def compare(
        self,
        search: SearchView,
        training: Sequence[Tensor | None],
        validation: Sequence[Tensor | None],
    ) -> None:
        state = search.states[self.name]
        cosine, known = cosines(search, training, validation)
        known &= ~state["frozen"]
        state["sum"] += torch.where(known, cosine, 0.0)
        state["count"] += known
        judged = state["count"] >= self.options.steps
        state["frozen"] |= judged & (state["sum"] < self.options.threshold * state["count"])
        state["sum"].masked_fill_(judged, 0.0)
        state["count"].masked_fill_(judged, 0)

    def resting(self, search: SearchView) -> Tensor:
        return search.states[self.name]["frozen"]

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        """The share of operations with weights that have stopped."""
        learning = torch.zeros_like(search.states[self.name]["frozen"])
        for owned in search.owned():
            learning[owned.layer, owned.edges, owned.operation] = True
        stopped = search.states[self.name]["frozen"].sum() / learning.sum().clamp_min(1)
        return {f"{self.name}.frozen": float(stopped)}


def cosines(search: SearchView, one: Sequence[Tensor | None], two: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """[L, E, O]: the cosines of two gradients of the supernet's weights within each operation on each edge, and where
    there are any: where both reach an operation that has weights."""
    of = {id(weight): pair for weight, *pair in zip(search.weights, one, two, strict=True)}
    shape = search.states[OLES.name]["sum"].shape
    dot, first, second = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    for owned in search.owned():
        a, b = of[id(owned.weight)]
        if a is None or b is None:
            continue
        a, b = (each.reshape(len(owned.edges), -1).double() for each in (a, b))
        place = (owned.layer, owned.edges, owned.operation)
        for total, x, y in ((dot, a, b), (first, a, a), (second, b, b)):
            total[place] += (x * y).sum(1).cpu()
    known = (first > 0) & (second > 0)
    return torch.where(known, dot / (first * second).sqrt().clamp_min(1e-300), 0.0), known

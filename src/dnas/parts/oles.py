"""OLES: an operation stops training when its gradients no longer generalize (Jiang et al., NeurIPS 2023).

    M_o = mean over the last n steps of cos( ∂L_train/∂w_o , ∂L_val/∂w_o )

w_o are all weights of one operation on one edge of one layer. If M_o is below a threshold after n steps that executed
the operation, its weights are frozen from then on: it starts to overfit the training half, and more training would make
it look worse on the validation half, on which the architecture parameters compare it with operations without weights.
Otherwise the count starts again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import Progress
from dnas.parts.protocol import Part, PartOptions, SearchView


class OLESOptions(PartOptions):
    """Options, with the values of the public code for searches of 50 epochs of 391 steps."""

    threshold: float = Field(
        0.4, ge=-1, le=1, description="smallest mean cosine with which an operation keeps training"
    )
    steps: int = Field(20, ge=1, description="n: steps over which the cosine is averaged before each decision")


class OLES(Part):
    """Compares the gradients of both halves per operation, and freezes operations."""

    name = "oles"
    title = "Operation-level early stopping"
    paper = "Jiang et al., Operation-Level Early Stopping for Robustifying Differentiable NAS, NeurIPS 2023"
    Options = OLESOptions
    options: OLESOptions
    updates = ("first-order",)  # other updates do not compute gradients of both halves
    compares = True

    def begin(self, search: SearchView) -> dict[str, Tensor]:
        """Return the `sum` of cosines, `count` of steps and `frozen`, each [L, E, O]."""
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
        """Return the share of frozen operations among those with weights."""
        learning = torch.zeros_like(search.states[self.name]["frozen"])
        for owned in search.owned():
            learning[owned.layer, owned.edges, owned.operation] = True
        stopped = search.states[self.name]["frozen"].sum() / learning.sum().clamp_min(1)
        return {f"{self.name}.frozen": float(stopped)}


def cosines(search: SearchView, one: Sequence[Tensor | None], two: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Return [L, E, O]: the cosines of two gradients of the supernet weights within each operation on each edge, and
    which of them exist: both gradients must reach an operation with weights."""
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

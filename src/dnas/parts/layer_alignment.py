"""Layer alignment: aligns the gradients of layers that share a cell (Movahedi et al., Λ-DARTS, ICLR 2023).

    Λ = mean over pairs of layers k < l of one kind of cos(g_k, g_l),   g_k = ∂L_train/∂(mixing weights of layer k)
    w ← argmin_w  L_train - λ Λ

If few layers dominate the shared cell, the operations that suit them win, and the gradients of the others are noise. Λ
is increased through the weights. Its gradient is a product of second derivatives and a vector, so it is computed by a
central difference: with p_k = ∂Λ/∂g_k,

    ∂Λ/∂w ≈ [∂L_train/∂w (at mixing weights + ε p) - ∂L_train/∂w (at mixing weights - ε p)] / 2ε,   ε = R / |p|

λ grows linearly over the epochs that update the architecture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import Progress
from dnas.parts.protocol import Part, PartOptions, SearchView
from dnas.settings import GradientSettings
from dnas.training.updates import added

RADIUS = 1e-3


class LayerAlignmentOptions(PartOptions):
    """Options; λ is that of the public code."""

    weight: float = Field(0.125, gt=0, description="λ in the last epoch; it grows linearly from 0")


class LayerAlignment(Part):
    """A term in the loss of the weights that aligns the gradients of layers in their mixing weights."""

    name = "layer-alignment"
    title = "Layer alignment (Λ-DARTS)"
    paper = (
        "Movahedi et al., Λ-DARTS: Mitigating Performance Collapse by Harmonizing Operation Selection among Cells, "
        "ICLR 2023"
    )
    Options = LayerAlignmentOptions
    options: LayerAlignmentOptions
    updates = ("first-order", "second-order")  # a joint step has no separate step of the weights

    def passes(self, settings: GradientSettings) -> float:
        return 2.0

    def wants_slopes(self, search: SearchView, step: int) -> bool:
        return self._weight(search.progress(step)) > 0

    def weight_gradients(self, search: SearchView, step: int, slopes: Tensor) -> Sequence[Tensor | None] | None:
        direction = ascent(slopes, search.mapping.kind)
        length = direction.norm()
        if not length > 0:
            return None
        epsilon = RADIUS / length
        up = search.training_gradients(step, (epsilon * direction).to(slopes))
        down = search.training_gradients(step, (-epsilon * direction).to(slopes))
        factor = -self._weight(search.progress(step)) / (2 * float(epsilon))
        return added(_times(up, factor), _times(down, -factor))

    def _weight(self, progress: Progress) -> float:
        return progress.between(0.0, self.options.weight)


def alignment(slopes: Tensor, kind: Tensor) -> Tensor:
    """Return Λ of slopes [L, E, O]: the mean cosine over pairs of layers of the same `kind` [L].

    A layer without gradient has cosine 0 with all others. Λ is 0 if no two layers have the same kind.
    """
    flat = slopes.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    units = torch.where(length > 0, flat / length.clamp_min(1e-300), 0.0)
    pairs = (kind[:, None] == kind).triu(1)
    return ((units @ units.T) * pairs).sum() / pairs.sum().clamp_min(1)


def ascent(slopes: Tensor, kind: Tensor) -> Tensor:
    """Return ∂Λ/∂g, [L, E, O] in float64."""
    there = slopes.detach().double()
    active = there.flatten(1).any(1)
    found = torch.zeros_like(there)
    if int(active.sum()) > 1:
        wanted = there[active].requires_grad_()
        # Pairs with a layer that has no gradient have cosine 0.
        share = _pairs(kind[active]) / max(1.0, _pairs(kind))
        (slope,) = torch.autograd.grad(alignment(wanted, kind[active]), [wanted])
        found[active] = share * slope
    return found


def _pairs(kind: Tensor) -> float:
    return float((kind[:, None] == kind).triu(1).sum())


def _times(grads: Sequence[Tensor | None], factor: float) -> list[Tensor | None]:
    return [None if g is None else factor * g for g in grads]

"""β-decay: an increasing penalty on the largest logits of each edge (Ye et al., Beta-DARTS, CVPR 2022).

    L_val + w · mean_e log Σ_o exp(a_e[o])

The mean is over all edges of all layers, and w grows linearly from 0 over the epochs that update the architecture. The
logarithm of a sum of exponentials is a smooth maximum of the logits a, whose gradient is their softmax: the leading
operation is slowed down most, so that no operation wins by early noise.

The paper only has softmax methods with a shared cell. Here a is, under every relaxation, the sum of the terms of the
mapping: alpha under `shared` and `full`, alpha + gamma under `decoupled`.
"""

from __future__ import annotations

from functools import reduce

import torch
from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import Progress
from dnas.parts.protocol import Part, PartOptions, SearchView
from dnas.supernet.mapping import Mapping


class BetaDecayOptions(PartOptions):
    """Options. The public code uses 50 · epoch / 100, so 25 at the end of its 50 epochs in the DARTS space."""

    weight: float = Field(25.0, gt=0, description="w in the last epoch; it grows linearly from 0")


class BetaDecay(Part):
    """A penalty on the smooth maximum of the logits of each edge."""

    name = "beta-decay"
    title = "β-decay"
    paper = "Ye et al., β-DARTS: Beta-Decay Regularization for Differentiable Architecture Search, CVPR 2022"
    Options = BetaDecayOptions
    options: BetaDecayOptions

    def penalty(self, search: SearchView, progress: Progress) -> Tensor | None:
        weight = progress.between(0.0, self.options.weight)
        return weight * smooth_maximum(search.mapping) if weight else None

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        with torch.no_grad():
            return {f"{self.name}.maximum": float(smooth_maximum(search.mapping))}


def smooth_maximum(mapping: Mapping) -> Tensor:
    """Return the mean over layers and edges of log Σ exp of the logits, without operations that an edge lacks."""
    logits = reduce(torch.add, mapping.terms()).expand(mapping.layers, -1, -1)
    return logits.logsumexp(-1).mean()

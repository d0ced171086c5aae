"""DARTS, first order: softmax mixing, a validation gradient at the current weights (Liu et al., ICLR 2019).

y_e = Σ_o softmax(alpha_e)[o] O_o(x)                                                          (eq. 2)
∂/∂alpha of L_val(w, alpha)                                                          (eq. 6 with ξ = 0)
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dnas.methods.protocol import Progress
from dnas.methods.relaxed import RelaxedMethod, RelaxedOptions
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand


class DARTSOptions(RelaxedOptions):
    """Options; `none` competes in the softmax, as published."""

    with_none: bool = Field(True, description="`none` is a candidate while searching, as published")


class DARTS(RelaxedMethod):
    """Any mapping × softmax or another × first order × top two edges."""

    name = "darts"
    title = "DARTS (first order)"
    paper = "Liu et al., DARTS: Differentiable Architecture Search, ICLR 2019"
    default_mapping = SHARED
    Options = DARTSOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """Appendix A.1: a proxy of 8 layers without warm-up, trained with 20 layers."""
        return self.of_pair(data, proxy={"warmup_epochs": 0})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        return expand(self.relaxed(mapping, progress), None, mapping.layers)

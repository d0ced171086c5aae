"""GDAS: one sampled operation per edge, with the gradient of its softmax (Dong & Yang, CVPR 2019).

    p = softmax((A + G) / τ),  G standard Gumbel,  i = argmax p
    h = onehot(i) forward, p backward
    y_e = h_i O_i(x): nothing else is executed

so ∂L/∂A_o = <∂L/∂y_e, O_i(x)> · p_i (δ_io - p_o) / τ. The temperature τ falls linearly over the search. It
only affects gradients, since i has the distribution softmax(A) at every temperature.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, gumbel, softmax, straight_through


class GDASOptions(GradientOptions):
    """Options: temperatures and candidates, as in the public code."""

    with_none: bool = Field(True, description="`none` is a candidate while searching, as published")
    temperature: float = Field(10.0, gt=0, description="τ in the first epoch")
    temperature_end: float = Field(0.1, gt=0, description="τ in the last epoch; linear in between")


class GDAS(GradientMethod):
    """Any mapping × hard Gumbel-softmax × first order, weights first × top two edges."""

    name = "gdas"
    title = "GDAS"
    paper = "Dong & Yang, Searching for a Robust Neural Architecture in Four GPU Hours, CVPR 2019"
    default_mapping = SHARED
    Options = GDASOptions
    # Each operation is executed in one of eight steps, so there are more steps, which are cheap, with a smaller rate.
    quick: ClassVar[Dict[str, Dict[str, Any]]] = {"search": {"epochs": 60, "learning_rate": 0.025}}
    options: GDASOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """The settings of the authors' search in the DARTS space: 8 layers, trained with 20."""
        search = {
            "epochs": 250,
            "warmup_epochs": 0,
            "batch_size": 256,
            "weight_decay": 5e-4,
            "nesterov": True,
            "order": "weights-first",
        }
        return self.of_pair(data, search)

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        noise = gumbel(mapping, (len(self.space.edges), len(self.operations)), progress.generator())
        temperature = progress.between(self.options.temperature, self.options.temperature_end)
        operations = straight_through(softmax([*mapping.terms(), noise], temperature))
        return expand(operations, None, mapping.layers, active=(operations.detach() != 0).cpu())

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        return softmax(mapping.terms())

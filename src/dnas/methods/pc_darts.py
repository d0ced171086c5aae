"""PC-DARTS: partial channel connections and edge normalization (Xu et al., ICLR 2020).

    node = Σ_i softmax(beta)[i] · shuffle([ Σ_j softmax(alpha[i])[j] O_j(x[:C/K]) , x[C/K:] ])    (eqs. 1, 4)

Under `--mapping shared` this is the published method. Under `full` it is the row "PC-DARTS (global)" in the tables of
the DNAS paper, which does not define it further: alpha and beta of every layer are independent.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dnas.methods.protocol import Progress, whole_network
from dnas.methods.relaxed import RelaxedMethod, RelaxedOptions
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, edge_softmax, expand


class PCDARTSOptions(RelaxedOptions):
    """Options; the two components can be switched off separately."""

    partial_channels: int = Field(4, ge=1, description="K: 1/K of the channels pass through the operations")
    with_none: bool = Field(
        True,
        description="`none` is a candidate while searching, as published; false for a paired comparison with dnas",
    )
    edge_normalisation: bool = Field(True, description="edges of a node compete through softmax(beta)")


class PCDARTS(RelaxedMethod):
    """Any mapping × softmax or another with edge softmax × first order × top two edges."""

    name = "pc-darts"
    title = "PC-DARTS"
    paper = "Xu et al., PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search, ICLR 2020"
    default_mapping = SHARED
    Options = PCDARTSOptions
    options: PCDARTSOptions

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        if self.mapping_name != SHARED:
            # The paired control of the DNAS paper: everything except the parameterization is as in its own search.
            return whole_network(data)
        # Section 4.2 of the paper and its public code: a proxy of 8 layers, trained with 20.
        return {
            "search": {
                "layers": 8,
                "batch_size": 256,
                "learning_rate": 0.1,
                "learning_rate_min": 0.0,
                "architecture_learning_rate": 6e-4,
            },
            "train": {"layers": 20, "drop_path": 0.3},
        }

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=self.options.edge_normalisation)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        logits = mapping.edge_logits()
        edges = None if logits is None else edge_softmax(logits, self.space)
        return expand(self.relaxed(mapping, progress), edges, mapping.layers)

"""A softmax whose temperature falls over the search."""

import torch
from pydantic import Field

from dnas.methods import GradientMethod, GradientOptions, Progress
from dnas.supernet.mapping import Mapping
from dnas.supernet.relaxation import MixingWeights, edge_softmax, expand


class CoolingOptions(GradientOptions):
    hottest: float = Field(5.0, gt=0, description="temperature of the first epoch")


class Cooling(GradientMethod):
    name = "cooling"
    title = "Cooling"
    paper = "none; an example"
    default_mapping = "decoupled"
    Options = CoolingOptions
    options: CoolingOptions

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        # progress.share goes from 0 to 1, which it is in the last epoch however many there are.
        temperature = 1 + (self.options.hottest - 1) * (1 - progress.share)
        logits = sum(mapping.terms())  # [layers, edges, operations]
        operations = torch.softmax(logits / temperature, -1)
        return expand(operations, edge_softmax(mapping.edge_logits(), self.space), mapping.layers)

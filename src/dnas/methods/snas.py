"""SNAS: draws of the concrete distribution, one level, and a price on resources (Xie et al., ICLR 2019).

    Z_e = softmax((alpha_e + G) / λ),  G standard Gumbel
    y_e = Σ_o Z_e[o] O_o(x)
    loss = cross-entropy + w Σ_cell types mean_cells Σ_e mean_r log max(1, Σ_o Z_e[o] c_r[o])

Weights and alpha follow the gradient of one and the same batch. The temperature λ falls linearly over the search, so
that draws become one-hot. The resources c_r of an operation are its parameters, multiply-accumulates and memory
accesses. The paper says log alpha where this says alpha.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, GradientOptions, Progress
from dnas.space.darts import Space, reduction_layers
from dnas.space.primitives import PRIMITIVES, AvgPool, Chain, Conv, FactorizedReduce, Identity, MaxPool
from dnas.supernet.mapping import SHARED, Mapping
from dnas.supernet.relaxation import MixingWeights, expand, gumbel, softmax

RESOURCES = ("params", "flops", "accesses")


class SNASOptions(GradientOptions):
    """Temperatures, initial law and resources of the authors' code."""

    with_none: bool = Field(True, description="`none` is a candidate while searching, as published")
    initial_scale: float = Field(0.01, ge=0, description="standard deviation of the initial architecture parameters")
    temperature: float = Field(1.0, gt=0, description="λ in the first epoch")
    temperature_end: float = Field(0.03, gt=0, description="λ in the last epoch; linear in between")
    resource_weight: float = Field(1e-2, ge=0, description="w, what a unit of the logarithm of resources costs")
    resource: Literal["all", "params", "flops", "accesses"] = Field(
        "all", description="the mean over all three resources, or one of them"
    )


class SNAS(GradientMethod):
    """Any mapping × concrete distribution × single level × top two edges."""

    name = "snas"
    title = "SNAS"
    paper = "Xie et al., SNAS: Stochastic Neural Architecture Search, ICLR 2019"
    default_mapping = SHARED
    Options = SNASOptions
    options: SNASOptions

    def __init__(self, options: SNASOptions, mapping: str, space: Space) -> None:
        super().__init__(options, mapping, space)
        if options.resource_weight == 0 and options.resource != "all":
            raise InputError(f"--option resource={options.resource} has no use with resource_weight=0")

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """Those of the authors' code on one GPU: 8 layers, trained at 20."""
        return self.of_cells(data, {"epochs": 150, "warmup_epochs": 0, "update": "single-level"})

    def mapping(self, layers: int, seed: int) -> Mapping:
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping: Mapping, progress: Progress) -> MixingWeights:
        noise = gumbel(mapping, (len(self.space.edges), len(self.operations)), progress.generator())
        temperature = progress.between(self.options.temperature, self.options.temperature_end)
        return expand(softmax([*mapping.terms(), noise], temperature), None, mapping.layers)

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        return softmax(mapping.terms())

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """The price of what this step's draw would use, a mean over normal cells and one over reductions."""
        if self.options.resource_weight == 0:
            return None
        drawn = self.mixing(mapping, progress).operations
        table = resources(self.space, self.operations, mapping.layers, progress.channels, progress.image_size)
        chosen = slice(None) if self.options.resource == "all" else [RESOURCES.index(self.options.resource)]
        used = torch.einsum("keo,keor->ker", drawn, table[..., chosen].to(drawn))
        # Cheaper than a single parameter is free, and has no gradient.
        price = used.clamp_min(1).log().mean(2).sum(1)
        by_kind = torch.stack([price[mapping.kind == kind].mean() for kind in (0, 1)])
        return self.options.resource_weight * by_kind.sum()


@cache
def resources(space: Space, operations: tuple[str, ...], layers: int, channels: int, image_size: int) -> Tensor:
    """[L, E, O, 3]: what each operation uses on each edge of a network of this width, in the order of `RESOURCES`."""
    rows, size, width = [], image_size, channels
    for k in range(layers):
        reduction = k in reduction_layers(layers)
        width, outer = width * (2 if reduction else 1), size
        size = -(-size // 2) if reduction else size
        for _, source in space.edges:
            outside = source < 2
            stride, pixels = (2, outer) if reduction and outside else (1, size)
            rows.append([_used(PRIMITIVES[name].chain(width, stride), width, pixels) for name in operations])
    return torch.tensor(rows, dtype=torch.float64).view(layers, len(space.edges), len(operations), len(RESOURCES))


def _used(chain: Chain, channels: int, size: int) -> tuple[int, int, int]:
    """Parameters, multiply-accumulates, and memory accesses (weights, inputs and outputs) of an operation.

    As the authors count them: convolutions, pools and the identity, without batch norms and activations.
    """
    params = flops = accesses = 0
    height = width = size
    for layer in chain:
        read = channels * height * width
        height, width = layer.out_size(height, width)
        written = channels * height * width
        match layer:
            case Conv() | FactorizedReduce():
                params += layer.macs(1, 1)
                flops += layer.macs(height, width)
                # A factorised reduction is two convolutions, which both read all inputs.
                read *= 2 if isinstance(layer, FactorizedReduce) else 1
                accesses += layer.macs(1, 1) + read + written
            case MaxPool() | AvgPool():
                flops += 9 * written
                accesses += read + written
            case Identity():
                accesses += read + written
    return params, flops, accesses

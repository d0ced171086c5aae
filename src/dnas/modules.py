"""Layers as torch modules: turns the chains of `ops.py` into `nn.Module`s, one edge or many at a time.

Tensors are [B, C, H, W]. With `groups=m` a chain is built for m independent copies side by side on
m·C channels: the same mathematics in a fraction of the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.kernels.depthwise import DepthwiseConv2d
from dnas.ops import AvgPool, Chain, Conv, FactorizedReduce, Identity, Layer, MaxPool, Norm, ReLU, Zero


class ZeroModule(nn.Module):
    """x · 0, subsampled."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class FactorizedReduceModule(nn.Module):
    """Halves the resolution without losing pixels: two strided 1×1 convolutions on shifted grids."""

    def __init__(self, inputs: int, outputs: int, norms: NormStyle, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        half = outputs // 2
        self.even = nn.Conv2d(groups * inputs, groups * half, 1, 2, groups=groups, bias=False)
        self.odd = nn.Conv2d(groups * inputs, groups * (outputs - half), 1, 2, groups=groups, bias=False)
        self.norm = norms.build(groups * outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        # The grid of odd pixels is one short when the size is odd; a black row and column complete it.
        shifted = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        halves = [
            self.even(x).unflatten(1, (self.groups, -1)),
            self.odd(shifted).unflatten(1, (self.groups, -1)),
        ]
        out: Tensor = self.norm(torch.cat(halves, 2).flatten(1, 2))
        return out


class AuxiliaryPool(nn.Module):
    """Any size to 2×2: DARTS' 5×5 average with stride 3 (8 pixels, CIFAR) or 2 (7 pixels, ImageNet), else adaptive."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] in (7, 8) and x.shape[2] == x.shape[3]:
            return F.avg_pool2d(x, 5, x.shape[2] - 5)
        return F.adaptive_avg_pool2d(x, 2)


@dataclass(frozen=True)
class NormStyle:
    """Whether batch norms learn scale and shift, and whether they track statistics for evaluation."""

    affine: bool = True
    tracking: bool = True

    def build(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, affine=self.affine, track_running_stats=self.tracking)


DISCRETE = NormStyle()
# Always the batch's own statistics: running ones belong to mixing weights that have moved on.
SEARCH = NormStyle(affine=False, tracking=False)
SEARCH_STEM = NormStyle(affine=True, tracking=False)


def build_layer(layer: Layer, norms: NormStyle = DISCRETE, groups: int = 1) -> nn.Module:
    """One layer as a module, `groups` times side by side."""
    match layer:
        case Identity():
            return nn.Identity()
        case ReLU():
            return nn.ReLU()
        case Zero():
            return ZeroModule(layer.stride)
        case Norm():
            return norms.build(groups * layer.channels)
        case MaxPool():
            return nn.MaxPool2d(3, layer.stride, 1)
        case AvgPool():
            return nn.AvgPool2d(3, layer.stride, 1, count_include_pad=False)
        case FactorizedReduce():
            return FactorizedReduceModule(layer.inputs, layer.outputs, norms, groups)
        case Conv():
            # A square kernel with one input a group is what a depthwise kernel can do.
            alone = layer.groups == layer.inputs == layer.outputs and layer.kernel[0] == layer.kernel[1] > 1
            kind = DepthwiseConv2d if alone else nn.Conv2d
            return kind(
                groups * layer.inputs,
                groups * layer.outputs,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.dilation,
                groups * layer.groups,
                bias=False,
            )
    raise AssertionError(f"no module for {layer}")


def build_chain(chain: Chain, norms: NormStyle = DISCRETE, groups: int = 1) -> nn.Sequential:
    """A chain as a module."""
    return nn.Sequential(*(build_layer(layer, norms, groups) for layer in chain))


def construct(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """Build a module and draw its weights from `generator`, leaving the global random state alone.

    The laws are torch's defaults: convolutions and linear layers uniform in ±1/√fan_in (He et al. 2015,
    a = √5), batch norms 1 and 0.
    """
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu")
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(part.weight[0].numel())
            with torch.no_grad():
                part.weight.uniform_(-bound, bound, generator=generator)
                if part.bias is not None:
                    part.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    return module

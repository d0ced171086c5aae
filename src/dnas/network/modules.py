"""Layers as torch modules: convert the chains of `space/primitives.py` to `nn.Module`s, one edge or many at a time.

Tensors are [B, C, H, W]. With `groups=m`, m independent copies of a chain are computed side by side on m·C channels:
the same mathematics with a fraction of the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.kernels.depthwise import DepthwiseConv2d
from dnas.rng import torch_stream
from dnas.space.primitives import (
    AvgPool,
    Branches,
    Chain,
    Conv,
    FactorizedReduce,
    HardSwish,
    Identity,
    Layer,
    MaxPool,
    Mean,
    Noise,
    Norm,
    ReLU,
    ReLU6,
    SqueezeExcite,
    Zero,
)


class ZeroModule(nn.Module):
    """x · 0, subsampled."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class NoiseModule(nn.Module):
    """Standard normal noise of the (subsampled) input shape: a new draw in every training step, one in evaluation.

    The number of the draw is part of the module's state, so that a resumed training draws the same as an uninterrupted
    one.
    """

    drawn: Tensor

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def reset_parameters(self) -> None:
        self.drawn.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        noise = torch.randn(x.shape, generator=torch_stream(0, "noise", int(self.drawn), x.shape[1]))
        if self.training:
            self.drawn += 1
        return noise.to(x)


class FactorizedReduceModule(nn.Module):
    """Halve the resolution without losing pixels: two 1×1 convolutions, at even and at odd pixels."""

    def __init__(self, inputs: int, outputs: int, norms: NormStyle, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        half = outputs // 2
        self.even = nn.Conv2d(groups * inputs, groups * half, 1, groups=groups, bias=False)
        self.odd = nn.Conv2d(groups * inputs, groups * (outputs - half), 1, groups=groups, bias=False)
        self.norm = norms.build(groups * outputs)

    def forward(self, input: Tensor, rectified: bool = False) -> Tensor:
        grids = even_and_odd(input if rectified else F.relu(input))
        halves = [self.even(grids[0]), self.odd(grids[1])]
        if self.groups == 1:
            joined = torch.cat(halves, 1)
        else:  # with five dimensions, in which channels last is lost
            joined = torch.cat([half.unflatten(1, (self.groups, -1)) for half in halves], 2).flatten(1, 2)
        out: Tensor = self.norm(joined)
        return out


class SqueezeExciteModule(nn.Module):
    """Multiply each channel by a gate: x [B, C, H, W] → [B, C, H, W]; see `SqueezeExcite`."""

    def __init__(self, layer: SqueezeExcite, groups: int = 1) -> None:
        super().__init__()
        channels, hidden = groups * layer.channels, groups * layer.hidden
        self.reduce = nn.Conv2d(channels, hidden, 1, groups=groups)
        self.expand = nn.Conv2d(hidden, channels, 1, groups=groups)
        self.gate = nn.Hardsigmoid() if layer.hard else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3), keepdim=True)
        gates: Tensor = self.gate(self.expand(F.relu(self.reduce(means))))
        return x * gates


class _EvenAndOdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.shape = x.shape
        even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
        odd = F.pad(odd, (0, even.shape[3] - odd.shape[3], 0, even.shape[2] - odd.shape[2]))
        return even.contiguous(memory_format=torch.channels_last), odd.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, even: Tensor, odd: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        grad = torch.empty(ctx.shape, dtype=even.dtype, device=even.device, memory_format=torch.channels_last).zero_()
        grad[:, :, ::2, ::2] = even
        grad[:, :, 1::2, 1::2] = odd[:, :, : height // 2, : width // 2]
        return grad


def even_and_odd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [B, C, H, W] at even and at odd pixels, both [B, C, ⌈H / 2⌉, ⌈W / 2⌉].

    The grid of odd pixels is one pixel shorter if the size is odd; a row and column of zeros completes it. This is one
    function because autograd would fill a whole image with zeros for each grid.
    """
    out: tuple[Tensor, Tensor] = _EvenAndOdd.apply(x)  # type: ignore[no-untyped-call]
    return out


class BranchesModule(nn.Module):
    """Two chains side by side, whose outputs alternate: see `Branches`."""

    def __init__(self, layer: Branches, norms: NormStyle, groups: int = 1) -> None:
        super().__init__()
        self.groups, self.split, self.turns = groups, layer.split, groups * layer.turns
        self.left = build_chain(layer.left, norms, groups)
        self.right = build_chain(layer.right, norms, groups)

    def forward(self, x: Tensor) -> Tensor:
        left, right = halves(x, self.groups) if self.split else (x, x)
        return alternating(self.left(left), self.right(right), self.turns)


def halves(x: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Return the first and the second half of the channels of each group, [B, C, H, W] → twice [B, C / 2, H, W]."""
    if groups == 1:
        first, second = x.chunk(2, 1)
        return first, second
    first, second = (half.flatten(1, 2) for half in x.reshape(len(x), groups, -1, *x.shape[2:]).chunk(2, 2))
    return first, second


def alternating(left: Tensor, right: Tensor, turns: int) -> Tensor:
    """Return the channels of two tensors [B, C, H, W] in turn, [B, 2 · C, H, W], in their memory format.

    If one has more channels, both have as many `turns`, and the result has channels last.

    With channels last, a block of 32 channels of 16×16 pixels takes 3.7 ms so, and 8 to 10 ms by a concatenation and a
    transposition (64 images, forward and backward, one core).
    """
    if left.shape[1] != right.shape[1]:
        rows = [torch.unflatten(each.permute(0, 2, 3, 1), 3, (turns, -1)) for each in (left, right)]
        return torch.cat(rows, 4).flatten(3).permute(0, 3, 1, 2)
    if right.is_contiguous():
        return torch.stack((left, right), 2).flatten(1, 2)
    pixels = torch.stack((left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)), 4)
    return pixels.flatten(3).permute(0, 3, 1, 2)


class AuxiliaryPool(nn.Module):
    """Pool to 2×2: 5×5 average with stride 3 (8 pixels, CIFAR) or 2 (7, ImageNet) as in DARTS, else adaptive."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] in (7, 8) and x.shape[2] == x.shape[3]:
            return F.avg_pool2d(x, 5, x.shape[2] - 5)
        return F.adaptive_avg_pool2d(x, 2)


class WholeConv2d(nn.Conv2d):
    """A convolution without padding; if its kernel is as large as the input, computed by one matrix product.

    This is the usual case for the 2×2 convolution of the auxiliary head: 18 → 4 ms forward and backward (96 images,
    128 → 768, one core).
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2:] != self.kernel_size or self.dilation != (1, 1) or self.groups != 1:
            return super().forward(input)
        x, weight = (t.permute(0, 2, 3, 1).flatten(1) for t in (input, self.weight))
        return F.linear(x, weight, self.bias)[:, :, None, None]


@dataclass(frozen=True)
class NormStyle:
    """Whether batch norms learn scale and shift, and whether they track statistics for evaluation."""

    affine: bool = True
    tracking: bool = True

    def build(self, channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, affine=self.affine, track_running_stats=self.tracking)


DISCRETE = NormStyle()
# Always statistics of the batch: running ones are from mixing weights that have since changed.
SEARCH = NormStyle(affine=False, tracking=False)
SEARCH_STEM = NormStyle(affine=True, tracking=False)


def build_layer(layer: Layer, norms: NormStyle = DISCRETE, groups: int = 1) -> nn.Module:
    """Build a layer as a module, `groups` times side by side."""
    match layer:
        case Identity():
            return nn.Identity()
        case ReLU():
            return nn.ReLU()
        case ReLU6():
            return nn.ReLU6()
        case HardSwish():
            return nn.Hardswish()
        case Mean():
            return nn.AdaptiveAvgPool2d(1)
        case SqueezeExcite():
            return SqueezeExciteModule(layer, groups)
        case Zero():
            return ZeroModule(layer.stride)
        case Noise():
            return NoiseModule(layer.stride)
        case Norm():
            return norms.build(groups * layer.channels)
        case MaxPool():
            return nn.MaxPool2d(3, layer.stride, 1)
        case AvgPool():
            return nn.AvgPool2d(3, layer.stride, 1, count_include_pad=False)
        case FactorizedReduce():
            return FactorizedReduceModule(layer.inputs, layer.outputs, norms, groups)
        case Branches():
            return BranchesModule(layer, norms, groups)
        case Conv():
            kind = DepthwiseConv2d if layer.depthwise else nn.Conv2d if layer.padded else WholeConv2d
            return kind(
                groups * layer.inputs,
                groups * layer.outputs,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.dilation,
                groups * layer.groups,
                bias=layer.bias,
            )
    assert groups == 1, f"{layer} has no module for groups"
    return ForeignLayer(layer.module())


class ForeignLayer(nn.Module):
    """Another package's layer. Inside, so that nothing takes it for one of ours by its class, as kernels would."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x)
        return out


# Nobody else has what they give, and no backward pass needs it.
_SPARE = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, FactorizedReduceModule, ZeroModule, NoiseModule)


class LayerChain(nn.Sequential):
    """Layers in sequence.

    With `rectified` the input is already the output of a ReLU, and a chain that starts with one does not repeat it:
    chains with the same input share it. Later ReLUs work in place if the layer before allows it.
    """

    @property
    def spare(self) -> bool:
        """Whether what it gives may be overwritten."""
        return len(self) > 0 and isinstance(self[-1], _SPARE)

    @property
    def rectifies(self) -> bool:
        return len(self) > 0 and isinstance(self[0], nn.ReLU | FactorizedReduceModule)

    def forward(self, input: Tensor, rectified: bool = False) -> Tensor:
        for i, layer in enumerate(self):
            if i and isinstance(layer, nn.ReLU):
                input = F.relu_(input) if isinstance(self[i - 1], _SPARE) else F.relu(input)
            elif i and isinstance(layer, nn.ReLU6):
                input = F.relu6(input, inplace=isinstance(self[i - 1], _SPARE))
            elif i and isinstance(layer, nn.Hardswish):
                # Its gradient is a function of its input.
                input = F.hardswish(input, inplace=isinstance(self[i - 1], _SPARE) and not input.requires_grad)
            elif i or not rectified:
                input = layer(input)
            elif not isinstance(layer, nn.ReLU):
                input = layer(input, rectified=True) if isinstance(layer, FactorizedReduceModule) else layer(input)
        return input


def build_chain(chain: Chain, norms: NormStyle = DISCRETE, groups: int = 1) -> LayerChain:
    """Build a chain as a module."""
    return LayerChain(*(build_layer(layer, norms, groups) for layer in chain))


def construct(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """Build a module and draw its weights from `generator`, leaving the global random state alone.

    The distributions are the defaults of torch: convolutions and linear layers uniform in ±1/√fan_in (He et al. 2015,
    a = √5), batch norms 1 and 0. Other modules with weights or buffers of their own fill them in `reset_parameters`.

    Raises:
        InputError: Such a module has no `reset_parameters`.
    """
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu")
    for number, part in enumerate(module.modules()):
        if isinstance(part, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(part.weight[0].numel())
            with torch.no_grad():
                part.weight.uniform_(-bound, bound, generator=generator)
                if part.bias is not None:
                    part.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
        elif part._parameters or part._buffers:
            _reset(part, generator.initial_seed() + number)
    return module


def _reset(part: nn.Module, seed: int) -> None:
    reset = getattr(part, "reset_parameters", None)
    if reset is None:
        raise InputError(
            f"the module {type(part).__name__} has weights or buffers of its own; give it reset_parameters(), which "
            "fills them"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed % 2**63)
        reset()


def watched(modules: Iterable[nn.Module]) -> bool:
    """Return True if a hook observes the output of one of these modules, as `guard.first_bad_layer` does."""
    return any(module._forward_hooks for module in modules)

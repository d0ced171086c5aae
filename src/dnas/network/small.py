"""Residual and depthwise separable networks for small images, of any width, in plain torch.

The width multiplies the channels of every convolution. All networks are built with all of their halvings of the
resolution; `handmade` removes those for which the images are too small. Weights are drawn from the global random state.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

FEWEST_CHANNELS = 4
# Channels of the stages of a residual network.
RESNET = 16, 32, 64
# Channels of MobileNetV1 in MLPerf Tiny, where width 1 is a quarter of the paper's width; and blocks that halve.
MOBILENET_STEM = 8
MOBILENET = 16, 32, 32, 64, 64, *[128] * 6, 256, 256
MOBILENET_HALVING = 1, 3, 5, 11


def channels_at(width: float, base: int) -> int:
    """Return the channels of a convolution with `base` at width 1: rounded half up, so that they never decrease."""
    return max(FEWEST_CHANNELS, math.floor(width * base + 0.5))


class Residual(nn.Module):
    """The ReLU of a branch plus a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.branch(x) + self.shortcut(x))


class MoreChannels(nn.Module):
    """Append channels of zeros."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        return str(self.more)


def resnet(classes: int, inputs: int, width: float, blocks: int, projection: bool) -> nn.Module:
    """Build a 3×3 convolution, three stages of basic blocks and a linear classifier (He et al. 2016, section 4.2).

    Args:
        blocks: Blocks per stage.
        projection: Shortcuts between stages are bare 1×1 convolutions, and all convolutions have biases, as in MLPerf
            Tiny. Otherwise there are no biases, and shortcuts take every second pixel and append channels of zeros
            (option A of the paper).
    """
    channels = [channels_at(width, base) for base in RESNET]
    stages = []
    for stage, after in enumerate(channels):
        before = channels[max(0, stage - 1)]
        first = _block(before, after, projection, halves=stage > 0)
        others = [_block(after, after, projection, halves=False) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(first, *others))
    network = nn.Sequential(
        OrderedDict(
            convolution=nn.Conv2d(inputs, channels[0], 3, padding=1, bias=projection),
            norm=nn.BatchNorm2d(channels[0]),
            relu=nn.ReLU(inplace=True),
            stages=nn.Sequential(*stages),
            **_classifier(channels[-1], classes),
        )
    )
    return _drawn(network)


def _block(before: int, after: int, projection: bool, halves: bool) -> Residual:
    stride = 2 if halves else 1
    branch = OrderedDict(
        convolution1=nn.Conv2d(before, after, 3, stride, 1, bias=projection),
        norm1=nn.BatchNorm2d(after),
        relu=nn.ReLU(inplace=True),
        convolution2=nn.Conv2d(after, after, 3, padding=1, bias=projection),
        norm2=nn.BatchNorm2d(after),
    )
    shortcut: nn.Module = nn.Identity()
    if halves and projection:
        shortcut = nn.Conv2d(before, after, 1, stride)
    elif halves:
        # An average over one pixel with stride 2 takes every second pixel.
        shortcut = nn.Sequential(OrderedDict(pixels=nn.AvgPool2d(1, stride), channels=MoreChannels(after - before)))
    return Residual(nn.Sequential(branch), shortcut)


def resnet_halvings(projection: bool) -> tuple[tuple[str, ...], ...]:
    """Return the layers of `resnet` that halve the resolution together, from the input on."""
    shortcut = "shortcut" if projection else "shortcut.pixels"
    return tuple((f"stages.{stage}.0.branch.convolution1", f"stages.{stage}.0.{shortcut}") for stage in (1, 2))


def mobilenet(classes: int, inputs: int, width: float) -> nn.Module:
    """Build MobileNetV1 (Howard et al. 2017, table 1) as in MLPerf Tiny for visual wake words: biases, plain ReLU."""
    before = channels_at(width, MOBILENET_STEM)
    stem = OrderedDict(
        convolution=nn.Conv2d(inputs, before, 3, 2, 1), norm=nn.BatchNorm2d(before), relu=nn.ReLU(inplace=True)
    )
    blocks = []
    for block, base in enumerate(MOBILENET):
        after = channels_at(width, base)
        stride = 2 if block in MOBILENET_HALVING else 1
        layers = OrderedDict[str, nn.Module](
            depthwise=nn.Conv2d(before, before, 3, stride, 1, groups=before),
            norm1=nn.BatchNorm2d(before),
            relu1=nn.ReLU(inplace=True),
            pointwise=nn.Conv2d(before, after, 1),
            norm2=nn.BatchNorm2d(after),
            relu2=nn.ReLU(inplace=True),
        )
        blocks.append(nn.Sequential(layers))
        before = after
    network = nn.Sequential(
        OrderedDict(stem=nn.Sequential(stem), blocks=nn.Sequential(*blocks), **_classifier(before, classes))
    )
    return _drawn(network)


# The layers of `mobilenet` that halve the resolution, from the input on.
MOBILENET_HALVINGS = (("stem.convolution",), *((f"blocks.{block}.depthwise",) for block in MOBILENET_HALVING))


def _classifier(channels: int, classes: int) -> dict[str, nn.Module]:
    """Build a linear layer on the means over all pixels."""
    return {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": nn.Linear(channels, classes)}


def _drawn(network: nn.Module) -> nn.Module:
    """Initialize weights by He et al. and biases to 0; all batch norms, also of branches, start as the identity."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return network

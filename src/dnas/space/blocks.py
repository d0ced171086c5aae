"""The blocks of chains, each defined once as a chain of layers.

To add one, add an entry to `OWN_BLOCKS`, or an entry point of the group `dnas.blocks` in another package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dnas.plugins import Registry
from dnas.space.primitives import (
    OPERATION_NAMES,
    OWN,
    AvgPool,
    Branches,
    Chain,
    Conv,
    HardSwish,
    Identity,
    Layer,
    Norm,
    ReLU,
    ReLU6,
    SqueezeExcite,
    objection,
)

SKIP = "skip_connect"  # the layer passes its input on


@dataclass(frozen=True)
class BlockKind:
    """One kind of block.

    Attributes:
        name: Name in architecture files.
        chain: (inputs, outputs, kernel, stride) → its layers, without the shortcut around them.
        between: The activation of networks of these blocks, after the stem and the head.
        shortcut: (inputs, outputs, stride) → the layers around the block if its input and output differ in shape;
            empty: none. If they are alike, the shortcut is the identity.
        colour: Color in drawings, "#RRGGBB".
        label: Short name in drawings.
        residual: False if nothing is added to its output, even if that has the shape of its input.
    """

    name: str
    chain: Callable[[int, int, int, int], Chain]
    between: Chain
    shortcut: Callable[[int, int, int], Chain]
    colour: str
    label: str
    residual: bool = True

    def around(self, inputs: int, outputs: int, stride: int) -> Chain:
        """Return the layers around the block, whose output is added to its own; empty: nothing is added."""
        if stride > 1 or inputs != outputs:
            return self.shortcut(inputs, outputs, stride)
        return (Identity(),) if self.residual else ()


_RELU6 = ReLU6()


def _conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Chain:
    return (Conv(inputs, outputs, (kernel, kernel), (stride, stride), groups=groups), Norm(outputs))


def _inverted_residual(
    expansion: float,
    activation: Layer = _RELU6,
    squeeze: Callable[[int, int], SqueezeExcite] | None = None,
    always_wider: bool = False,
) -> Callable[[int, int, int, int], Chain]:
    """1×1 convolution to more channels, depthwise convolution, 1×1 convolution without an activation (MobileNetV2).

    Args:
        expansion: Channels within, relative to those of the input; if not a whole number, as multiples of 8.
        squeeze: (input channels, expanded channels) → the layer after the depthwise convolution and its activation.
        always_wider: Keep the first convolution if it does not add channels, as in FBNet.
    """

    def chain(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
        inner = int(expansion * inputs) if expansion % 1 == 0 else divisible(expansion * inputs)
        wider = () if expansion == 1 and not always_wider else (*_conv_norm(inputs, inner), activation)
        deep = (*_conv_norm(inner, inner, kernel, stride, groups=inner), activation)
        gates = () if squeeze is None else (squeeze(inputs, inner),)
        return (*wider, *deep, *gates, *_conv_norm(inner, outputs))

    return chain


def divisible(channels: float) -> int:
    """Return the multiple of 8 next to a number of channels, at least 90% of it (the code of MobileNetV2)."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def _of_input(inputs: int, inner: int) -> SqueezeExcite:
    """Hidden channels are a quarter of the block's input (MnasNet: Tan et al., CVPR 2019, figure 7: SE ratio 0.25)."""
    return SqueezeExcite(inner, max(1, round(inputs / 4)))


def _of_inner(inputs: int, inner: int) -> SqueezeExcite:
    """Hidden channels are a quarter of the expanded ones, and gates are piecewise linear (MobileNetV3, §5.3)."""
    return SqueezeExcite(inner, divisible(inner / 4), hard=True)


def _no_shortcut(inputs: int, outputs: int, stride: int) -> Chain:
    return ()


def _projection(inputs: int, outputs: int, stride: int) -> Chain:
    return _conv_norm(inputs, outputs, 1, stride)


def _averaged(inputs: int, outputs: int, stride: int) -> Chain:
    """The mean of neighboring pixels before a 1×1 convolution, which alone would skip three of four (ResNet-D).

    He et al., CVPR 2019, section 4.2, with a window of 3×3 in place of 2×2. A network of three blocks is 1.0
    percentage points better with it after 60 s on CIFAR-10, at the same time per step (docs/outcome.md).
    """
    return (*((AvgPool(stride),) if stride > 1 else ()), *_conv_norm(inputs, outputs))


def _basic(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
    """Two convolutions; ReLUs are before them, so that the sum with the shortcut has none (He et al., ECCV 2016)."""
    first = (ReLU(), *_conv_norm(inputs, outputs, kernel, stride))
    return (*first, ReLU(), *_conv_norm(outputs, outputs, kernel))


def _bottleneck(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
    inner = outputs // 2
    narrow = (ReLU(), *_conv_norm(inputs, inner))
    return (*narrow, ReLU(), *_conv_norm(inner, inner, kernel, stride), ReLU(), *_conv_norm(inner, outputs))


def _mobile(
    name: str, label: str, colour: str, chain: Callable[[int, int, int, int], Chain], between: Layer = _RELU6
) -> BlockKind:
    return BlockKind(name, chain, (between,), _no_shortcut, colour, label)


def _depthwise(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Chain:
    """A depthwise convolution, without an activation, and one of 1×1."""
    return (*_conv_norm(inputs, inputs, kernel, stride, groups=inputs), *_conv_norm(inputs, outputs), ReLU())


def _shuffled(
    right: Callable[[int, int, int, int, int], Chain], keeps: bool = False
) -> Callable[[int, int, int, int], Chain]:
    """A chain of half of the channels beside the other half, as it is; if shapes differ, beside a convolution of all.

    Ma et al., ECCV 2018 (ShuffleNetV2), figure 3 c and d; the last channels alternate as they do there.

    Args:
        right: (inputs, channels within, outputs, kernel, stride) → that chain.
        keeps: Beside a convolution that keeps the number of channels, the chain has the others, as in SPOS.
    """

    def chain(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
        half, split = outputs // 2, stride == 1 and inputs == outputs
        if split:
            return (Branches(inputs, outputs, (), right(half, half, half, kernel, stride), split),)
        narrow = inputs if keeps and inputs < outputs else half
        left = _depthwise(inputs, narrow, kernel, stride)
        beside = right(inputs, half, outputs - narrow, kernel, stride)
        return (Branches(inputs, outputs, left, beside, split, narrow if narrow != half else 0),)

    return chain


def _shuffle(inputs: int, inner: int, outputs: int, kernel: int, stride: int) -> Chain:
    return (*_conv_norm(inputs, inner), ReLU(), *_depthwise(inner, outputs, kernel, stride))


def _xception(inputs: int, inner: int, outputs: int, kernel: int, stride: int) -> Chain:
    """Three depthwise convolutions, each with one of 1×1 (Guo et al., ECCV 2020, SPOS, section 4)."""
    first = _depthwise(inputs, inner, kernel, stride)
    return (*first, *_depthwise(inner, inner, kernel), *_depthwise(inner, outputs, kernel))


OWN_BLOCKS: dict[str, BlockKind] = {
    kind.name: kind
    for kind in (
        _mobile("mbconv1", "mb ×1", "#56B4E9", _inverted_residual(1)),
        _mobile("mbconv3", "mb ×3", "#E69F00", _inverted_residual(3)),
        _mobile("mbconv6", "mb ×6", "#D55E00", _inverted_residual(6)),
        _mobile("mbconv3_se", "mb ×3 se", "#CC79A7", _inverted_residual(3, squeeze=_of_input)),
        _mobile("mbconv6_se", "mb ×6 se", "#882255", _inverted_residual(6, squeeze=_of_input)),
        _mobile("mbconv3_hs", "mb ×3 hs", "#F0C060", _inverted_residual(3, HardSwish()), HardSwish()),
        _mobile("mbconv6_hs", "mb ×6 hs", "#B04A00", _inverted_residual(6, HardSwish()), HardSwish()),
        _mobile("mbconv3_se_hs", "mb ×3 se hs", "#E0A8C8", _inverted_residual(3, HardSwish(), _of_inner), HardSwish()),
        _mobile("mbconv6_se_hs", "mb ×6 se hs", "#5A1A3A", _inverted_residual(6, HardSwish(), _of_inner), HardSwish()),
        _mobile("mbconv2_3_hs", "mb ×2.3 hs", "#F5D58A", _inverted_residual(2.3, HardSwish()), HardSwish()),
        _mobile("mbconv2_5_hs", "mb ×2.5 hs", "#E3BC62", _inverted_residual(2.5, HardSwish()), HardSwish()),
        _mobile("mbconv1_re", "mb ×1 re", "#A6D8F0", _inverted_residual(1, ReLU()), ReLU()),
        _mobile("mbconv3_re", "mb ×3 re", "#F2B84B", _inverted_residual(3, ReLU()), ReLU()),
        _mobile("mbconv4_re", "mb ×4 re", "#E58A2E", _inverted_residual(4, ReLU()), ReLU()),
        _mobile("mbconv3_se_re", "mb ×3 se re", "#D9A3C4", _inverted_residual(3, ReLU(), _of_inner), ReLU()),
        _mobile("fbconv1", "fb ×1", "#3C8DBC", _inverted_residual(1, always_wider=True)),
        BlockKind("basic", _basic, (), _projection, "#0072B2", "basic"),
        BlockKind("bottleneck", _bottleneck, (), _projection, "#009E73", "bottleneck"),
        BlockKind("basic_d", _basic, (), _averaged, "#4C8FD6", "basic d"),
        BlockKind("bottleneck_d", _bottleneck, (), _averaged, "#3FB58F", "bneck d"),
        BlockKind("shuffle", _shuffled(_shuffle), (ReLU(),), _no_shortcut, "#CC79A7", "shuffle", residual=False),
        BlockKind("xception", _shuffled(_xception), (ReLU(),), _no_shortcut, "#0072B2", "xception", residual=False),
        BlockKind("spos", _shuffled(_shuffle, keeps=True), (ReLU(),), _no_shortcut, "#B35C8C", "spos", residual=False),
        BlockKind(
            *("spos_xception", _shuffled(_xception, keeps=True), (ReLU(),), _no_shortcut, "#1F4E79", "spos x"),
            residual=False,
        ),
    )
}


def _objection(kind: BlockKind) -> str | None:
    if kind.name in OWN:
        return f"{kind.name!r} is a primitive"
    return objection(kind, ((8, 8, 3, 1), (8, 16, 3, 2)))


BLOCKS = Registry[BlockKind](
    "dnas.blocks", BlockKind, "block", lambda: OWN_BLOCKS, spelled=OPERATION_NAMES, objection=_objection
)

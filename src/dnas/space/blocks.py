"""The blocks of chains, each defined once as a chain of layers. To add one, add an entry to `BLOCKS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dnas.space.primitives import Chain, Conv, Norm, ReLU, ReLU6

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
    """

    name: str
    chain: Callable[[int, int, int, int], Chain]
    between: Chain
    shortcut: Callable[[int, int, int], Chain]
    colour: str
    label: str


def _conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Chain:
    return (Conv(inputs, outputs, (kernel, kernel), (stride, stride), groups=groups), Norm(outputs))


def _inverted_residual(expansion: int) -> Callable[[int, int, int, int], Chain]:
    """1×1 convolution to more channels, depthwise convolution, 1×1 convolution without an activation (MobileNetV2)."""

    def chain(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
        inner = expansion * inputs
        wider = () if expansion == 1 else (*_conv_norm(inputs, inner), ReLU6())
        deep = (*_conv_norm(inner, inner, kernel, stride, groups=inner), ReLU6())
        return (*wider, *deep, *_conv_norm(inner, outputs))

    return chain


def _no_shortcut(inputs: int, outputs: int, stride: int) -> Chain:
    return ()


def _projection(inputs: int, outputs: int, stride: int) -> Chain:
    return _conv_norm(inputs, outputs, 1, stride)


def _basic(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
    """Two convolutions; ReLUs are before them, so that the sum with the shortcut has none (He et al., ECCV 2016)."""
    first = (ReLU(), *_conv_norm(inputs, outputs, kernel, stride))
    return (*first, ReLU(), *_conv_norm(outputs, outputs, kernel))


def _bottleneck(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
    inner = outputs // 2
    narrow = (ReLU(), *_conv_norm(inputs, inner))
    return (*narrow, ReLU(), *_conv_norm(inner, inner, kernel, stride), ReLU(), *_conv_norm(inner, outputs))


BLOCKS: dict[str, BlockKind] = {
    kind.name: kind
    for kind in (
        BlockKind("mbconv1", _inverted_residual(1), (ReLU6(),), _no_shortcut, "#56B4E9", "mb ×1"),
        BlockKind("mbconv3", _inverted_residual(3), (ReLU6(),), _no_shortcut, "#E69F00", "mb ×3"),
        BlockKind("mbconv6", _inverted_residual(6), (ReLU6(),), _no_shortcut, "#D55E00", "mb ×6"),
        BlockKind("basic", _basic, (), _projection, "#0072B2", "basic"),
        BlockKind("bottleneck", _bottleneck, (), _projection, "#009E73", "bottleneck"),
    )
}

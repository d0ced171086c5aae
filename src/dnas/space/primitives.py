"""The primitives: each operation is defined once, as a chain of layers from which it is built and its cost counted.

Layers are descriptions without torch, so sizes can be counted (`Conv.macs`) in milliseconds; `modules.py` turns the
same descriptions into `nn.Module`s. To add an operation, add an entry to `OWN`, or an entry point of the group
`dnas.primitives` in another package.

Feature maps are square: `size` is the height (= width) in pixels.
Sources: Liu et al. 2019 (DARTS), appendix A.1, for names and order; Zoph et al. 2018 (NASNet) for the additional
primitives of published genotypes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dnas.errors import first_line, shown
from dnas.plugins import Registry


@dataclass(frozen=True)
class Layer:
    """One layer of a chain. By default it has no parameters and no MACs, and keeps the size.

    A layer defined in another package is a frozen dataclass that derives from this class and implements `module`.
    """

    def module(self) -> Any:
        """Return the `nn.Module` of a layer that is not defined below: [B, C, H, W] → [B, C', H', W'], not in place.

        Import torch within this function. The module's `reset_parameters` must initialize its own weights and buffers.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement module()")

    def params(self) -> int:
        return 0

    def macs(self, height: int, width: int) -> int:
        """Return the multiply-accumulates for one output of `height` × `width` pixels."""
        return 0

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def cost(self, height: int, width: int) -> Cost:
        """Return the cost for one input of `height` × `width` pixels."""
        return Cost(self.params(), self.macs(*self.out_size(height, width)))


@dataclass(frozen=True)
class Identity(Layer):
    """Returns its input."""


@dataclass(frozen=True)
class ReLU(Layer):
    """A rectifier."""


@dataclass(frozen=True)
class ReLU6(Layer):
    """A rectifier with outputs of at most 6."""


@dataclass(frozen=True)
class HardSwish(Layer):
    """x · min(max(x + 3, 0), 6) / 6, the h-swish of MobileNetV3 (Howard et al., ICCV 2019, §5.2)."""


@dataclass(frozen=True)
class SqueezeExcite(Layer):
    """Multiply each channel by a gate computed from the means of all channels (Hu et al., CVPR 2018).

    Mean over pixels, 1×1 convolution to `hidden` channels, ReLU, 1×1 convolution back, gate. Both convolutions have
    biases. Their MACs are those of one pixel, and the products with the gates do not count.

    Attributes:
        hard: True for the gate min(max(x + 3, 0), 6) / 6 (MobileNetV3), False for the logistic function (MnasNet).
    """

    channels: int
    hidden: int
    hard: bool = False

    def params(self) -> int:
        return 2 * self.channels * self.hidden + self.hidden + self.channels

    def macs(self, height: int, width: int) -> int:
        return 2 * self.channels * self.hidden


@dataclass(frozen=True)
class Mean(Layer):
    """The mean over all pixels, as a feature map of one pixel."""

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        return 1, 1


@dataclass(frozen=True)
class Strided(Layer):
    """A layer that subsamples by `stride`."""

    stride: int

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        return -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True)
class Zero(Strided):
    """x · 0, subsampled: the `none` of DARTS."""


@dataclass(frozen=True)
class MaxPool(Strided):
    """3×3 max pooling with padding 1."""


@dataclass(frozen=True)
class AvgPool(Strided):
    """3×3 average pooling with padding 1; the padding is not included in the average."""


@dataclass(frozen=True)
class Noise(Strided):
    """Standard normal noise instead of the input (Zela et al. 2020, §3, space S4)."""


@dataclass(frozen=True)
class Norm(Layer):
    """Batch normalization; its scale and shift count as parameters, as in the discrete network."""

    channels: int

    def params(self) -> int:
        return 2 * self.channels


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution, padded so that stride 1 keeps the size (unless `padded` is False); before a norm, without bias."""

    inputs: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: int = 1
    groups: int = 1
    padded: bool = True
    bias: bool = False

    @property
    def depthwise(self) -> bool:
        """Return True if a depthwise kernel applies: one input per group, odd square kernel, padding, equal strides."""
        alone = self.groups == self.inputs == self.outputs and self.padded and self.stride[0] == self.stride[1]
        return alone and self.kernel[0] == self.kernel[1] > 1 and self.kernel[0] % 2 == 1

    @property
    def padding(self) -> tuple[int, int]:
        if not self.padded:
            return (0, 0)
        return (self.dilation * (self.kernel[0] // 2), self.dilation * (self.kernel[1] // 2))

    @property
    def _weights(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.kernel[0] * self.kernel[1]

    def params(self) -> int:
        return self._weights + (self.outputs if self.bias else 0)

    def macs(self, height: int, width: int) -> int:
        return self._weights * height * width

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        reach = (self.dilation * (self.kernel[0] - 1), self.dilation * (self.kernel[1] - 1))
        return (
            (height + 2 * self.padding[0] - reach[0] - 1) // self.stride[0] + 1,
            (width + 2 * self.padding[1] - reach[1] - 1) // self.stride[1] + 1,
        )


@dataclass(frozen=True)
class FactorizedReduce(Layer):
    """ReLU, two 1×1 convolutions of stride 2 on grids shifted by one pixel, concatenated, batch norm."""

    inputs: int
    outputs: int

    def params(self) -> int:
        return self.inputs * self.outputs + 2 * self.outputs

    def macs(self, height: int, width: int) -> int:
        return self.inputs * self.outputs * height * width

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        return Strided(2).out_size(height, width)


Chain = tuple[Layer, ...]


@dataclass(frozen=True)
class Branches(Layer):
    """Two chains side by side, whose outputs alternate: channel 0 of the left one, 0 of the right one, 1 of the left …

    This is a concatenation and the channel shuffle of two groups (Ma et al., ECCV 2018, ShuffleNetV2, figure 3). If one
    chain has more channels, they alternate in proportion: 1 of the left one and 3 of the right one, or 2 and 3.

    Attributes:
        inputs, outputs: Channels.
        left, right: The chains. An empty one passes its input on.
        split: True if the left chain reads the first half of the channels, and the right one the second half; False if
            both read all.
        narrow: Channels of the output of the left chain; 0: half of all, as many as that of the right one.
    """

    inputs: int
    outputs: int
    left: Chain
    right: Chain
    split: bool
    narrow: int = 0

    def __post_init__(self) -> None:
        halves = self.narrow or self.outputs % 2 == 0
        assert halves and not (self.split and self.inputs % 2), f"a half of {self} is no whole number"

    @property
    def turns(self) -> int:
        """How often the outputs of the two chains take turns: with as many channels each time."""
        left = self.narrow or self.outputs // 2
        return math.gcd(left, self.outputs - left)

    @property
    def parts(self) -> tuple[tuple[Chain, int], ...]:
        """The left and the right chain, each with the channels that it reads."""
        reads = self.inputs // 2 if self.split else self.inputs
        return (self.left, reads), (self.right, reads)

    def params(self) -> int:
        return sum(layer.params() for chain, _ in self.parts for layer in chain)

    def macs(self, height: int, width: int) -> int:
        raise TypeError("the multiply-accumulates of branches depend on the size of their input: see `cost`")

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        for layer in self.right:
            height, width = layer.out_size(height, width)
        return height, width

    def cost(self, height: int, width: int) -> Cost:
        left, right = (_cost(chain, height, width)[0] for chain, _ in self.parts)
        return left + right


def flat(chain: Chain) -> Iterator[Layer]:
    """Yield the layers of a chain, and those within its branches instead of the branches."""
    for layer in chain:
        if isinstance(layer, Branches):
            yield from flat(layer.left + layer.right)
        else:
            yield layer


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates (MACs) per image, of convolutions and linear layers."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


def chain_cost(chain: Iterable[Layer], size: int) -> tuple[Cost, int]:
    """Return the cost of a chain on `size`×`size` inputs, and the size of its output."""
    total, (side, _) = _cost(chain, size, size)
    return total, side


def _cost(chain: Iterable[Layer], height: int, width: int) -> tuple[Cost, tuple[int, int]]:
    total = Cost()
    for layer in chain:
        total += layer.cost(height, width)
        height, width = layer.out_size(height, width)
    return total, (height, width)


def relu_conv_norm(inputs: int, outputs: int) -> Chain:
    """ReLU, 1×1 convolution, batch norm: the preprocessing that brings the inputs of a layer to its width."""
    return (ReLU(), Conv(inputs, outputs), Norm(outputs))


def _depthwise_separable(channels: int, kernel: int, stride: int, dilation: int) -> Chain:
    depthwise = Conv(channels, channels, (kernel, kernel), (stride, stride), dilation, groups=channels)
    return (ReLU(), depthwise, *relu_conv_norm(channels, channels)[1:])


def _sep_conv(kernel: int) -> Callable[[int, int], Chain]:
    def chain(channels: int, stride: int) -> Chain:
        return _depthwise_separable(channels, kernel, stride, 1) + _depthwise_separable(channels, kernel, 1, 1)

    return chain


def _dil_conv(kernel: int) -> Callable[[int, int], Chain]:
    return lambda channels, stride: _depthwise_separable(channels, kernel, stride, 2)


def _conv_7x1_1x7(channels: int, stride: int) -> Chain:
    return (
        ReLU(),
        Conv(channels, channels, (1, 7), (1, stride)),
        Conv(channels, channels, (7, 1), (stride, 1)),
        Norm(channels),
    )


def is_separable(chain: Chain, channels: int) -> bool:
    """Return True for stages of ReLU, depthwise and 1×1 convolution and batch norm that keep the channels."""
    relu, *_, norm = depthwise = _depthwise_separable(channels, 3, 1, 1)
    stages = [chain[i : i + len(depthwise)] for i in range(0, len(chain), len(depthwise))]
    return bool(stages) and all(
        len(stage) == len(depthwise)
        and (stage[0], *stage[2:]) == (relu, depthwise[2], norm)
        and isinstance(stage[1], Conv)
        and stage[1].depthwise
        and stage[1].inputs == channels
        for stage in stages
    )


@dataclass(frozen=True)
class Primitive:
    """One candidate operation.

    Attributes:
        name: Name in published genotypes, e.g. "sep_conv_3x3".
        chain: (channels, stride) → its layers in the discrete network. They keep the number of channels, and stride 2
            halves the side lengths, rounding up.
        colour: Color in drawings, "#RRGGBB"; color-blind readers can distinguish the palette of Okabe & Ito (2008).
        label: Short name in drawings.
    """

    name: str
    chain: Callable[[int, int], Chain]
    colour: str
    label: str


# The first seven, in this order, are the search space of DNAS (table 3.3 A4: "Op = 7").
OWN: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        Primitive("max_pool_3x3", lambda c, s: (MaxPool(s),), "#56B4E9", "max 3×3"),
        Primitive("avg_pool_3x3", lambda c, s: (AvgPool(s),), "#0072B2", "avg 3×3"),
        Primitive(
            "skip_connect",
            lambda c, s: (Identity(),) if s == 1 else (FactorizedReduce(c, c),),
            "#8A8A8A",
            "skip",
        ),
        Primitive("sep_conv_3x3", _sep_conv(3), "#E69F00", "sep 3×3"),
        Primitive("sep_conv_5x5", _sep_conv(5), "#D55E00", "sep 5×5"),
        Primitive("dil_conv_3x3", _dil_conv(3), "#009E73", "dil 3×3"),
        Primitive("dil_conv_5x5", _dil_conv(5), "#CC79A7", "dil 5×5"),
        Primitive("none", lambda c, s: (Zero(s),), "#D9D9D9", "none"),
        Primitive("sep_conv_7x7", _sep_conv(7), "#882255", "sep 7×7"),
        Primitive("conv_7x1_1x7", _conv_7x1_1x7, "#B8A500", "7×1·1×7"),
        Primitive("noise", lambda c, s: (Noise(s),), "#B3B3B3", "noise"),
    )
}

DARTS_PRIMITIVES = tuple(OWN)[:7]


# The names of operations are also names of functions in exported code.
OPERATION_NAMES = (re.compile(r"[a-z][a-z0-9_]*"), "lowercase letters, digits and underscores")


def objection(operation: Any, arguments: Iterable[tuple[int, ...]]) -> str | None:
    """Return why an operation cannot be used, or None if it can.

    Args:
        operation: A primitive or kind of block, which has a `colour`, a `label` and a `chain`.
        arguments: Some for which its chain must be one.
    """
    if not re.fullmatch(r"#[0-9A-Fa-f]{6}", operation.colour):
        return f"its color must be #RRGGBB, got {operation.colour!r}"
    if not operation.label.strip():
        return "it has no label"
    for each in arguments:
        call = f"chain({', '.join(map(str, each))})"
        try:
            chain = operation.chain(*each)
        except Exception as error:  # the function belongs to another package and may raise anything
            return f"{call} raises {type(error).__name__}: {first_line(error)}"
        if not (isinstance(chain, tuple) and chain and all(isinstance(layer, Layer) for layer in chain)):
            return f"{call} must return a tuple of layers, got {shown(chain)}"
    return None


PRIMITIVES = Registry[Primitive](
    "dnas.primitives",
    Primitive,
    "primitive",
    lambda: OWN,
    spelled=OPERATION_NAMES,
    objection=lambda primitive: objection(primitive, ((8, 1), (8, 2))),
)

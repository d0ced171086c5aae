"""A separable convolution with squeeze-and-excitation, a plain convolution, and a space of cells with both.

Hu, Shen & Sun, Squeeze-and-Excitation Networks, CVPR 2018.
"""

from dataclasses import dataclass
from typing import Any

from dnas.space.darts import Space
from dnas.space.primitives import PRIMITIVES, Chain, Conv, Layer, Norm, Primitive, ReLU


@dataclass(frozen=True)
class SqueezeExcite(Layer):
    """Each channel times a factor between 0 and 1 that two 1×1 convolutions make of the means of all channels."""

    channels: int

    @property
    def hidden(self) -> int:
        return max(1, self.channels // 4)

    def params(self) -> int:
        return 2 * self.channels * self.hidden + self.hidden + self.channels

    def macs(self, height: int, width: int) -> int:
        return 2 * self.channels * self.hidden

    def module(self) -> Any:
        from torch import nn  # here, so that networks are counted without torch

        class Module(nn.Module):
            def __init__(self, channels: int, hidden: int) -> None:
                super().__init__()
                self.squeeze = nn.Conv2d(channels, hidden, 1)
                self.excite = nn.Conv2d(hidden, channels, 1)

            def forward(self, x):
                return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

        return Module(self.channels, self.hidden)


def sep_se_3x3(channels: int, stride: int) -> Chain:
    return (*PRIMITIVES["sep_conv_3x3"].chain(channels, stride), SqueezeExcite(channels))


def conv_3x3(channels: int, stride: int) -> Chain:
    """Of dnas' own layers: one convolution."""
    return (ReLU(), Conv(channels, channels, (3, 3), (stride, stride)), Norm(channels))


SEP_SE_3X3 = Primitive("sep_se_3x3", sep_se_3x3, colour="#117733", label="sep+se 3×3")
CONV_3X3 = Primitive("conv_3x3", conv_3x3, colour="#DDCC77", label="conv 3×3")
EXCITED = Space(
    "excited", nodes=3, inputs_per_node=2, primitives=("max_pool_3x3", "skip_connect", "conv_3x3", "sep_se_3x3")
)

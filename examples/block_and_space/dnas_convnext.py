"""A block like those of ConvNeXt, and a space of chains of it.

Liu et al., A ConvNet for the 2020s, CVPR 2022, figure 4: a depthwise convolution, then two of 1x1 around more channels.
Batch norms replace layer norms, and ReLU replaces GELU, which are slow on a processor.
"""

from collections.abc import Callable

from dnas.space.blocks import BlockKind
from dnas.space.chain import Block, chain_space
from dnas.space.primitives import Chain, Conv, Norm, ReLU


def convnext(expansion: int) -> Callable[[int, int, int, int], Chain]:
    """Return the chain of a block whose 1x1 convolutions have `expansion` times its channels between them."""

    def chain(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
        wide = expansion * outputs
        return (
            Conv(inputs, inputs, (kernel, kernel), (stride, stride), groups=inputs),
            Norm(inputs),
            Conv(inputs, wide),
            Norm(wide),
            ReLU(),
            Conv(wide, outputs),
            Norm(outputs),
        )

    return chain


def shortcut(inputs: int, outputs: int, stride: int) -> Chain:
    """Return what is around a block that changes the shape of its input."""
    return (Conv(inputs, outputs, (1, 1), (stride, stride)), Norm(outputs))


CONVNEXT2 = BlockKind("convnext2", convnext(2), (ReLU(),), shortcut, "#44AA99", "cnx ×2")
CONVNEXT4 = BlockKind("convnext4", convnext(4), (ReLU(),), shortcut, "#AA4499", "cnx ×4")
CONVNEXT = chain_space(
    "convnext", ("convnext2", "convnext4"), kernels=(3, 5, 7), known=(("ConvNeXt", Block("convnext4", 2)),)
)

"""Spaces of chains: each layer is one block, of a kernel size and a kind, that reads the previous layer alone.

Under the mappings, the edges of a layer are its kernel sizes and the operations are its kinds. So the decoupled mapping
is alpha[kernel, kind], beta[layer, kernel], gamma[layer, kind]: K·T + L·K + L·T parameters for K kernels, T kinds and L
layers, in place of L·K·T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnas.errors import InputError, shown
from dnas.settings import CIFAR_STEM, HALVING_STEM, IMAGENET_STEM, TINY_IMAGENET_STEM
from dnas.space.blocks import BLOCKS, SKIP
from dnas.space.layout import Layout
from dnas.space.network_plan import EdgePlan, LayerPlan, Stem
from dnas.space.primitives import Chain, Conv, Mean, Norm, ReLU, ReLU6, chain_cost
from dnas.space.protocol import Nodes, SearchSpace, Slot

# Convolutions of a stem that halve the side, and those that keep it.
_STEM_STRIDES: dict[str, tuple[int, ...]] = {
    CIFAR_STEM: (1,),
    HALVING_STEM: (2,),
    TINY_IMAGENET_STEM: (2,),
    IMAGENET_STEM: (2, 2, 2),
}

# The width that suits a training of this time; its square, which parameters and time of a step are proportional to,
# grows with the square root of the time. ResNets of three blocks on CIFAR-10, held-out training images: after 60 s, 16
# and 24 channels are best of 16, 24 and 32; after 250 s, 24 and 32; after 500 s, 32 of 24 and 32 (docs/outcome.md).
QUICK_CHANNELS, QUICK_SECONDS = 24, 180.0
# A step with 12 channels takes 0.9 of the time of one with 16, with which the accuracy after 60 s is higher.
NARROWEST_QUICK = 16


@dataclass(frozen=True)
class Block:
    """The block of a layer.

    Attributes:
        kind: A key of `BLOCKS`.
        place: Place of its kernel among those of the space.
    """

    kind: str
    place: int

    @property
    def nodes(self) -> Nodes:
        """The block as the one slot of the one node of its layer."""
        return (((self.kind, self.place),),)


@dataclass(frozen=True)
class ChainSpace(SearchSpace):
    """A space of chains.

    Attributes:
        kernels: The sizes of kernels, which are the edges of a layer.
        head_factor: Channels of the 1×1 convolution after the last layer, relative to it; 0: no such convolution.
        known: Hand-designed networks of one kind of block, by name.
    """

    nodes: int = 1
    inputs_per_node: int = 1
    primitives: tuple[str, ...] = ()
    kernels: tuple[int, ...] = (3, 5, 7)
    head_factor: int = 0
    known: tuple[tuple[str, Block], ...] = ()

    def quick_channels(self, seconds: float) -> int:
        return max(NARROWEST_QUICK, 8 * round(QUICK_CHANNELS * math.pow(seconds / QUICK_SECONDS, 0.25) / 8))

    def invalid(self) -> str | None:
        if not self.kernels or any(kernel % 2 == 0 for kernel in self.kernels):
            return f"kernels must be odd numbers, got {self.kernels}"
        if (self.nodes, self.inputs_per_node) != (1, 1):
            return "a layer of a chain has one node with one edge"
        return None

    def knows(self, operation: str) -> bool:
        return operation == SKIP or operation in BLOCKS

    def edges_of(self, node: int) -> int:
        return len(self.kernels)

    def layer(self, nodes: Sequence[Sequence[Slot]]) -> Block:
        ((slot,),) = nodes
        return Block(*slot)

    def buildable(self, layer: Block) -> str | None:
        if not self.knows(layer.kind):
            return f"unknown block {shown(layer.kind)}; choose from {', '.join(BLOCKS)}"
        if not 0 <= layer.place < len(self.kernels):
            return f"kernel {layer.place} does not exist; the {self.name!r} space has {len(self.kernels)}"
        return None

    def layer_to_json(self, layer: Block) -> dict[str, Any]:
        return {"block": layer.kind, "kernel": self.kernels[layer.place]}

    def layer_from_json(self, value: Any, k: int) -> Block:
        if not isinstance(value, dict) or set(value) != {"block", "kernel"}:
            raise InputError(f'layer {k} must be an object {{"block": …, "kernel": …}}')
        kind, kernel = value["block"], value["kernel"]
        if not isinstance(kind, str) or isinstance(kernel, bool) or kernel not in self.kernels:
            sizes = ", ".join(map(str, self.kernels))
            raise InputError(f"layer {k}: block must be a text and kernel one of {sizes}, got {shown(value)}")
        return Block(kind, self.kernels.index(kernel))

    def stem(self, name: str, inputs: int, channels: int) -> Stem:
        chain: Chain = ()
        for stride in _STEM_STRIDES[name]:
            chain += (Conv(inputs, channels, (3, 3), (stride, stride)), Norm(channels), *self._activation)
            inputs = channels
        return Stem(chain)

    @property
    def _activation(self) -> Chain:
        return BLOCKS[self.primitives[0]].between

    def layer_plan(
        self, layer: Block, before: int, previous: int, width: int, reduction: bool, shrunk: bool
    ) -> LayerPlan:
        if layer.kind == SKIP:
            return LayerPlan(((), ()), (), (1,), width)
        block, stride = BLOCKS[layer.kind], 2 if reduction else 1
        chain = block.chain(previous, width, self.kernels[layer.place], stride)
        around = block.around(previous, width, stride)
        edges = (EdgePlan(1, 2, chain, droppable=bool(around)),)
        return LayerPlan(((), ()), edges + ((EdgePlan(1, 2, around, droppable=False),) if around else ()), (2,), width)

    def first_nodes_plan(
        self, nodes: Nodes, before: int, previous: int, width: int, reduction: bool, shrunk: bool
    ) -> LayerPlan:
        layer = self.layer(nodes) if nodes else Block(SKIP, 0)
        return self.layer_plan(layer, before, previous, width, reduction, shrunk)

    def head(self, channels: int, outputs: int = 0, hidden: int = 0) -> Chain:
        if not self.head_factor:
            return (Norm(channels), ReLU())
        outputs = outputs or self.head_factor * channels
        # After the mean, of which that of the network over one pixel is a copy.
        more = (Mean(), Conv(outputs, hidden, bias=True), *self._activation) if hidden else ()
        return (Conv(channels, outputs), Norm(outputs), *self._activation, *more)

    def operation_chains(
        self, operation: str, edge: int, plan: LayerPlan, previous: int, reduction: bool
    ) -> tuple[Chain, ...]:
        planned = self.layer_plan(Block(operation, edge), 0, previous, plan.channels, reduction, False)
        return tuple(each.chain for each in planned.edges)

    def layout_objection(self, layout: Layout, layers: Sequence[Block], reductions: Sequence[int]) -> str | None:
        if problem := layout.objection(len(layers)):
            return problem
        for name, width in (("last", layout.last), ("hidden", layout.hidden)):
            if width and not self.head_factor:
                return f"{name}={width} does not apply to the {self.name!r} space, which ends without a convolution"
        if layout.activation and ReLU6() not in self._activation:
            return f"activation={layout.activation!r} only applies to blocks with ReLU6, not to the {self.name!r} space"
        for k, (layer, before, after) in enumerate(zip(layers, layout.befores, layout.widths, strict=True)):
            if layer.kind == SKIP and (before != after or k in reductions):
                return f"layer {k} is a skip, so it cannot change {before} channels to {after} or halve the resolution"
        return None

    def designed(self, kinds: Sequence[int]) -> list[tuple[str, tuple[Block, ...]]]:
        """Return networks of a known block: first with one block per resolution and skips, then with all layers."""
        found = []
        for name, block in self.known:
            few = tuple(block if k == 0 or reduction else Block(SKIP, 0) for k, reduction in enumerate(kinds))
            for layers in dict.fromkeys((few, (block,) * len(kinds))):
                found.append((f"{name} of {layers.count(block)} blocks", layers))
        return found

    def operation_params(self, operation: str) -> int:
        if operation == SKIP:
            return 0
        return chain_cost(BLOCKS[operation].chain(16, 16, self.kernels[0], 1), 1)[0].params


def chain_space(
    name: str,
    kinds: tuple[str, ...],
    kernels: tuple[int, ...],
    head_factor: int = 0,
    known: tuple[tuple[str, Block], ...] = (),
) -> ChainSpace:
    """Return a space of these kinds of blocks, with a skip, once, in each layer that keeps the resolution."""
    skippable = tuple((*kinds, SKIP) if edge == 0 else kinds for edge in range(len(kernels)))
    return ChainSpace(
        name,
        primitives=(*kinds, SKIP),
        per_edge=(skippable, (kinds,) * len(kernels)),
        none=False,
        kernels=kernels,
        head_factor=head_factor,
        known=known,
    )


# The inverted residuals of MobileNetV2 (Sandler et al., CVPR 2018), with kernels and expansions as in ProxylessNAS (Cai
# et al., ICLR 2019) and expansion 1.
MOBILE = chain_space("mobile", ("mbconv1", "mbconv3", "mbconv6"), (3, 5, 7), 4, (("MobileNetV2", Block("mbconv6", 0)),))
# Squeeze-and-excitation as a choice, in the blocks and kernels of MnasNet (Tan et al., CVPR 2019, §4.1).
MOBILE_SE = chain_space("mobile-se", ("mbconv1", "mbconv3", "mbconv6", "mbconv3_se", "mbconv6_se"), (3, 5), 4)
# The blocks with h-swish of MobileNetV3 (Howard et al., ICCV 2019), with squeeze-and-excitation as a choice.
MOBILE_V3 = chain_space("mobile-v3", ("mbconv3_hs", "mbconv6_hs", "mbconv3_se_hs", "mbconv6_se_hs"), (3, 5), 4)
# The blocks of MobileNetV3-Large (table 1 of the paper), whose expansions NetAdapt chose: those before h-swish have
# ReLU, and the search can have squeeze-and-excitation with each.
MOBILE_V3_LARGE = chain_space(
    "mobile-v3-large",
    (
        *("mbconv2_3_hs", "mbconv2_5_hs", "mbconv6_hs", "mbconv6_se_hs"),
        *("mbconv1_re", "mbconv3_re", "mbconv4_re", "mbconv3_se_re"),
    ),
    (3, 5),
    6,
)
# The blocks of FBNet (Wu et al., CVPR 2019, table 2) without those of grouped convolutions.
FBNET = chain_space("fbnet", ("fbconv1", "mbconv3", "mbconv6"), (3, 5), 4)
# Residual blocks of two convolutions, and of a narrow one between two of 1×1 (He et al., CVPR 2016).
RESNET = chain_space("resnet", ("basic", "bottleneck"), (3, 5), known=(("ResNet", Block("basic", 0)),))
# The same with a better shortcut where the resolution is halved (He et al., CVPR 2019).
RESNET_D = chain_space("resnet-d", ("basic_d", "bottleneck_d"), (3, 5), known=(("ResNet-D", Block("basic_d", 0)),))
# Blocks of ShuffleNetV2 (Ma et al., ECCV 2018) with the kernels and the Xception-like block of SPOS (Guo et al., ECCV
# 2020), where the latter has the kernel 3 only, and no layer is skipped.
SHUFFLE = chain_space("shuffle", ("shuffle", "xception"), (3, 5, 7), 2, (("ShuffleNetV2", Block("shuffle", 0)),))
# The same with the blocks of SPOS, in which one branch keeps the number of channels where the resolution is halved.
SPOS = chain_space("spos", ("spos", "spos_xception"), (3, 5, 7), 2)

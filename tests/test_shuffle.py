"""Shuffled blocks against plain modules of ShuffleNetV2 and SPOS, and branches against their definition."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dnas
from dnas.errors import InputError
from dnas.network.modules import SEARCH, build_chain, build_layer
from dnas.network.network import build, macs
from dnas.space.architecture import Architecture
from dnas.space.blocks import BLOCKS
from dnas.space.chain import SHUFFLE, Block
from dnas.space.cost import peak, programs
from dnas.space.layout import Layout
from dnas.space.network_plan import size
from dnas.space.operations import group_of
from dnas.space.plan import plan
from dnas.space.primitives import (
    PRIMITIVES,
    Branches,
    Conv,
    Identity,
    Layer,
    MaxPool,
    Norm,
    Primitive,
    ReLU,
    chain_cost,
    flat,
)
from dnas.supernet.costs import resources
from dnas.testing import check_primitive

KINDS = ("shuffle", "xception")


def chain(*blocks):
    """An architecture of blocks (kind, kernel), with reductions where DARTS has them."""
    chosen = tuple(Block(kind, SHUFFLE.kernels.index(kernel)) for kind, kernel in blocks)
    return Architecture(chosen, (len(blocks) // 3, 2 * len(blocks) // 3), SHUFFLE.name)


def conv(inputs, outputs, kernel=1, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def shuffled(x):
    """The channel shuffle of two groups as in ShuffleNet: reshaped, transposed and flattened."""
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class Plain(nn.Module):
    """A block as in figures 3 c and d of ShuffleNetV2, or with the main branch of SPOS' Choice_x, layer by layer."""

    def __init__(self, kind, inputs, outputs, kernel, stride):
        super().__init__()
        half = outputs // 2
        reads = inputs if stride == 2 else half
        self.strided = stride == 2
        self.kind = kind
        if self.strided:
            self.side_deep, self.side_deep_norm = conv(inputs, inputs, kernel, 2, inputs), nn.BatchNorm2d(inputs)
            self.side_point, self.side_point_norm = conv(inputs, half), nn.BatchNorm2d(half)
        if kind == "shuffle":
            self.first, self.first_norm = conv(reads, half), nn.BatchNorm2d(half)
            self.deep, self.deep_norm = conv(half, half, kernel, stride, half), nn.BatchNorm2d(half)
            self.last, self.last_norm = conv(half, half), nn.BatchNorm2d(half)
        else:
            self.deep_1, self.deep_1_norm = conv(reads, reads, kernel, stride, reads), nn.BatchNorm2d(reads)
            self.point_1, self.point_1_norm = conv(reads, half), nn.BatchNorm2d(half)
            self.deep_2, self.deep_2_norm = conv(half, half, kernel, 1, half), nn.BatchNorm2d(half)
            self.point_2, self.point_2_norm = conv(half, half), nn.BatchNorm2d(half)
            self.deep_3, self.deep_3_norm = conv(half, half, kernel, 1, half), nn.BatchNorm2d(half)
            self.point_3, self.point_3_norm = conv(half, half), nn.BatchNorm2d(half)

    def forward(self, x):
        if self.strided:
            side = self.side_deep_norm(self.side_deep(x))
            side = F.relu(self.side_point_norm(self.side_point(side)))
        else:
            side, x = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        if self.kind == "shuffle":
            x = F.relu(self.first_norm(self.first(x)))
            x = self.deep_norm(self.deep(x))
            x = F.relu(self.last_norm(self.last(x)))
        else:
            x = F.relu(self.point_1_norm(self.point_1(self.deep_1_norm(self.deep_1(x)))))
            x = F.relu(self.point_2_norm(self.point_2(self.deep_2_norm(self.deep_2(x)))))
            x = F.relu(self.point_3_norm(self.point_3(self.deep_3_norm(self.deep_3(x)))))
        return shuffled(torch.cat((side, x), 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", SHUFFLE.kernels)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_layer_is_a_plain_block(kind, kernel, training, layout):
    """In layer 0, and in layer 1, which halves the resolution; and so are the gradients."""
    network = build(chain(*[(kind, kernel)] * 3), 8, 5).double().train(training)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=layout).requires_grad_()
    for layer, (outputs, stride) in zip(network.cells, ((8, 1), (16, 2)), strict=False):
        plain = Plain(kind, 8, outputs, kernel, stride).double().train(training)
        assert len(plain.state_dict()) == len(layer.state_dict())
        plain.load_state_dict(dict(zip(plain.state_dict(), layer.state_dict().values(), strict=True)))
        ours, theirs = layer(x, x, None), plain(x)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        towards = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        gradients = [torch.autograd.grad((out * towards).sum(), [x, *of.parameters()]) for out, of in
                     ((ours, layer), (theirs, plain))]  # fmt: skip
        for mine, other in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


def test_a_layer_is_that_of_torchvision():
    shufflenet = pytest.importorskip("torchvision.models.shufflenetv2", reason="needs the extra dnas[networks]")
    network = build(chain(*[("shuffle", 3)] * 3), 8, 5).double().eval()
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    for layer, (outputs, stride) in zip(network.cells, ((8, 1), (16, 2)), strict=False):
        theirs = shufflenet.InvertedResidual(8, outputs, stride).double().eval()
        theirs.load_state_dict(dict(zip(theirs.state_dict(), layer.state_dict().values(), strict=True)))
        torch.testing.assert_close(layer(x, x, None), theirs(x), rtol=0, atol=1e-9)


def test_the_known_network_of_the_space_is_that_of_torchvision():
    """All layers in sequence, with the head: ShuffleNetV2 without its stem, at 8 channels."""
    models = pytest.importorskip("torchvision.models.shufflenetv2", reason="needs the extra dnas[networks]")
    theirs = models.ShuffleNetV2([3, 3, 1], [8, 16, 32, 64, 128], 5)
    layers = nn.Sequential(theirs.stage2[1:], theirs.stage3, theirs.stage4, theirs.conv5)
    (_, block), = SHUFFLE.known  # fmt: skip
    ours = build(Architecture((block,) * 6, (2, 5), "shuffle"), 16, 5).double().eval()
    assert [len(stage) for stage in (theirs.stage2, theirs.stage3, theirs.stage4)] == [3, 3, 1]
    weights = {name: t for name, t in ours.state_dict().items() if name.startswith(("cells.", "head."))}
    layers = layers.double().eval()
    layers.load_state_dict(dict(zip(layers.state_dict(), weights.values(), strict=True)))
    x = torch.randn(2, 16, 12, 12, dtype=torch.float64)
    out = x
    for cell in ours.cells:
        out = cell(out, out, None)
    torch.testing.assert_close(ours.head(out), layers(x), rtol=0, atol=1e-9)


class PlainSpos(nn.Module):
    """A strided block of SPOS, whose left branch keeps the channels, with the sequences of the authors' code."""

    def __init__(self, kind, inputs, outputs, kernel):
        super().__init__()
        inner, others = outputs // 2, outputs - inputs

        def deep(channels, stride=1):
            return conv(channels, channels, kernel, stride, channels), nn.BatchNorm2d(channels)

        def point(reads, gives):
            return conv(reads, gives), nn.BatchNorm2d(gives), nn.ReLU()

        self.side = nn.Sequential(*deep(inputs, 2), *point(inputs, inputs))
        if kind == "spos":
            self.main = nn.Sequential(*point(inputs, inner), *deep(inner, 2), *point(inner, others))
        else:
            ends = (*point(inner, inner), *deep(inner), *point(inner, others))
            self.main = nn.Sequential(*deep(inputs, 2), *point(inputs, inner), *deep(inner), *ends)

    def forward(self, x):
        return self.side(x), self.main(x)


@pytest.mark.parametrize("kind", ["spos", "spos_xception"])
@pytest.mark.parametrize(("inputs", "outputs", "left", "right"), [(4, 16, 1, 3), (8, 20, 2, 3), (8, 16, 1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_strided_block_of_spos_keeps_channels(kind, inputs, outputs, left, right, layout):
    """The channels of its branches take turns, so that half of each passes by the next block."""
    blocks = (Block(kind, 0), Block("spos", 0))
    planned = Layout(inputs, (outputs, outputs), last=8)
    network = build(Architecture(blocks, (0,), "spos", layout=planned), inputs, 5).double().eval()
    plain = PlainSpos(kind, inputs, outputs, 3).double().eval()
    first, second = network.cells
    plain.load_state_dict(dict(zip(plain.state_dict(), first.state_dict().values(), strict=True)))
    x = torch.randn(2, inputs, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    side, main = plain(x)
    turns, lefts, rights = [], iter(side.unbind(1)), iter(main.unbind(1))
    while len(turns) < outputs:
        turns += [next(lefts) for _ in range(left)] + [next(rights) for _ in range(right)]
    x = x.to(memory_format=layout)
    out = first(x, x, None)
    torch.testing.assert_close(out, torch.stack(turns, 1), rtol=0, atol=1e-12)
    passed = second(out, out, None)[:, ::2]
    kept = torch.cat([side[:, : inputs // 2], main[:, : (outputs - inputs) // 2]], 1)
    assert sorted(passed.flatten(2).sum((0, 2)).tolist()) == pytest.approx(sorted(kept.flatten(2).sum((0, 2)).tolist()))
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in first.parameters())


def test_the_size_of_a_network_by_hand():
    """Stem 3 → 8; layer 0 (5×5) keeps 8; layer 1 (Xception, 3×3) 8 → 16; layer 2 (7×7) 16 → 32; head 32 → 64; 10 classes."""
    network = chain(("shuffle", 5), ("xception", 3), ("shuffle", 7))
    planned = size(plan(network, channels=8, classes=10), 9)
    stem = 27 * 8 + 16
    first = 4 * 4 + 8 + 25 * 4 + 8 + 4 * 4 + 8
    second = (9 * 8 + 16 + 8 * 8 + 16) + (9 * 8 + 16 + 8 * 8 + 16) + 2 * (9 * 8 + 16 + 8 * 8 + 16)
    third = (49 * 16 + 32 + 16 * 16 + 32) + (16 * 16 + 32 + 49 * 16 + 32 + 16 * 16 + 32)
    head = 32 * 64 + 128 + 65 * 10
    assert planned.params == stem + first + second + third + head
    at_9, at_5, at_3 = 81, 25, 9  # of an odd side, too
    convolutions = (27 * 8 + 2 * 16 + 25 * 4) * at_9 + 4 * (9 * 8 + 8 * 8) * at_5
    # The first 1×1 convolution of a strided branch is at the larger resolution.
    convolutions += 16 * 16 * at_5 + (2 * 49 * 16 + 2 * 16 * 16) * at_3
    assert planned.macs == convolutions + 32 * 64 * at_3 + 64 * 10
    assert macs(build(network, 8, 10), (3, 9, 9)) == planned.macs


def test_the_memory_of_layers_by_hand():
    """At the split and at the end of layer 0, its input or output and both halves are live."""
    layers = [peak(part) for part in programs(plan(chain(*[("shuffle", 3)] * 3), channels=8, classes=10), 32, 3)[1:4]]
    whole = 8 * 32**2
    assert (layers[0].step, layers[0].numbers) == ("layer 0: split", 2 * whole)
    # Layer 1: its input, the left branch (twice the width at a quarter of the pixels, halved), and the 1×1 convolution
    # before the strided one, which is as large as the input.
    assert (layers[1].step, layers[1].numbers) == ("layer 1: convolution", whole + whole // 4 + whole)
    assert layers[2].numbers == layers[1].numbers / 2


def test_costs_for_penalties_are_those_of_the_convolutions():
    table = resources(SHUFFLE, SHUFFLE.primitives, 3, 8, 9)
    first = table[0, 1, SHUFFLE.primitives.index("shuffle")].tolist()
    weights = 2 * 16 + 25 * 4
    assert first == [weights, weights * 81, weights + 3 * 2 * 4 * 81]  # half of the channels passes by at no cost
    second = table[1, 0, SHUFFLE.primitives.index("shuffle")].tolist()
    left, right = (9 * 8, 8 * 8), (8 * 8, 9 * 8, 8 * 8)
    products = sum(left) * 25 + right[0] * 81 + sum(right[1:]) * 25
    moved = (8 * 81 + 8 * 25) + 2 * 8 * 25 + 2 * 8 * 81 + (8 * 81 + 8 * 25) + 2 * 8 * 25
    assert second == [sum(left + right), products, sum(left + right) + moved]


# --- branches -------------------------------------------------------------------------------------------------


def test_branches_side_by_side_are_those_of_each_group():
    """As a supernet of cells computes many at a time."""
    layer = Branches(6, 4, (Conv(3, 2), Norm(2)), (ReLU(), Conv(3, 2, (3, 3), (1, 1)), Norm(2)), True)
    many = build_layer(layer, SEARCH, 3).double()
    x = torch.randn(2, 18, 5, 5, dtype=torch.float64)
    for g in range(3):
        one = build_layer(layer, SEARCH).double()
        for name, weight in many.named_parameters():
            one.get_parameter(name).data.copy_(weight.view(3, -1, *weight.shape[1:])[g])
        torch.testing.assert_close(many(x)[:, 4 * g : 4 * g + 4], one(x[:, 6 * g : 6 * g + 6]), rtol=0, atol=1e-12)


def test_an_operation_of_cells_can_have_branches():
    """The block as a primitive of another package."""
    name = "shuffled"
    dnas.register(Primitive(name, lambda c, s: BLOCKS["shuffle"].chain(c, c, 3, s), colour="#117733", label=name))
    try:
        check_primitive(name)
        assert group_of(name) == "convolutions"
    finally:
        PRIMITIVES.forget()


def test_branches_within_branches_are_counted():
    inner = Branches(4, 4, (), (Conv(2, 2), Norm(2)), True)
    outer = Branches(8, 8, (Conv(8, 4, (3, 3), (2, 2)), inner), (MaxPool(2), Conv(8, 4)), False)
    assert [type(layer).__name__ for layer in flat((outer, Identity()))] == [
        "Conv", "Conv", "Norm", "MaxPool", "Conv", "Identity",
    ]  # fmt: skip
    cost, side = chain_cost((outer,), 7)
    assert (cost.params, side) == (9 * 32 + 4 + 4 + 32, 4) and cost.macs == (9 * 32 + 4 + 32) * 16
    module = build_chain((outer,))
    assert sum(p.numel() for p in module.parameters()) == cost.params
    assert module(torch.randn(2, 8, 7, 7)).shape == (2, 8, 4, 4)
    with pytest.raises(TypeError, match="depend on the size of their input"):
        outer.macs(4, 4)


def test_layers_of_other_packages_need_no_cost_of_their_own():
    class Doubled(Layer):
        def macs(self, height, width):
            return 2 * height * width

    cost, _ = chain_cost((MaxPool(2), Doubled()), 9)
    assert cost.macs == 50 and Doubled().cost(5, 3).macs == 30


@pytest.mark.parametrize(("inputs", "outputs", "split"), [(6, 5, False), (5, 6, True)])
def test_halves_are_whole_numbers(inputs, outputs, split):
    with pytest.raises(AssertionError, match="no whole number"):
        Branches(inputs, outputs, (), (), split)


def test_blocks_say_what_is_around_them():
    shapes = list(itertools.product((8, 16), (1, 2)))
    around = {name: [BLOCKS[name].around(8, *shape) for shape in shapes] for name in ("mbconv6", "basic", *KINDS)}
    assert around["mbconv6"] == [(Identity(),), (), (), ()] and all(around["basic"])
    assert all(around[kind] == [(), (), (), ()] for kind in KINDS)


def test_the_widths_of_layers_must_be_even():
    with pytest.raises(InputError, match="must be even"):
        build(chain(*[("shuffle", 3)] * 3), 7, 5)

"""Each operation's shape, size and cost: the table of DARTS' appendix against the built module."""

import pytest
import torch
from torch import nn

from dnas.network.modules import SEARCH, build_chain, construct
from dnas.rng import torch_stream
from dnas.space.primitives import (
    PRIMITIVES,
    Conv,
    FactorizedReduce,
    Identity,
    MaxPool,
    Norm,
    ReLU,
    Zero,
    chain_cost,
    relu_conv_norm,
)


def depthwise(c, k):
    return c * k * k + c * c + 2 * c  # depthwise, pointwise, scale and shift


# Parameters at C channels and stride 1, and at stride 2 where that differs.
PARAMETERS = {
    "none": lambda c: 0,
    "noise": lambda c: 0,
    "max_pool_3x3": lambda c: 0,
    "avg_pool_3x3": lambda c: 0,
    "skip_connect": lambda c: 0,
    "sep_conv_3x3": lambda c: 2 * depthwise(c, 3),
    "sep_conv_5x5": lambda c: 2 * depthwise(c, 5),
    "sep_conv_7x7": lambda c: 2 * depthwise(c, 7),
    "dil_conv_3x3": lambda c: depthwise(c, 3),
    "dil_conv_5x5": lambda c: depthwise(c, 5),
    "conv_7x1_1x7": lambda c: 14 * c * c + 2 * c,
}
STRIDED = {"skip_connect": lambda c: c * c + 2 * c}
# Half the width of the square of pixels that an output pixel depends on.
REACH = {
    "none": 0, "noise": 0, "max_pool_3x3": 1, "avg_pool_3x3": 1, "skip_connect": 0, "sep_conv_3x3": 2, "sep_conv_5x5": 4,
    "sep_conv_7x7": 6, "dil_conv_3x3": 2, "dil_conv_5x5": 4, "conv_7x1_1x7": 3,
}  # fmt: skip


def macs_of(module, x):
    """Multiply-accumulates from the shapes of the convolutions that run."""
    total = 0

    def count(conv, inputs, output):
        nonlocal total
        total += output[0].numel() * conv.weight[0].numel()

    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            conv.register_forward_hook(count)
    with torch.no_grad():
        output = module(x)
    return total, output


def test_the_search_space_is_the_first_seven_in_the_order_of_the_literature():
    assert tuple(PRIMITIVES)[:7] == (
        "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    )  # fmt: skip
    assert set(PRIMITIVES) == set(PARAMETERS) == set(REACH)
    assert all(primitive.name == name for name, primitive in PRIMITIVES.items())
    assert len({primitive.colour for primitive in PRIMITIVES.values()}) == len(PRIMITIVES)
    assert len({primitive.label for primitive in PRIMITIVES.values()}) == len(PRIMITIVES)


@pytest.mark.parametrize("size", [7, 8, 13])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", PRIMITIVES)
def test_counted_and_built_operations_agree_with_the_table(name, stride, size):
    c = 6
    chain = PRIMITIVES[name].chain(c, stride)
    module = build_chain(chain)
    built = sum(p.numel() for p in module.parameters())
    table = (STRIDED.get(name, PARAMETERS[name]) if stride == 2 else PARAMETERS[name])(c)
    cost, out = chain_cost(chain, size)
    assert built == cost.params == table
    macs, output = macs_of(module, torch.randn(2, c, size, size))
    assert macs == cost.macs
    assert output.shape == (2, c, out, out) and out == -(-size // stride)


@pytest.mark.parametrize("name", [name for name in PRIMITIVES if name != "noise"])
def test_the_receptive_field_is_as_wide_as_the_name_says(name):
    generator = torch_stream(0, "test")
    module = construct(lambda: build_chain(PRIMITIVES[name].chain(8, 1)), generator).double().eval()
    touched = torch.zeros(21, 21, dtype=torch.bool)
    for _ in range(60):  # a maximum passes its gradient to one pixel of a picture, so it takes many
        x = torch.randn(1, 8, 21, 21, generator=generator, dtype=torch.float64).requires_grad_()
        cotangent = torch.randn(8, generator=generator, dtype=torch.float64)
        (grad,) = torch.autograd.grad(module(x)[0, :, 10, 10] @ cotangent, x)
        touched |= grad[0].abs().sum(0) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    if name == "none":
        assert len(rows) == 0
        return
    for where in (rows, columns):
        assert (where.min(), where.max()) == (10 - REACH[name], 10 + REACH[name])


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_supernets_batch_norms_learn_and_track_nothing(name):
    chain = PRIMITIVES[name].chain(6, 2)
    norms = [m for m in build_chain(chain, SEARCH).modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight is None and norm.running_mean is None for norm in norms)
    assert len(norms) == sum(isinstance(layer, Norm | FactorizedReduce) for layer in chain)


def test_the_average_does_not_count_the_padding():
    module = build_chain(PRIMITIVES["avg_pool_3x3"].chain(1, 1))
    assert torch.equal(module(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_none_gives_zeros():
    for stride in (1, 2):
        assert (build_chain(PRIMITIVES["none"].chain(3, stride))(torch.ones(1, 3, 5, 5)) == 0).all()


def test_noise_is_normal_and_another_one_in_every_training_step():
    """It does not see its input; its draws are part of its state, and evaluation repeats one."""
    noise = build_chain(PRIMITIVES["noise"].chain(16, 2))
    x = torch.full((8, 16, 24, 24), 7.0, requires_grad=True)
    first, second = noise(x), noise(x)
    assert first.shape == (8, 16, 12, 12) and not first.requires_grad
    assert abs(float(first.mean())) < 0.03 and abs(float(first.std()) - 1) < 0.03
    assert not torch.equal(first, second)
    state = {name: value.clone() for name, value in noise.state_dict().items()}
    third = noise(x)
    noise.load_state_dict(state)
    assert torch.equal(noise(x), third)
    noise.eval()
    assert torch.equal(noise(x), noise(x))


def test_a_strided_skip_sees_every_pixel():
    """A factorised reduction reads both grids; a plain stride would lose three of four pixels."""
    module = construct(lambda: build_chain((FactorizedReduce(4, 4),)), torch_stream(0, "test")).double().eval()
    for size in (4, 5):
        x = torch.rand(1, 4, size, size, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(module(x).square().sum(), x)
        seen = {(i, j) for _, i, j in grad[0].nonzero().tolist()}
        assert seen == {(i, j) for i in range(size) for j in range(size) if i % 2 == j % 2}


def test_costs_add_up_along_a_chain():
    assert chain_cost((), 8)[0].params == 0 and chain_cost((Identity(), ReLU()), 8) == (chain_cost((), 8)[0], 8)
    cost, size = chain_cost((MaxPool(2), *relu_conv_norm(3, 5), Zero(2)), 9)
    assert (cost.params, cost.macs, size) == (15 + 10, 15 * 25, 3)
    one, two = chain_cost(relu_conv_norm(3, 5), 8)[0], chain_cost(relu_conv_norm(5, 3), 8)[0]
    assert (one + two).params == 15 + 10 + 15 + 6 and (one + two).macs == 30 * 64
    unpadded = Conv(3, 5, (2, 2), padded=False)
    assert chain_cost((unpadded,), 2) == (type(cost)(60, 60), 1)

"""The native batch norm against torch's in double precision: any shape, with and without ReLU, scale and statistics."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dnas.kernels import native
from dnas.kernels import norm as kernel
from dnas.network.modules import LayerChain, NormStyle
from dnas.rng import torch_stream

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler on this machine")


def normal(*shape, stream="test", dtype=torch.float64):
    return torch.randn(shape, generator=torch_stream(0, stream, *shape), dtype=torch.float64).to(dtype)


def drawn(norm):
    """The norm with another scale, shift and statistics than those at the start."""
    channels = norm.num_features
    if norm.affine:
        norm.weight.data = normal(channels, stream="scale").to(norm.weight)
        norm.bias.data = normal(channels, stream="shift").to(norm.bias)
    if norm.track_running_stats:
        norm.running_mean, norm.running_var = (normal(channels, stream=s).abs() for s in ("mean", "variance"))
    return norm


def results(forward, norm, x):
    """The output, and what changes by it: gradients, and statistics."""
    x = x.detach().clone().to(memory_format=torch.channels_last).requires_grad_()
    y = forward(norm, x)
    y.backward(normal(*y.shape, stream="grad").to(y))
    return [y, x.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 17), st.integers(1, 9)),
    style=st.builds(NormStyle, st.booleans(), st.booleans()),
    relu=st.booleans(),
    far=st.sampled_from([0.0, 1e3]),
    threads=st.integers(1, 5),
)
@settings(deadline=None, max_examples=80)
def test_equals_the_norm_of_torch_and_its_relu(shape, style, relu, far, threads):
    if shape[0] * shape[2] * shape[3] == 1:
        shape = (2, *shape[1:])
    norm = drawn(style.build(shape[1]).double())
    x = far + normal(*shape)
    wanted = results(lambda norm, x: F.relu(norm(x)) if relu else norm(x), copy.deepcopy(norm), x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "threads", lambda numbers: threads)
        found = results(lambda norm, x: kernel.normalized(norm, x, relu), norm, x)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * max(1.0, far)), (a - b).abs().max()


def test_sums_do_not_cancel_in_single_precision_far_from_zero():
    x = 300 + normal(16, 24, 8, 8)
    exact = results(lambda norm, x: norm(x), nn.BatchNorm2d(24).double(), x)
    found = results(lambda norm, x: kernel.normalized(norm, x, relu=False), nn.BatchNorm2d(24), x.float())
    assert (found[0] - exact[0]).abs().max() < 1e-4
    assert (found[1] - exact[1]).abs().max() < 1e-4


def chain():
    return LayerChain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)).double()


@pytest.fixture
def calls():
    native.calls.clear()
    return lambda: native.calls.get("norm_forward", [0])[0]


def test_a_chain_in_training_uses_it_and_gives_the_same(calls):
    chains = [chain(), chain()]
    chains[1].load_state_dict(chains[0].state_dict())
    for each in chains:
        each.to(memory_format=torch.channels_last)
    found = results(lambda norm, x: norm(x), chains[0], normal(2, 3, 6, 5))
    assert calls() == 2
    with native.only_torch():
        wanted = results(lambda norm, x: norm(x), chains[1], normal(2, 3, 6, 5))
    assert calls() == 2
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, wanted, strict=True))


def test_what_it_gives_may_be_overwritten_as_a_sum_of_a_node_is():
    norm, x = nn.BatchNorm2d(4).double(), normal(2, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    kernel.normalized(norm, x, relu=False).add_(x).sum().backward()
    assert torch.allclose(x.grad, torch.ones_like(x), atol=1e-9)  # the sum of a norm does not depend on its input


def pictures(*shape):
    return normal(*shape).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("norm", "x"),
    [
        (nn.BatchNorm2d(8).double().eval(), pictures(2, 8, 4, 4)),
        (nn.BatchNorm2d(8).double(), pictures(2, 8, 4, 4).contiguous()),
        (nn.BatchNorm2d(8).bfloat16(), pictures(2, 8, 4, 4).bfloat16()),
        (nn.BatchNorm2d(8), pictures(2, 8, 4, 4)),
        (nn.BatchNorm2d(8).double(), pictures(1, 8, 1, 1)),
        (nn.BatchNorm2d(8, eps=1e-3).double(), pictures(2, 8, 4, 4)),
        (nn.BatchNorm2d(8, momentum=None).double(), pictures(2, 8, 4, 4)),
    ],
    ids=["evaluation", "channels first", "bfloat16", "two types", "one value per channel", "epsilon", "mean of all"],
)
def test_what_it_does_not_cover_is_left_to_torch(norm, x):
    assert kernel.available(nn.BatchNorm2d(8).double(), pictures(2, 8, 4, 4))
    assert not kernel.available(norm, x)


def test_hooks_see_the_output_of_every_layer(calls):
    network, seen = chain().to(memory_format=torch.channels_last), []
    for layer in network:
        layer.register_forward_hook(lambda module, given, out: seen.append(type(module).__name__))
    network(normal(2, 3, 6, 5).to(memory_format=torch.channels_last))
    assert seen[:2] == ["Conv2d", "BatchNorm2d"]
    assert calls() == 0

"""The kernels against torch's own operations in float64, for every shape that the networks use, and odd ones."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from dnas.kernels import depthwise, native
from dnas.kernels.depthwise import depthwise_statistics
from dnas.kernels.mixture import channel_moments, mixed_product, weighted_sum
from dnas.rng import torch_stream

KERNELS = [(3, 1), (5, 1), (3, 2), (5, 2), (7, 1)]


def normal(*shape, stream="test"):
    return torch.randn(shape, generator=torch_stream(0, stream, *shape), dtype=torch.float64)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize(("kernel", "dilation"), KERNELS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 6, 16, 37])
@pytest.mark.parametrize("size", [2, 5, 8])
def test_depthwise_is_a_grouped_convolution_with_its_gradients(backend, kernel, dilation, stride, channels, size):
    x = normal(3, channels, size, size).requires_grad_()
    w = normal(channels, 1, kernel, kernel).requires_grad_()
    expected = F.conv2d(x, w, None, stride, dilation * (kernel // 2), dilation, channels)
    grad = normal(*expected.shape, stream="grad")
    native.choose(backend)
    try:
        out = depthwise(x, w, stride, dilation)
        grads = torch.autograd.grad(out, (x, w), grad)
    finally:
        native.choose("auto")
    assert torch.equal(out, expected)
    for a, b in zip(grads, torch.autograd.grad(expected, (x, w), grad), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_statistics_pass_gradcheck(stride):
    x = normal(2, 4, 5, 3).requires_grad_()
    w = normal(3, 1, 3, 3).requires_grad_()
    h, mean, gram = depthwise_statistics(x, w, stride, 2)
    flat = h.reshape(-1, 3)
    assert torch.allclose(mean, flat.mean(0))
    assert torch.allclose(gram, torch.einsum("pi,pj->ij", flat, flat) / len(flat))
    assert torch.autograd.gradcheck(lambda x, w: depthwise_statistics(x, w, stride, 2), (x, w))


def test_mixed_product_and_weighted_sum_pass_gradcheck():
    features = [normal(7, n).requires_grad_() for n in (2, 3)]
    matrices = [normal(n, 4).requires_grad_() for n in (2, 3)]
    bias = normal(4).requires_grad_()
    expected = features[0] @ matrices[0] + features[1] @ matrices[1] + bias
    assert torch.allclose(mixed_product(features, matrices, bias), expected)
    assert torch.autograd.gradcheck(lambda b, *t: mixed_product(t[:2], t[2:], b), (bias, *features, *matrices))
    weights = normal(3).requires_grad_()
    terms = [normal(2, 5, stream=f"term{i}").requires_grad_() for i in range(3)]
    assert torch.allclose(weighted_sum(weights, terms), sum(w * t for w, t in zip(weights, terms, strict=True)))
    assert torch.autograd.gradcheck(lambda w, *t: weighted_sum(w, t), (weights, *terms))


def test_channel_moments_pass_gradcheck():
    x = normal(2, 3, 4, 5).requires_grad_()
    variance, mean = channel_moments(x)
    flat = x.reshape(-1, 5)
    assert torch.allclose(mean, flat.mean(0)) and torch.allclose(variance, flat.var(0, correction=0))
    assert torch.autograd.gradcheck(channel_moments, (x,))


def test_without_a_compiler_everything_goes_on(tmp_path):
    """A C compiler that fails leaves the torch kernels, and advice for the user."""
    code = (
        "import torch; from dnas.kernels import native, depthwise\n"
        "x = torch.ones(1, 2, 4, 4); w = torch.ones(2, 1, 3, 3, requires_grad=True)\n"
        "depthwise(x, w).sum().backward(); print(w.grad[0, 0, 1, 1].item(), native.available(), native.advice())"
    )
    environment = {"CC": "false", "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("16.0 False no working C compiler")

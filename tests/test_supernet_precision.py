"""The batched supernet under autocast, as on a GPU, and what a step asks of the device."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dnas.kernels import native
from dnas.kernels.depthwise import depthwise_statistics
from dnas.kernels.draws import Draws
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.supernet.build import build_supernet
from dnas.supernet.relaxation import MixingWeights, path


def mixture(layers):
    generator = torch_stream(0, "mixture")
    operations = torch.rand(layers, 14, 7, generator=generator)
    edges = torch.rand(layers, 14, generator=generator)
    edges.requires_grad_()
    return MixingWeights(operations.requires_grad_(), edges, edges)


def learnt(network, mixing, draws, precision):
    images = torch.randn(8, 1, 8, 8, generator=torch_stream(1, "test"))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network(images, mixing, draws)
        loss = F.cross_entropy(logits, torch.arange(8) % 4)
    loss.backward()
    wanted = [*network.parameters(), mixing.operations, mixing.edges]
    found = [p.grad for p in wanted if p.grad is not None]
    assert found and all(g.dtype == torch.float32 for g in found)
    return logits, torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(("kind", "partial"), [("dense", 4), ("dropout", 4), ("path", 1)])
def test_a_supernet_learns_under_autocast(kind, partial):
    """In bfloat16, with the gradients of single precision but for rounding."""
    network = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=4, inputs=1, partial=partial)
    draws = Draws(0.2, 0, (0,)) if kind == "dropout" else None
    found = {}
    for precision in ("float32", "bfloat16"):
        mixing = path(sampling.sample(DARTS, numpy_stream(0, "test"), 3), DARTS.primitives, DARTS)
        if kind != "path":
            mixing = mixture(3)
        with native.only_torch():
            found[precision] = learnt(copy.deepcopy(network), mixing, draws, precision)
    (exact, gradient), (rounded, lower) = found["float32"], found["bfloat16"]
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()
    assert F.cosine_similarity(lower, gradient, dim=0) > 0.9


def test_moments_are_in_single_precision_under_autocast():
    """A variance is the difference of two of them: here one in ten thousand of either."""
    x = 1 + 0.01 * torch.randn(4, 8, 8, 2, generator=torch_stream(0, "test")).bfloat16().float()
    weight = torch.zeros(2, 1, 3, 3)
    weight[:, 0, 1, 1] = 1
    with torch.autocast("cpu", torch.bfloat16):
        h, mean, gram = depthwise_statistics(x, weight, 1, 1)
    assert h.dtype == torch.bfloat16 and mean.dtype == gram.dtype == torch.float32
    pixels = h.double().flatten(0, 2)
    variance = gram.diagonal() - mean**2
    torch.testing.assert_close(variance.double(), pixels.var(0, correction=0), rtol=0.02, atol=0)


class Asked(TorchDispatchMode):
    """The names of all that torch computes."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


def test_no_list_is_an_index():
    """It would become a tensor in every step, which is copied to the device and waited for."""
    network = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=4, inputs=1)
    with native.only_torch(), torch.no_grad(), Asked() as asked:
        network(torch.zeros(2, 1, 8, 8), mixture(3))
    assert any("addmm" in name for name in asked.names)
    assert not [name for name in asked.names if "index" in name or "lift" in name]

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from method_bayes_nas_tools import small_search
from supernet_search_tools import SMALL, same

from dnas.kernels import native
from dnas.methods.bayes_nas import drawn_labels, gauss_newton, mixed, switches
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import MAPPINGS

# --- the curvature --------------------------------------------------------------------------------------------


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def gauss_newton_of(logits, wanted):
    """Its diagonal for the mean cross-entropy, from the whole derivative of the logits [B, classes]."""
    p = logits.detach().softmax(1)
    rows = [torch.autograd.grad(z, wanted, retain_graph=True) for z in logits.flatten()]
    found = []
    for parts in zip(*rows, strict=True):
        j = torch.stack(parts).view(*logits.shape, -1)
        inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        found.append(torch.einsum("bcs,bcd,bds->s", j, inner, j).view(parts[0].shape) / len(p))
    return found


def expectation(forward, wanted):
    """Of the estimate, over all labels that the softmax can draw."""
    p = forward().detach().softmax(1)
    totals = [torch.zeros_like(w) for w in wanted]
    for labels in itertools.product(range(p.shape[1]), repeat=len(p)):
        chance = math.prod(p[b, y].item() for b, y in enumerate(labels))
        for total, part in zip(totals, gauss_newton(forward(), torch.tensor(labels), wanted), strict=True):
            total += chance * part
    return totals


def test_estimate_of_the_curvature_is_unbiased_for_a_linear_softmax_model():
    """There the Gauss-Newton matrix is the Hessian."""
    generator = torch_stream(0, "test")
    features = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)  # images, classes, switches
    s = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    (got,) = expectation(lambda: features @ s, [s])
    (exact,) = gauss_newton_of(features @ s, [s])
    hessian = torch.autograd.functional.hessian(
        lambda x: F.cross_entropy(features @ x, torch.tensor([0, 1, 2, 0])), s.detach()
    )
    torch.testing.assert_close(exact, hessian.diagonal(), rtol=1e-10, atol=0)
    torch.testing.assert_close(got, exact, rtol=1e-10, atol=0)


@pytest.mark.parametrize("mapping_name", MAPPINGS)
def test_estimate_of_the_curvature_is_unbiased_for_a_supernet(mapping_name):
    """Where batch norms make the images depend on one another."""
    method = create("bayes-nas", mapping_name, {"initial_scale": 0.3}, SMALL)
    mapping = method.mapping(3, 0).double()
    supernet = build_supernet(SMALL, method.operations, layers=3, channels=2, classes=2, inputs=1, partial=1).double()
    images = torch.randn(3, 1, 8, 8, generator=torch_stream(0, "test"), dtype=torch.float64)
    wanted = [switch.detach().requires_grad_() for switch in switches(mapping)]

    def forward():
        return supernet(images, mixed(mapping, *wanted))

    with native.only_torch():  # native cells give their gradients once
        whole = gauss_newton_of(forward(), wanted)
    for got, exact in zip(expectation(forward, wanted), whole, strict=True):
        assert (exact > 0).sum() > exact.numel() / 2
        torch.testing.assert_close(got, exact, rtol=1e-8, atol=1e-12 * exact.max().item())


def test_drawn_labels_follow_the_softmax_of_their_image():
    logits = tensor([0.0, 1.0, -2.0], [3.0, 0.0, 0.0])
    count = 20_000
    labels = drawn_labels(logits.repeat(count, 1), torch_stream(0, "test")).view(count, 2)
    p = logits.softmax(1)
    for b, y in itertools.product(range(2), range(3)):
        share = (labels[:, b] == y).double().mean().item()
        assert abs(share - p[b, y].item()) < 4 * math.sqrt(p[b, y] * (1 - p[b, y]) / count)
    both = ((labels[:, 0] == 1) & (labels[:, 1] == 0)).double().mean().item()
    assert both == pytest.approx((p[0, 1] * p[1, 0]).item(), abs=0.02)  # independently of one another


def test_curvature_is_the_mean_over_batches_and_draws():
    """Near the exact one, whatever the number of draws; the weights rest, and the cost is counted."""
    search = small_search(options={"draws": 120}, batch_size=32)
    progress = search.progress(4, 1)
    weights = [w.detach().clone() for w in search.weights]
    before = search.cost["step_equivalents"]
    batch = search.batch(0, 1)
    search.batch = lambda step, draw: batch
    got = search.method.curvature(search, progress)
    assert search.cost["step_equivalents"] == before + 120
    assert same(weights, [w.detach() for w in search.weights]) and all(w.requires_grad for w in search.weights)
    wanted = [switch.detach().requires_grad_() for switch in switches(search.mapping)]
    with native.only_torch():
        logits = search.supernet(batch.images, mixed(search.mapping, *wanted))
        exact = gauss_newton_of(logits, wanted)
    for one, other in zip(got, exact, strict=True):
        assert one.shape == other.shape and not one.requires_grad
        assert one.sum().item() == pytest.approx(other.sum().item(), rel=0.15)
        # Each is a mean of 120 squares of what is nearly normal: a deviation of √(2/120) = 13 %.
        large = other > 0.1 * other.max()
        assert ((one / other)[large] - 1).abs().max() < 0.5


def test_each_draw_has_its_own_batch_and_labels():
    search = small_search(options={"draws": 3}, update="first-order", batch_size=8)
    asked = []
    batch = search.batch

    def noted(step, draw):
        asked.append((step, draw))
        assert not any(w.requires_grad for w in search.weights)  # no work is spent on them
        return batch(0, 1)

    search.batch = noted
    progress = search.progress(4, 1)
    three = search.method.curvature(search, progress)
    assert asked == [(4, 1), (5, 1), (6, 1)]
    single = small_search(options={"draws": 1}, update="first-order", batch_size=8)
    single.batch = lambda step, draw: batch(0, 1)
    one = single.method.curvature(single, progress)
    # The same batch three times: equal labels would give the estimate of one draw.
    assert not torch.allclose(one[1], three[1], rtol=1e-3)
    assert same(three, search.method.curvature(search, progress))

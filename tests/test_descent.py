"""A step of several optimizers: by the closed form of SGD, not along what is not finite, kept in checkpoints by name."""

import math

import pytest
import torch
from torch import nn

from dnas.errors import Diverged
from dnas.runtime.checkpoint import Checkpoint
from dnas.training.descent import Descent

MOMENTUM = 0.5


def descent():
    """Weight and bias of a layer, each with an optimizer of its own."""
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        for i, p in enumerate(layer.parameters(), 1):
            p.copy_(torch.arange(p.numel()).view(p.shape) + i)
    optimizers = {
        "first": torch.optim.SGD([layer.bias], 0.1, MOMENTUM),
        "second": torch.optim.Adam([layer.weight], 0.1),
    }
    return Descent("layer", layer, optimizers, "train")


def grads(value=1.0):
    return torch.full((2, 3), value), torch.full((2,), 2 * value)


def nowhere():
    raise AssertionError("looked for")


def values(moved):
    return [p.detach().clone() for p in moved.parameters]


def step(moved, number, along, **changes):
    return moved.step(number, torch.tensor(3.0), along, nowhere, **changes)


def test_each_optimizer_moves_its_own_parameters_at_its_own_rate():
    moved = descent()
    weight, bias = values(moved)
    taken = step(moved, 0, grads(), rates={"first": 0.5, "second": 0.25})
    assert taken.loss == 3.0 and taken.norm == pytest.approx(math.sqrt(6 * 1 + 2 * 4))
    torch.testing.assert_close(moved.module.bias.detach(), bias - 0.5 * 2)
    # Adam's first step is the rate, whatever the gradient.
    torch.testing.assert_close(moved.module.weight.detach(), weight - 0.25)
    step(moved, 1, grads(), rates={"first": 0.1})
    torch.testing.assert_close(moved.module.bias.detach(), bias - 0.5 * 2 - 0.1 * (2 + MOMENTUM * 2))
    torch.testing.assert_close(moved.module.weight.detach(), weight - 2 * 0.25)
    assert all(p.grad is None for p in moved.parameters)


def test_the_norm_that_is_clipped_is_that_of_all_gradients_together():
    moved = descent()
    _, bias = values(moved)
    taken = step(moved, 0, grads(), clip_norm=1.0)
    torch.testing.assert_close(moved.module.bias.detach(), bias - 0.1 * 2 / taken.norm)


def test_a_parameter_without_a_gradient_rests():
    moved = descent()
    weight, bias = values(moved)
    taken = step(moved, 0, (None, grads()[1]))
    assert taken.norm == pytest.approx(math.sqrt(8))
    assert torch.equal(moved.module.weight, weight) and not torch.equal(moved.module.bias, bias)


@pytest.mark.parametrize("loss", [3.0, math.nan])
def test_nothing_moves_unless_all_is_finite(loss):
    moved = descent()
    step(moved, 0, grads())
    before, memory = values(moved), [t.clone() for t in moved.capture()[0].values()]
    weight, bias = grads()
    bias[1] = math.inf
    what = (
        r"the loss is nan at step 2 of train \(first seen in layer 1\)"
        if math.isnan(loss)
        else "gradient norm.*gradient of bias"
    )
    with pytest.raises(Diverged, match=what):
        moved.step(1, torch.tensor(loss), (weight, bias), lambda: "layer 1", clip_norm=1.0)
    assert all(map(torch.equal, values(moved), before))
    assert all(map(torch.equal, moved.capture()[0].values(), memory))


def test_a_checkpoint_has_the_module_and_every_optimizer_by_name():
    whole, other = descent(), descent()
    step(whole, 0, grads())
    tensors, state = whole.capture()
    assert list(state) == ["first", "second"]
    assert {name.split(".")[0] for name in tensors} == {"layer", "first", "second"}
    other.restore(Checkpoint(1, {k: v.detach().clone() for k, v in tensors.items()}, {"loop": state}))
    for each in (whole, other):
        step(each, 1, grads(0.3), rates={"first": 0.3})
    assert all(map(torch.equal, values(whole), values(other)))
    assert all(map(torch.equal, whole.capture()[0].values(), other.capture()[0].values()))


def test_no_parameter_has_two_optimizers():
    layer = nn.Linear(3, 2)
    twice = {name: torch.optim.SGD(layer.parameters(), 0.1) for name in ("a", "b")}
    with pytest.raises(AssertionError, match="two optimizers"):
        Descent("layer", layer, twice, "train")

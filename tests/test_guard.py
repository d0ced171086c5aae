import math

import pytest
import torch
from torch import nn

from dnas.errors import RunError
from dnas.training.guard import clip, first_bad_gradient, first_bad_layer, require_finite


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), nn.Linear(2, 1))


def test_a_finite_value_comes_back_as_a_number_and_no_place_is_looked_for():
    def where():
        raise AssertionError("looked for")

    assert require_finite(torch.tensor(1.5, requires_grad=True), "the loss", "train", 0, where) == 1.5
    assert require_finite(torch.tensor(torch.finfo(torch.float32).max), "the loss", "train", 0, where) > 3e38


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_step_stage_and_place(value):
    with pytest.raises(RunError) as caught:
        require_finite(torch.tensor(value), "the loss", "baseline", 11, lambda: "layer 7")
    for word in ("the loss", str(value), "baseline", "step 12", "layer 7"):
        assert word in str(caught.value)


def test_the_first_bad_layer_in_the_order_of_computation():
    net, x = network(), torch.ones(2, 3)
    assert first_bad_layer(net, x, lambda: net(x)) == "the loss"
    with torch.no_grad():
        net[2].weight.fill_(math.inf)
    assert first_bad_layer(net, x, lambda: net(x)) == "layer 2"
    with torch.no_grad():
        net[1][1].bias[1] = math.nan
    assert first_bad_layer(net, x, lambda: net(x)) == "layer 1.1"
    with torch.no_grad():
        net[0].weight[0, 0] = math.nan
    assert first_bad_layer(net, x, lambda: net(x)) == "layer 0"
    x[1, 2] = math.inf
    assert first_bad_layer(net, x, lambda: net(x)) == "the input images"


def test_looking_leaves_no_hook_behind_even_when_it_fails():
    net = network()
    with pytest.raises(ZeroDivisionError):
        first_bad_layer(net, torch.ones(2, 3), lambda: 1 / 0)
    first_bad_layer(net, torch.ones(2, 3), lambda: net(torch.ones(2, 3)))
    assert not any(module._forward_hooks for module in net.modules())


def test_the_bad_gradient_nearest_to_the_loss():
    net = network()
    grads = [torch.zeros_like(parameter) for parameter in net.parameters()]
    assert first_bad_gradient(net, grads) == "the gradient norm"
    grads[0][0, 0] = math.nan
    assert first_bad_gradient(net, grads) == "the gradient of 0.weight"
    grads[3][1] = math.inf
    assert first_bad_gradient(net, grads) == "the gradient of 1.1.bias"


@pytest.mark.parametrize("limit", [0.1, 5.0, 1e4])
def test_clip_is_torchs(limit):
    net = network()
    loss = (net(torch.randn(5, 3, generator=torch.Generator().manual_seed(0))) * 300).square().sum()
    grads = torch.autograd.grad(loss, list(net.parameters()))
    for parameter, grad in zip(net.parameters(), grads, strict=True):
        parameter.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(net.parameters(), limit)
    clip(grads, limit, torch.nn.utils.get_total_norm(grads))
    for parameter, grad in zip(net.parameters(), grads, strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-6, atol=0)

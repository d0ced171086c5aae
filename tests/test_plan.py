"""Sizes: the plan against the literature, against the built network, and against two independent counters."""

import pytest
import torch
from torch import nn

from dnas.errors import InputError
from dnas.network.network import build, macs, params
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.space.darts_plan import STEMS
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.space.published import load_published, published

# Millions of parameters (methods of counting: without the auxiliary head), counted by others:
# CIFAR-100 (36 channels, 20 layers), ImageNet (48, 14) and Tiny-ImageNet (48, 14).
ELSEWHERE = {
    "NASNet-A": (3.896, 5.564, 4.796),
    "DARTS_V1": (3.221, 4.510, 3.895),
    "DARTS_V2": (3.401, 4.719, 4.104),
    "SNAS_mild": (2.713, 3.939, 3.324),
    "PC_DARTS_cifar": (3.687, 5.271, 4.655),
}


@pytest.mark.parametrize("name", [name for name, entry in published().items() if "params_millions" in entry])
def test_counts_equal_the_published_ones_to_every_digit(name):
    network = plan(load_published(name), channels=36, classes=10)
    assert f"{size(network, 32).params / 1e6:.3f}" == f"{published()[name]['params_millions']:.3f}"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_counts_of_the_other_networks(name):
    nets = (
        size(plan(load_published(name, 20), channels=36, classes=100), 32),
        size(plan(load_published(name, 14), channels=48, classes=1000, stem="imagenet"), 224),
        size(plan(load_published(name, 14), channels=48, classes=200, stem="tiny-imagenet"), 64),
    )
    assert tuple(round(net.params / 1e6, 3) for net in nets) == ELSEWHERE[name]


@pytest.mark.parametrize("name", published())
def test_every_published_network_is_built_as_counted_and_trains(name):
    architecture = load_published(name, 5)
    counted = size(plan(architecture, channels=4, classes=3), 16)
    network = build(architecture, 4, 3, auxiliary=True)
    assert params(network) == counted.params
    assert sum(p.numel() for p in network.parameters()) == counted.params_with_auxiliary
    logits, auxiliary = network.train()(torch.randn(2, 3, 16, 16))
    (logits.sum() + auxiliary.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def hooked_macs(network, image):
    """Multiply-accumulates from the shapes that pass through convolutions and linear layers."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        else:
            per_output = module.in_features
        total += per_output * output[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, *image))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", ["DARTS_V2", "NASNet-A", "PC_DARTS_cifar", "FairDARTS_c"])
def test_multiply_accumulates_by_three_counters(name, stem):
    architecture, pixels = (
        load_published(name, 4),
        {"cifar": 17, "halving": 24, "tiny-imagenet": 24, "imagenet": 64}[stem],
    )
    network = build(architecture, 8, 7, stem=stem)
    counted = size(plan(architecture, channels=8, classes=7, stem=stem), pixels)
    assert counted.macs == macs(network, (3, pixels, pixels)) == hooked_macs(network, (3, pixels, pixels))
    assert counted.params == params(network)


def test_random_networks_have_the_size_that_the_literature_expects():
    """Uniform genes at 20 layers and 36 channels: 2.90 ± 0.15 million (mean of 20, so ± 0.15 is over four sigma)."""
    rng = numpy_stream(0, "sample")
    counts = [size(plan(sampling.sample(DARTS, rng, 20), channels=36, classes=10), 32).params / 1e6 for _ in range(20)]
    assert abs(sum(counts) / 20 - 2.90) < 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 7}, "--channels must be even and at least 2, got 7"),
        ({"classes": 1}, "classes must be at least 2, got 1"),
        ({"stem": "mnist"}, "stem 'mnist'"),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        plan(load_published("DARTS_V1", 4), **{"channels": 8, "classes": 3, **options})

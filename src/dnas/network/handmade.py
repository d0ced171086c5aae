"""Networks that people designed, for images of any size: rows to compare searched architectures with.

All are torchvision's, with fresh weights, so they want the extra `dnas[networks]`. On 32×32 images they have the shape
that is usual on CIFAR: less halving of the resolution, and a linear classifier after global average pooling.
docs/networks.md says of each what was adapted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from dnas.errors import InputError, choices, first_line
from dnas.rng import derived_seed

PACKAGE = "torchvision"
EXTRA = "pip install 'dnas[networks]'"


@dataclass(frozen=True)
class HandMade:
    """A network that people designed.

    Attributes:
        build: (torchvision.models, classes, channels of an image) → the network, with all its halvings.
        halvings: From the input on, the layers that together halve the resolution once, by name.
        at_32: How many of them act on 32×32 images.
    """

    name: str
    title: str
    paper: str
    build: Callable[[Any, int, int], nn.Module]
    halvings: tuple[tuple[str, ...], ...]
    at_32: int

    def acting(self, image_size: int) -> int:
        """How many halvings act: one fewer for each factor of two below 32 pixels, one more above."""
        return min(max(self.at_32 + round(math.log2(image_size / 32)), 0), len(self.halvings))


def build_handmade(name: str, classes: int, inputs: int, image_size: int, seed: int) -> nn.Module:
    """A hand-made network with fresh weights: images [B, inputs, image_size, image_size] → logits [B, classes].

    Its weights are drawn by its own laws, torchvision's, as a function of the seed; the global random state is neither
    read nor changed. It has no dropout: what regularises a training is the trainer's, and the same for every network.

    Raises:
        InputError: A name that is not known, or torchvision is missing.
    """
    network = get_handmade(name)
    models = torchvision_models()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPUs' generators, too.
        torch.default_generator.manual_seed(derived_seed(seed, "init"))
        built = network.build(models, classes, inputs)
    # As the usual shapes for CIFAR do, keep the last ones: the resolution is lost late.
    for layers in network.halvings[: len(network.halvings) - network.acting(image_size)]:
        for layer in layers:
            part = built.get_submodule(layer)
            if isinstance(part, nn.Conv2d):
                part.stride = (1, 1)
            else:
                built.set_submodule(layer, nn.Identity())
    return built


def get_handmade(name: str) -> HandMade:
    """The entry of a name. Raises InputError listing the names."""
    if name not in HANDMADE:
        raise InputError(f"unknown hand-made network {name!r}{choices(name, HANDMADE)}")
    return HANDMADE[name]


def torchvision_models() -> Any:
    """The module `torchvision.models`. Raises InputError where it is missing, or made for another torch."""
    try:
        return import_module(f"{PACKAGE}.models")
    except ModuleNotFoundError:
        raise InputError(f"hand-made networks need {PACKAGE}, which is not installed: {EXTRA}") from None
    except (ImportError, OSError, RuntimeError) as error:
        # Compiled operators that do not fit are missed when torchvision registers with torch.
        reason = first_line(error)
        raise InputError(
            f"{PACKAGE} cannot be imported beside torch {torch.__version__} ({reason}); install the one made for it, "
            f"or both anew: {EXTRA}"
        ) from None


# --- the networks -----------------------------------------------------------------------------------------


def _densenet_bc(models: Any, classes: int, inputs: int, depth: int, growth: int) -> nn.Module:
    """Three blocks of (depth - 4) / 6 bottlenecks, compression 0.5, 2 · growth channels from a bare 3×3 convolution."""
    layers = (depth - 4) // 6
    network: nn.Module = models.DenseNet(growth, (layers,) * 3, 2 * growth, num_classes=classes)
    stem = nn.Conv2d(inputs, 2 * growth, 3, 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    features = network.get_submodule("features")
    kept = [(name, part) for name, part in features.named_children() if name not in ("norm0", "relu0", "pool0")]
    network.set_submodule("features", nn.Sequential(OrderedDict([*kept])))
    network.set_submodule("features.conv0", stem)
    return network


def _vgg16_bn(models: Any, classes: int, inputs: int) -> nn.Module:
    """The 13 convolutions of configuration D with batch norms, and one linear layer on their means."""
    features = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    features[0] = nn.Conv2d(inputs, 64, 3, padding=1)
    for part in features:
        if isinstance(part, nn.Conv2d):
            assert part.bias is not None
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.MaxPool2d):
            part.ceil_mode = True  # a side that is no power of two ends at one pixel, not at none
    classifier = nn.Linear(512, classes)
    nn.init.normal_(classifier.weight, 0, 0.01)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(
        OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier)
    )


def _mobilenet_v2(models: Any, classes: int, inputs: int) -> nn.Module:
    network: nn.Module = models.MobileNetV2(num_classes=classes)
    stem = nn.Conv2d(inputs, 32, 3, 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.set_submodule("features.0.0", stem)
    network.set_submodule("classifier", network.get_submodule("classifier.1"))
    return network


def _shufflenet_v2(models: Any, classes: int, inputs: int) -> nn.Module:
    network: nn.Module = models.ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=classes)
    network.set_submodule("conv1.0", nn.Conv2d(inputs, 24, 3, 2, 1, bias=False))
    return network


_DENSENET_HALVINGS = ("features.conv0",), ("features.transition1.pool",), ("features.transition2.pool",)
HANDMADE = {
    network.name: network
    for network in (
        HandMade(
            "densenet-bc",
            "DenseNet-BC, depth 100, growth 12",
            "Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
            partial(_densenet_bc, depth=100, growth=12),
            _DENSENET_HALVINGS,
            2,
        ),
        HandMade(
            "densenet-bc-250",
            "DenseNet-BC, depth 250, growth 24",
            "Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
            partial(_densenet_bc, depth=250, growth=24),
            _DENSENET_HALVINGS,
            2,
        ),
        HandMade(
            "vgg16-bn",
            "VGG-16 with batch norm",
            "Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
            _vgg16_bn,
            tuple((f"features.{pool}",) for pool in (6, 13, 23, 33, 43)),
            5,
        ),
        HandMade(
            "mobilenet-v2",
            "MobileNetV2, width 1",
            "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
            _mobilenet_v2,
            (("features.0.0",), *((f"features.{block}.conv.1.0",) for block in (2, 4, 7, 14))),
            3,
        ),
        HandMade(
            "shufflenet-v2",
            "ShuffleNetV2, width 1",
            "Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design, ECCV 2018",
            _shufflenet_v2,
            (
                ("conv1.0",),
                ("maxpool",),
                *((f"stage{stage}.0.branch1.0", f"stage{stage}.0.branch2.3") for stage in (2, 3, 4)),
            ),
            3,
        ),
    )
}

"""Reference networks for images of any size, to compare searched architectures with.

Those of `small` have a width that sets their size. The others are from torchvision, randomly initialized, and require
the extra `dnas[networks]`. On 32×32 images all have the form that is usual on CIFAR: fewer halvings of the resolution,
and a linear classifier after global average pooling. docs/networks.md lists the changes to each.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from dnas.errors import InputError, SettingError, choices, first_line
from dnas.network import small
from dnas.network.network import params as count
from dnas.rng import derived_seed
from dnas.settings import WIDEST, WIDTH_SETTINGS

PACKAGE = "torchvision"
EXTRA = "pip install 'dnas[networks]'"


@dataclass(frozen=True)
class HandMade:
    """A reference network (hand-designed).

    Attributes:
        build: (classes, channels of an image, width) → the network, with all its halvings.
        halvings: Names of the layers that together halve the resolution once, from the input on.
        at_32: Number of halvings on 32×32 images.
        package: Required package.
        has_width: Whether its channels can be multiplied; if not, its width is 1.
    """

    name: str
    title: str
    paper: str
    build: Callable[[int, int, float], nn.Module]
    halvings: tuple[tuple[str, ...], ...]
    at_32: int
    package: str = ""
    has_width: bool = False

    def acting(self, image_size: int) -> int:
        """Return the number of halvings: one fewer for each factor of two below 32 pixels, one more above."""
        return min(max(self.at_32 + round(math.log2(image_size / 32)), 0), len(self.halvings))


def build_handmade(name: str, classes: int, inputs: int, image_size: int, seed: int, width: float = 1.0) -> nn.Module:
    """Build a randomly initialized reference network: images [B, inputs, image_size, image_size] → logits [B, classes].

    The weights are drawn from the network's own initialization, by the seed; the global random state is neither read
    nor changed. It has no dropout: regularization is up to the trainer, and the same for every network.

    Args:
        width: Channel multiplier, for a network that has a width.

    Raises:
        InputError: An unknown name, a missing package, or a width for a network without one.
    """
    network = get_handmade(name)
    if width != 1:
        require_width(name, {"width": width})
    require_package(name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also seed the generators of GPUs.
        torch.default_generator.manual_seed(derived_seed(seed, "init"))
        built = network.build(classes, inputs, width)
    # As usual on CIFAR, keep the last halvings: the resolution is reduced late.
    for layers in network.halvings[: len(network.halvings) - network.acting(image_size)]:
        for layer in layers:
            part = built.get_submodule(layer)
            if isinstance(part, nn.Conv2d):
                part.stride = (1, 1)
            else:
                built.set_submodule(layer, nn.Identity())
    return built


def get_handmade(name: str) -> HandMade:
    """Return the entry of a name. Raises InputError with the known names."""
    if name not in HANDMADE:
        raise InputError(f"unknown reference network {name!r}{choices(name, HANDMADE)}")
    return HANDMADE[name]


def require_package(name: str) -> None:
    """Raise InputError if the package of a reference network is missing, or built for another version of torch."""
    if get_handmade(name).package:
        torchvision_models()


def require_width(name: str, given: Mapping[str, Any]) -> None:
    """Raise SettingError if training settings choose the width or size of a network without a width.

    Args:
        name: Name of the reference network; "" for an architecture.
    """
    if name in HANDMADE and HANDMADE[name].has_width:
        return
    others = ", ".join(network.name for network in HANDMADE.values() if network.has_width)
    for key in WIDTH_SETTINGS:
        if key in given:
            text = f" {given[key]} only applies to reference networks with a width ({others}), not to "
            raise SettingError(f"train.{key}", f"--{key}", f"{text}{name or 'an architecture'}; remove it")


def parameters(name: str, classes: int, inputs: int, width: float = 1.0) -> int:
    """Return the number of parameters of a reference network for images with this many channels, of any size."""
    require_package(name)
    with torch.device("meta"):
        return count(get_handmade(name).build(classes, inputs, width))


def handmade_of_size(name: str, params: int, classes: int, inputs: int) -> float:
    """Return the width at which a reference network is closest to a number of parameters; the smaller one if tied.

    Of all widths with that network, it has the fewest decimals, so that the size of width 1 gives 1.

    Args:
        params: Requested number of parameters.
        inputs: Number of image channels.

    Raises:
        SettingError: The network has no width, or cannot be this small or this large.
    """
    get_handmade(name)
    require_width(name, {"params": params})
    # No two consecutive changes of a channel number are closer than this, so that no network is missed.
    widths = range(1, WIDEST * _STEPS + 1)

    @cache
    def size(step: int) -> int:
        return parameters(name, classes, inputs, step / _STEPS)

    smallest, largest = size(widths[0]), size(widths[-1])
    if not smallest <= params <= largest:
        raise SettingError(
            "train.params",
            "--params",
            f" must be {smallest} to {largest} for {name} with {classes} classes and {inputs} image channels, "
            f"got {params}",
        )
    above = widths[bisect_left(widths, params, key=size)]
    below = max(above - 1, widths[0])
    closest = size(above) if size(above) - params < params - size(below) else size(below)
    first = widths[bisect_left(widths, closest, key=size)]
    last = widths[bisect_right(widths, closest, key=size) - 1]
    grid = next(grid for grid in (_STEPS, _STEPS // 10, _STEPS // 100, 1) if -(-first // grid) * grid <= last)
    return -(-first // grid) * grid / _STEPS


def torchvision_models() -> Any:
    """Return the module `torchvision.models`. Raises InputError if it is missing or built for another torch."""
    try:
        return import_module(f"{PACKAGE}.models")
    except ModuleNotFoundError:
        raise InputError(f"this reference network requires {PACKAGE}; install it with: {EXTRA}") from None
    except (ImportError, OSError, RuntimeError) as error:
        # Incompatible compiled operators are detected when torchvision registers with torch.
        reason = first_line(error)
        raise InputError(
            f"{PACKAGE} cannot be imported with torch {torch.__version__} ({reason}); install matching versions of "
            f"both: {EXTRA}"
        ) from None


# Widths are searched in thousandths.
_STEPS = 1000


# --- networks of torchvision ------------------------------------------------------------------------------


def _densenet_bc(classes: int, inputs: int, width: float, depth: int, growth: int) -> nn.Module:
    """Build three blocks of (depth - 4) / 6 bottlenecks, compression 0.5, after a bare 3×3 convolution (2 · growth)."""
    layers = (depth - 4) // 6
    network: nn.Module = torchvision_models().DenseNet(growth, (layers,) * 3, 2 * growth, num_classes=classes)
    stem = nn.Conv2d(inputs, 2 * growth, 3, 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight)
    features = network.get_submodule("features")
    kept = [(name, part) for name, part in features.named_children() if name not in ("norm0", "relu0", "pool0")]
    network.set_submodule("features", nn.Sequential(OrderedDict([*kept])))
    network.set_submodule("features.conv0", stem)
    return network


def _vgg16_bn(classes: int, inputs: int, width: float) -> nn.Module:
    """Build the 13 convolutions of configuration D with batch norms, and one linear layer on their means."""
    models = torchvision_models()
    features = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    features[0] = nn.Conv2d(inputs, 64, 3, padding=1)
    for part in features:
        if isinstance(part, nn.Conv2d):
            assert part.bias is not None
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.MaxPool2d):
            part.ceil_mode = True  # sides other than powers of two also end at one pixel
    classifier = nn.Linear(512, classes)
    nn.init.normal_(classifier.weight, 0, 0.01)
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(
        OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier)
    )


def _mobilenet_v2(classes: int, inputs: int, width: float) -> nn.Module:
    network: nn.Module = torchvision_models().MobileNetV2(num_classes=classes)
    stem = nn.Conv2d(inputs, 32, 3, 2, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.set_submodule("features.0.0", stem)
    network.set_submodule("classifier", network.get_submodule("classifier.1"))
    return network


def _shufflenet_v2(classes: int, inputs: int, width: float) -> nn.Module:
    network: nn.Module = torchvision_models().ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], num_classes=classes)
    network.set_submodule("conv1.0", nn.Conv2d(inputs, 24, 3, 2, 1, bias=False))
    return network


# --- all reference networks -------------------------------------------------------------------------------

_DENSENET_HALVINGS = ("features.conv0",), ("features.transition1.pool",), ("features.transition2.pool",)
HANDMADE = {
    network.name: network
    for network in (
        HandMade(
            "resnet8",
            "ResNet-8 of MLPerf Tiny",
            "Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021",
            partial(small.resnet, blocks=1, projection=True),
            small.resnet_halvings(projection=True),
            2,
            has_width=True,
        ),
        HandMade(
            "resnet20",
            "ResNet-20 for CIFAR",
            "He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
            partial(small.resnet, blocks=3, projection=False),
            small.resnet_halvings(projection=False),
            2,
            has_width=True,
        ),
        HandMade(
            "mobilenet",
            "MobileNetV1 of MLPerf Tiny",
            "Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, 2017; "
            "Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021",
            small.mobilenet,
            small.MOBILENET_HALVINGS,
            3,
            has_width=True,
        ),
        HandMade(
            "densenet-bc",
            "DenseNet-BC, depth 100, growth 12",
            "Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
            partial(_densenet_bc, depth=100, growth=12),
            _DENSENET_HALVINGS,
            2,
            PACKAGE,
        ),
        HandMade(
            "densenet-bc-250",
            "DenseNet-BC, depth 250, growth 24",
            "Huang et al., Densely Connected Convolutional Networks, CVPR 2017",
            partial(_densenet_bc, depth=250, growth=24),
            _DENSENET_HALVINGS,
            2,
            PACKAGE,
        ),
        HandMade(
            "vgg16-bn",
            "VGG-16 with batch norm",
            "Simonyan & Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
            _vgg16_bn,
            tuple((f"features.{pool}",) for pool in (6, 13, 23, 33, 43)),
            5,
            PACKAGE,
        ),
        HandMade(
            "mobilenet-v2",
            "MobileNetV2, width 1",
            "Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
            _mobilenet_v2,
            (("features.0.0",), *((f"features.{block}.conv.1.0",) for block in (2, 4, 7, 14))),
            3,
            PACKAGE,
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
            PACKAGE,
        ),
    )
}

"""An architecture's network for a data set, built for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from dnas.data.splits import DataInfo
from dnas.network.network import Network, build
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.plan import NetworkPlan, plan, size

NetworkType = TypeVar("NetworkType", bound=nn.Module)


def planned(architecture: Architecture, settings: TrainSettings, info: DataInfo) -> NetworkPlan:
    """The network that these settings train on this data. Raises InputError for a width that cannot be built."""
    return plan(
        architecture,
        channels=settings.channels,
        classes=len(info.classes),
        inputs=info.channels,
        stem=settings.stem,
    )


def parameters_of(settings: TrainSettings, info: DataInfo) -> Callable[[Architecture], int]:
    """How many parameters the network of an architecture has, as these settings train it on this data."""
    return lambda architecture: size(planned(architecture, settings, info), info.image_size).params


def built(architecture: Architecture, settings: TrainSettings, info: DataInfo, seed: int) -> Network:
    """The network of `planned`, with fresh weights and, where its loss counts, the auxiliary head."""
    return build(
        architecture,
        settings.channels,
        len(info.classes),
        inputs=info.channels,
        stem=settings.stem,
        auxiliary=settings.auxiliary_weight > 0,
        final_norm=settings.final_norm,
        seed=seed,
    )


def to_device(network: NetworkType, device: str) -> NetworkType:
    """On a device, with channels last: 1.4 times as fast there as with channels first, on the CPU."""
    moved: NetworkType = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved

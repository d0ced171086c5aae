"""Build the network of an architecture for a data set, for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from dnas.data.splits import DataInfo
from dnas.network.network import Network, build
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.network_plan import NetworkPlan, size
from dnas.space.plan import plan

NetworkType = TypeVar("NetworkType", bound=nn.Module)


def planned(architecture: Architecture, settings: TrainSettings, info: DataInfo) -> NetworkPlan:
    """Plan the network for these settings and this data. Raises InputError for a width that cannot be built."""
    return plan(
        architecture,
        channels=settings.channels,
        classes=len(info.classes),
        inputs=info.channels,
        stem=settings.stem,
    )


def parameters_of(settings: TrainSettings, info: DataInfo) -> Callable[[Architecture], int]:
    """Return the number of parameters of the network of an architecture with these settings on this data."""
    return lambda architecture: size(planned(architecture, settings, info), info.image_size).params


def built(architecture: Architecture, settings: TrainSettings, info: DataInfo, seed: int) -> Network:
    """Build the network of `planned`, randomly initialized, with the auxiliary head if its loss has a weight."""
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
    """Move a network to a device with channels last: 1.4 times as fast as channels first, on the CPU."""
    moved: NetworkType = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved

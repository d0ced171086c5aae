"""The supernet of a space."""

from __future__ import annotations

from typing import Any

from dnas.network.modules import construct
from dnas.rng import torch_stream
from dnas.space.chain import ChainSpace
from dnas.space.protocol import SearchSpace
from dnas.supernet.chain import ChainSupernet
from dnas.supernet.protocol import WeightSharing
from dnas.supernet.supernet import Supernet


def build_supernet(space: SearchSpace, operations: tuple[str, ...], *, seed: int = 0, **shape: Any) -> WeightSharing:
    """Build a randomly initialized supernet from the seed of the run; `shape` are the arguments of its class."""

    def made() -> WeightSharing:
        if isinstance(space, ChainSpace):
            return ChainSupernet(space, operations, **shape)
        return Supernet(space, operations, **shape)

    supernet = construct(made, torch_stream(seed, "init"))
    assert isinstance(supernet, WeightSharing)
    return supernet

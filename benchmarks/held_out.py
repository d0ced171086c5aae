"""How benchmarks train architectures for equal processor time, and judge them on training images that were held out."""

from __future__ import annotations

from dataclasses import dataclass

from dnas.data.splits import DataInfo, Split, halves
from dnas.network.network import params
from dnas.pipeline.budget import Pace, planned, steps_in
from dnas.pipeline.speed import seconds_per_step
from dnas.runtime.session import Session
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.training.accuracy import measure_accuracy
from dnas.training.build import built
from dnas.training.trainer import train_network

HELD_OUT_SHARE, HELD_OUT = 0.2, 5_000


@dataclass(frozen=True)
class Trained:
    accuracy: float
    steps: int
    params: int


def parts(split: Split) -> tuple[Split, Split]:
    """The training images that are trained on, and those that judge: a fifth, at most 5,000."""
    held_out = min(HELD_OUT, round(HELD_OUT_SHARE * len(split)))
    trained, judged = halves(len(split), 0, 1 - held_out / len(split))
    return split.subset(trained), split.subset(judged)


def trained_for(
    seconds: float,
    architecture: Architecture,
    settings: TrainSettings,
    train: Split,
    judges: Split,
    info: DataInfo,
    seed: int,
) -> Trained:
    """A training of as many steps as it does in so much processor time of one thread. `settings` are resolved."""

    def tried(half: bool) -> float:
        network = built(architecture, settings, info, seed)
        return seconds_per_step(network, settings, train, info, seed=seed, device="cpu", half=half)

    full = tried(False)
    pace = Pace(full, tried(True) if settings.half_size else full, settings.half_size)
    settings = planned(settings, steps_in(seconds, pace))
    network = built(architecture, settings, info, seed)
    train_network(network, settings, train, info, seed=seed, session=Session(None, {}))
    return Trained(measure_accuracy(network, judges, info).value, settings.step_count, params(network))

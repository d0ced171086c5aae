"""Speed of this machine, measured by a few steps of a search or training on a few images, which are discarded."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from dnas.data.splits import DataInfo, Split
from dnas.kernels.memory import give_back
from dnas.methods.protocol import SupernetMethod
from dnas.parts.protocol import Part
from dnas.reporter import Silent
from dnas.runtime.names import TRYOUT_STAGE
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.settings import GradientSettings, NetworkTrainSettings, SupernetSettings
from dnas.training.trainer import train_network

# The first step does additional work and is not counted. A measurement ends after these.
TRIED_SECONDS, TRIED_STEPS = 0.5, 8


# Used instead of a device: wall-clock time for any device.
WALL = "wall"


def clock(device: str) -> float:
    """Return the CPU time of this thread in seconds or, for a GPU, wall-clock time.

    The thread takes part in all computations, so both are equal on an idle machine, and plans made on a busy machine
    are those for an idle one.
    """
    return time.thread_time() if device == "cpu" else time.monotonic()


def seconds_per_step(
    network: nn.Module,
    settings: NetworkTrainSettings,
    train: Split,
    info: DataInfo,
    *,
    seed: int,
    device: str,
    half: bool = False,
    wall: bool = False,
) -> float:
    """Measure the duration of a training step. The network is modified.

    Args:
        half: Measure the first steps, which use images of half the size.
        wall: Measure wall-clock time, including the current load of the machine.
    """
    count = min(len(train), 3 * round(settings.images / settings.steps_per_epoch))
    short = settings.model_copy(
        update={"images": count, "epochs": TRIED_STEPS, "steps": 0, "half_size": 0.999 if half else 0.0}
    )

    def run(session: Session) -> None:
        train_network(
            network, short, few(train, count), info, seed=seed, session=session, stage=TRYOUT_STAGE, device=device
        )

    return _median_step(run, WALL if wall else device)


def seconds_per_search_step(
    method: SupernetMethod,
    settings: SupernetSettings,
    train: Split,
    info: DataInfo,
    *,
    seed: int,
    device: str,
    with_parts: Sequence[Part] = (),
) -> float:
    """Measure the duration of a search step, with an architecture update if the method has one."""
    share = min(settings.train_share, 1 - settings.train_share)
    count = min(len(train), math.ceil(3 * settings.batch_size / share))
    update: dict[str, object] = {"images": count, "epochs": TRIED_STEPS, "watch_images": 0}
    if isinstance(settings, GradientSettings):
        update |= {"warmup_epochs": 0, "eigenvalue": False}
    short = settings.model_copy(update=update)

    def run(session: Session) -> None:
        pictures = few(train, count)
        search_supernet(method, short, pictures, info, seed=seed, session=session, device=device, with_parts=with_parts)

    return _median_step(run, device)


def few(train: Split, count: int) -> Split:
    """Return this number of evenly spaced images."""
    return train.subset(torch.linspace(0, len(train) - 1, count).long())


class _Enough(Exception):
    """Raised to end a loop that has been measured for long enough."""


class _Stopwatch(Silent):
    """Reporter that measures the time after each step, and ends the loop when the speed is known."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.began = 0.0
        self.ends: list[float] = []

    def start(self, title: str, steps: int, done: int) -> None:
        self.began = clock(self.device)

    def step(self, step: int, shown: Mapping[str, float]) -> None:
        self.ends.append(clock(self.device))
        enough = self.ends[-1] - self.ends[0] >= TRIED_SECONDS or len(self.ends) == TRIED_STEPS
        if enough and len(self.ends) > 1:
            raise _Enough


def _median_step(run: Callable[[Session], None], device: str) -> float:
    watch = _Stopwatch(device)
    with contextlib.suppress(_Enough):  # a method may end its search earlier
        run(Session(None, {}, watch))
    give_back()
    ends = watch.ends if len(watch.ends) > 1 else [watch.began, *watch.ends]
    return statistics.median(after - before for before, after in pairwise(ends))

"""How fast this machine is: a few steps of a search or a training are tried on a few images, and thrown away."""

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

# The first step, which has more to do, counts for nothing, and a try ends after these.
TRIED_SECONDS, TRIED_STEPS = 0.5, 8


# In place of a device: by the wall's clock, whatever computes.
WALL = "wall"


def clock(device: str) -> float:
    """Seconds of this thread's processor time; on a GPU, whose time is none of it, of the wall's.

    The thread takes part in all that is computed, so on an idle machine both are the same, and on a busy one a plan is
    that of an idle one.
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
    """How long a step of a training takes. The network is used up.

    Args:
        half: Of its first steps, on images of half the size.
        wall: Beside whatever else this machine does now.
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
    """How long a step of a search takes in which the architecture moves, if it ever does."""
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
    """So many images, evenly spread."""
    return train.subset(torch.linspace(0, len(train) - 1, count).long())


class _Enough(Exception):
    """A loop has been tried for long enough."""


class _Stopwatch(Silent):
    """Takes the time at the end of each step, and ends the loop when that tells its speed."""

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
    with contextlib.suppress(_Enough):  # a method may end its search before
        run(Session(None, {}, watch))
    give_back()
    ends = watch.ends if len(watch.ends) > 1 else [watch.began, *watch.ends]
    return statistics.median(after - before for before, after in pairwise(ends))

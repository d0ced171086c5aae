"""A budget in time becomes a plan in steps, which is in force then: nothing that is computed looks at a clock.

Of the budget of a run, a share is for searching. The search is planned before it begins; how long the networks are
trained is planned when they are known, since random networks of one size differ by half in their time per step. The
plan is part of what is written, so that a resumed run, or one by its config.toml, repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.methods.protocol import Method, SupernetMethod
from dnas.pipeline import stages
from dnas.pipeline.config import Config
from dnas.pipeline.model import Subject, fresh
from dnas.pipeline.speed import clock, seconds_per_search_step, seconds_per_step
from dnas.searching.judging import FORWARD
from dnas.settings import GradientSettings, NetworkTrainSettings, SupernetSettings, TrialSettings
from dnas.units import time_text

# Of the budget of a run; docs/performance.md says what other shares come to.
SEARCH_SHARE = 0.15
# For what is not foreseen, such as files that are written.
RESERVE = 0.02


@dataclass(frozen=True)
class Plan:
    """How many steps the network and its baseline are trained for; 0: as the settings say."""

    steps: int
    baseline: int = 0

    def settings(self, settings: NetworkTrainSettings, baseline: bool = False) -> NetworkTrainSettings:
        steps = self.baseline if baseline else self.steps
        if not steps:
            return settings
        return settings.model_copy(update={"steps": steps, "epochs": math.ceil(steps / settings.steps_per_epoch)})


def search_seconds(config: Config) -> float:
    """How much of the budget is for the search."""
    return config.budget * {"search": 1.0, "run": SEARCH_SHARE, "train": 0.0}[config.command]


def searching(config: Config, method: Method, train: Split, info: DataInfo) -> dict[str, Any]:
    """The settings with which a search takes its share of the budget: of images and, where those are all, of epochs."""
    settings = config.search
    assert settings is not None
    if isinstance(settings, TrialSettings):
        seconds = stages.seconds_per_trial(config, settings, train, info)
        if seconds is None:
            raise InputError(
                f"--budget {time_text(config.budget)}: a trial could not be tried for its speed; give --epochs"
            )
        whole = seconds * stages.search_work(method, settings).total / max(1, settings.processes)
    else:
        assert isinstance(method, SupernetMethod) and isinstance(settings, SupernetSettings)
        step = seconds_per_search_step(method, settings, train, info, seed=config.seed, device=config.device)
        passes = stages.PASSES[settings.update] if isinstance(settings, GradientSettings) else 1.0
        whole = step / passes * stages.search_work(method, settings).total
    images = settings.images * (1 - RESERVE) * search_seconds(config) / whole
    least = 4 * settings.batch_size
    if images <= len(train):
        return {"images": min(len(train), max(least, round(images)))}
    return {"images": len(train), "epochs": max(1, round(settings.epochs * images / len(train)))}


def training(
    config: Config, subjects: Sequence[Subject], train: Split, test: Split, info: DataInfo, spent: float
) -> Plan:
    """What is left of the budget becomes steps, of each network for the same time.

    Args:
        subjects: The network that the run is about, and maybe its baseline.
        spent: Seconds of the budget that are gone.

    Raises:
        InputError: Nothing is left.
    """
    settings = config.train
    assert settings is not None
    left = ((1 - RESERVE) * config.budget - spent) / len(subjects)
    steps = []
    for subject in subjects:
        began = clock(config.device)

        def tried(half: bool, subject: Subject = subject) -> float:
            network = fresh(subject, config, info)
            return seconds_per_step(network, settings, train, info, seed=config.seed, device=config.device, half=half)

        step = tried(False)
        share = settings.half_size
        each = (1 - share) * step + (share * tried(True) if share else 0.0)
        tests = FORWARD * step * len(test) * settings.steps_per_epoch / settings.images
        for_steps = left - tests - (clock(config.device) - began)
        steps.append(max(1, int(for_steps / each)))
    return Plan(*steps)


def sentence(config: Config, plan: Plan) -> str:
    """The plan in a line."""
    assert config.train is not None
    passes = plan.steps / config.train.steps_per_epoch
    searched = f"search {time_text(search_seconds(config))}, then " if config.search is not None else ""
    images = f"{passes * config.train.images:,.0f} images ({passes:.1f} passes over {config.train.images:,})"
    baseline = ", and its baseline for as long" if plan.baseline else ""
    return f"plan for {time_text(config.budget)}: {searched}train on {images}{baseline}"

"""A time budget becomes a plan in steps. From then on only the plan is used, so results do not depend on a clock.

A share of the budget is for the search, which is planned before it starts. The length of the trainings is planned once
the networks are known, since networks of the same size differ by half in their time per step. The plan is saved, so
that a resumed run, or one from its config.toml, repeats it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.methods.protocol import Method, SupernetMethod
from dnas.parts import registry as parts
from dnas.pipeline import stages
from dnas.pipeline.config import Config
from dnas.pipeline.model import Subject, fresh
from dnas.pipeline.speed import seconds_per_search_step, seconds_per_step
from dnas.searching import finals
from dnas.searching.judging import FORWARD
from dnas.settings import GradientSettings, NetworkTrainSettings, SearchSettings, SupernetSettings, TrialSettings
from dnas.units import time_text

SettingsType = TypeVar("SettingsType", bound=NetworkTrainSettings)
# Of the budget of a run. With 15%, and finals twice as long, 292 of 500 s on CIFAR-10 were left for the training, and
# the network came out 2.7 points below a random one that had all the time (docs/outcome.md). In one of eight runs
# of 500 s what the search had thought of won the finals, so it gets little; more where there are no finals.
SEARCH_SHARE, SEARCH_SHARE_ALONE = 0.01, 0.05
# Of a search that judges architectures at its end, what that may take: the weights that it judges by come first.
JUDGING_SHARE = 0.5
# For what is not foreseen, such as files that are written.
RESERVE = 0.02


@dataclass(frozen=True)
class Pace:
    """Seconds of a network's steps, on images of full size and, where it sees any, of half the size."""

    full: float
    half: float
    share: float  # of the steps that see images of half the size

    @property
    def mean(self) -> float:
        return self.share * self.half + (1 - self.share) * self.full


def search_seconds(config: Config) -> float:
    """Return the part of the budget for the search."""
    share = SEARCH_SHARE if config.finals else SEARCH_SHARE_ALONE
    return config.budget * {"search": 1.0, "run": share, "train": 0.0}[config.command]


def of_each(config: Config, spent: float) -> float:
    """The budget of a run of its own for each value of a limit, whose share for the search counts as gone.

    Args:
        spent: Seconds of the whole budget that are gone.
    """
    share = search_seconds(config) / config.budget
    return max(0.0, config.budget - spent) / (1 + len(config.answers)) / (1 - share)


def searching(config: Config, method: Method, train: Split, info: DataInfo) -> dict[str, Any]:
    """Return settings with which a search takes its share of the budget.

    They change the number of images, and once that is at a bound, the number of epochs. The evaluations at the end take
    the same time after any number of epochs; if they need more than half of the time, `steps` ends them early.
    """
    settings = config.search
    assert settings is not None
    wanted = (1 - RESERVE) * search_seconds(config)
    taken = parts.create(config.with_parts, config.with_options)
    if isinstance(settings, SupernetSettings):
        assert isinstance(method, SupernetMethod)
        step = seconds_per_search_step(
            method, settings, train, info, seed=config.seed, device=config.device, with_parts=taken
        )
        one_pass = step / (stages.passes(settings, taken) if isinstance(settings, GradientSettings) else 1.0)

    def seconds(settings: SearchSettings) -> float:
        work = stages.search_work(method, settings, taken).total
        if not isinstance(settings, TrialSettings):
            return one_pass * work
        trial = stages.seconds_per_trial(config, settings, train, info)
        if trial is None:
            raise InputError(
                f"--budget {time_text(config.budget)}: the speed of a trial could not be measured; use --epochs instead"
            )
        return trial * work / max(1, settings.processes)

    images = settings.images * wanted / seconds(settings)
    least = 4 * settings.batch_size
    seen = min(len(train), max(least, round(images)))
    if least <= images <= len(train):
        return {"images": seen}
    # Not all that an epoch costs becomes less with its images.
    settings = settings.model_copy(update={"images": seen})
    work, whole = stages.search_work(method, settings), seconds(settings)
    judging = whole * work.after / work.total
    judged = min(judging, JUDGING_SHARE * wanted)
    epochs = max(1, round(settings.epochs * (wanted - judged) / (whole - judging)))
    if judged == judging:
        return {"images": seen, "epochs": epochs}
    limit = work.total * wanted / whole  # in batches as they are, which `steps` counts in batches of full size
    full = settings.steps_per_epoch * settings.batch_size / settings.weight_images
    return {"images": seen, "epochs": epochs, "steps": math.ceil(limit / full)}


def pace(config: Config, subject: Subject, train: Split, info: DataInfo) -> Pace:
    """Measure the speed of the training steps of a network."""
    settings = config.train
    assert settings is not None

    def tried(half: bool) -> float:
        network = fresh(subject, config, info)
        return seconds_per_step(network, settings, train, info, seed=config.seed, device=config.device, half=half)

    full = tried(False)
    return Pace(full, tried(True) if settings.half_size else full, settings.half_size)


def training_seconds(config: Config, paces: Sequence[Pace], test: Split, spent: float) -> float:
    """Return the seconds of the budget that remain for the steps of one training.

    Finals of as many candidates as there are paces can precede it, and a baseline that trains as long can follow.

    Args:
        spent: Seconds of the budget that are spent.

    Raises:
        InputError: Nothing is left.
    """
    settings = config.train
    assert settings is not None
    batch = settings.images / settings.steps_per_epoch
    step = statistics.mean(pace.full for pace in paces)
    small = statistics.mean(pace.half for pace in paces)
    trainings = 2.0 if config.baseline else 1.0
    after = settings.statistics_images + len(test)
    left = (1 - RESERVE) * config.budget - spent - trainings * FORWARD * step * after / batch
    if len(paces) > 1:
        # All finals end before images have full size; the share of the winner belongs to its training.
        judged = sum(each.entrants for each in finals.rounds(len(paces))) * finals.held_out(settings.images)
        left -= FORWARD * small * judged / batch
        mean = statistics.mean(pace.mean for pace in paces)
        alone = statistics.mean(pace.half if pace.share else pace.full for pace in paces)
        trainings += finals.beside(len(paces)) * alone / mean
    if left <= 0:
        raise InputError(f"--budget {time_text(config.budget)} is spent before the training; use a larger budget")
    return left / trainings


def steps_in(seconds: float, pace: Pace) -> int:
    """Return the number of training steps that fit into a time, at least 1."""
    return max(1, int(seconds / pace.mean))


def planned(settings: SettingsType, steps: int) -> SettingsType:
    """Return a training with so many steps; unchanged if it has them, since schedules depend on the epochs."""
    if steps == settings.step_count:
        return settings
    return settings.model_copy(update={"steps": steps, "epochs": math.ceil(steps / settings.steps_per_epoch)})


def sentence(config: Config, searched: float, seconds: float, steps: Sequence[int], entrants: int) -> str:
    """Return the plan as a line of text, after the search. Args: steps: of the training of each entrant."""
    assert config.train is not None
    ends = sorted({min(steps), max(steps)})
    passes = [each / config.train.steps_per_epoch for each in ends]
    before = f"search took {time_text(searched)}, " if config.search is not None else ""
    held = f"{1 + len(config.answers)} networks of it, each: " if config.answers else ""
    held += f"finals of {entrants}, " if entrants > 1 else ""
    images = " to ".join(f"{each * config.train.images:,.0f}" for each in passes)
    over = f"{' to '.join(f'{each:.1f}' for each in passes)} passes over {config.train.images:,}"
    again = ", its baseline as long" if config.baseline else ""
    taken = f"train for {time_text(seconds)} on {images} images ({over})"
    return f"plan for {time_text(config.budget)}: {before}{held}{taken}{again}"

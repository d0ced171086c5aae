"""Work of the stages of a run, and estimated duration of those that have not started."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError, RunError
from dnas.methods.protocol import GradientMethod, Method, SupernetMethod
from dnas.parts import registry as parts
from dnas.parts.protocol import Part
from dnas.pipeline.config import Config
from dnas.pipeline.speed import seconds_per_step
from dnas.rng import numpy_stream
from dnas.runtime import distributed
from dnas.runtime.estimate import Estimate, Work
from dnas.runtime.names import ANSWERS_STAGE, BASELINE_STAGE, FINALS_STAGE, SEARCH_STAGE, TRAIN_STAGE
from dnas.searching import finals
from dnas.searching.judging import FORWARD
from dnas.searching.trials import short_training
from dnas.settings import (
    GradientSettings,
    NetworkTrainSettings,
    SearchSettings,
    SupernetSettings,
    TrainSettings,
    TrialSettings,
)
from dnas.space.architecture import Architecture, at_depth
from dnas.space.network_plan import size
from dnas.space.registry import get_space
from dnas.space.sampling import sample
from dnas.supernet.mapping import SHARED
from dnas.training.build import built, planned

# Forward and backward passes in a step that also updates the architecture.
PASSES = {"first-order": 2.0, "second-order": 5.0, "single-level": 1.0}
# Cost of computing the eigenvalue, in the same unit.
EIGENVALUE_PASSES = 100.0
# Number of random architectures; the one of median size represents the searched architecture.
DRAWS = 25


def estimate(config: Config, method: Method | None, train: Split, test: Split | None, info: DataInfo) -> Estimate:
    """Return the estimate for a run with these resolved settings."""
    stages: dict[str, Work] = {}
    if config.search is not None:
        assert method is not None
        stages[SEARCH_STAGE] = search_work(method, config.search, parts.create(config.with_parts, config.with_options))
    if config.train is not None:
        if config.finals:
            stages[FINALS_STAGE] = finals_work(config.train, config.finals)
        stages[TRAIN_STAGE] = train_work(config.train, 0 if test is None else len(test))
        if config.baseline:
            stages[BASELINE_STAGE] = stages[TRAIN_STAGE]
        if config.answers:
            stages[ANSWERS_STAGE] = Work(len(config.answers))

    def price(stage: str, known: Mapping[str, float]) -> float | None:
        if stage == BASELINE_STAGE:
            return known[TRAIN_STAGE] * foretold.stages[BASELINE_STAGE].total / foretold.stages[TRAIN_STAGE].total
        if stage == ANSWERS_STAGE:
            assert isinstance(config.train, TrainSettings)
            widths = sum(each.channels for each in config.answers) / config.train.channels
            alone = known.get(TRAIN_STAGE) or known[BASELINE_STAGE]
            return widths * alone * (1 + (BASELINE_STAGE in foretold.stages))
        if stage == SEARCH_STAGE:
            assert isinstance(config.search, TrialSettings)
            seconds = seconds_per_trial(config, config.search, train, info, wall=True)
            return None if seconds is None else seconds * stages[SEARCH_STAGE].total / max(1, config.search.processes)
        assert isinstance(config.train, TrainSettings)
        seconds = _seconds_per_step(config, config.train, train, info, wall=True)
        return None if seconds is None else seconds * stages[stage].total

    unmeasured = {FINALS_STAGE, *([SEARCH_STAGE] if isinstance(config.search, TrialSettings) else [])}
    foretold = Estimate(stages, price, frozenset(unmeasured))
    return foretold


def set_baseline(
    foretold: Estimate,
    architecture: Architecture,
    baseline: Architecture | None,
    settings: TrainSettings,
    info: DataInfo,
) -> None:
    """Update an estimate with the architecture to train, and with its baseline (None: no baseline)."""
    if baseline is None:
        foretold.leave_out(BASELINE_STAGE)
        return
    macs, like = (size(planned(each, settings, info), info.image_size).macs for each in (baseline, architecture))
    foretold.stages[BASELINE_STAGE] = foretold.stages[TRAIN_STAGE].times(macs / like)


def train_work(settings: NetworkTrainSettings, test_images: int) -> Work:
    """Return the work of a training, including the batch norms of averaged weights and the test at its end.

    The unit is one step on images of full size.
    """
    batch = settings.images / settings.steps_per_epoch
    after = FORWARD * (settings.statistics_images + test_images) / batch
    return Work(settings.step_count, early_steps=settings.half_size_steps, early_cost=1 / 4, after=after)


def finals_work(settings: NetworkTrainSettings, entrants: int) -> Work:
    """Return the work of finals in steps on images of full size, except that of the winner, which is its training."""
    programme = finals.rounds(entrants)
    judged = sum(each.entrants for each in programme) * finals.held_out(settings.images)
    cost = 1 / 4 if settings.half_size >= finals.LAST_SHARE else 1.0
    steps = round(finals.beside(entrants) * settings.step_count)
    after = cost * FORWARD * judged / (settings.images / settings.steps_per_epoch)
    return Work(steps, cost=cost, after=after)


def passes(settings: GradientSettings, with_parts: Sequence[Part]) -> float:
    """Return the number of passes of a step with an architecture update."""
    return PASSES[settings.update] + sum(part.passes(settings) for part in with_parts)


def search_work(method: Method, settings: SearchSettings, with_parts: Sequence[Part] = ()) -> Work:
    """Return the work of a search, at most that of its limits: in trials, or in forward and backward passes."""
    validation = (settings.images - settings.weight_images) or settings.images
    seconds = settings.seconds or math.inf
    if isinstance(settings, TrialSettings):
        trial = (settings.epochs * settings.weight_images + FORWARD * validation) / settings.batch_size
        trials = min(settings.trials, math.ceil(settings.steps / trial)) if settings.steps else settings.trials
        return Work(trials, seconds=seconds)
    assert isinstance(method, SupernetMethod) and isinstance(settings, SupernetSettings)
    epoch = settings.steps_per_epoch
    batch = settings.weight_images / epoch
    costs: dict[str, Any] = {}
    watched = 0.0 if type(method).derive is SupernetMethod.derive else 1.0  # the derived architecture, if there is one
    eigenvalue = 0.0
    if isinstance(settings, GradientSettings):
        costs = {"early_steps": settings.warmup_epochs * epoch, "cost": passes(settings, with_parts)}
        watched += 1  # the supernet
        eigenvalue = EIGENVALUE_PASSES if settings.eigenvalue else 0.0
    each, last = (FORWARD * images / batch for images in method.judged_images(validation))
    for part in with_parts:
        assert isinstance(method, GradientMethod)
        last += FORWARD * part.judged_images(method, settings.layers, validation) / batch
    # The amount counted by the limit; monitoring is not part of the search cost.
    work = Work(settings.epochs * epoch, **costs, epoch_steps=epoch, epoch_cost=each, after=last, seconds=seconds)
    # The unit is a full batch.
    limit = settings.steps * settings.batch_size / batch
    if 0 < limit < work.total:
        steps = bisect.bisect_left(range(work.steps), limit, key=work.until)
        work = replace(work, steps=steps, after=max(0.0, limit - work.until(steps)))
    watching = FORWARD * watched * min(settings.watch_images, validation) / batch
    return replace(work, epoch_cost=work.epoch_cost + watching + eigenvalue)


def seconds_per_trial(
    config: Config, settings: TrialSettings, train: Split, info: DataInfo, wall: bool = False
) -> float | None:
    """Estimate the duration of a trial from a few steps with the number of threads of each trial.

    Args:
        wall: Measure wall-clock time, including the current load of the machine.
    """
    training = short_training(settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // max(1, settings.processes)))
    try:
        seconds = _seconds_per_step(config, training, train, info, wall)
    finally:
        torch.set_num_threads(threads)
    if seconds is None:
        return None
    return seconds * train_work(training, settings.images - settings.weight_images).total


def _seconds_per_step(
    config: Config, settings: TrainSettings, train: Split, info: DataInfo, wall: bool
) -> float | None:
    """Estimate the duration of a step of a future training, using a network of typical size and a few images.

    Returns None if it cannot be measured: a measurement must not end a run, and no rank may fail alone.
    """
    if distributed.count() > 1:
        return None
    try:
        network = built(likely(config, settings, info), settings, info, config.seed)
        return seconds_per_step(network, settings, train, info, seed=config.seed, device=config.device, wall=wall)
    except (InputError, RunError, MemoryError, RuntimeError):
        return None


def likely(config: Config, settings: TrainSettings, info: DataInfo) -> Architecture:
    """Return a typical architecture of the search: the random one with the median of multiply-accumulates."""
    assert config.search is not None
    rng = numpy_stream(config.seed, "estimate")
    shared = config.mapping == SHARED
    space = get_space(config.space)
    draws = [at_depth(sample(space, rng, config.search.layers, shared=shared), settings.layers) for _ in range(DRAWS)]
    return sorted(draws, key=lambda a: size(planned(a, settings, info), info.image_size).macs)[DRAWS // 2]

"""Run a multi-trial method, which trains each candidate briefly from scratch: images in, an architecture out.

Each trial trains the discrete network of a candidate on one part of the training images and evaluates it on the other.
The brief training is the same for all methods. A trial has a folder of its own within the run folder, with its own
checkpoints, so an interrupted search resumes within the trials where it stopped. It may also have its own process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dnas.data.splits import DataInfo, Split, chosen, halves
from dnas.disk import read_json
from dnas.errors import Diverged, Interrupted
from dnas.kernels import native
from dnas.methods.protocol import Candidate, Trial, TrialMethod
from dnas.reporter import Reporter
from dnas.rng import derived_seed
from dnas.runtime.execution import DEFAULT, Execution
from dnas.runtime.names import RESULT_FILE, SEARCH_STAGE, TRIAL_STAGE
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import Captured, Session
from dnas.runtime.workers import Outcome, WorkerDied, Workers
from dnas.searching.judging import FORWARD, Answer, Found, answered, judged_in_rounds, next_best, score_of
from dnas.settings import Recipe, TrainSettings, TrialSettings
from dnas.space.architecture import Architecture
from dnas.training.accuracy import measure_accuracy
from dnas.training.build import built
from dnas.training.trainer import train_network

FOLDER = "trials"
# A process whose parent was killed releases its folder after the current step.
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class TrialJob:
    """One trial, in the form sent to a process.

    Attributes:
        title: The title in the progress display.
        folder: The folder for its checkpoints and results; None: it keeps none.
        config, execution: The config and execution of the run.
    """

    architecture: Architecture
    training: TrainSettings
    train: Split
    validation: Split
    info: DataInfo
    seed: int
    title: str
    device: str
    folder: Path | None
    config: dict[str, Any]
    execution: Execution = DEFAULT


def short_training(settings: TrialSettings) -> TrainSettings:
    """Return the training settings of a trial: without auxiliary head, drop path and cutout."""
    shared = ("channels", "epochs", "batch_size", "learning_rate", "learning_rate_min", "momentum", "weight_decay")
    others = ("clip_norm", "pad", "flip", "stem", "final_norm", *Recipe.model_fields)
    return TrainSettings(
        **{name: getattr(settings, name) for name in (*shared, *others)},
        images=settings.weight_images,
        auxiliary_weight=0.0,
        drop_path=0.0,
        cutout=0,
    )


def run_trial(job: TrialJob, reporter: Reporter | None = None) -> float:
    """Train and evaluate a candidate, resuming if it was interrupted, and return its validation accuracy.

    Raises:
        Diverged: The training diverged.
        Interrupted: A signal came; a checkpoint was written.
    """
    if job.folder is None:
        return _trained(job, Session(None, {}, reporter))
    with RunFolder(job.folder, LOCK_SECONDS) as folder:
        if not (job.folder / RESULT_FILE).exists():
            session = Session(folder, job.config, reporter, job.execution)
            if folder.has_checkpoints():
                session.resume()
            with session.signals():
                try:
                    result: dict[str, Any] = {"accuracy": _trained(job, session)}
                except Diverged as error:
                    result = {"accuracy": None, "error": str(error)}
            folder.write_json(RESULT_FILE, result)
            folder.drop_checkpoints()
        result = read_json(job.folder / RESULT_FILE)
    if result["accuracy"] is None:
        raise Diverged(result["error"])
    return float(result["accuracy"])


def _trained(job: TrialJob, session: Session) -> float:
    network = train_network(
        built(job.architecture, job.training, job.info, job.seed),
        job.training,
        job.train,
        job.info,
        seed=job.seed,
        session=session,
        stage=TRIAL_STAGE,
        title=job.title,
        device=job.device,
    )
    session.reporter.finish()
    return measure_accuracy(network, job.validation, job.info, job.device).value


def _run_in_process(job: TrialJob) -> float:
    native.choose(job.config.get("backend", "auto"))
    torch.use_deterministic_algorithms(job.config.get("deterministic", False))
    with closing(job.train), closing(job.validation):
        return run_trial(job)


def search_by_trials(
    method: TrialMethod,
    settings: TrialSettings,
    split: Split,
    info: DataInfo,
    *,
    seed: int,
    session: Session,
    device: str = "cpu",
    evaluate: Callable[[Architecture], float] | None = None,
) -> Found:
    """Search on the training split.

    Args:
        evaluate: Architecture → accuracy, instead of the training. May also raise Diverged.

    Raises:
        RunError: All trials failed, or something other than a trial failed.
        Interrupted: A signal came; a checkpoint was written.
    """
    pool = chosen(split, settings.images, seed, settings.stratified)
    labels = pool.labels if settings.stratified else None
    parts = halves(len(pool), seed, settings.train_share, labels)
    train_part, validation_part = (pool.subset(part) for part in parts)
    training = short_training(settings)
    method.budget = settings.trials
    equivalents = (training.epochs * len(train_part) + FORWARD * len(validation_part)) / settings.batch_size
    root = None if session.folder is None else session.folder.path / FOLDER

    checkpoint = session.start(
        SEARCH_STAGE, f"search ({method.name}, {method.mapping_name})", settings.trials, divisible=True
    )
    scores: list[float | None] = [] if checkpoint is None else list(checkpoint.state["loop"]["scores"])

    def capture() -> Captured:
        return {}, {"scores": scores}

    def spent(number: int) -> bool:
        """Return True if trial `number`, 0-based, exceeds the budget."""
        return settings.spent(session.elapsed(), number * equivalents)

    def scored() -> bool:
        return any(score is not None for score in scores)

    def jobs(first: int, candidates: Sequence[Candidate]) -> Iterator[TrialJob]:
        """Yield the trials within the budget, and the first while no trial has a score: a search needs a result."""
        needed = not scored()
        for number, candidate in enumerate(candidates, first):
            if spent(number) and not (needed and number == first):
                return
            folder = None if root is None else root / f"{number + 1:04d}"
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            yield TrialJob(
                candidate.architecture,
                training,
                train_part,
                validation_part,
                info,
                derived_seed(seed, "trial", number),
                f"trial {number + 1} of {settings.trials} ({method.name}, {method.mapping_name})",
                device,
                folder,
                session.config,
                # The search logs one line per trial; the epochs of a trial are in its own folder.
                replace(session.execution, tensorboard=False, on_epoch=None),
            )

    def record(number: int, architecture: Architecture, outcome: Outcome[float]) -> float | None:
        if isinstance(outcome.error, Diverged | WorkerDied):
            session.say(f"trial {number + 1} failed: {outcome.error}")
        elif outcome.error is not None:
            raise outcome.error
        score = outcome.result
        scores.append(score)
        session.metric(stage=SEARCH_STAGE, trial=number + 1, accuracy=score, skips=architecture.skips)
        session.step_done(number + 1, {} if score is None else {"accuracy": score}, capture)
        return score

    def judge(first: int, candidates: Sequence[Candidate]) -> Iterator[float | None]:
        recorded = 0
        while recorded < len(candidates):
            early: dict[int, Outcome[float]] = {}
            began = recorded
            for outcome in workers.run(run, jobs(first + began, candidates[began:]), session.stopping):
                early[began + outcome.index] = outcome
                if isinstance(outcome.error, Interrupted):
                    session.signum = outcome.error.signum if session.signum is None else session.signum
                # In the order of their numbers, not of completion, so that repeated searches write identical files.
                while recorded in early and not isinstance(early[recorded].error, Interrupted):
                    yield record(first + recorded, candidates[recorded].architecture, early.pop(recorded))
                    recorded += 1
            if session.signum is not None:
                session.step_done(len(scores), {}, capture)
                return
            # Otherwise the limit is reached and all trials have failed so far: continue with the next.
            if scored():
                return

    def run_here(job: TrialJob) -> float:
        if evaluate is not None:
            return evaluate(job.architecture)
        return run_trial(job, session.reporter)

    processes = settings.processes or 1
    here = processes == 1 or evaluate is not None
    run = run_here if here else _run_in_process
    with Workers(1 if here else processes, max(1, torch.get_num_threads() // processes)) as workers:
        history = judged_in_rounds(method, settings.layers, seed, list(scores), judge, settings.trials)
    cost = {"step_equivalents": len(history) * equivalents, "architectures_evaluated": len(history)}

    def answer(known: Sequence[Trial]) -> Answer:
        architecture = method.within(method.choose(known))
        return Answer(architecture, next_best(architecture, known), score_of(architecture, known))

    return Found(answered(method, history, answer), {}, cost, tuple(history))

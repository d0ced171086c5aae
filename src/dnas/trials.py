"""Runs a method that has every candidate trained from scratch, shortly: images in, an architecture out.

Each trial trains the discrete network of a candidate on one part of the training images and judges it on the other, by
one and the same short training for every method. A trial is a stage of the session, so an interrupted search goes on
within the trial where it stopped; those that are done are proposed again and not trained again.
"""

from __future__ import annotations

from collections.abc import Callable

from dnas.architecture import Architecture
from dnas.data import DataInfo, Split, chosen, halves
from dnas.errors import Diverged
from dnas.methods import Candidate, TrialMethod
from dnas.session import Session
from dnas.settings import TrainSettings, TrialSettings
from dnas.streams import derived_seed
from dnas.supernet_search import FORWARD, STAGE, Found, judged
from dnas.trainer import built, measure_accuracy, train_network


def short_training(settings: TrialSettings) -> TrainSettings:
    """The training of a trial: that of a network without auxiliary head, drop-path and cutout."""
    shared = ("channels", "epochs", "batch_size", "learning_rate", "learning_rate_min", "momentum", "weight_decay")
    return TrainSettings(
        **{name: getattr(settings, name) for name in (*shared, "clip_norm", "pad")},
        images=settings.weight_images,
        auxiliary_weight=0.0,
        drop_path=0.0,
        cutout=0,
    )


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
        evaluate: Architecture → accuracy, instead of the training. May raise Diverged, as that may.

    Raises:
        RunError: Every trial failed, or something else than a trial did.
        Interrupted: A signal came; a checkpoint was written.
    """
    pool = chosen(split, settings.images, seed)
    train_part, validation_part = (pool.subset(part) for part in halves(len(pool), seed, settings.train_share))
    training = short_training(settings)
    method.budget = settings.trials

    def trained(architecture: Architecture, number: int, stage: str, title: str) -> float:
        trial_seed = derived_seed(seed, "trial", number)
        network = train_network(
            built(architecture, training, info, trial_seed),
            training,
            train_part,
            info,
            seed=trial_seed,
            session=session,
            stage=stage,
            title=title,
            device=device,
        )
        return measure_accuracy(network, validation_part, info, device).value

    def judge(number: int, candidate: Candidate) -> float | None:
        architecture = candidate.architecture
        stage = f"trial {number + 1}"
        title = f"{stage} of {settings.trials} ({method.name}, {method.mapping_name})"
        try:
            if evaluate is None:
                score: float | None = trained(architecture, number, stage, title)
            else:
                session.start(stage, title, 1)
                score = evaluate(architecture)
        except Diverged as error:
            session.say(f"{stage} failed: {error}")
            score = None
        session.metric(stage=STAGE, trial=number + 1, accuracy=score, skips=architecture.count("skip_connect"))
        session.complete({"accuracy": score})
        return score

    def enough() -> bool:
        return bool(settings.seconds) and sum(session.seconds.values()) >= settings.seconds

    known: list[float | None] = []
    while f"trial {len(known) + 1}" in session.completed:
        known.append(session.completed[f"trial {len(known) + 1}"]["accuracy"])
    history = judged(method, settings.layers, seed, known, judge, enough, settings.trials)
    session.start(STAGE, f"search ({method.name}, {method.mapping_name})", 1)
    passes = training.epochs * len(train_part) + FORWARD * len(validation_part)
    cost = {
        "step_equivalents": len(history) * passes / settings.batch_size,
        "architectures_evaluated": len(history),
    }
    return Found(method.choose(history), {}, cost)

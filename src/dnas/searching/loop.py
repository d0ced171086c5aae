"""Run a search from its first step, or its last checkpoint, to an architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from dnas.data.splits import DataInfo, Split
from dnas.kernels.memory import give_back
from dnas.methods.protocol import Candidate, GradientMethod, Method, SupernetMethod, Trial, TrialMethod
from dnas.parts.protocol import Part
from dnas.rng import torch_stream
from dnas.runtime import distributed
from dnas.runtime.session import Session
from dnas.searching.judging import FORWARD, OTHERS, STAGE, Answer, Found, answered, judged, next_best, score_of
from dnas.searching.search import Search
from dnas.searching.trials import search_by_trials
from dnas.searching.watch import epoch_metrics, signal
from dnas.settings import SearchSettings, SupernetSettings, TrialSettings
from dnas.space.architecture import Architecture
from dnas.training.loop import run_steps


def search_supernet(
    method: SupernetMethod,
    settings: SupernetSettings,
    split: Split,
    info: DataInfo,
    *,
    seed: int,
    session: Session,
    device: str = "cpu",
    supernet: nn.Module | None = None,
    finalists: Sequence[Candidate] = (),
    with_parts: Sequence[Part] = (),
) -> Found:
    """Search on the training split.

    Args:
        supernet: See `Search`.
        finalists: Evaluated at the end, instead of the candidates that the method would propose.
        with_parts: See `Search`.

    Raises:
        RunError: A loss or gradient is non-finite.
        Interrupted: A signal came; a checkpoint was written.
    """
    search = Search(method, settings, split, info, seed, device, supernet, with_parts)

    deriving = next((part for part in with_parts if part.derives), None) if not finalists else None
    reserve = 0.0
    if deriving is not None:
        assert isinstance(method, GradientMethod)
        images = deriving.judged_images(method, settings.layers, len(search.validation_part))
        reserve = FORWARD * images / settings.batch_size

    def spent() -> bool:
        # By the clock of the slowest rank, including the time for the derivation of a part.
        cost = search.cost["step_equivalents"]
        seconds = session.elapsed() * (1 + reserve / cost if cost else 1.0)
        return bool(distributed.most(settings.spent(seconds, cost + reserve))[0])

    def over(step: int) -> bool:
        # If candidates have been evaluated, the steps had ended, for whatever reason.
        return bool(search.scores) or search.stopped is not None or (step > 0 and spent())

    def end_epoch(step: int) -> dict[str, Any]:
        metrics = epoch_metrics(search, step)
        search.stopped = method.after_epoch(search, search.progress(step, draw=1))
        return metrics

    run_steps(
        search,
        session,
        STAGE,
        f"search ({', '.join((method.name, method.mapping_name, *(part.name for part in with_parts)))})",
        steps=settings.epochs * settings.steps_per_epoch,
        steps_per_epoch=settings.steps_per_epoch,
        end_epoch=end_epoch,
        over=over,
    )

    def judge(number: int, candidate: Candidate) -> float:
        score = search.accuracy(candidate.architecture, math.ceil(candidate.share * len(search.validation_part)))
        search.scores.append(score)
        session.step_done(search.trained + number + 1, {"accuracy": score}, search.capture)
        return score

    last = search.progress(max(search.trained - 1, 0), draw=1)
    history: list[Trial] = []
    if deriving is None and (search.stopped is None or finalists):
        limit = len(finalists) or None
        # A limit ends the search, but not the evaluation of the given finalists.
        enough = (lambda: False) if finalists else spent
        finalists = finalists or method.finalists(search.mapping, last)
        history = judged(method, settings.layers, seed, search.scores, judge, enough, limit, finalists)
    if deriving is not None:
        asked = deriving.measures(search, last)
        for number, mixing in enumerate(asked[len(search.scores) :], len(search.scores)):
            search.scores.append(deriving.measure(search, mixing))
            session.step_done(search.trained + number + 1, {"measured": number + 1}, search.capture)
    give_back()
    if deriving is not None:
        search.derived_accuracy = None  # of the architecture that the method itself derives

    watched = method.feasible

    def decided(known: Sequence[Trial]) -> Architecture:
        if deriving is not None:
            return deriving.derive(search, last, search.scores)
        if search.stopped is not None:
            return search.stopped
        if known:
            return method.choose(known)
        derived = search.closings.derived(last)
        assert derived is not None, f"{method.name} neither derives nor proposes"
        return derived

    def answer(known: Sequence[Trial]) -> Answer:
        architecture = method.within(decided(known))
        if with_parts:
            origin = {**architecture.origin, "with": [part.name for part in with_parts]}
            architecture = replace(architecture, origin=origin)
        others = next_best(architecture, known)
        if not others and isinstance(method, GradientMethod):
            draw = torch_stream(seed, "samples")
            others = tuple(method.sampled(search.mapping, last, draw) for _ in range(OTHERS))
        accuracy = score_of(architecture, known) if known else None
        if not known and method.feasible is watched:
            accuracy = search.derived_accuracy
        return Answer(architecture, others, accuracy)

    parameters = {k: v.detach().cpu().clone() for k, v in search.mapping.state_dict().items()}
    return Found(answered(method, history, answer), parameters, search.cost, tuple(history), signal(search, last))


def search_architecture(
    method: Method,
    settings: SearchSettings,
    split: Split,
    info: DataInfo,
    *,
    seed: int,
    session: Session,
    device: str = "cpu",
    with_parts: Sequence[Part] = (),
) -> Found:
    """Search with resolved settings of the kind of the method. See the two functions called here."""
    if isinstance(method, SupernetMethod) and isinstance(settings, SupernetSettings):
        return search_supernet(
            method, settings, split, info, seed=seed, session=session, device=device, with_parts=with_parts
        )
    assert not with_parts, "a part without effect has raised InputError before"
    assert isinstance(method, TrialMethod) and isinstance(settings, TrialSettings)
    return search_by_trials(method, settings, split, info, seed=seed, session=session, device=device)

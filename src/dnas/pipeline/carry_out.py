"""Execute the incomplete stages of a run: search, finals, training, test, and those of the baseline.

The session contains the results of stages, so an execution that resumes a run reads them from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import safetensors.torch
from torch import nn

from dnas.data.splits import DataInfo
from dnas.disk import read_json
from dnas.drawing.svg import svg as draw_svg
from dnas.errors import InputError
from dnas.methods.protocol import Method
from dnas.network.network import macs, params
from dnas.parts import registry as parts
from dnas.pipeline import budget, latency, limits, spaces, stages
from dnas.pipeline.config import Config
from dnas.pipeline.entrants import Candidate, of_spaces
from dnas.pipeline.inputs import Data
from dnas.pipeline.model import Subject, fresh, model_bytes
from dnas.pipeline.origin import take_over
from dnas.pipeline.speed import clock
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.names import (
    ARCHITECTURE_FILE,
    BASELINE_PLAN_STAGE,
    BASELINE_STAGE,
    DRAWING_FILE,
    FINALS_STAGE,
    FOUND,
    MODEL_FILE,
    ORIGIN_FILE,
    PARAMETERS_FILE,
    PLAN_STAGE,
    PRIOR_FILE,
    SEARCH_STAGE,
    STAGE_LABELS,
    TRAIN_STAGE,
)
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import Session
from dnas.searching import finals
from dnas.searching.finals import Entrant, hold_finals
from dnas.searching.judging import Answer
from dnas.searching.loop import search_architecture
from dnas.settings import NetworkTrainSettings, SearchSettings, TrainSettings, WidthTrainSettings
from dnas.space.architecture import Architecture, at_depth
from dnas.space.controls import random_of_size
from dnas.space.limits import LATENCY, Feasible
from dnas.space.registry import AUTO
from dnas.supernet.worth import AUTO_PRIOR, NO_PRIOR, PRIORS, Worth, load_prior
from dnas.training.accuracy import Accuracy, by_class, measure_accuracy
from dnas.training.build import parameters_of
from dnas.training.trainer import train_network

MEASURING = "measuring the speed of this machine"


def search(config: Config, method: Method, data: Data, folder: RunFolder, session: Session) -> Architecture:
    """Execute the search stage, or return the architecture that it found in an earlier execution."""
    assert config.search is not None
    if SEARCH_STAGE in session.completed:
        return Architecture.from_json(session.completed[SEARCH_STAGE]["architecture"])
    found = search_architecture(
        method,
        config.search,
        data.train,
        data.info,
        seed=config.seed,
        session=session,
        device=config.device,
        with_parts=parts.create(config.with_parts, config.with_options),
    )
    *tighter, own = (_stored(each, config) for each in found.answers)
    architecture = Architecture.from_json(own["architecture"])
    if found.parameters:
        folder.write_bytes(PARAMETERS_FILE, safetensors.torch.save(found.parameters))
    folder.write_text(ARCHITECTURE_FILE, architecture.dumps())
    folder.write_text(DRAWING_FILE, picture(architecture, config))
    session.complete({**own, "cost": found.cost, "signal": found.signal, "answers": tighter})
    return architecture


def _stored(answer: Answer, config: Config) -> dict[str, Any]:
    """An answer, as a session keeps it of a search."""
    at = [answer.architecture, *answer.others]
    if isinstance(config.train, TrainSettings):
        at = [at_depth(each, config.train.layers) for each in at]
    architecture, *others = (each.to_json() for each in at)
    return {"architecture": architecture, "others": others, "validation_accuracy": answer.validation_accuracy}


def take_over_search(config: Config, found: Mapping[str, Any], whole: RunFolder, folder: RunFolder) -> None:
    """Write what the search of another run has found for this one, as `search` does."""
    architecture = Architecture.from_json(found["architecture"])
    if (whole.path / PARAMETERS_FILE).exists():
        folder.write_bytes(PARAMETERS_FILE, (whole.path / PARAMETERS_FILE).read_bytes())
    folder.write_text(ARCHITECTURE_FILE, architecture.dumps())
    folder.write_text(DRAWING_FILE, picture(architecture, config))


def train(
    config: Config, subject: Subject, data: Data, folder: RunFolder, session: Session, began: float
) -> dict[str, Any]:
    """Train and test the network of a run and, for an architecture, a random baseline of the same size."""
    assert config.train is not None
    result: dict[str, Any] = {}
    if config.budget:
        result["plan"] = dict(_plan(config, subject, data, folder, session, began))
        prior, steps = result["plan"]["prior"], result["plan"]["finals"]
    else:
        prior, steps = _prior_for(config, config.train.step_count), list(config.finals_steps)
    candidates = _candidates(config, subject, prior, folder, session, data.info)
    steps = steps or [config.train.step_count] * len(candidates)
    settings = budget.planned(config.train, steps[0]) if config.budget else config.train
    begun = None
    if config.finals:
        winner, found = _finals(candidates, steps, data, folder, session)
        # From here on, the run is in the space of the winner only.
        subject, config, several = candidates[winner].subject, candidates[winner].config, config.space == AUTO
        assert isinstance(config.train, TrainSettings)
        settings = budget.planned(config.train, steps[winner])
        begun = session.handed_on
        result |= {**found, "channels": config.train.channels} if several else {"finals": found["finals"]}
    feasible = limits.feasible(config, data.info)
    if config.budget:
        result["plan"]["steps"] = settings.step_count

    def keep(network: nn.Module) -> None:
        folder.write_bytes(MODEL_FILE, model_bytes(network, subject, settings, data.info))
        if isinstance(subject, Architecture) and not (folder.path / DRAWING_FILE).exists():
            folder.write_text(DRAWING_FILE, picture(subject, config))

    def begin(network: nn.Module) -> None:
        if config.from_run:
            take_over(network, folder.path / ORIGIN_FILE, config, subject, data.info)

    other = None
    if config.baseline and isinstance(subject, Architecture):
        assert isinstance(config.train, TrainSettings)
        # Known before anything is trained, so that the stages are numbered and their times estimated as they will be.
        try:
            allowed = {} if feasible is None else {"allowed": feasible.allows}
            other = random_of_size(subject, parameters_of(config.train, data.info), config.seed, **allowed)
        except InputError as error:
            session.say(f"baseline skipped: {error}")
        if session.estimate is not None:
            stages.set_baseline(session.estimate, subject, other, config.train, data.info)
    if feasible is not None and isinstance(subject, Architecture):
        result["limits"] = limits.kept(feasible, subject)
    result |= _tested(TRAIN_STAGE, subject, settings, config, data, session, keep, begun, begin)
    if other is not None:
        longer = config.baseline_steps or settings.step_count
        if config.budget:
            longer = _baseline_steps(config, other, result["plan"]["seconds"], data, session)
            result["plan"]["baseline"] = longer
        tested = _tested(BASELINE_STAGE, other, budget.planned(settings, longer), config, data, session)
        result["baseline"] = tested | {
            "seconds": round(session.seconds[BASELINE_STAGE], 3),
            "architecture": other.to_json(),
        }
    if feasible is not None and LATENCY in feasible.limits and isinstance(subject, Architecture):
        result["latency"] = _latency(feasible, subject, session)
    return result


def _latency(feasible: Feasible, subject: Architecture, session: Session) -> dict[str, Any]:
    """What was predicted of the delivered network, and what was measured of one with its operations."""
    predicted = feasible.delivered.costs(subject, [LATENCY])[LATENCY] / 1e9
    passes = latency.of_network(feasible.delivered, subject, perf_counter_ns)
    session.say(
        f"latency: {1e3 * predicted:.3g} ms were predicted; measured {1e3 * passes.median:.3g} ms, the middle half of "
        f"passes {1e3 * passes.low:.3g} to {1e3 * passes.high:.3g}, the least {1e3 * passes.least:.3g}"
    )
    quartiles = [passes.low, passes.high]
    return {
        "predicted_seconds": predicted,
        "measured_seconds": passes.median,
        "measured_quartiles": quartiles,
        "least_seconds": passes.least,
    }


def _prior_for(config: Config, steps: int) -> str:
    """Return the prior for candidates of a training with so many steps."""
    if config.prior != AUTO_PRIOR:
        return config.prior
    return PRIORS[0] if load_prior(PRIORS[0]).reaches(steps) else NO_PRIOR


def _candidates(
    config: Config, subject: Subject, prior: str, folder: RunFolder, session: Session, info: DataInfo
) -> list[Candidate]:
    """Return the candidates of the finals; without finals, the searched network.

    The run folder keeps the prior, since its file may have changed when the run is resumed.
    """
    if not config.finals:
        return [Candidate(FOUND, subject, config)]
    assert isinstance(subject, Architecture)
    others = [Architecture.from_json(each) for each in session.completed[SEARCH_STAGE].get("others", ())]
    path = folder.path / PRIOR_FILE
    if prior != NO_PRIOR and not path.exists():
        folder.write_text(PRIOR_FILE, json.dumps(load_prior(prior).to_json()))
    known = Worth.from_json(read_json(path)) if prior != NO_PRIOR else None
    feasible = {name: limits.feasible(own, info) for name, own in spaces.configs(config).items()}
    return of_spaces(config, subject, others, known, feasible)


def _plan(
    config: Config, subject: Subject, data: Data, folder: RunFolder, session: Session, began: float
) -> dict[str, Any]:
    """Return the training time in the budget, the prior, and the number of steps per candidate in that time
    (`seconds`, `prior`, `finals`); measured once.
    """
    assert data.test is not None
    if PLAN_STAGE not in session.completed:
        session.start(PLAN_STAGE, MEASURING, 0)
        # The search may be from an earlier execution.
        spent = max(clock(config.device) - began, budget.search_seconds(config))
        whole, each = config, 0.0
        if config.answers:
            each = budget.of_each(config, spent)
            config = config.model_copy(update={"budget": spent + (config.budget - spent) / (1 + len(config.answers))})
        own = budget.pace(config, subject, data.train, data.info)
        seconds = budget.training_seconds(config, [own] * max(1, config.finals), data.test, spent)
        prior = _prior_for(config, budget.steps_in(seconds, own))
        _, *others = _candidates(config, subject, prior, folder, session, data.info)
        paces = [own, *(budget.pace(other.config, other.subject, data.train, data.info) for other in others)]
        spent = max(clock(config.device) - began, spent)
        seconds = budget.training_seconds(config, paces, data.test, spent)
        steps = [budget.steps_in(seconds, pace) for pace in paces]
        session.complete({"seconds": seconds, "prior": prior, "finals": steps, "each": each})
        session.say(budget.sentence(whole, session.seconds.get(SEARCH_STAGE, 0.0), seconds, steps, len(paces)))
    plan: dict[str, Any] = session.completed[PLAN_STAGE]
    return plan


def _baseline_steps(config: Config, other: Architecture, seconds: float, data: Data, session: Session) -> int:
    """Return the number of steps that the baseline has in the training time of the network; measured once."""
    if BASELINE_PLAN_STAGE not in session.completed:
        session.start(BASELINE_PLAN_STAGE, MEASURING, 0)
        pace = budget.pace(config, other, data.train, data.info)
        session.complete({"steps": budget.steps_in(seconds, pace)})
    steps: int = session.completed[BASELINE_PLAN_STAGE]["steps"]
    return steps


def _finals(
    candidates: Sequence[Candidate], steps: Sequence[int], data: Data, folder: RunFolder, session: Session
) -> tuple[int, dict[str, Any]]:
    """Return the number of the winning candidate, and the results of all candidates and of their spaces."""
    config = candidates[0].config
    competing = [
        Entrant(each.subject, budget.planned(each.config.train, count), each.origin)
        for each, count in zip(candidates, steps, strict=True)
        if isinstance(each.subject, Architecture) and isinstance(each.config.train, TrainSettings)
    ]
    if FINALS_STAGE not in session.completed:
        hold_finals(competing, data.train, data.info, seed=config.seed, session=session, device=config.device)
        winner = session.completed[FINALS_STAGE]["winner"]
        session.say(f"finals: won by {competing[winner].origin} (number {winner + 1} of {len(competing)})")
    done = session.completed[FINALS_STAGE]
    # An earlier execution may have ended right after the finals.
    folder.write_text(ARCHITECTURE_FILE, competing[done["winner"]].architecture.dumps())
    folder.write_text(DRAWING_FILE, picture(competing[done["winner"]].architecture, config))
    reached = [
        {
            "origin": entrant.origin,
            "space": entrant.architecture.space,
            "params": parameters_of(entrant.settings, data.info)(entrant.architecture),
            "accuracies": accuracies,
        }
        for entrant, accuracies in zip(competing, done["accuracies"], strict=True)
    ]
    reached[done["winner"]]["winner"] = True
    of_each = [entrant.architecture.space for entrant in competing]
    images = finals.held_out(competing[0].settings.images)
    margins = spaces.margins(of_each, done["accuracies"], done["winner"], images)
    compared = {"winner": of_each[done["winner"]], "images": images, "others": margins}
    return done["winner"], {"finals": reached, "spaces": compared}


def _tested(
    stage: str,
    subject: Subject,
    settings: NetworkTrainSettings,
    config: Config,
    data: Data,
    session: Session,
    keep: Callable[[nn.Module], None] = lambda network: None,
    begun: Checkpoint | None = None,
    begin: Callable[[nn.Module], None] = lambda network: None,
) -> dict[str, Any]:
    """Return accuracy and size of the network that a stage trains, or trained in an earlier execution.

    Args:
        keep: Saves the trained network.
        begun: As in `train_network`.
        begin: Replaces the initial weights of the network.
    """
    assert data.test is not None
    if stage not in session.completed:
        network = fresh(subject, config, data.info)
        begin(network)
        network = train_network(
            network,
            settings,
            data.train,
            data.info,
            seed=config.seed,
            session=session,
            stage=stage,
            title=STAGE_LABELS[stage],
            device=config.device,
            begun=begun,
        )
        keep(network)
        image = (data.info.channels, data.info.image_size, data.info.image_size)
        accuracy = measure_accuracy(network, data.test, data.info, config.device)
        counts = {"correct": accuracy.correct, "confusion": [list(row) for row in accuracy.confusion]}
        session.complete({**counts, "params": params(network), "macs": macs(network, image)})
    done = session.completed[stage]
    accuracy = Accuracy(done["correct"], len(data.test))
    # Checkpoints of earlier versions have no confusion matrix.
    classes = by_class(done["confusion"], data.info.classes) if done.get("confusion") else {}
    return {
        "test_accuracy": accuracy.value,
        "test_images": accuracy.images,
        "test_interval": list(accuracy.interval),
        **classes,
        "params": done["params"],
        "macs": done["macs"],
    }


# --- files of a run -------------------------------------------------------------------------------------


def summary(config: Config, subject: Subject, info: DataInfo, path: Path) -> dict[str, Any]:
    """Return the part of result.json that is known before the training."""
    if isinstance(subject, Architecture):
        settings = config.train or config.search
        assert isinstance(settings, TrainSettings | SearchSettings)
        shape: dict[str, Any] = {"layers": len(subject), "channels": settings.channels}
    else:
        shape = {"architecture": subject.name}
        if isinstance(config.train, WidthTrainSettings):
            shape["width"] = config.train.width
    return {
        "run": str(path),
        "command": config.command,
        "preset": config.preset,
        "method": config.method,
        "mapping": config.mapping,
        **({"with_parts": config.with_parts} if config.with_parts else {}),
        "seed": config.seed,
        "data": info.source,
        "classes": len(info.classes),
        **shape,
        **({"origin": config.origin} if config.origin else {}),
    }


def picture(architecture: Architecture, config: Config) -> str:
    """Return an architecture as SVG, with the name of its run as title."""
    if config.method:
        title = " · ".join((config.method, config.mapping, *config.with_parts, config.data.source))
    else:
        title = f"{architecture.origin.get('published', 'architecture')} · {config.data.source}"
    return draw_svg(architecture, title=title, subtitle=f"{len(architecture)} layers, seed {config.seed}")

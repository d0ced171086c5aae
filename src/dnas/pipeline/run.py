"""The pipeline: search, derive, train, test and draw in one run folder; started, or resumed bit for bit.

`start` checks all input before it creates the run folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch

from dnas.data.overview import overview
from dnas.data.sources.protocol import IN_MEMORY, Place
from dnas.disk import read_json, read_toml
from dnas.errors import InputError, Interrupted, calling
from dnas.kernels import native
from dnas.methods.protocol import Method
from dnas.methods.registry import METHODS, create
from dnas.network.handmade import PACKAGE, get_handmade, parameters
from dnas.pipeline import answers, budget, carry_out, limits, origin, spaces, stages
from dnas.pipeline.config import Config, check_budget, draft, parse, resolve
from dnas.pipeline.flips import resolve_flips
from dnas.pipeline.inputs import Data, checked_draft, load_data
from dnas.pipeline.machine import check_execution, check_machine, environment, memory_errors, peak_memory
from dnas.pipeline.model import Subject, read_info
from dnas.pipeline.overrides import in_file
from dnas.pipeline.speed import clock
from dnas.pipeline.training_images import TrainingImages, read_training_images
from dnas.reporter import Reporter
from dnas.runtime import distributed
from dnas.runtime.execution import DEFAULT, Execution
from dnas.runtime.names import (
    ANSWERS_FOLDER,
    ARCHITECTURE_FILE,
    CONFIG_FILE,
    ORIGIN_FILE,
    ORIGIN_IMAGES_FILE,
    PLAN_STAGE,
    RESULT_FILE,
    SEARCH_STAGE,
    SKIPPED_FILE,
    TRAIN_STAGE,
    TRAINING_IMAGES_FILE,
)
from dnas.runtime.runfolder import RunFolder, fresh_path, refuse_used
from dnas.runtime.session import Session
from dnas.settings import TrainSettings, WidthTrainSettings
from dnas.space.architecture import Architecture, at_depth
from dnas.space.registry import AUTO, get_space
from dnas.training.build import planned


def start(
    overrides: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    architecture: Architecture | None = None,
    given: Place | None = None,
    reporter: Reporter | None = None,
    execution: Execution = DEFAULT,
) -> dict[str, Any]:
    """Start a run, complete it, and return the content of result.json.

    Args:
        overrides: Nested settings over the preset's, e.g. {"command": "search", "search": {"layers": 8}}.
        out: The run folder; by default a new one under runs/.
        architecture: For the command "train", unless `overrides` name a reference network.
        given: The place of images in the memory of the caller; the setting data.source is then `IN_MEMORY`.

    Raises:
        InputError: Before anything is written.
        RunError: The run failed; its folder can be resumed.
    """
    check_execution(execution)
    config = checked_draft(overrides)
    if architecture is not None and isinstance(config.train, TrainSettings):
        architecture = at_depth(architecture, config.train.layers)
    for text in (config.data.source, config.data.data_dir, config.data.root, str(out or "")):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{text!r} is not UTF-8, so config.toml cannot hold it; rename the folder") from None
    with distributed.joined(config.device):
        return _begin(overrides, out, architecture, given, reporter if distributed.leads() else None, execution)


def _begin(
    overrides: Mapping[str, Any],
    out: str | Path | None,
    architecture: Architecture | None,
    given: Place | None,
    reporter: Reporter | None,
    execution: Execution,
) -> dict[str, Any]:
    if out is not None and distributed.leads():
        refuse_used(Path(out))
    # Resolved again, since some settings depend on the number of ranks, which is now known.
    check_budget(overrides)
    drafted = draft(overrides)[0]
    began = clock(drafted.device)
    begun_with = origin.read_origin(Path(drafted.from_run)) if drafted.from_run else None
    # A network for color images also reads grayscale images as color.
    data = load_data(drafted, reporter, None if begun_with is None else begun_with.info.channels, given)
    if begun_with is not None:
        known = {**overrides.get("origin", {}), "new_head": begun_with.info.classes != data.info.classes}
        overrides = {**overrides, "origin": known}
    config, method = resolve(overrides, data.info, len(data.train), data.fingerprint, data.train.memory)
    if config.budget and config.search is not None:
        assert method is not None
        planned_search = budget.searching(config, method, data.train, data.info)
        overrides = {**overrides, "search": {**overrides.get("search", {}), **planned_search}}
        config, method = resolve(overrides, data.info, len(data.train), data.fingerprint, data.train.memory)
    config, flips = resolve_flips(config, data.train, data.info, given)
    if architecture is not None and isinstance(config.train, TrainSettings):
        planned(architecture, config.train, data.info)
    if begun_with is not None:
        config, data = _originated(begun_with, config, architecture, data)
    name = config.handmade or (method.name if architecture is None else "train")
    source = Path(config.data.source)
    images = source.name.partition(".")[0] if source.is_file() else source.name
    stem = f"{name}-{images or 'data'}-seed{config.seed}"
    path = distributed.from_first(fresh_path(Path("runs"), stem) if out is None else Path(out))
    with RunFolder.create(path) if distributed.leads() else RunFolder(path, writes=False) as folder:
        if architecture is not None:
            folder.write_text(ARCHITECTURE_FILE, architecture.dumps())
        if begun_with is not None:
            origin.keep(begun_with, folder)
        # Written last: a folder becomes a run folder when it has a config.toml.
        folder.write_config(config.to_toml())
        _keep_images(folder, data)
        distributed.wait()
        session = Session(folder, config.to_toml(), reporter, execution)
        session.say(f"{path}: {config.command}, preset {config.preset}, seed {config.seed}")
        for line in overview(data.info, data.train, data.test):
            session.say(line)
        if flips:
            session.say(flips)
        if config.command == "run" and "space" not in overrides and config.space != Config().space:
            session.say(f"search space {config.space}, the default of a run; --space selects another")
        if config.space == AUTO:
            session.say(spaces.sentence(config))
        for each in (*answers.configs(config), *spaces.configs(config).values()):
            if within := limits.feasible(each, data.info):
                session.say(limits.sentence(within, space=config.space == AUTO))
        if config.origin:
            for line in origin.sentences(config.origin, data.info):
                session.say(line)
        if isinstance(config.train, WidthTrainSettings):
            width = config.train.width
            size = parameters(config.handmade, len(data.info.classes), data.info.channels, width)
            session.say(f"{config.handmade} at width {width:g}: {size:,} parameters")
        if config.device == "cpu" and (advice := native.advice()):
            session.say(advice)
        return _carry_through(config, method, data, folder, session, began)


def _originated(
    begun_with: origin.Origin, config: Config, architecture: Architecture | None, data: Data
) -> tuple[Config, Data]:
    """Return the configuration of a training that starts with given weights, with their facts, and the allowed data."""
    origin.check(begun_with, config, architecture, data.info)
    rest = origin.without_seen(data, begun_with.images)
    assert data.test is not None and rest.test is not None
    subject = get_handmade(config.handmade) if architecture is None else architecture
    known = origin.facts(begun_with, config, subject, data, len(data.test) - len(rest.test))
    return config.model_copy(update={"origin": known}), rest


def _keep_images(folder: RunFolder, data: Data) -> None:
    """Record the training images and the unreadable files."""
    if not folder.writes:
        return
    splits = {"train": data.train, "test": data.test}
    skipped = [
        {"split": part, "file": name, "reason": reason}
        for part, split in splits.items()
        for name, reason in (() if split is None else split.skipped)
    ]
    if skipped:
        folder.write_json(SKIPPED_FILE, skipped)
    record = TrainingImages.of(data.train, data.info)
    before = read_training_images(folder.path, ORIGIN_IMAGES_FILE)
    folder.write_bytes(TRAINING_IMAGES_FILE, record.joined(before).to_bytes())


def resume(
    path: str | Path,
    *,
    given: Place | None = None,
    reporter: Reporter | None = None,
    execution: Execution = DEFAULT,
) -> dict[str, Any]:
    """Resume from the last checkpoint; the result is bit-for-bit identical to that of an uninterrupted run.

    For a completed run, its result is returned.

    Args:
        given: The place of images in the memory of the caller, if the run was started with such images.

    Raises:
        InputError: Not a run folder, in use, or its configuration, data or format has changed.
    """
    path = Path(path)
    device = read_toml(path / CONFIG_FILE).get("device", "cpu") if (path / CONFIG_FILE).is_file() else "cpu"
    with distributed.joined(device):
        return _resume(path, given, reporter if distributed.leads() else None, execution)


def _resume(path: Path, given: Place | None, reporter: Reporter | None, execution: Execution) -> dict[str, Any]:
    with ExitStack() as opened:
        if distributed.leads():
            folder = opened.enter_context(RunFolder.reopen(path, execution.patience))
        # Only the first rank removes and writes files; the others only read.
        distributed.wait()
        if not distributed.leads():
            folder = opened.enter_context(RunFolder(path, writes=False))
        values = folder.read_config()
        name = values.get("method")
        if isinstance(name, str) and name and name not in METHODS:
            raise InputError(
                f"{path} was searched by the method {name!r}, which is not known here; call dnas.register with its "
                "class before dnas.resume, or install the package that has it"
            )
        with calling(in_file(values, folder.path / CONFIG_FILE)):
            config = parse(values)
        if (folder.path / RESULT_FILE).exists():
            result: dict[str, Any] = json.loads((folder.path / RESULT_FILE).read_text("utf-8"))
            _keep_plan(config, result, folder)  # in case the run was stopped just before
            return result
        _check_given(path, config, given)
        check_execution(execution)
        check_machine(config.device, config.backend, config.handmade)
        # The order of sums depends on the number of threads, so a resumed run uses the original number.
        torch.set_num_threads(int(config.environment.get("threads", torch.get_num_threads())))
        # As in the file: a newer version of dnas may have additional settings.
        session = Session(folder, values, reporter, execution)
        session.resume()
        distributed.wait()
        record = read_training_images(path)
        before = path / ORIGIN_FILE if config.from_run else None
        known = record.info if record is not None else None if before is None else read_info(before)
        data = load_data(config, reporter, None if known is None else known.channels, given)
        session.skip_time()
        if data.fingerprint != config.data.fingerprint:
            changed = f"the images of {config.data.source} have changed since it began; restore them"
            if given is not None:
                changed = "data has other images than it began with; give the same in the same order, unaugmented,"
            raise InputError(f"{path} cannot be resumed: {changed} or start a new run")
        data = origin.without_seen(data, read_training_images(path, ORIGIN_IMAGES_FILE))
        if record is None:
            _keep_images(folder, data)  # started by an earlier version, or stopped before they were written
        now = environment(config.handmade)
        for key in ("dnas", "torch", PACKAGE, "kernels"):
            if config.environment.get(key) != now.get(key):
                session.say(
                    f"warning: begun with {key} {config.environment.get(key)}, resumed with {now.get(key)}: "
                    "the result may not be bit-for-bit identical"
                )
        if (began := config.environment.get("ranks", 1)) != distributed.count():
            session.say(
                f"begun on {began} ranks, resumed on {distributed.count()}: batches keep their parts, so the "
                "result may only differ by rounding"
            )
        method = None
        if config.method:
            space = get_space(spaces.names(config)[0])
            method = create(config.method, config.mapping or None, config.options, space)
        return _carry_through(config, method, data, folder, session, clock(config.device))


def _check_given(path: Path, config: Config, given: Place | None) -> None:
    """Raise InputError if a run requires its images in memory but gets none, or the other way round."""
    if config.data.source == IN_MEMORY and given is None:
        raise InputError(
            f"the images of {path} were given in memory; resume in Python with dnas.resume({str(path)!r}, "
            "data=…) and the same images"
        )
    if config.data.source != IN_MEMORY and given is not None:
        raise InputError(f"{path} reads its images from {config.data.source!r}; leave data out")


def _carry_through(
    config: Config, method: Method | None, data: Data, folder: RunFolder, session: Session, began: float
) -> dict[str, Any]:
    """Execute all stages that are not yet complete. `began`: the clock at the start of this execution."""
    if method is not None:
        method.feasible = limits.feasible(spaces.searched(config), data.info)
        if config.answers:
            every = (limits.feasible(own, data.info) for own in (*answers.configs(config), config))
            method.answers = tuple(each for each in every if each is not None)
            method.feasible = method.answers[-1]
    if config.deterministic:
        torch.use_deterministic_algorithms(True)
    if not config.budget:  # with a budget, the duration is known
        session.estimate = stages.estimate(spaces.searched(config), method, data.train, data.test, data.info)
    with closing(data):
        return _stages(config, method, data, folder, session, began)


def _stages(
    config: Config, method: Method | None, data: Data, folder: RunFolder, session: Session, began: float
) -> dict[str, Any]:
    with session.signals(), memory_errors(config.device):
        if config.search is not None:
            assert method is not None
            subject: Subject = carry_out.search(config, method, data, folder, session)
        elif config.handmade:
            subject = get_handmade(config.handmade)
        else:
            subject = Architecture.load(folder.path / ARCHITECTURE_FILE)
        result = carry_out.summary(config, subject, data.info, folder.path)
        if config.train is not None:
            result |= carry_out.train(config, subject, data, folder, session, began)
        if config.search is not None:
            done = session.completed[SEARCH_STAGE]
            # The plan for the searched architecture, which is the first candidate of the finals.
            passed_over = any(each.get("winner") for each in result.get("finals", [])[1:])
            result |= {"validation_accuracy": None if passed_over else done["validation_accuracy"], **done["cost"]}
            if done.get("signal"):
                result["signal"] = done["signal"]
        result["search_seconds"] = round(session.seconds.get(SEARCH_STAGE, 0.0), 3)
        result["train_seconds"] = round(session.seconds.get(TRAIN_STAGE, 0.0), 3)
        if config.answers:
            others = _answers(config, method, data, folder, session)
            result["answers"] = answers.table(config, [*others, result], data.info)
        result["peak_memory_bytes"] = peak_memory(config.device)
        folder.write_json(RESULT_FILE, result)
        _keep_plan(config, result, folder)
    return result


def _answers(
    config: Config, method: Method | None, data: Data, folder: RunFolder, session: Session
) -> list[dict[str, Any]]:
    """Return the results of the runs for all values of a limit except the largest; stopped runs are resumed."""
    seconds = session.completed[PLAN_STAGE]["each"] if config.budget else 0.0
    found = []
    for number, own in enumerate(answers.configs(config, seconds)):
        if session.stopping():
            assert session.signum is not None
            raise Interrupted(folder.path, session.signum)
        try:
            found.append(_answer(own, number, method, data, folder, session))
        except Interrupted as stopped:
            # Messages must name the whole run, which is the one to resume.
            raise Interrupted(folder.path, stopped.signum) from None
    return found


def _answer(
    config: Config, number: int, method: Method | None, data: Data, whole: RunFolder, of_whole: Session
) -> dict[str, Any]:
    """Run, or resume, one of the runs that share the search of the whole run."""
    path, began = whole.path / ANSWERS_FOLDER / answers.name_of(config), clock(config.device)
    begun = (path / CONFIG_FILE).is_file()
    if not begun:
        shutil.rmtree(path, ignore_errors=True)  # possibly left by a killed execution
    with RunFolder.reopen(path, of_whole.execution.patience) if begun else RunFolder.create(path) as folder:
        values = folder.read_config() if begun else config.to_toml()
        config = parse(values)
        if (path / RESULT_FILE).exists():
            result: dict[str, Any] = read_json(path / RESULT_FILE)
            _keep_plan(config, result, folder)
            return result
        session = Session(folder, values, of_whole.reporter, of_whole.execution)
        if begun:
            session.resume()
        else:
            done = of_whole.completed[SEARCH_STAGE]
            found = {**done["answers"][number], "cost": done["cost"], "signal": done["signal"]}
            carry_out.take_over_search(config, found, whole, folder)
            _keep_images(folder, data)
            session.take_over(SEARCH_STAGE, found, of_whole.seconds.get(SEARCH_STAGE, 0.0))
            # Written last: it makes the folder a run that can be resumed.
            folder.write_config(values)
        if not config.budget:
            session.estimate = stages.estimate(config, method, data.train, data.test, data.info)
            session.estimate.leave_out(SEARCH_STAGE)
        if within := limits.feasible(config, data.info):
            session.say(f"{path}: {limits.sentence(within)}")
        return _stages(config, method, data, folder, session, began)


def _keep_plan(config: Config, result: Mapping[str, Any], folder: RunFolder) -> None:
    """Replace the budget in config.toml by the plan, so that repeating the run does not depend on a clock.

    This is done last, since an execution that resumes from a checkpoint needs the configuration of that checkpoint.
    """
    if config.budget and folder.writes:
        kept: dict[str, Any] = {"budget": 0.0}
        if config.train is not None:
            plan = result["plan"]
            kept |= {"train": budget.planned(config.train, plan["steps"]), "baseline_steps": plan.get("baseline", 0)}
            kept |= {"finals_steps": plan["finals"], "prior": plan["prior"]} if config.finals else {}
        if config.answers:
            kept["answers"] = answers.planned(config, result["answers"])
        folder.write_config(config.model_copy(update=kept).to_toml())

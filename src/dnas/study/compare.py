"""Compare methods under one protocol, with controls, in a folder of run folders.

Each method searches under each mapping with each seed, and the searched network is trained. Its controls are a random
network of the same size and, if layers differ, a network with the same layers in another order. To resume a study, run
it again: runs with a result are not repeated, and methods or seeds may be added. A method may have parts that others
lack ("dnas+oles").

    STUDY/study.toml            methods, mappings and seeds to compare, and the settings of all runs
    STUDY/runs/NAME             run folders: METHOD+PART-MAPPING-sSEED, with -random, -shuffled, -tN
    STUDY/failed.json           reasons of failed runs, if any
    STUDY/study.json, table.*   results (`tables.py`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dnas.data.splits import DataInfo
from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted, InUse, did_you_mean
from dnas.methods.registry import get_method
from dnas.network.handmade import HANDMADE, require_package, require_width
from dnas.options import ClusterOptions
from dnas.pipeline.config import parse
from dnas.pipeline.extensions import register_all, registered
from dnas.pipeline.inputs import check_runs
from dnas.pipeline.limits import feasible
from dnas.pipeline.machine import check_execution
from dnas.pipeline.run import resume, start
from dnas.reporter import Reporter
from dnas.runtime.execution import DEFAULT, Execution
from dnas.runtime.names import ARCHITECTURE_FILE, CONFIG_FILE, RESULT_FILE
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.controls import random_of_size, shuffled
from dnas.space.published import PUBLISHED, load_published, published
from dnas.study.cluster import RaySettings, of_tasks
from dnas.study.design import (
    Network,
    StudySettings,
    depth_of,
    method_and_parts,
    networks,
    require_parts_of_options,
    run_overrides,
    settings_names,
    with_all_parts,
)
from dnas.study.growth import COUNTS, joined, with_those_of, write_begun
from dnas.study.jobs import carry_out, ray_for, workers_for
from dnas.study.names import DEFAULT_MAPPING, REFERENCES, RUNS, SEARCHED, STUDY_FILE
from dnas.study.tables import keep
from dnas.supernet.mapping import mapping_class
from dnas.training.build import parameters_of


@dataclass(frozen=True)
class Run:
    """One run of a study, in the form sent to a process.

    Attributes:
        overrides: The settings to start it with if there is no run folder yet.
        source: The run folder of the search whose network it trains or controls; a search has its own.
        depth: The depth to which published genotypes are stacked.
    """

    path: Path
    overrides: dict[str, Any]
    network: Network
    source: Path
    depth: int
    info: DataInfo


def do(
    run: Run,
    execution: Execution = DEFAULT,
    reporter: Reporter | None = None,
    extensions: Sequence[Any] = (),
) -> bool:
    """Start or resume a run, and return False if another process is executing it.

    Args:
        extensions: The extensions registered in the parent process.
    """
    register_all(extensions)
    try:
        if (run.path / CONFIG_FILE).exists():
            resume(run.path, reporter=reporter, execution=execution)
        else:
            start(
                _overrides(run), out=run.path, architecture=_architecture(run), reporter=reporter, execution=execution
            )
    except InUse:
        return False
    return True


def carry_through(
    path: Path,
    settings: StudySettings,
    processes: int,
    cluster: ClusterOptions,
    reporter: Reporter,
    execution: Execution,
) -> tuple[list[str], dict[str, Any]]:
    """Execute the runs of a study and write the results, also after an interruption.

    Returns:
        The names of the failed runs, and the content of study.json.

    Raises:
        InputError, Interrupted: As `compare`.
    """
    ray = ray_for(path, processes, cluster)
    try:
        failed = compare(path, settings, processes=processes, ray=ray, reporter=reporter, execution=execution)
    except Interrupted:
        with suppress(InputError):  # report the interruption instead
            keep(path)
        raise
    return failed, keep(path)


def _overrides(run: Run) -> dict[str, Any]:
    """Return the initial settings of a run: within limits, a searched network and its controls have a planned width."""
    if run.path == run.source or run.network.kind in REFERENCES:
        return run.overrides
    config = parse(read_toml(run.source / CONFIG_FILE))
    if config.limits is None or not config.limits.given:
        return run.overrides
    assert isinstance(config.train, TrainSettings)
    return {**run.overrides, "train": {**run.overrides.get("train", {}), "channels": config.train.channels}}


def _architecture(run: Run) -> Architecture | None:
    """Return the architecture that a run trains; None for a search and for a reference network."""
    network = run.network
    if network.kind == "published":
        return load_published(network.method, run.depth)
    if run.path == run.source or network.kind == "handmade":
        return None
    found = Architecture.load(run.source / ARCHITECTURE_FILE)
    if network.kind == "shuffled":
        return shuffled(found, network.seed)
    if network.kind == "random":
        config = parse(read_toml(run.source / CONFIG_FILE))
        assert isinstance(config.train, TrainSettings)
        within = feasible(config, run.info)
        allowed = {} if within is None else {"allowed": within.allows}
        return random_of_size(found, parameters_of(config.train, run.info), network.seed, **allowed)
    return found


def compare(
    path: Path,
    settings: StudySettings,
    *,
    processes: int = 0,
    ray: RaySettings | None = None,
    reporter: Reporter | None = None,
    execution: Execution = DEFAULT,
) -> list[str]:
    """Execute all runs of a study that have no result yet, and return the names of the failed ones.

    Args:
        path: The folder of the study, new or from an earlier call with the same settings of runs.
        processes: Runs at a time; 0: one per thread on the CPU, else one; on a cluster as many as it has room for.
        ray: The cluster to run on, instead of this machine.
        execution: Its deadline applies to all runs together.

    Raises:
        InputError: A setting is invalid; raised before any run.
        Interrupted: A signal came; the running ones have a checkpoint.
    """
    check_execution(execution)
    wanted = _joined(path, settings)
    if reporter is not None:
        for name in COUNTS:
            fewer, made = getattr(settings, name), getattr(wanted, name)
            if name in settings.model_fields_set and fewer < made:
                reporter.say(f"{path} has {made} {name.replace('_', ' ')}, which is more than {fewer}: they are kept")
    # A complete study needs neither its images nor a device.
    if all((path / RUNS / name / RESULT_FILE).exists() for _, _, name in settings_names(wanted)):
        return []
    # Check before writing: a study that cannot start must not occupy its folder.
    one_of_each = [run_overrides(wanted, network, 0) for network in networks(wanted.model_copy(update={"seeds": 1}))]
    info = check_runs(one_of_each, here=ray is None, reporter=reporter)
    settings = write_begun(path, settings, STUDY_FILE, _joined)
    # The nodes of a cluster have working directories of their own.
    path = path if ray is None else path.absolute()
    return carry_out(
        path,
        partial(do, execution=execution if ray is None else of_tasks(execution), extensions=registered()),
        lambda: list(_runs(path, settings, info)),
        workers_for(path, settings.run, processes, settings.threads, ray, reporter),
        reporter,
        execution,
        # There may be no random network of the required size: report it and continue the study.
        lambda run, error: run.network.kind == "random" and isinstance(error, InputError),
    )


def _joined(path: Path, settings: StudySettings) -> StudySettings:
    """Return these settings joined with those of the study in the folder, if any. Raises InputError on a conflict."""
    settings = with_those_of(path, settings, STUDY_FILE, joined)
    if not settings.methods and not settings.architectures:
        raise InputError("--methods is empty; give at least one method, or --architectures")
    for name in settings.mappings:
        if name != DEFAULT_MAPPING:
            mapping_class(name)
    searched = {method for method, _ in settings.searches()}
    for name in with_all_parts(settings.methods, settings.run):
        if name not in searched:
            method = get_method(method_and_parts(name)[0])
            raise InputError(
                f"--mappings {','.join(settings.mappings)}: {method.name} supports none of them; add one of "
                f"{', '.join(method.mappings)}, or leave {method.name} out"
            )
    require_parts_of_options(settings.methods, settings.run)
    for name in settings.architectures:
        if name in HANDMADE:
            require_package(name)
        elif name in PUBLISHED and name not in published():
            raise InputError(
                f"--architectures {name!r} has its own widths, so it cannot have the width of a study; train it with: "
                f"dnas train {name}"
            )
        elif name not in published():
            known = [*published(), *HANDMADE]
            hint = did_you_mean(name, known) or f"; choose from {', '.join(known)}"
            raise InputError(f"--architectures {name!r} is neither published nor a reference network{hint}")
    if not any(name in HANDMADE and HANDMADE[name].has_width for name in settings.architectures):
        require_width("any network of this study", settings.run.get("train", {}))
    return settings


def _runs(path: Path, settings: StudySettings, info: DataInfo) -> Iterator[Run]:
    """Yield the runs that can start now: a control waits for its searched network."""
    for network, training, name in settings_names(settings):
        folder, source = path / RUNS / name, path / RUNS / replace(network, kind=SEARCHED).run()
        ready = folder == source or network.kind in REFERENCES or (source / RESULT_FILE).exists()
        if ready and not (folder / RESULT_FILE).exists():
            yield Run(folder, run_overrides(settings, network, training), network, source, depth_of(settings.run), info)

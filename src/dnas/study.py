"""Compares methods: a folder of run folders, one protocol, and the controls without which no search means anything.

Every method is searched under every mapping with every seed, and what it finds is trained. Beside each found network
stand a random one of the same size and, where layers differ, one with the same layers in another order. A study is
resumed by running it again: a run that has a result is not run twice, and methods or seeds may be added.

    STUDY/study.toml            what is compared, and the settings of all runs
    STUDY/runs/NAME             run folders: METHOD-MAPPING-sSEED, with -random, -shuffled, -tN
    STUDY/study.json, table.*   what came out (`dnas.tables`)
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import tomli_w
import torch
from filelock import FileLock
from pydantic import Field

from dnas import pipeline
from dnas.architecture import Architecture, load_published, published
from dnas.checkpoint import write_atomically
from dnas.cluster import Cluster, RaySettings, of_tasks
from dnas.config import PAPER_LAYERS, QUICK_LAYERS, parse
from dnas.data import DataInfo
from dnas.errors import InputError, Interrupted, InUse, RunError, calling, did_you_mean
from dnas.execution import DEFAULT, Execution
from dnas.handmade import HANDMADE, torchvision_models
from dnas.mapping import SHARED, mapping_class
from dnas.methods import get_method
from dnas.options import in_file
from dnas.progress import Reporter, Silent
from dnas.runfolder import read_json, read_toml
from dnas.session import Session
from dnas.settings import ARCHITECTURE_SETTINGS, Settings, TrainSettings
from dnas.streams import numpy_stream
from dnas.trainer import random_of_size
from dnas.validation import checked
from dnas.workers import Workers

FILE = "study.toml"
RUNS = "runs"
RESULT = "result.json"
# Training seeds after the first lie this far apart, so that no two searches share one.
TRAINING_STRIDE = 1_000_000

Kind = Literal["searched", "random", "shuffled", "published", "handmade"]
REFERENCES = ("published", "handmade")


class StudySettings(Settings):
    """What a study compares.

    Attributes:
        run: Settings of every run, nested as in a run's config.toml.
    """

    format: Literal["dnas-study/1"] = "dnas-study/1"
    methods: list[str] = Field(default_factory=list, description="searched, each under the mappings that it knows")
    mappings: list[str] = Field(default_factory=list, description="empty: each method's default")
    architectures: list[str] = Field(
        default_factory=list, description="published ones and hand-made networks, trained by the same trainer"
    )
    seeds: int = Field(4, ge=1, le=1000, description="searches with every method, by the seeds 0, 1, …")
    training_seeds: int = Field(1, ge=1, le=1000, description="trainings of every network")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads of every run; 0: the machine's, shared; on a cluster 1"
    )
    run: dict[str, Any] = Field(default_factory=dict)

    def searches(self) -> Iterator[tuple[str, str]]:
        """The pairs of method and mapping, in order."""
        for name in self.methods:
            method = get_method(name)
            for mapping in self.mappings or [method.default_mapping]:
                if mapping in method.mappings:
                    yield name, mapping

    def command(self) -> str:
        """The command line that makes this study; where it does not say --out, the default."""
        words = ["dnas", "compare"]
        lists = {"methods": self.methods, "mappings": self.mappings, "architectures": self.architectures}
        counts = {"seeds": self.seeds, "training-seeds": self.training_seeds}
        if self.threads:
            counts["threads"] = self.threads
        flags = {name: ",".join(values) for name, values in lists.items() if values} | counts
        for section, values in self.run.items():
            if section == "data":
                flags |= {"data" if name == "source" else name: value for name, value in values.items()}
            elif not isinstance(values, dict):
                flags[section] = values
        for name, value in flags.items():
            if value is not False:
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        for section in ("search", "options", "train"):
            for name, value in self.run.get(section, {}).items():
                words += ["-o", f"{name if section == 'options' else f'{section}.{name}'}={value}"]
        return shlex.join(words)


@dataclass(frozen=True)
class Network:
    """One network of a study, whose trainings are runs.

    Attributes:
        kind: "searched", its controls "random" and "shuffled", or a reference, "published" or "handmade".
        method, mapping: Of the search that it comes from or controls; the name of a reference, and "".
        seed: Of that search, or of the reference's training.
    """

    kind: Kind
    method: str
    mapping: str
    seed: int

    def run(self, training: int = 0) -> str:
        """The name of a training's run folder; the first of a searched network is its search, too."""
        stem = "-".join(part for part in (self.method, self.mapping, f"s{self.seed}") if part)
        control = "" if self.kind in ("searched", *REFERENCES) else f"-{self.kind}"
        return f"{stem}{control}" + (f"-t{training}" if training else "")


@dataclass(frozen=True)
class Run:
    """One run of a study, as it is sent to a process.

    Attributes:
        overrides: What to begin it with, where there is no run folder yet.
        source: The run folder of the search whose network it trains or controls: itself, where it searches.
        depth: At which published cells are stacked.
    """

    path: Path
    overrides: dict[str, Any]
    network: Network
    source: Path
    depth: int
    info: DataInfo


def networks(settings: StudySettings) -> list[Network]:
    """Every network of a study. Searched ones come seed after seed, so that an interrupted study is balanced."""
    found = [
        Network("searched", method, mapping, seed)
        for seed in range(settings.seeds)
        for method, mapping in settings.searches()
    ]
    controls = [replace(network, kind="random") for network in found]
    controls += [replace(network, kind="shuffled") for network in found if network.mapping != SHARED]
    references = [
        Network("handmade" if name in HANDMADE else "published", name, "", seed)
        for name in settings.architectures
        for seed in range(settings.seeds)
    ]
    return found + controls + references


def shuffled(architecture: Architecture, seed: int) -> Architecture:
    """The same layers in another order: those between two reductions change places, reductions stay.

    If which layer has which cell matters, as a search over the whole network supposes, this loses accuracy; the size
    differs only as far as the first cells of a stage, whose inputs have other widths, do.
    """
    rng = numpy_stream(seed, "shuffle")
    layers = list(architecture.layers)
    for before, after in pairwise([-1, *architecture.reductions, len(layers)]):
        stage = slice(before + 1, after)
        order = layers[stage]
        # The order as it was would control nothing.
        while len(set(order)) > 1 and order == layers[stage]:
            order = [order[i] for i in rng.permutation(len(order))]
        layers[stage] = order
    return Architecture(tuple(layers), architecture.reductions, architecture.space, {"shuffled": seed})


def do(run: Run, execution: Execution = DEFAULT, reporter: Reporter | None = None) -> bool:
    """Begin a run, or go on with it; False where another process has it."""
    try:
        if (run.path / "config.toml").exists():
            pipeline.resume(run.path, reporter=reporter, execution=execution)
        else:
            pipeline.start(
                run.overrides, out=run.path, architecture=_architecture(run), reporter=reporter, execution=execution
            )
    except InUse:
        return False
    return True


def _architecture(run: Run) -> Architecture | None:
    """What a run trains; None where it searches, and for a hand-made network."""
    network = run.network
    if network.kind == "published":
        return load_published(network.method, run.depth)
    if run.path == run.source or network.kind == "handmade":
        return None
    found = Architecture.load(run.source / "architecture.json")
    if network.kind == "shuffled":
        return shuffled(found, network.seed)
    if network.kind == "random":
        config = parse(read_toml(run.source / "config.toml"))
        assert isinstance(config.train, TrainSettings)
        return random_of_size(found, config.train, run.info, network.seed)
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
    """Make all runs of a study that have no result yet. Returns the names of those that could not be made.

    Args:
        path: The study's folder, new or of an earlier call with the same settings of runs.
        processes: Runs at a time; 0: one a thread on the CPU, else one; on a cluster as many as it has room for.
        ray: The cluster that makes them, and not this machine.
        execution: Its deadline is that of all runs together.

    Raises:
        InputError: A setting that cannot work, before anything is run.
        Interrupted: A signal came; what ran has a checkpoint.
    """
    pipeline.check_execution(execution)
    wanted = _joined(path, settings)
    # A study that is complete needs neither its images nor a device.
    if all((path / RUNS / name / RESULT).exists() for _, _, name in _names(wanted)):
        return []
    # Before anything is written: what cannot begin is no study, and its folder is free for the next try.
    one_of_each = [_overrides(wanted, network, 0) for network in networks(wanted.model_copy(update={"seeds": 1}))]
    info = pipeline.check_runs(one_of_each, here=ray is None, reporter=reporter)
    settings = _begin(path, settings)
    # The nodes of a cluster have working directories of their own.
    path = path if ray is None else path.absolute()
    return carry_out(
        path,
        partial(do, execution=execution if ray is None else of_tasks(execution)),
        lambda: list(_runs(path, settings, info)),
        workers_for(path, settings.run, processes, settings.threads, ray, reporter),
        reporter,
        execution,
        # No random network may have the size that is wanted: a fact to be reported, not the end of a study.
        lambda run, error: run.network.kind == "random" and isinstance(error, InputError),
    )


class HasPath(Protocol):
    @property
    def path(self) -> Path: ...


R = TypeVar("R", bound=HasPath)


def carry_out(
    path: Path,
    function: Callable[[R], bool],
    pending: Callable[[], Sequence[R]],
    workers: Workers | Cluster,
    reporter: Reporter | None,
    execution: Execution,
    tolerated: Callable[[R, Exception], bool] = lambda run, error: False,
) -> list[str]:
    """Make runs until none is left. Returns the names of those that failed, each of which is tried once.

    Args:
        path: The folder to resume, for the message.
        function: Begins or resumes a run; False where another process has it.
        pending: What is to be run, as far as it is known; asked again when that is done.
        workers: Who makes them; entered here, and left.
        execution: That of the runs, which `function` knows by itself.
        tolerated: Errors that are a run's failure, besides RunError; others end all.

    Raises:
        Interrupted: A signal came; what ran has a checkpoint.
    """
    session = Session(None, {}, reporter, execution)
    failed: list[str] = []
    with session.signals(), workers:
        while runs := [run for run in pending() if run.path.name not in failed]:
            busy = 0
            session.reporter.start(path.name, len(runs), 0)
            for done, outcome in enumerate(workers.run(function, runs, session.stopping), 1):
                run, error = runs[outcome.index], outcome.error
                if isinstance(error, Interrupted):
                    session.signum = error.signum if session.signum is None else session.signum
                elif error is not None and (isinstance(error, RunError) or tolerated(run, error)):
                    failed.append(run.path.name)
                    session.say(f"{run.path.name} failed: {error}")
                elif error is not None:
                    raise error
                busy += outcome.result is False
                session.reporter.step(done, {})
            session.reporter.finish()
            if session.stopping():
                assert session.signum is not None
                raise Interrupted(path, session.signum)
            if busy == len(runs):
                session.say(f"another process makes the {busy} runs that are left")
                break
    return sorted(failed)


def workers_for(
    path: Path,
    run: Mapping[str, Any],
    processes: int,
    threads: int,
    ray: RaySettings | None,
    reporter: Reporter | None,
) -> Workers | Cluster:
    """Who makes the runs of a folder: processes of this machine, or a cluster.

    Args:
        run: Settings of every run.
        processes: Runs at a time; 0: on the CPU one a thread, for small networks gain little from a second; else one.
        threads: Of every run; 0: this machine's, shared by its processes; 1 on a cluster, wherever a run is made.
    """
    cpu = run.get("device", "cpu") == "cpu"
    if ray is not None:
        return Cluster(ray, path, threads or 1, 0 if cpu else 1, processes, (reporter or Silent()).say)
    if threads == 0:
        processes = processes or (torch.get_num_threads() if cpu else 1)
        return Workers(processes, max(1, torch.get_num_threads() // processes))
    processes = processes or (max(1, torch.get_num_threads() // threads) if cpu else 1)
    if processes == 1:
        # Those of this process, which makes the runs itself.
        torch.set_num_threads(threads)
    return Workers(processes, threads)


def depth_of(run: Mapping[str, Any]) -> int:
    """The layers of trained networks by these settings: what cells that come from elsewhere are stacked to."""
    given = [run.get(section, {}).get("layers", 0) for section in ("train", "search")]
    quick = run.get("preset", "quick") == "quick"
    return next(filter(None, given), QUICK_LAYERS if quick else PAPER_LAYERS)


def _begin(path: Path, settings: StudySettings) -> StudySettings:
    """Write what is compared; where the folder has a study, with that."""
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / ".lock"):
        # Another process may have begun or added to the study since.
        settings = _joined(path, settings)
        write_atomically(path / FILE, tomli_w.dumps(settings.model_dump()).encode())
    return settings


def _joined(path: Path, settings: StudySettings) -> StudySettings:
    """These settings, with those of the folder's study where it has one. Raises InputError where that cannot be."""
    if not settings.methods and not settings.architectures:
        raise InputError("--methods names nothing to compare; give at least one method, or --architectures")
    for name in settings.mappings:
        mapping_class(name)
    if not list(settings.searches()) and settings.methods:
        raise InputError(f"--mappings {','.join(settings.mappings)}: no chosen method supports one of them")
    for name in settings.architectures:
        if name in HANDMADE:
            torchvision_models()
        elif name not in published():
            known = [*published(), *HANDMADE]
            hint = did_you_mean(name, known) or f"; choose from {', '.join(known)}"
            raise InputError(f"--architectures {name!r} is neither published nor a hand-made network{hint}")
    if not (path / FILE).exists():
        if path.exists() and any(entry.name != ".lock" for entry in path.iterdir()):
            raise InputError(f"--out {path} exists and is no study; choose another folder")
        return settings
    old = read_study(path)
    if old.run != settings.run:
        raise InputError(f"--out {path} is a study with other settings of its runs; choose another folder")
    if 0 not in (old.threads, settings.threads) and old.threads != settings.threads:
        raise InputError(
            f"--threads {settings.threads}: the runs of {path} have {old.threads}, on which their last bits "
            "depend; leave it out, or choose another folder"
        )
    lists = ("methods", "mappings", "architectures")
    return old.model_copy(
        update={
            **{key: list(dict.fromkeys([*getattr(old, key), *getattr(settings, key)])) for key in lists},
            "seeds": max(old.seeds, settings.seeds),
            "training_seeds": max(old.training_seeds, settings.training_seeds),
            "threads": settings.threads or old.threads,
        }
    )


def read_study(path: Path) -> StudySettings:
    """What a study compares. Raises InputError where the folder has none."""
    if not (path / FILE).is_file():
        raise InputError(f"{path} is not a study, since it has no {FILE}; give the folder of `dnas compare`")
    values = read_toml(path / FILE)
    with calling(in_file(values, path / FILE)):
        return checked(StudySettings, values)


def _names(settings: StudySettings) -> Iterator[tuple[Network, int, str]]:
    for training in range(settings.training_seeds):
        for network in networks(settings):
            yield network, training, network.run(training)


def _runs(path: Path, settings: StudySettings, info: DataInfo) -> Iterator[Run]:
    """What can be run now: a control waits for the network that it controls."""
    for network, training, name in _names(settings):
        folder, source = path / RUNS / name, path / RUNS / replace(network, kind="searched").run()
        ready = folder == source or network.kind in REFERENCES or (source / RESULT).exists()
        if ready and not (folder / RESULT).exists():
            yield Run(folder, _overrides(settings, network, training), network, source, depth_of(settings.run), info)


def _overrides(settings: StudySettings, network: Network, training: int) -> dict[str, Any]:
    given = {**settings.run, "baseline": False, "seed": network.seed + TRAINING_STRIDE * training}
    if network.kind == "searched" and training == 0:
        return {**given, "command": "run", "method": network.method, "mapping": network.mapping}
    given = {key: value for key, value in given.items() if key not in ("search", "options", "space")}
    given |= {"command": "train", "architecture": network.run()}
    if network.kind == "handmade":
        # Width and depth are its own.
        train = {k: v for k, v in given.get("train", {}).items() if k not in ARCHITECTURE_SETTINGS}
        given |= {"architecture": network.method, "handmade": network.method, "train": train}
    return given


def results(path: Path) -> Mapping[str, dict[str, Any]]:
    """The content of result.json of every run that has one, by the run's name."""
    found = sorted((path / RUNS).glob(f"*/{RESULT}"))
    return {file.parent.name: read_json(file) for file in found}

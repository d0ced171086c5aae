"""Compare cheap measures of architectures with full training: the proxy gap, which motivates the paper.

The same random architectures are trained in full, trained with fewer layers or for fewer epochs, and evaluated with the
shared weights of a supernet. The order by each measure is compared with that by full training, using Kendall's τ. The
number of parameters is listed as a reference: a measure that does not rank better is useless.

    RANKING/ranking.toml              architectures to rank, and the settings of all runs
    RANKING/runs/full-000 …           run folders: full, layers-L and epochs-E, with a number per architecture
    RANKING/supernets/METHOD+PART     a search whose supernet evaluates all of them at the end
    RANKING/ranking.json              results
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from dnas.disk import read_json, write_atomically
from dnas.errors import InputError, InUse, calling
from dnas.methods.protocol import Candidate, SupernetMethod
from dnas.methods.registry import get_method
from dnas.options import ClusterOptions
from dnas.parts import registry as parts
from dnas.pipeline.config import resolve
from dnas.pipeline.extensions import register_all, registered
from dnas.pipeline.flips import resolve_flips
from dnas.pipeline.inputs import check_runs, checked_draft, load_data
from dnas.pipeline.machine import check_execution
from dnas.pipeline.run import resume, start
from dnas.reporter import Reporter
from dnas.rng import numpy_stream
from dnas.runtime.execution import DEFAULT, Execution
from dnas.runtime.names import CONFIG_FILE, RESULT_FILE
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.settings import SupernetSettings
from dnas.space.architecture import Architecture, at_depth
from dnas.space.registry import get_space
from dnas.space.sampling import sample
from dnas.study.cluster import RaySettings, of_tasks
from dnas.study.design import (
    OF_SEARCHES,
    depth_of,
    method_and_parts,
    of_search,
    require_parts_of_options,
    with_all_parts,
)
from dnas.study.growth import with_those_of, write_begun
from dnas.study.jobs import carry_out, ray_for, workers_for
from dnas.study.names import LOCK_FILE, RANKED_FILE, RANKING_FILE, RUNS
from dnas.study.ranking_design import RankingSettings, joined
from dnas.study.statistics import kendall
from dnas.supernet.mapping import SHARED

SUPERNETS = "supernets"
FULL_TRAINING = "full"


@dataclass(frozen=True)
class Measurement:
    """One run of a ranking, in the form sent to a process: a training of one architecture, or a supernet for all.

    Attributes:
        method: The method of a supernet; "" for a training.
    """

    path: Path
    overrides: dict[str, Any]
    architectures: tuple[Architecture, ...]
    method: str = ""


def architectures(settings: RankingSettings) -> list[Architecture]:
    """Return the random architectures to rank, at full depth: with one normal layer and one reduction each."""
    space = get_space(settings.run.get("space", "darts"))
    rngs = (numpy_stream(settings.seed, "candidate", i) for i in range(settings.count))
    with calling({"layers": "--layers"}):
        return [sample(space, rng, depth_of(settings.run), shared=True) for rng in rngs]


def carry_through(
    path: Path,
    settings: RankingSettings,
    processes: int,
    cluster: ClusterOptions,
    reporter: Reporter,
    execution: Execution,
) -> dict[str, Any]:
    """Execute the missing runs of a ranking. Returns and raises as `rank`."""
    ray = ray_for(path, processes, cluster)
    return rank(path, settings, processes=processes, ray=ray, reporter=reporter, execution=execution)


def rank(
    path: Path,
    settings: RankingSettings,
    *,
    processes: int = 0,
    ray: RaySettings | None = None,
    reporter: Reporter | None = None,
    execution: Execution = DEFAULT,
) -> dict[str, Any]:
    """Execute all runs without a result, and return the results, which are also in ranking.json.

    If a supernet has to evaluate more architectures than before, its search is repeated with bit-for-bit identical
    results. `processes` and `ray` are as in `dnas.study.compare.compare`.

    Raises:
        InputError: A setting is invalid, or the folder is that of another ranking.
        Interrupted: A signal came; the running ones have a checkpoint.
    """
    check_execution(execution)
    wanted = _joined(path, settings)
    if reporter is not None and "count" in settings.model_fields_set and settings.count < wanted.count:
        reporter.say(f"{path} has {wanted.count} architectures, which is more than {settings.count}: they are kept")
    if any(not (run.path / RESULT_FILE).exists() for run in _measurements(path, wanted)) or _short(path, wanted):
        # Check before writing: a ranking that cannot start must not occupy its folder.
        one_of_each = [*_supernets(wanted).values(), *_trainings(wanted).values()]
        check_runs(one_of_each, here=ray is None, reporter=reporter)
        settings = write_begun(path, settings, RANKING_FILE, _joined)
        # Locked, because a search that another process has just restarted has no result and must stay.
        with FileLock(path / LOCK_FILE):
            for folder in _short(path, settings):
                if reporter is not None:
                    reporter.say(
                        f"repeats the supernet search of {folder.name}, to evaluate {settings.count} architectures"
                    )
                shutil.rmtree(folder)
    else:
        settings = wanted
    # The nodes of a cluster have working directories of their own.
    path = path if ray is None else path.absolute()
    missing = [run for run in _measurements(path, settings) if not (run.path / RESULT_FILE).exists()]
    failed = carry_out(
        path,
        partial(measure, execution=execution if ray is None else of_tasks(execution), extensions=registered()),
        lambda: [run for run in missing if not (run.path / RESULT_FILE).exists()],
        workers_for(path, settings.run, processes, settings.threads, ray, reporter),
        reporter,
        execution,
    )
    left = [f"{run.path.parent.name}/{run.path.name}" for run in missing if not (run.path / RESULT_FILE).exists()]
    summary = ranked(path, settings) | {"failed": failed, "missing": left}
    write_atomically(path / RANKED_FILE, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def _joined(path: Path, settings: RankingSettings) -> RankingSettings:
    """Return these settings with those of the ranking in the folder, if any. Raises InputError on a conflict."""
    settings = with_those_of(path, settings, RANKING_FILE, joined)
    for name in settings.methods:
        if not issubclass(get_method(method_and_parts(name)[0]), SupernetMethod):
            raise InputError(f"--methods {name} cannot be used with `dnas rank`: it has no supernet for the evaluation")
    require_parts_of_options(settings.methods, settings.run)
    own = [part for name in settings.methods for part in method_and_parts(name)[1]]
    for part in map(parts.get_part, (*settings.run.get(parts.SETTING, ()), *own)):
        if part.derives:
            raise InputError(f"--with {part.name} cannot be used with `dnas rank`, which derives nothing; leave it out")
    return settings


def _short(path: Path, settings: RankingSettings) -> list[Path]:
    """Return the supernets that have evaluated fewer architectures than are now ranked."""
    folders = [path / SUPERNETS / method for method in _supernets(settings)]
    return [
        folder
        for folder in folders
        if (folder / RESULT_FILE).exists() and len(read_json(folder / RESULT_FILE)["scores"]) < settings.count
    ]


def _measurements(path: Path, settings: RankingSettings) -> Iterator[Measurement]:
    found = architectures(settings)
    for method, overrides in _supernets(settings).items():
        yield Measurement(path / SUPERNETS / method, overrides, tuple(found), method)
    for name, overrides in _trainings(settings).items():
        for i, architecture in enumerate(found):
            yield Measurement(path / RUNS / f"{name}-{i:03d}", overrides, (architecture,))


def _supernets(settings: RankingSettings) -> dict[str, dict[str, Any]]:
    """Return the settings of the searches, by method."""
    run = {**settings.run, "command": "search", "mapping": SHARED, "seed": settings.seed}
    return {name: {**run, **of_search(name, run)} for name in with_all_parts(settings.methods, run)}


def _trainings(settings: RankingSettings) -> dict[str, dict[str, Any]]:
    """Return the settings of the trainings, by measure."""
    without_search = {key: value for key, value in settings.run.items() if key not in OF_SEARCHES}
    common = {**without_search, "command": "train", "baseline": False, "seed": settings.seed}
    changes: dict[str, dict[str, int]] = {
        FULL_TRAINING: {},
        **{f"layers-{layers}": {"layers": layers} for layers in settings.layers},
        **{f"epochs-{epochs}": {"epochs": epochs} for epochs in settings.epochs},
    }
    return {name: {**common, "train": {**settings.run.get("train", {}), **change}} for name, change in changes.items()}


def measure(run: Measurement, execution: Execution = DEFAULT, extensions: Sequence[Any] = ()) -> bool:
    """Start or resume a run, and return False if another process is executing it.

    Args:
        extensions: The extensions registered in the parent process.
    """
    register_all(extensions)
    try:
        if run.method:
            _judge_all(run, execution)
        elif (run.path / CONFIG_FILE).exists():
            resume(run.path, execution=execution)
        else:
            start(run.overrides, out=run.path, architecture=run.architectures[0], execution=execution)
    except InUse:
        return False
    return True


def _judge_all(run: Measurement, execution: Execution) -> None:
    """Search, and at the end evaluate only the given architectures on the supernet."""
    run.path.mkdir(parents=True, exist_ok=True)
    with RunFolder(run.path, execution.patience) as folder:
        if (run.path / RESULT_FILE).exists():
            return
        draft = checked_draft(run.overrides)
        data = load_data(draft)
        config, method = resolve(run.overrides, data.info, len(data.train), data.fingerprint, data.train.memory)
        config, _ = resolve_flips(config, data.train, data.info)
        assert isinstance(method, SupernetMethod) and isinstance(config.search, SupernetSettings)
        taken = parts.create(config.with_parts, config.with_options)
        candidates = [Candidate(at_depth(a, config.search.layers)) for a in run.architectures]
        session = Session(folder, config.to_toml(), None, execution)
        if folder.has_checkpoints():
            session.resume()
        with session.signals(), closing(data):
            found = search_supernet(
                method,
                config.search,
                data.train,
                data.info,
                seed=config.seed,
                session=session,
                device=config.device,
                finalists=candidates,
                with_parts=taken,
            )
        scores = [trial.score for trial in found.history]
        seconds = round(session.elapsed(), 3)
        folder.write_json(RESULT_FILE, {"scores": scores, "seconds": seconds, **found.cost})
        folder.drop_checkpoints()


def ranked(path: Path, settings: RankingSettings) -> dict[str, Any]:
    """Return the results so far: τ of each measure with full training, over the architectures that have both."""
    results = {file.parent.name: read_json(file) for file in sorted((path / RUNS).glob(f"*/{RESULT_FILE}"))}

    def of_runs(name: str, key: str) -> list[float | None]:
        return [results.get(f"{name}-{i:03d}", {}).get(key) for i in range(settings.count)]

    measures = {name: (of_runs(name, "test_accuracy"), of_runs(name, "train_seconds")) for name in _trainings(settings)}
    for method in _supernets(settings):
        file = path / SUPERNETS / method / RESULT_FILE
        if file.exists():
            result = read_json(file)
            scores = result["scores"]
            # The cost of all architectures, divided among them.
            seconds = [result["seconds"] / len(scores)]
            measures[f"supernet of {method}"] = ([*scores, *[None] * (settings.count - len(scores))], seconds)
    measures["parameters"] = (of_runs(FULL_TRAINING, "params"), [])
    truth = measures[FULL_TRAINING][0]
    rows = []
    for name, (values, seconds) in measures.items():
        row: dict[str, Any] = {"measure": name, "seconds": _mean(seconds)}
        if name != FULL_TRAINING:
            both = [(t, v) for t, v in zip(truth, values, strict=True) if t is not None and v is not None]
            row |= asdict(kendall([t for t, _ in both], [v for _, v in both], settings.seed))
        rows.append(row)
    return {
        "format": "dnas-ranking/1",
        "architectures": settings.count,
        "rows": rows,
        "values": {name: values for name, (values, _) in measures.items()},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

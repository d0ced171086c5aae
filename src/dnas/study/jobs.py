"""Execute many runs, in processes of this machine or on a cluster, without repeating finished ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from filelock import FileLock

from dnas.disk import read_json, write_atomically
from dnas.errors import InputError, Interrupted, RunError
from dnas.options import ClusterOptions
from dnas.reporter import Reporter, Silent
from dnas.runtime.execution import Execution, launched
from dnas.runtime.session import Session
from dnas.runtime.workers import Workers
from dnas.study.cluster import Cluster, RaySettings
from dnas.study.names import FAILED_FILE, LOCK_FILE


class HasPath(Protocol):
    """A job with a run folder."""

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
    """Execute runs until none is left, each once, and return the names of the failed ones.

    The reasons of failures are kept in `failed.json`.

    Args:
        path: The folder to resume.
        function: Starts or resumes a run; returns False if another process is executing it.
        pending: Returns the runs that can start now; called again after those are done.
        workers: The workers, which are entered and exited here.
        execution: The execution of the runs, which `function` already contains.
        tolerated: Errors that count as the failure of a run, in addition to RunError; others end all runs.

    Raises:
        Interrupted: A signal came; the running ones have a checkpoint.
    """
    session = Session(None, {}, reporter, execution)
    failed: dict[str, str] = {}
    with session.signals(), workers:
        while runs := [run for run in pending() if run.path.name not in failed]:
            busy = 0
            session.reporter.start(path.name, len(runs), 0)
            for done, outcome in enumerate(workers.run(function, runs, session.stopping), 1):
                run, error = runs[outcome.index], outcome.error
                if isinstance(error, Interrupted):
                    session.signum = error.signum if session.signum is None else session.signum
                elif error is not None and (isinstance(error, RunError) or tolerated(run, error)):
                    failed[run.path.name] = str(error)
                    session.say(f"{run.path.name} failed: {error}")
                    _keep_failures(path, failed)
                elif error is not None:
                    raise error
                elif outcome.result:
                    _keep_failures(path, {run.path.name: None})
                busy += outcome.result is False
                session.reporter.step(done, {})
            session.reporter.finish()
            if session.stopping():
                assert session.signum is not None
                raise Interrupted(path, session.signum)
            if busy == len(runs):
                session.say(f"another process executes the remaining {busy} runs")
                break
    return sorted(failed)


def read_failures(path: Path) -> dict[str, str]:
    """Return the reasons why runs of a study or ranking failed in their last attempt, by name."""
    return read_json(path / FAILED_FILE) if (path / FAILED_FILE).is_file() else {}


def _keep_failures(path: Path, found: Mapping[str, str | None]) -> None:
    """Update the reasons of failed runs; None: the run has not failed this time."""
    with FileLock(path / LOCK_FILE):
        before = read_failures(path)
        after = {name: why for name, why in {**before, **found}.items() if why is not None}
        if after:
            write_atomically(path / FAILED_FILE, (json.dumps(after, indent=2, sort_keys=True) + "\n").encode())
        elif before:
            (path / FAILED_FILE).unlink()


def workers_for(
    path: Path,
    run: Mapping[str, Any],
    processes: int,
    threads: int,
    ray: RaySettings | None,
    reporter: Reporter | None,
) -> Workers | Cluster:
    """Return the workers for the runs of a folder: processes of this machine, or a cluster.

    Args:
        run: Settings of all runs.
        processes: Runs at a time; 0: on the CPU one per thread, since small networks gain little from a second one;
            else one.
        threads: Threads per run; 0: those of this machine, shared by its processes; on a cluster 1 on every node.
    """
    cpu = run.get("device", "cpu") == "cpu"
    if ray is not None:
        return Cluster(ray, path, threads or 1, 0 if cpu else 1, processes, (reporter or Silent()).say)
    if threads == 0:
        processes = processes or (torch.get_num_threads() if cpu else 1)
        return Workers(processes, max(1, torch.get_num_threads() // processes))
    processes = processes or (max(1, torch.get_num_threads() // threads) if cpu else 1)
    if processes == 1:
        # The threads of this process, which executes the runs itself.
        torch.set_num_threads(threads)
    return Workers(processes, threads)


def ray_for(folder: Path, processes: int, options: ClusterOptions) -> RaySettings | None:
    """Return the cluster for the runs of a folder; None: this machine.

    Raises:
        InputError: An option is invalid, or this is a process of torchrun.
    """
    if processes < 0:
        raise InputError(f"--processes must be at least 1, got {processes}")
    if launched():
        raise InputError(
            f"torchrun executes a single run, and {folder} is for many; start it without torchrun, or use --ray"
        )
    return RaySettings.of(options)

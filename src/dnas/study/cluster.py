"""Runs jobs as tasks of a Ray cluster, as `dnas.workers` does in processes of this machine.

Ray decides where and when a task runs; here it is told what a task needs, and what was lost is submitted again. A job
that keeps a run folder resumes there, so all nodes must see the study's folder by the same path, and share its locks.
docs/ray.md says how to set that up.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from dnas.errors import InputError, Interrupted, first_line
from dnas.options import ClusterOptions
from dnas.pipeline.machine import environment
from dnas.runtime.execution import Execution, seconds
from dnas.runtime.workers import GRACE, LOOK, Job, Outcome, Result, WorkerDied

EXTRA = "pip install 'dnas[cluster]'"
# A run whose owner was on a lost node waits so long for its lock: shared file systems free the locks of a lost machine
# after a while, NFS by default after 90 seconds.
LOCK_SECONDS = 150.0
# Ray itself tries for minutes to reach an address where nobody is.
CONNECT_SECONDS = 10.0
# In which every node must have started a process, imported torch from wherever it lies, and seen the folder.
PROBE_SECONDS = 300.0
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0


@dataclass(frozen=True)
class RaySettings:
    """Which cluster, and how patient to be with it.

    Attributes:
        address: "auto", for the one of RAY_ADDRESS or of this machine, or HOST:PORT of its head.
        retries: How often a job whose process or node was lost is tried again.
        timeout: Seconds after which one attempt counts as hung and its process is ended; None: never.
    """

    address: str = "auto"
    retries: int = 3
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be."""
        if not self.address or "://" in self.address:
            raise InputError(f"--ray {self.address!r} is no address; give auto, or HOST:PORT of the cluster's head")
        if self.retries < 0:
            raise InputError(f"--ray-retries {self.retries} is not possible; give 0 or more")
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"--ray-timeout {self.timeout} is not a time; give seconds above 0, or leave it out")

    @classmethod
    def of(cls, options: ClusterOptions) -> RaySettings | None:
        """Those of the options; None without --ray. Raises InputError."""
        if options.ray is None:
            for name, value in (("retries", options.ray_retries), ("timeout", options.ray_timeout)):
                if value is not None:
                    raise InputError(f"--ray-{name} {value} is for a cluster; give --ray, too, or leave it out")
            return None
        retries = cls.retries if options.ray_retries is None else options.ray_retries
        return cls(options.ray, retries, seconds("--ray-timeout", options.ray_timeout))


def of_tasks(execution: Execution) -> Execution:
    """How a run is executed in a task: its driver ends it, for nodes do not share a clock; and locks may be slow."""
    return replace(execution, deadline=None, patience=LOCK_SECONDS)


@dataclass(frozen=True)
class Attempt:
    """A job that is a task, or will be one again.

    Attributes:
        losses: How many tasks of it were lost.
        due: Not to be submitted before this moment of `time.monotonic`.
    """

    index: int
    job: Any
    losses: int = 0
    due: float = 0.0

    @property
    def name(self) -> str:
        """For people: that of its run folder, if it has one."""
        return str(self.job.path.name) if hasattr(self.job, "path") else f"job {self.index}"


class Cluster:
    """Tasks of a Ray cluster, within a `with` block; the jobs' outcomes are those that `Workers` would give.

    Differences: who runs is told to stop as by SIGINT. A job that is interrupted though nobody here asked for it, as
    when its node is shut down, is tried again, like one whose process or node was lost.

    Args:
        folder: What all nodes must share.
        threads: Torch's threads in each job, and the CPUs that its task takes.
        gpus: GPUs that each task takes.
        at_once: How many jobs are submitted at a time; 0: all of them, so that Ray knows what is wanted.
        say: Takes a line for the user.

    Raises:
        InputError: At the start: no Ray, no cluster, no node with so much, or one that does not share the folder.
    """

    def __init__(
        self,
        settings: RaySettings,
        folder: Path,
        threads: int = 1,
        gpus: int = 0,
        at_once: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.settings, self.folder, self.threads, self.gpus = settings, folder.absolute(), threads, gpus
        self.at_once, self.say = at_once, say
        self._task: Any = None
        self._running: dict[Any, Attempt] = {}
        self._open = contextlib.ExitStack()
        self._ray: Any = None
        self._probe = self.folder / f".cluster-{uuid.uuid4().hex}"

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as opened:
            self._ray = _ray()
            # What is lost is submitted again by `run`, for Ray would do so at once and without a word.
            self._task = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_attempt)
            # Ray tells on stdout, which is for results, of every node that is lost.
            log = opened.enter_context((self.folder / "ray.log").open("a", encoding="utf-8"))
            opened.enter_context(contextlib.redirect_stdout(log))
            opened.enter_context(_connected(self._ray, self.settings.address))
            opened.enter_context(_locked(self._probe))
            self._check_nodes()
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever presses Ctrl-C twice does not want to wait.
        self.close(0.0 if isinstance(error, KeyboardInterrupt) else GRACE)

    def close(self, seconds: float = GRACE) -> None:
        """Tell what runs to stop, wait so long for its checkpoints, and leave the cluster, which ends the rest."""
        with self._open:
            if self._running:
                self._cancel()
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=seconds)
                self._running.clear()

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], stopped: Callable[[], bool]
    ) -> Iterator[Outcome[Result]]:
        """The outcomes, as they come.

        Args:
            jobs: Asked for the next ones whenever there is room, so it may end early.
            stopped: Once it is true no job is begun, and those that run are told to stop as by SIGINT. Those that have
                not after `GRACE` seconds have no outcome.
        """
        following = (Attempt(index, job) for index, job in enumerate(jobs))
        lost: list[Attempt] = []
        told: float | None = None
        while True:
            for attempt in [a for a in lost if a.due <= time.monotonic()]:
                if not stopped():
                    lost.remove(attempt)
                    self._submit(function, attempt)
            while not stopped() and not 0 < self.at_once <= len(self._running) + len(lost):
                fresh = next(following, None)
                if fresh is None:
                    break
                self._submit(function, fresh)
            if stopped() and told is None:
                self._cancel()
                told = time.monotonic()
            if told is not None and time.monotonic() - told > GRACE:
                self._cancel(force=True)
                self._running.clear()
            if not self._running and (told is not None or not lost):
                return
            if not self._running:
                time.sleep(LOOK)
                continue
            done, _ = self._ray.wait(list(self._running), timeout=LOOK)
            for reference in done:
                attempt = self._running.pop(reference)
                outcome, reason = self._outcome(attempt, reference)
                if outcome is not None and not (isinstance(outcome.error, Interrupted) and not stopped()):
                    yield outcome
                elif stopped():
                    continue
                elif attempt.losses == self.settings.retries:
                    again = f" {attempt.losses + 1} times" if attempt.losses else ""
                    yield Outcome(attempt.index, None, WorkerDied(f"its process or node was lost{again}: {reason}"))
                else:
                    delay = min(FIRST_DELAY * 2**attempt.losses, LONGEST_DELAY)
                    lost.append(replace(attempt, losses=attempt.losses + 1, due=time.monotonic() + delay))
                    times = f"{attempt.losses + 1} of {self.settings.retries}"
                    self.say(f"{attempt.name} was lost and is tried again in {delay:.0f} s ({times}): {reason}")

    def _submit(self, function: Callable[[Job], Result], attempt: Attempt) -> None:
        task = self._task.options(name=attempt.name)
        given = {key: value for key, value in os.environ.items() if key.startswith("DNAS_")}
        reference = task.remote(function, attempt.job, self._probe, self.threads, given, self.settings.timeout)
        self._running[reference] = attempt

    def _outcome(self, attempt: Attempt, reference: Any) -> tuple[Outcome[Any] | None, str]:
        """What became of a task, or None where it was lost; and why it was. Raises what is no job's own error."""
        errors = self._ray.exceptions
        try:
            result, error, trace = self._ray.get(reference)
        except errors.TaskCancelledError:
            return None, "it was cancelled"
        except errors.RayTaskError as failure:
            raise (failure.cause if isinstance(failure.cause, InputError) else failure) from None
        except errors.RayError as loss:
            return None, f"{type(loss).__name__}, {first_line(loss)}"
        if error is not None:
            error.__cause__ = RuntimeError(f"in a task of the cluster:\n{trace}")
        return Outcome(attempt.index, result, error), str(error or "")

    def _cancel(self, force: bool = False) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=force)

    def _check_nodes(self) -> None:
        """Have every node that can take a job look at the folder. Raises InputError naming the node that cannot."""
        able = [
            node
            for node in self._ray.nodes()
            if node["Alive"]
            and node["Resources"].get("CPU", 0) >= self.threads
            and node["Resources"].get("GPU", 0) >= self.gpus
        ]
        if not able:
            wanted = f"{self.threads} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")
            raise InputError(
                f"--ray {self.settings.address}: no node has the {wanted} of a run; add one, or change "
                "--threads or --device"
            )
        looks = {}
        for node in able:
            place = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = self._ray.remote(_look).options(num_cpus=0, max_retries=0, scheduling_strategy=place)
            looks[task.remote(self._probe)] = node["NodeManagerHostname"]
        _, silent = self._ray.wait(list(looks), num_returns=len(looks), timeout=PROBE_SECONDS)
        if silent:
            raise InputError(
                f"--ray {self.settings.address}: node {looks[silent[0]]} did not answer in {PROBE_SECONDS:.0f} "
                "seconds; repair or remove it"
            )
        versions: dict[str, str] = {}
        for look, name in looks.items():
            try:
                seen, found = self._ray.get(look)
            except self._ray.exceptions.RayTaskError as error:
                raise InputError(
                    f"--ray {self.settings.address}: node {name} cannot run dnas ({_last_line(error)}); install there "
                    "what this machine has"
                ) from None
            except self._ray.exceptions.RayError:
                # Lost in this very moment, and so not a node to send jobs to.
                continue
            if seen:
                raise InputError(f"{self.folder}: {seen}")
            versions[name] = ", ".join(f"{key} {found[key]}" for key in ("dnas", "torch", "kernels"))
            first, known = next(iter(versions.items()))
            if versions[name] != known:
                raise InputError(
                    f"--ray {self.settings.address}: node {first} has {known} and node {name} {versions[name]}; "
                    "install the same on all, so that no result depends on where it was made"
                )


def _ray() -> Any:
    """The package. Raises InputError where it is missing."""
    try:
        ray = import_module("ray")
        import_module("ray.util.scheduling_strategies")
    except ImportError:
        raise InputError(f"--ray needs the package ray; install it with: {EXTRA}") from None
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Within the block this process is a driver of the cluster. Raises InputError where there is none."""
    if ray.is_initialized():
        # By a caller's own program, whose connection it stays.
        yield
        return
    target = os.environ.get("RAY_ADDRESS", "") or address if address == "auto" else address
    host, _, port = target.rpartition(":")
    if target != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise InputError(
                f"--ray {address}: no cluster at {target} ({error}); give HOST:PORT that `ray start --head` printed"
            ) from None
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        text = "no cluster runs on this machine" if isinstance(error, ConnectionError) else first_line(error)
        raise InputError(
            f"--ray {address}: {text}; start one with `ray start --head`, or give HOST:PORT of its head"
        ) from None
    finally:
        # Ray's own handler of SIGTERM would end this process without a word.
        with contextlib.suppress(ValueError):  # not the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _locked(probe: Path) -> Iterator[None]:
    """Within the block the file is there, and this process has its lock."""
    import fcntl

    for old in probe.parent.glob(".cluster-*"):
        # Left by drivers that were killed; those that live have theirs locked.
        with contextlib.suppress(OSError), old.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.unlink()
    with probe.open("x+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            probe.unlink()
            raise InputError(
                f"{probe.parent} has no locks ({error.strerror}), without which two nodes could write one run; "
                "choose a file system that has, or mount it with them"
            ) from None
        try:
            yield
        finally:
            probe.unlink(missing_ok=True)


def _look(probe: Path) -> tuple[str, dict[str, Any]]:
    """In a task: what is wrong with the folder on this node, "" for nothing; and what is installed."""
    import fcntl

    node, here = socket.gethostname(), environment()
    try:
        with probe.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "", here
            return (
                f"node {node} gets a lock that this machine holds, so two nodes could write one run; mount the file "
                "system with locks that all nodes share"
            ), here
    except OSError as error:
        return (
            f"node {node} does not see this folder ({error.strerror}); give --out a folder that all nodes share, "
            "by the same path"
        ), here


def _attempt(
    function: Callable[[Any], Any],
    job: Any,
    probe: Path,
    threads: int,
    variables: dict[str, str],
    timeout: float | None,
) -> tuple[Any, Exception | None, str]:
    """In a task: the job's result, or its error and where that was raised.

    Raises InputError where the node does not see the folder.
    """
    os.environ.update(variables)
    torch.set_num_threads(threads)
    if not probe.exists():
        # A node that has come since the start. Its own folder of this name would take what nobody would ever see.
        node = socket.gethostname()
        raise InputError(f"{probe.parent}: node {node} does not see this folder, which all nodes must share")
    if timeout is not None:
        # Ends the process from a thread that needs no interpreter, which may hang, and logs where it hung.
        faulthandler.dump_traceback_later(timeout, exit=True, file=2)
    try:
        return function(job), None, ""
    except Exception as error:
        return None, error, traceback.format_exc()
    finally:
        if timeout is not None:
            faulthandler.cancel_dump_traceback_later()


def _last_line(error: BaseException) -> str:
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)

"""Run jobs as tasks of a Ray cluster, as `dnas.workers` does in processes of this machine.

Ray decides where and when a task runs. This module declares the resources of a task, and submits lost tasks again. A
job with a run folder resumes there, so all nodes must have access to the folder of the study by the same path, and
share its locks. docs/ray.md explains how to set that up.
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
# How long a run waits for its lock if the owner was on a lost node: shared file systems release the locks of a lost
# machine after a while, NFS by default after 90 seconds.
LOCK_SECONDS = 150.0
# Ray itself tries for minutes to reach an address that does not answer.
CONNECT_SECONDS = 10.0
# The time for every node to start a process, import torch, possibly from a slow disk, and check the folder.
PROBE_SECONDS = 300.0
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0


@dataclass(frozen=True)
class RaySettings:
    """The address of a cluster, and its retries and timeout.

    Attributes:
        address: "auto", for the cluster of RAY_ADDRESS or of this machine, or HOST:PORT of its head.
        retries: The number of retries for a job whose process or node was lost.
        timeout: Seconds after which an attempt counts as hung and its process is ended; None: never.
    """

    address: str = "auto"
    retries: int = 3
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Raise InputError for invalid values."""
        if not self.address or "://" in self.address:
            raise InputError(f"--ray must be auto, or HOST:PORT of the head of the cluster, got {self.address!r}")
        if self.retries < 0:
            raise InputError(f"--ray-retries must be at least 0, got {self.retries}")
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"--ray-timeout must be a number of seconds above 0, got {self.timeout}")

    @classmethod
    def of(cls, options: ClusterOptions) -> RaySettings | None:
        """Return the settings of options; None without --ray. Raises InputError for an option without effect."""
        if options.ray is None:
            for name, value in (("retries", options.ray_retries), ("timeout", options.ray_timeout)):
                if value is not None:
                    raise InputError(
                        f"--ray-{name} {value} only applies to a cluster; also give --ray, or leave it out"
                    )
            return None
        retries = cls.retries if options.ray_retries is None else options.ray_retries
        return cls(options.ray, retries, seconds("--ray-timeout", options.ray_timeout))


def of_tasks(execution: Execution) -> Execution:
    """Return the execution of a run in a task: the driver ends it (nodes share no clock), and locks may be slow."""
    return replace(execution, deadline=None, patience=LOCK_SECONDS)


@dataclass(frozen=True)
class Attempt:
    """A job that is running as a task, or waits to be submitted again.

    Attributes:
        losses: The number of lost tasks of this job.
        due: The earliest time to submit it, as in `time.monotonic`.
    """

    index: int
    job: Any
    losses: int = 0
    due: float = 0.0

    @property
    def name(self) -> str:
        """The name in messages: that of the run folder, if there is one."""
        return str(self.job.path.name) if hasattr(self.job, "path") else f"job {self.index}"


class Cluster:
    """Tasks of a Ray cluster, within a `with` block; the outcomes of jobs are the same as with `Workers`.

    Differences: running tasks are stopped as by SIGINT. A job that is interrupted without a request from here, for
    example because its node is shut down, is tried again, like one whose process or node was lost.

    Args:
        folder: The folder that all nodes must share.
        threads: Torch threads of each job, and CPUs that its task takes.
        gpus: GPUs that each task takes.
        at_once: The number of jobs submitted at a time; 0: all of them, so that Ray can plan for the total demand.
        say: Prints a line for the user.

    Raises:
        InputError: At the start, if there is no Ray, no cluster, no node with enough resources, or a node that does
            not share the folder.
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
            # Lost tasks are submitted again by `run`, since Ray would do so immediately and silently.
            self._task = self._ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_retries=0)(_attempt)
            # Ray reports each lost node on stdout, which is reserved for results.
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
        # After a second Ctrl-C, do not wait.
        self.close(0.0 if isinstance(error, KeyboardInterrupt) else GRACE)

    def close(self, seconds: float = GRACE) -> None:
        """Stop running tasks, wait this long for their checkpoints, and leave the cluster, which ends the rest."""
        with self._open:
            if self._running:
                self._cancel()
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=seconds)
                self._running.clear()

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], stopped: Callable[[], bool]
    ) -> Iterator[Outcome[Result]]:
        """Yield the outcomes in the order of completion.

        Args:
            jobs: Read whenever there is room for more jobs, so it may end early.
            stopped: Once it returns True, no job is started, and running ones are stopped as by SIGINT. Jobs that have
                not stopped after `GRACE` seconds have no outcome.
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
        """Return the outcome of a task and "", or None and a reason if it was lost. Raises errors of dnas itself."""
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
        """Check the folder on each node that can take a job. Raises InputError that names a node without access."""
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
                f"--ray {self.settings.address}: no node has the {wanted} that a run needs; add one, or change "
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
                    f"--ray {self.settings.address}: node {name} cannot run dnas ({_last_line(error)}); install the "
                    "same packages there as on this machine"
                ) from None
            except self._ray.exceptions.RayError:
                # Just lost, so no jobs can be sent to this node.
                continue
            if seen:
                raise InputError(f"{self.folder}: {seen}")
            versions[name] = ", ".join(f"{key} {found[key]}" for key in ("dnas", "torch", "kernels"))
            first, known = next(iter(versions.items()))
            if versions[name] != known:
                raise InputError(
                    f"--ray {self.settings.address}: node {first} has {known} and node {name} {versions[name]}; "
                    "install the same on all nodes, so that results do not depend on the node"
                )


def _ray() -> Any:
    """Return the package. Raises InputError if it is missing."""
    try:
        ray = import_module("ray")
        import_module("ray.util.scheduling_strategies")
    except ImportError:
        raise InputError(f"--ray requires ray; install it with: {EXTRA}") from None
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Make this process a driver of the cluster within the block. Raises InputError if there is no cluster."""
    if ray.is_initialized():
        # Connected by the calling program, to which the connection belongs.
        yield
        return
    target = os.environ.get("RAY_ADDRESS", "") or address if address == "auto" else address
    host, _, port = target.rpartition(":")
    if target != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise InputError(
                f"--ray {address}: no cluster at {target} ({error}); give the HOST:PORT that `ray start --head` printed"
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
        # Ray's own handler of SIGTERM would end this process silently.
        with contextlib.suppress(ValueError):  # not the main thread
            for number, handler in handlers.items():
                signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _locked(probe: Path) -> Iterator[None]:
    """Create the file and hold its lock within the block."""
    import fcntl

    for old in probe.parent.glob(".cluster-*"):
        # Left behind by killed drivers; files of running drivers are locked.
        with contextlib.suppress(OSError), old.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.unlink()
    with probe.open("x+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            probe.unlink()
            raise InputError(
                f"{probe.parent} does not support locks ({error.strerror}), so two nodes could write the same run; "
                "choose a file system with locks, or enable them when mounting"
            ) from None
        try:
            yield
        finally:
            probe.unlink(missing_ok=True)


def _look(probe: Path) -> tuple[str, dict[str, Any]]:
    """Return, in a task, a problem with the folder on this node or "", and the installed versions."""
    import fcntl

    node, here = socket.gethostname(), environment()
    try:
        with probe.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return "", here
            return (
                f"node {node} obtained a lock that this machine holds, so two nodes could write the same run; mount "
                "the file system with locks shared by all nodes"
            ), here
    except OSError as error:
        return (
            f"node {node} has no access to this folder ({error.strerror}); give --out a folder that all nodes share "
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
    """Return, in a task, the result of the job, or its error and traceback.

    Raises InputError if the node has no access to the folder.
    """
    os.environ.update(variables)
    torch.set_num_threads(threads)
    if not probe.exists():
        # A node that joined after the start. Results in its own folder of this name would be lost.
        node = socket.gethostname()
        raise InputError(f"{probe.parent}: node {node} has no access to this folder, which all nodes must share")
    if timeout is not None:
        # A thread outside the interpreter, which may hang, ends the process and logs where it hung.
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

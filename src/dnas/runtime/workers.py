"""Run jobs, one after another in this process or in several worker processes, and survive the death of any worker.

A job is a module-level function with one argument, and a result that can be pickled. A job with a run folder resumes
from it, so no state is kept here.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch
from loky.backend import get_context  # type: ignore[import-untyped]
from loky.process_executor import ProcessPoolExecutor  # type: ignore[import-untyped]

from dnas.errors import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")
# Interval in seconds at which this process checks for a stop request while it waits for others.
LOOK = 0.2
# Seconds that a process may take to stop, including a checkpoint, before it counts as hanging and is killed.
GRACE = 90.0


class WorkerDied(RunError):
    """A process ended during a job: killed, out of memory, or crashed."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """Outcome of job number `index` (0-based): a result, or the error that it raised."""

    index: int
    result: Result | None
    error: Exception | None


class Workers:
    """Worker processes for jobs, within a `with` block.

    Args:
        processes: Number of jobs in parallel; with 1 they run in this process, with its threads.
        threads: Torch threads per process.
    """

    def __init__(self, processes: int, threads: int) -> None:
        self.processes, self.threads = processes, threads
        self._executor: Any = None
        self._leash: Connection | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, each after a checkpoint if it is executing a run."""
        if self._leash is not None:
            self._leash.close()
            self._leash = None
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], stopped: Callable[[], bool]
    ) -> Iterator[Outcome[Result]]:
        """Yield the outcomes in the order of completion.

        Args:
            jobs: Iterator that is advanced whenever a process is free, so it may end early.
            stopped: Once it returns True, no job is started, and running jobs get a stop request like SIGTERM. Jobs
                that have not stopped after `GRACE` seconds have no outcome.
        """
        if self.processes == 1:
            for index, job in enumerate(jobs):
                yield _outcome(index, lambda job=job: function(job))  # type: ignore[misc]
                if stopped():
                    return
            return
        yield from self._run_at_once(function, enumerate(jobs), stopped)

    def _run_at_once(
        self, function: Callable[[Job], Result], jobs: Iterator[tuple[int, Job]], stopped: Callable[[], bool]
    ) -> Iterator[Outcome[Result]]:
        running: dict[Future[Result], tuple[int, Job]] = {}
        # Jobs during which a process died. To find the culprit, each of them is run in a process of its own.
        suspects: deque[tuple[int, Job]] = deque()
        alone = False
        told: float | None = None
        while True:
            while not stopped() and len(running) < (1 if suspects or alone else self.processes):
                alone = bool(suspects)
                following = suspects.popleft() if suspects else next(jobs, None)
                if following is None:
                    break
                running[self._submit(function, following[1])] = following
            if not running:
                return
            done, _ = wait(running, LOOK, FIRST_COMPLETED)
            for future in done:
                index, job = running.pop(future)
                outcome = _outcome(index, future.result)
                if not isinstance(outcome.error, BrokenProcessPool):
                    yield outcome
                # A scheduler signals all processes to end; a job that had not yet started its run did not fail.
                elif not stopped():
                    if alone:
                        died = WorkerDied("its process was killed or ran out of memory")
                        yield Outcome(index, None, died)
                    else:
                        suspects.append((index, job))
                if isinstance(outcome.error, BrokenProcessPool):
                    self.close()
            alone = alone and bool(running)
            if not stopped():
                continue
            if self._leash is not None:
                self._leash.close()
                self._leash = None
            told = time.monotonic() if told is None else told
            if running and time.monotonic() - told > GRACE:
                self._executor.shutdown(wait=True, kill_workers=True)
                self._executor = None
                return

    def _submit(self, function: Callable[[Job], Result], job: Job) -> Future[Result]:
        if self._executor is None:
            # Unlike those of the standard library, these processes do not import the script of the user, which may lack
            # `if __name__ == "__main__"`.
            context = get_context("loky")
            reader, self._leash = context.Pipe(duplex=False)
            self._executor = ProcessPoolExecutor(
                self.processes, context=context, initializer=_begin, initargs=(reader, self.threads)
            )
        future: Future[Result] = self._executor.submit(function, job)
        return future


def _outcome(index: int, call: Callable[[], Result]) -> Outcome[Result]:
    try:
        return Outcome(index, call(), None)
    except Exception as error:
        return Outcome(index, None, error)


def _begin(leash: Connection, threads: int) -> None:
    """In a new process: stop when the other end of the pipe is closed, by its owner or because the owner died."""

    def follow() -> None:
        leash.poll(None)
        # A session has a handler that ends the run after a checkpoint; otherwise the signal ends the process.
        signal.raise_signal(signal.SIGTERM)

    # A batch scheduler may send it to every process of a job; outside of a run the default would end this one.
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=follow, daemon=True).start()

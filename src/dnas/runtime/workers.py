"""Runs jobs, in this process one after another or in several at a time, and survives the death of any of them.

A job is a function of a module and one argument, with a result that can be sent. Where a job keeps a run folder, it
resumes there, so nothing here remembers anything.
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
# How often this process looks whether it shall stop, in seconds, while it waits for others.
LOOK = 0.2
# How long a process may take to stop, in seconds, before it counts as hanging and is killed: it may write a checkpoint.
GRACE = 90.0


class WorkerDied(RunError):
    """A process ended in the middle of a job: killed, out of memory, or crashed."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of job number `index`, 0-based: a result, or the error that it raised."""

    index: int
    result: Result | None
    error: Exception | None


class Workers:
    """Processes that wait for jobs, within a `with` block.

    Args:
        processes: How many jobs run at a time; with 1 they run in this process, with its threads.
        threads: Torch's threads in each process.
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
        """End the processes, each after a checkpoint where it is in the middle of a run."""
        if self._leash is not None:
            self._leash.close()
            self._leash = None
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def run(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], stopped: Callable[[], bool]
    ) -> Iterator[Outcome[Result]]:
        """The outcomes, as they come.

        Args:
            jobs: Asked for the next one whenever a process is free, so it may end early.
            stopped: Once it is true no job is begun, and those that run are told to stop as by SIGTERM. Those that
                have not after `GRACE` seconds have no outcome.
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
        # Jobs during which a process died. Which of them was its end shows when each has a process of its own.
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
                # A scheduler tells all processes to end; one that had not yet begun its run is no failed one.
                elif not stopped():
                    if alone:
                        died = WorkerDied("its process ended in the middle, killed or out of memory")
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
            # Unlike the standard library's, these processes do not import the user's script again, which may have no
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
    """In a new process: stop when the other end of the leash is closed, by its owner or because that died."""

    def follow() -> None:
        leash.poll(None)
        # A session has a handler for it, which ends the run after a checkpoint; else it ends the process.
        signal.raise_signal(signal.SIGTERM)

    # A batch scheduler may send it to every process of a job; outside of a run its default would end this one.
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=follow, daemon=True).start()

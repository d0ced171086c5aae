"""Processes that read picture files while this one computes. One that is killed is replaced, and its work done again.

Processes and not threads: the decoders are C libraries that read whatever lies in a folder, and a crash of theirs must
not end a run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any, Generic, Literal, TypeVar

from loky.backend import get_context  # type: ignore[import-untyped]
from loky.process_executor import ProcessPoolExecutor, ShutdownExecutorError  # type: ignore[import-untyped]

from dnas.errors import RunError

Result = TypeVar("Result")
# How often the processes may be replaced during one task.
DEATHS = 3


@dataclass
class Task(Generic[Result]):
    """A call of a function in one of the processes."""

    function: Callable[..., Result]
    arguments: tuple[Any, ...]
    future: Future[Result]
    pool: _Pool
    deaths: int = 0


class Decoders:
    """The processes of a data set, which start when they are first needed. Can be sent to a process, which has its own.

    Args:
        processes: How many; 0: as many as torch has threads.
    """

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes
        self._pool: _Pool | None = None

    def __reduce__(self) -> tuple[type[Decoders], tuple[int]]:
        return Decoders, (self.processes,)

    @property
    def count(self) -> int:
        if self.processes:
            return self.processes
        import torch

        # In one of several processes that share a machine, torch has its share of the threads.
        return torch.get_num_threads()

    def begin(self, function: Callable[..., Result], *arguments: Any) -> Task[Result]:
        """Have a function of a module called with arguments that can be sent."""
        future, pool = self._submit(function, arguments)
        return Task(function, arguments, future, pool)

    def finish(self, task: Task[Result]) -> Result:
        """Wait for a task. Raises what its function raised, or RunError where processes die again and again."""
        while (lost := _lost(task.future)) is not None:
            task.deaths += lost == "died"
            self._drop(task.pool)
            if task.deaths == DEATHS:
                raise RunError(
                    f"processes that decode pictures ended {DEATHS} times in the middle of the same ones, "
                    "killed or out of memory: free memory and resume"
                )
            task.future, task.pool = self._submit(task.function, task.arguments)
        return task.future.result()

    def close(self) -> None:
        """End the processes; what comes after starts new ones."""
        if self._pool is not None:
            self._drop(self._pool)

    def _submit(self, function: Callable[..., Result], arguments: tuple[Any, ...]) -> tuple[Future[Result], _Pool]:
        try:
            pool = self._pool = self._pool or _Pool(self.count)
            return pool.executor.submit(function, *arguments), pool
        except BrokenProcessPool:
            self._drop(pool)
            pool = self._pool = _Pool(self.count)
            return pool.executor.submit(function, *arguments), pool

    def _drop(self, pool: _Pool) -> None:
        if self._pool is pool:
            self._pool = None
        pool.end()


class _Pool:
    """Processes of which none has died. They end when nothing refers to this any more, and with this process."""

    def __init__(self, processes: int) -> None:
        # Unlike the standard library's, these processes do not import the user's script again; see `workers.py`.
        context = get_context("loky")
        reader, leash = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(processes, context=context, initializer=_begin, initargs=(reader,))
        self.end = Finalize(self, _end, (self.executor, leash), exitpriority=0)


def _lost(future: Future[Any]) -> Literal["died", "closed"] | None:
    """Why a call has neither a result nor an error of its own: its process died, or was ended by `close`."""
    if future.cancelled():
        return "closed"
    # Not raised and caught: a traceback would refer to the processes, and so keep them.
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return "died"
    return "closed" if isinstance(error, ShutdownExecutorError) else None


def _end(executor: Any, leash: Connection) -> None:
    executor.shutdown(wait=True, kill_workers=True)
    leash.close()


def _begin(leash: Connection) -> None:
    """In a new process: end with the owner, and not before it: a Ctrl-C reaches all processes of a terminal."""

    def follow() -> None:
        leash.poll(None)
        os._exit(0)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()

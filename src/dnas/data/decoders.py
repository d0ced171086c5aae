"""Worker processes that read image files while this process computes. A killed one is replaced, and its work repeated.

Processes instead of threads, because the decoders are C libraries that read arbitrary files, and a crash in them must
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
# Maximum number of times that processes are replaced during one task.
DEATHS = 3


@dataclass
class Task(Generic[Result]):
    """A function call in one of the processes."""

    function: Callable[..., Result]
    arguments: tuple[Any, ...]
    future: Future[Result]
    pool: _Pool
    deaths: int = 0


class Decoders:
    """Decoder processes of a data set, started on first use. Can be pickled; the receiving process then has its own.

    Args:
        processes: Number of processes; 0: as many as torch has threads.
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

        # If several processes share a machine, torch in each has its share of the threads.
        return torch.get_num_threads()

    def begin(self, function: Callable[..., Result], *arguments: Any) -> Task[Result]:
        """Start a call of a module-level function with arguments that can be pickled."""
        future, pool = self._submit(function, arguments)
        return Task(function, arguments, future, pool)

    def finish(self, task: Task[Result]) -> Result:
        """Wait for a task. Raises the error of its function, or RunError if processes die repeatedly."""
        while (lost := _lost(task.future)) is not None:
            task.deaths += lost == "died"
            self._drop(task.pool)
            if task.deaths == DEATHS:
                raise RunError(
                    f"decoder processes died {DEATHS} times on the same images (killed or out of memory); "
                    "free memory and resume"
                )
            task.future, task.pool = self._submit(task.function, task.arguments)
        return task.future.result()

    def close(self) -> None:
        """End the processes; a later call starts new ones."""
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
    """Processes of which none has died. They end when this object is garbage-collected, and with this process."""

    def __init__(self, processes: int) -> None:
        # Unlike those of the standard library, these processes do not import the script of the user; see `workers.py`.
        context = get_context("loky")
        reader, leash = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(processes, context=context, initializer=_begin, initargs=(reader,))
        self.end = Finalize(self, _end, (self.executor, leash), exitpriority=0)


def _lost(future: Future[Any]) -> Literal["died", "closed"] | None:
    """Error for a call without a result: its process died, or was ended by `close`."""
    if future.cancelled():
        return "closed"
    # Not raised and caught: a traceback would hold references to the processes, and keep them alive.
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return "died"
    return "closed" if isinstance(error, ShutdownExecutorError) else None


def _end(executor: Any, leash: Connection) -> None:
    executor.shutdown(wait=True, kill_workers=True)
    leash.close()


def _begin(leash: Connection) -> None:
    """In a new process: end with the owner, and not earlier: a Ctrl-C reaches all processes of a terminal."""

    def follow() -> None:
        leash.poll(None)
        os._exit(0)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()

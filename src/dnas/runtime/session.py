"""Services for a loop: checkpoints, signals, metrics, progress. Independent of methods and networks.

A run is a sequence of stages (listed in `names`), each a loop over steps. A loop requests the point to resume from,
calls `step_done` after every step, and `complete` at its end.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from torch import Tensor

from dnas.errors import ON_EPOCH, TIME_LIMIT, InputError, Interrupted, RunError
from dnas.reporter import Reporter, Silent
from dnas.runtime import distributed
from dnas.runtime.checkpoint import Checkpoint, digests
from dnas.runtime.estimate import Estimate
from dnas.runtime.execution import DEFAULT, Execution
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.scalars import Scalars

# Batch schedulers can send SIGUSR1 some time before they end a job. Windows does not have it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()))
Captured = tuple[dict[str, Tensor], dict[str, Any]]
# An estimate may try steps of later stages. There is no time for that within this many seconds, and this many steps of
# the current speed, of the deadline.
ESTIMATE_SECONDS, ESTIMATE_STEPS = 60.0, 20


class Session:
    """One execution of a run, with or without a run folder.

    Args:
        folder: Folder for checkpoints and metrics; None writes nothing (as in the self-test of `dnas doctor`).
        config: Resolved settings, for `result.json`, and to reject a resume with other settings.
        reporter: Shows progress.
        execution: Times of checkpoints and the deadline.

    Attributes:
        estimate: Estimated duration of the run, printed once in each stage; None: no estimate.
        handed_on: Result that the last completed stage leaves for the next.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        config: Mapping[str, Any],
        reporter: Reporter | None = None,
        execution: Execution = DEFAULT,
    ) -> None:
        self.folder = folder
        self.config = dict(config)
        self.reporter = reporter or Silent()
        self.execution = execution
        self.completed: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.signum: int | None = None
        self.handed_on: Checkpoint | None = None
        self._pending: Checkpoint | None = None
        self._stage = ""
        self._entered = self._saved = time.monotonic()
        # The longest step and checkpoint so far, in seconds, and the end of the last step.
        self._longest_step = self._longest_write = 0.0
        self._stepped: float | None = None
        self._divisible = False
        self._scalars: Scalars | None = None
        self.estimate: Estimate | None = None
        self._resumed = False

    # --- resuming ---------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Load the newest intact checkpoint. Raises InputError if its configuration differs from the current one."""
        assert self.folder is not None
        checkpoint, warnings = self.folder.load_checkpoint()
        for warning in warnings:
            self.say(warning)
        if checkpoint is None:
            self.folder.rewind_metrics(0)
            self.say("no checkpoint yet; starting from the beginning")
            return
        differences = list(_differences(checkpoint.state["config"], self.config))
        if differences:
            raise InputError(
                f"{str(self.folder.path)!r} cannot be resumed: {'; '.join(differences)}; restore the settings or "
                "start a new run"
            )
        self.folder.rewind_metrics(checkpoint.state["metrics_bytes"])
        self.completed = checkpoint.state["completed"]
        self.seconds = checkpoint.state["seconds"]
        self._pending = checkpoint
        if checkpoint.state["stage"] in self.completed:
            self.handed_on = checkpoint
        self._resumed = True
        self.say(f"resuming {checkpoint.state['stage']} at step {checkpoint.state['step']}")

    def start(self, stage: str, title: str, steps: int, *, divisible: bool = False) -> Checkpoint | None:
        """Enter a stage. Return the checkpoint to resume from, if the run was interrupted in this stage.

        The time since the last stage, or since the start of the session, counts as time of this stage.

        Args:
            divisible: Whether a step contains sessions of its own, which can stop it.
        """
        self._stage, self._divisible = stage, divisible
        self._saved = time.monotonic()
        self._longest_step, self._stepped = 0.0, None
        if self.execution.tensorboard and self.folder is not None and self.folder.writes and self._scalars is None:
            self._scalars = Scalars(self.folder.path)
        pending, self._pending = self._pending, None
        if pending is not None and pending.state["stage"] != stage:
            pending = None
        done = 0 if pending is None else int(pending.state["step"])
        self.reporter.start(title if self.estimate is None else self.estimate.numbered(stage, title), steps, done)
        if self.estimate is not None:
            self.estimate.enter(stage, done, time.monotonic())
            if stage in self.estimate.unmeasured:
                self._foretell(done)
        return pending

    # --- the loop ---------------------------------------------------------------------------------------

    def step_done(self, step: int, shown: Mapping[str, float], capture: Callable[[], Captured]) -> None:
        """Show step `step` (1-based), write a checkpoint if it is due, and stop if a stop was requested.

        `capture` returns the tensors and the JSON that the loop needs to continue from here.
        """
        self.reporter.step(step, shown)
        if self.folder is None:
            return
        # The first step of an execution does more work than the others, so it is useless for an estimate.
        if self._stepped is not None and not self._divisible:
            self._longest_step = max(self._longest_step, time.monotonic() - self._stepped)
        due = time.monotonic() - self._saved >= self.execution.checkpoint_seconds
        # If one rank must do something, all do it.
        stop, signum, checkpoint = distributed.most(self.stopping(), self.signum or 0, due)
        if stop:
            self.signum = signum
            self._timed_checkpoint(step, capture)
            raise Interrupted(self.folder.path, signum)
        if checkpoint:
            self._timed_checkpoint(step, capture)
        self._foretell(step)
        self._stepped = time.monotonic()

    def _foretell(self, step: int) -> None:
        """Print the estimated duration of the run once enough is known. This time does not count for the stage."""
        began, deadline = time.monotonic(), self.execution.deadline
        if self.estimate is None or not self.estimate.due(step, began):
            return
        if deadline is not None and deadline - began < ESTIMATE_SECONDS + ESTIMATE_STEPS * self._longest_step:
            return
        spent = self.seconds | {self._stage: self.elapsed()}
        sentence = self.estimate.tell(step, began, spent, self._resumed)
        self._entered += time.monotonic() - began
        if sentence is not None:
            self.say(sentence)

    def stopping(self) -> bool:
        """Return True if a signal was received, or if another step could exceed the deadline."""
        deadline = self.execution.deadline
        if self.signum is None and deadline is not None:
            # Continuing may need a checkpoint now, and needs a step and a checkpoint after it.
            needed = self._longest_step + 2 * self._longest_write
            if time.monotonic() + needed >= deadline:
                self.signum = TIME_LIMIT
        return self.signum is not None

    def complete(self, result: Mapping[str, Any], captured: Captured = ({}, {}), step: int = 0) -> None:
        """Leave the stage with a JSON result that later stages and a resume can read.

        Args:
            captured, step: State that the next stage continues from, as `handed_on`.
        """
        self.reporter.finish()
        self.completed[self._stage] = dict(result)
        tensors, loop = captured
        self.handed_on = Checkpoint(0, tensors, {"stage": self._stage, "step": step, "loop": loop})
        if self.folder is not None:
            self._checkpoint(step, captured)
        else:
            self._count_time()

    def take_over(self, stage: str, result: Mapping[str, Any], seconds: float) -> None:
        """Have a stage that another session has completed, which took it so long."""
        self._stage = stage
        self.completed[stage], self.seconds[stage] = dict(result), seconds
        self.skip_time()
        self._checkpoint(0, ({}, {}))

    def metric(self, **values: Any) -> None:
        """Write one line of metrics.jsonl. Only reproducible values: no times."""
        self.reporter.metric(values)
        if self.folder is not None:
            self.folder.metric(**values)
        if self._scalars is not None:
            self._scalars.add(values)
        if self.execution.on_epoch is not None and distributed.leads() and self.execution.on_epoch(dict(values)):
            self.signum = ON_EPOCH

    def say(self, text: str) -> None:
        """Print a line, and write it to log.txt."""
        self.reporter.say(text)
        if self.folder is not None:
            self.folder.log(text)

    def _timed_checkpoint(self, step: int, capture: Callable[[], Captured]) -> None:
        began = time.monotonic()
        self._checkpoint(step, capture())
        self._longest_write = max(self._longest_write, time.monotonic() - began)

    def _checkpoint(self, step: int, captured: Captured) -> None:
        assert self.folder is not None
        self._count_time()
        tensors, loop = captured
        state = {
            "stage": self._stage,
            "step": step,
            "completed": self.completed,
            "seconds": self.seconds,
            "config": self.config,
            "loop": loop,
        }
        if distributed.count() > 1:
            known = digests(tensors) | {"what earlier stages found": repr(self.completed)}
            distributed.require_same(known, f"{self._stage}, step {step}")
        if self._scalars is not None:
            self._scalars.flush()
        self.folder.save_checkpoint(tensors, state)
        self._saved = time.monotonic()

    def skip_time(self) -> None:
        """Exclude the time since the start of the session from all stages."""
        self._entered = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds of this stage so far, over all executions."""
        return self.seconds.get(self._stage, 0.0) + time.monotonic() - self._entered

    def _count_time(self) -> None:
        now = time.monotonic()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._entered
        self._entered = now

    # --- signals ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGUSR1 stop the loop at its next step; a second SIGINT ends the process immediately.

        Python has no signal handlers outside of the main thread. At the end, event files for TensorBoard are closed.
        """

        def handle(signum: int, frame: FrameType | None) -> None:
            if self.signum is not None and signum == signal.SIGINT:
                # Every file of a run folder is intact at any moment, so this is safe.
                raise KeyboardInterrupt
            self.signum = signum

        here = threading.current_thread() is threading.main_thread()
        previous = {s: signal.signal(s, handle) for s in SIGNALS} if here else {}
        try:
            yield
        except KeyboardInterrupt:
            if self.folder is None:
                raise
            raise Interrupted(self.folder.path, signal.SIGINT) from None
        finally:
            for s, handler in previous.items():
                signal.signal(s, handler)
            if self._scalars is not None:
                # The state of the last checkpoint has been written.
                with contextlib.suppress(RunError):
                    self._scalars.close()
                self._scalars = None


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key} was {a!r} and is {b!r}"

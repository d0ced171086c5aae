"""Progress output: bars in a terminal or notebook, plain lines in a pipe, nothing with --quiet.

Progress goes to stderr; stdout is for results. Python functions report to the logger "dnas" of `logging`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    """Receives the progress of a run: stages with their steps, metrics, and messages."""

    def start(self, title: str, steps: int, done: int) -> None: ...
    def step(self, step: int, shown: Mapping[str, float]) -> None: ...
    def metric(self, values: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


class Silent:
    """Reporter that shows nothing."""

    def start(self, title: str, steps: int, done: int) -> None: ...
    def step(self, step: int, shown: Mapping[str, float]) -> None: ...
    def metric(self, values: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


class Plain(Silent):
    """Reporter that prints one line per message and per epoch."""

    def start(self, title: str, steps: int, done: int) -> None:
        counted = f": {steps} steps" if steps else ""
        self.say(title + counted + (f", {done} of them done" if done else ""))

    def metric(self, values: Mapping[str, Any]) -> None:
        self.say("  " + "  ".join(f"{k} {_short(v)}" for k, v in values.items() if not isinstance(v, list | dict)))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Logged:
    """Reporter that logs messages (INFO, warnings as WARNING) and the metrics of each epoch (DEBUG) to "dnas".

    Args:
        shown: Another reporter that gets the same calls.
    """

    def __init__(self, shown: Reporter | None = None) -> None:
        self.shown = shown or Silent()
        self.logger = logging.getLogger("dnas")
        if not self.logger.handlers:
            # A library logs nothing unless its user asks for it.
            self.logger.addHandler(logging.NullHandler())

    def start(self, title: str, steps: int, done: int) -> None:
        self.shown.start(title, steps, done)

    def step(self, step: int, shown: Mapping[str, float]) -> None:
        self.shown.step(step, shown)

    def metric(self, values: Mapping[str, Any]) -> None:
        self.logger.debug("%s", dict(values))
        self.shown.metric(values)

    def finish(self) -> None:
        self.shown.finish()

    def say(self, text: str) -> None:
        self.logger.log(logging.WARNING if text.startswith("warning: ") else logging.INFO, "%s", text)
        self.shown.say(text)


class Bars(Silent):
    """Reporter that shows a progress bar with rate, loss and remaining time."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.bar: Any = None
        self.task: Any = None

    def start(self, title: str, steps: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.finish()
        self.bar = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task(title, total=steps, completed=done, shown="", rate="")
        self.bar.start()

    def step(self, step: int, shown: Mapping[str, float]) -> None:
        if self.bar is None:  # a nested loop within the step has had its own bar
            return
        speed = self.bar.tasks[0].speed
        self.bar.update(
            self.task,
            completed=step,
            rate=f"{speed:.1f} steps/s" if speed else "",
            shown="  ".join(f"{k} {_short(v)}" for k, v in shown.items()),
        )

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)


def reporter(quiet: bool) -> Reporter:
    """Return the reporter that suits stderr."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() or _in_notebook() else Plain()


def _in_notebook() -> bool:
    """Return True if rich can show bars in a notebook, for which it requires ipywidgets."""
    if "IPython" not in sys.modules:
        return False
    from importlib.util import find_spec

    from rich.console import Console

    return Console().is_jupyter and find_spec("ipywidgets") is not None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

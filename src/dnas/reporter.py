"""Showing how far a run is: bars on a terminal or in a notebook, plain lines in a pipe, nothing when quiet.

All of it goes to stderr; stdout belongs to results. What Python functions do is told to `logging`, by the name "dnas".
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol


class Reporter(Protocol):
    def start(self, title: str, steps: int, done: int) -> None: ...
    def step(self, step: int, shown: Mapping[str, float]) -> None: ...
    def metric(self, values: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, title: str, steps: int, done: int) -> None: ...
    def step(self, step: int, shown: Mapping[str, float]) -> None: ...
    def metric(self, values: Mapping[str, Any]) -> None: ...
    def finish(self) -> None: ...
    def say(self, text: str) -> None: ...


class Plain(Silent):
    """One line a message and an epoch."""

    def start(self, title: str, steps: int, done: int) -> None:
        counted = f": {steps} steps" if steps else ""
        self.say(title + counted + (f", {done} of them done" if done else ""))

    def metric(self, values: Mapping[str, Any]) -> None:
        self.say("  " + "  ".join(f"{k} {_short(v)}" for k, v in values.items() if not isinstance(v, list | dict)))

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Logged:
    """Tells the logger "dnas" what is said (INFO, warnings as WARNING) and every epoch's metrics (DEBUG).

    Args:
        shown: Who is told as well.
    """

    def __init__(self, shown: Reporter | None = None) -> None:
        self.shown = shown or Silent()
        self.logger = logging.getLogger("dnas")
        if not self.logger.handlers:
            # A library is silent unless its user wants to hear it.
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
    """A bar with rate, loss and remaining time."""

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
        if self.bar is None:  # what is within the step has had a bar of its own
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
    """What fits where stderr goes."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() or _in_notebook() else Plain()


def _in_notebook() -> bool:
    """Whether rich can show bars in a notebook: for what moves it needs ipywidgets."""
    if "IPython" not in sys.modules:
        return False
    from importlib.util import find_spec

    from rich.console import Console

    return Console().is_jupyter and find_spec("ipywidgets") is not None


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""Estimated duration of a run, within the first seconds of each stage. Does not import torch.

A stage is a number of steps of known relative cost, so that a few seconds of it are enough to estimate the rest. The
duration of stages that have not started comes from the creator of the estimate (`stages.py`). No reproducible file
depends on estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dnas.runtime.names import STAGE_LABELS
from dnas.units import time_text

# A stage is measured over this many seconds, without its first step, which does more work than the others.
MEASURED_SECONDS = 3.0
# Shorter durations are not printed.
SHORTEST_SECONDS = 20.0


@dataclass(frozen=True)
class Work:
    """The steps of a stage and their cost, in units of a forward and backward pass on one batch.

    Attributes:
        steps: Number of steps.
        cost: Cost of each step.
        early_steps, early_cost: Number and cost of the first steps, if they differ.
        epoch_steps, epoch_cost: Steps per epoch, and the cost added after each epoch; 0: none.
        after: Cost added at the end.
        seconds: Time after which the stage ends in any case.
    """

    steps: int
    cost: float = 1.0
    early_steps: int = 0
    early_cost: float = 1.0
    epoch_steps: int = 0
    epoch_cost: float = 0.0
    after: float = 0.0
    seconds: float = math.inf

    def until(self, step: int) -> float:
        """Return the cost of the first `step` steps."""
        step = min(step, self.steps)
        early = min(step, self.early_steps)
        epochs = step // self.epoch_steps if self.epoch_steps else 0
        return early * self.early_cost + (step - early) * self.cost + epochs * self.epoch_cost

    @property
    def total(self) -> float:
        return self.until(self.steps) + self.after

    def times(self, factor: float) -> Work:
        """Return the same work with steps of `factor` times the cost."""
        costs = ("cost", "early_cost", "epoch_cost", "after")
        return replace(self, **{name: factor * getattr(self, name) for name in costs})


# A stage and the known seconds of other stages → the seconds of this stage; None: unknown.
Price = Callable[[str, Mapping[str, float]], float | None]


class Estimate:
    """Estimated duration of a run.

    Args:
        stages: Work of each stage, in order.
        price: Called for stages that have not started, and for stages whose steps are too few and too long to measure.
        unmeasured: Stages whose steps are too few and too long to measure.
    """

    def __init__(self, stages: Mapping[str, Work], price: Price, unmeasured: frozenset[str] = frozenset()) -> None:
        self.stages = dict(stages)
        self.unmeasured = unmeasured
        self._price = price
        self._stage = ""
        self._first: tuple[int, float] | None = None
        self._told = True

    def leave_out(self, stage: str) -> None:
        """Remove a stage that will not take place."""
        self.stages.pop(stage, None)

    def numbered(self, stage: str, title: str) -> str:
        """Return the title with the number of the stage before it: "2/3 training"."""
        if stage not in self.stages:
            return title
        return f"{list(self.stages).index(stage) + 1}/{len(self.stages)} {title}"

    def enter(self, stage: str, step: int, now: float) -> None:
        """Record that a stage starts at `step`, at a time in seconds."""
        self._stage, self._told = stage, stage not in self.stages
        self._first = (step, now) if stage in self.unmeasured else None

    def due(self, step: int, now: float) -> bool:
        """Return True if enough of the stage is known after `step`, and no estimate has been printed in it."""
        if self._told:
            return False
        if self._first is None:
            self._first = (step, now)
            return False
        return self._stage in self.unmeasured or now - self._first[1] >= MEASURED_SECONDS

    def tell(self, step: int, now: float, spent: Mapping[str, float], resumed: bool) -> str | None:
        """Return the sentence for this stage; None if the run is too short, or too little is known.

        Args:
            step, now: Last step and its time.
            spent: Seconds of each stage so far, including this one, over all executions.
            resumed: Give the remaining duration instead of the total.
        """
        assert self._first is not None
        self._told = True
        work = self.stages[self._stage]
        if self._stage in self.unmeasured:
            whole = self._price(self._stage, {})
        else:
            first, began = self._first
            done = work.until(step) - work.until(first)
            whole = (now - began) / done * work.total if done > 0 else None
        if whole is None:
            return None
        known = {self._stage: whole}
        left = whole * max(0.0, 1 - work.until(step) / work.total)
        left = max(0.0, min(left, work.seconds - spent[self._stage]))
        names = list(self.stages)
        current = names.index(self._stage)
        seconds = {} if resumed else {name: spent.get(name, 0.0) for name in names[:current]}
        seconds[self._stage] = left if resumed else spent[self._stage] + left
        for name in names[current + 1 :]:
            price = self._price(name, known)
            if price is None:
                return None
            known[name] = seconds[name] = price
        total = sum(seconds.values())
        if total < SHORTEST_SECONDS:
            return None
        parts = ", ".join(f"{STAGE_LABELS.get(name, name)} {_rounded(value)}" for name, value in seconds.items())
        sentence = f"about {_rounded(total)} {'left' if resumed else 'in all'}"
        return sentence if len(seconds) == 1 else f"{sentence}: {parts}"


def _rounded(seconds: float) -> str:
    """Format a duration with the precision of an estimate."""
    if 10 <= seconds < 120:
        seconds = 5 * round(seconds / 5)
    return time_text(max(1.0, seconds))

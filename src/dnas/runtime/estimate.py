"""How long a run will take, foretold within the first seconds of each of its stages. Needs no torch.

A stage is so many steps of known relative cost, so a few seconds of it tell how long the rest takes. What stages that
have not begun will take is asked of whoever made the estimate (`stages.py`). Nothing that is written to be repeated
depends on any of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dnas.runtime.names import STAGE_LABELS
from dnas.units import time_text

# A stage is measured over so many seconds, without its first step, which has more to do than any other.
MEASURED_SECONDS = 3.0
# Nobody needs to be told of less.
SHORTEST_SECONDS = 20.0


@dataclass(frozen=True)
class Work:
    """The steps of a stage and what they cost, in units of a pass of one batch forward and backward.

    Attributes:
        steps: How many there are.
        cost: Of each.
        early_steps, early_cost: The first so many steps cost something else.
        epoch_steps, epoch_cost: What is added after every so many steps; 0: nothing is.
        after: What is added at the end.
        seconds: When the stage ends in any case.
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
        """What the first `step` steps cost."""
        step = min(step, self.steps)
        early = min(step, self.early_steps)
        epochs = step // self.epoch_steps if self.epoch_steps else 0
        return early * self.early_cost + (step - early) * self.cost + epochs * self.epoch_cost

    @property
    def total(self) -> float:
        return self.until(self.steps) + self.after

    def times(self, factor: float) -> Work:
        """The same with steps that cost `factor` times as much."""
        costs = ("cost", "early_cost", "epoch_cost", "after")
        return replace(self, **{name: factor * getattr(self, name) for name in costs})


# A stage and the seconds that others take, as far as they are known → the seconds that this one will; None: unknown.
Price = Callable[[str, Mapping[str, float]], float | None]


class Estimate:
    """What is foretold of a run.

    Args:
        stages: The work of each, in order.
        price: Asked for stages that have not begun, and for those whose steps are too few and too long to be measured.
        unmeasured: The stages of that last kind.
    """

    def __init__(self, stages: Mapping[str, Work], price: Price, unmeasured: frozenset[str] = frozenset()) -> None:
        self.stages = dict(stages)
        self.unmeasured = unmeasured
        self._price = price
        self._stage = ""
        self._first: tuple[int, float] | None = None
        self._told = True

    def leave_out(self, stage: str) -> None:
        """There will be no such stage."""
        self.stages.pop(stage, None)

    def numbered(self, stage: str, title: str) -> str:
        """The title with the stage's number before it: "2/3 training"."""
        if stage not in self.stages:
            return title
        return f"{list(self.stages).index(stage) + 1}/{len(self.stages)} {title}"

    def enter(self, stage: str, step: int, now: float) -> None:
        """A stage begins, at `step`, at a time in seconds."""
        self._stage, self._told = stage, stage not in self.stages
        self._first = (step, now) if stage in self.unmeasured else None

    def due(self, step: int, now: float) -> bool:
        """Whether enough of the stage is known after `step`, and nothing has been told of it."""
        if self._told:
            return False
        if self._first is None:
            self._first = (step, now)
            return False
        return self._stage in self.unmeasured or now - self._first[1] >= MEASURED_SECONDS

    def tell(self, step: int, now: float, spent: Mapping[str, float], resumed: bool) -> str | None:
        """The sentence for this stage; None where the run is too short for one, or too little is known.

        Args:
            step, now: The last step and its time.
            spent: Seconds of each stage so far, of this one too, over all executions.
            resumed: Say what is left, not what it is in all.
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
    """In words, no more exact than an estimate is."""
    if 10 <= seconds < 120:
        seconds = 5 * round(seconds / 5)
    return time_text(max(1.0, seconds))

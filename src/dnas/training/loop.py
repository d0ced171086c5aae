"""The loop over the steps of a stage, which searches and trainings share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Captured, Session


class Stepped(Protocol):
    """What is moved step by step, and how it is kept."""

    def step(self, step: int) -> float:
        """Take a step, 0-based. Returns the loss."""
        ...

    def capture(self) -> Captured:
        """Everything that the next step depends on: tensors and JSON, for a checkpoint."""
        ...

    def restore(self, checkpoint: Checkpoint) -> int:
        """Be as when the checkpoint was captured. Returns how many steps had been taken."""
        ...


def run_steps(
    stepped: Stepped,
    session: Session,
    stage: str,
    title: str,
    *,
    steps: int,
    steps_per_epoch: int,
    end_epoch: Callable[[int], Mapping[str, Any]],
    over: Callable[[int], bool] = lambda step: False,
    begun: Checkpoint | None = None,
) -> None:
    """Take all steps of a stage, from the first or from the session's checkpoint on.

    Args:
        steps: Of the stage, whose last epoch may be cut short.
        end_epoch: Called with the last step of every epoch. Returns the line of metrics.jsonl.
        begun: What to go on from, where the session has no checkpoint of this stage.
        over: Called with a step before it is taken: whether to leave out that and all others.

    Raises:
        Interrupted: A signal came; a checkpoint was written.
    """
    checkpoint = session.start(stage, title, steps) or begun
    first = 0 if checkpoint is None else stepped.restore(checkpoint)
    for step in range(first, steps):
        if over(step):
            break
        loss = stepped.step(step)
        if (step + 1) % steps_per_epoch == 0 or step + 1 == steps:
            session.metric(**end_epoch(step))
        session.step_done(step + 1, {"loss": loss}, stepped.capture)

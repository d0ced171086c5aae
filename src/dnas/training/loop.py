"""Loop over the steps of a stage, for searches and trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Captured, Session


class Stepped(Protocol):
    """State that is updated step by step, and can be saved and restored."""

    def step(self, step: int) -> float:
        """Take a step, 0-based. Returns the loss."""
        ...

    def capture(self) -> Captured:
        """Return everything that the next step depends on, as tensors and JSON, for a checkpoint."""
        ...

    def restore(self, checkpoint: Checkpoint) -> int:
        """Restore the state of a checkpoint. Returns the number of steps taken."""
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
    """Take all steps of a stage, from the first or from the checkpoint of the session.

    Args:
        steps: Number of steps of the stage, whose last epoch may be shorter.
        end_epoch: Called with the last step of every epoch. Returns the line of metrics.jsonl.
        begun: State to continue from if the session has no checkpoint of this stage.
        over: Called before each step with its number; returning True skips this and all later steps.

    Raises:
        Interrupted: A signal was received; a checkpoint was written.
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

"""How one execution of a run behaves: nothing that its result depends on.

So none of it is in `config.toml`, and every resume may choose anew. Needs no torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from dnas.errors import InputError
from dnas.units import duration

CHECKPOINT_SECONDS = 30.0
OnEpoch: TypeAlias = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Execution:
    """One execution, as it is also sent to the processes that it begins.

    Attributes:
        checkpoint_seconds: Time between checkpoints; 0: one after every step.
        deadline: When it must have stopped, by `time.monotonic`, which all processes of a machine share; None: never.
        tensorboard: Whether the scalars of metrics.jsonl go to RUN/tensorboard, too.
        patience: Seconds to wait for the owner of a run folder, who may be about to leave.
        on_epoch: Called with each line of metrics.jsonl as it is written; True stops the run, which can be resumed.
    """

    checkpoint_seconds: float = CHECKPOINT_SECONDS
    deadline: float | None = None
    tensorboard: bool = False
    patience: float = 0.0
    on_epoch: OnEpoch | None = None


DEFAULT = Execution()


def launched() -> bool:
    """Whether `torchrun` started this process beside others (see `runtime/distributed.py`)."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether another rank of torchrun speaks for this one."""
    return launched() and os.environ.get("RANK") != "0"


def execution(
    checkpoint_every: float | str | None = None, time_limit: float | str | None = None, tensorboard: bool | None = None
) -> Execution:
    """The options of the command line as an Execution that begins now; times as `dnas.units.duration` reads them.

    Raises InputError.
    """
    every = seconds("--checkpoint-every", checkpoint_every)
    limit = seconds("--time-limit", time_limit)
    if limit == 0:
        raise InputError("--time-limit must be above 0, got 0; leave it out for no limit")
    return Execution(
        checkpoint_seconds=CHECKPOINT_SECONDS if every is None else every,
        deadline=None if limit is None else time.monotonic() + limit,
        tensorboard=bool(tensorboard),
    )


def seconds(option: str, value: float | str | None) -> float | None:
    """An option's duration in seconds; None where it is not given. Raises InputError."""
    if value is None:
        return None
    try:
        found = duration(value)  # from Python anything may come
    except ValueError as error:
        raise InputError(f"{option} {error}") from None
    if found < 0:
        raise InputError(f"{option} must be at least 0, got {value!r}")
    return found

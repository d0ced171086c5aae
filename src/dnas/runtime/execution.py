"""Options of a single execution of a run, which do not affect its result.

They are therefore not in `config.toml`, and may differ at every resume. Does not import torch.
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
    """Options of one execution, which are also sent to the processes that it starts.

    Attributes:
        checkpoint_seconds: Seconds between checkpoints; 0: one after every step.
        deadline: Time by which it must have stopped, in `time.monotonic`, which all processes share; None: no limit.
        tensorboard: Whether the scalars of metrics.jsonl are also written to RUN/tensorboard.
        patience: Seconds to wait for the owner of a run folder, which may be about to exit.
        on_epoch: Called with each line of metrics.jsonl; returning True stops the run, which can be resumed.
    """

    checkpoint_seconds: float = CHECKPOINT_SECONDS
    deadline: float | None = None
    tensorboard: bool = False
    patience: float = 0.0
    on_epoch: OnEpoch | None = None


DEFAULT = Execution()


def launched() -> bool:
    """Return True if `torchrun` started this process together with others (see `runtime/distributed.py`)."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Return True if another rank of torchrun prints for this one."""
    return launched() and os.environ.get("RANK") != "0"


def execution(
    checkpoint_every: float | str | None = None, time_limit: float | str | None = None, tensorboard: bool | None = None
) -> Execution:
    """Return the options of the command line as an Execution that starts now; times as for `dnas.units.duration`.

    Raises InputError.
    """
    every = seconds("--checkpoint-every", checkpoint_every)
    limit = seconds("--time-limit", time_limit)
    if limit == 0:
        raise InputError("--time-limit must be above 0, got 0; omit it for no limit")
    return Execution(
        checkpoint_seconds=CHECKPOINT_SECONDS if every is None else every,
        deadline=None if limit is None else time.monotonic() + limit,
        tensorboard=bool(tensorboard),
    )


def seconds(option: str, value: float | str | None) -> float | None:
    """Return a duration option in seconds; None if it is not given. Raises InputError."""
    if value is None:
        return None
    try:
        found = duration(value)  # any type may come from Python
    except ValueError as error:
        raise InputError(f"{option} {error}") from None
    if found < 0:
        raise InputError(f"{option} must be at least 0, got {value!r}")
    return found

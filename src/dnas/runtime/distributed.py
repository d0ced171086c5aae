"""Ranks: the processes that `torchrun` starts, on one machine or several, to execute one run together.

A batch is divided into the `parts` of the settings. Each part has its own batch-norm statistics, and the gradients of
all parts are added, weighted by their share of the images. The number of ranks only decides which process computes
which part. With the same parts, a run has the same result on any number of ranks that divides them, including one,
except for the order of sums. (Statistics over all ranks would cost two messages per batch norm and pass, of which a
supernet has hundreds, and would rule out the native kernels.)

Random numbers are drawn for the whole batch, identically on every rank, and all ranks take the same steps. Only the
first rank writes files. At every checkpoint all ranks compare their state.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dnas.errors import InputError, RunError
from dnas.runtime.execution import launched

# Timeout for all ranks to reach the same point. The longest work of a single rank is the download of a data set, or its
# first listing.
SECONDS = "600"
T = TypeVar("T")


def count() -> int:
    """Return the number of ranks of the run; 1 without torchrun."""
    return int(dist.get_world_size()) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process."""
    return int(dist.get_rank()) if count() > 1 else 0


def leads() -> bool:
    """Return True on the first rank, which writes files and prints."""
    return rank() == 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the other ranks for the duration of the block, if torchrun has started several.

    Raises InputError for an invalid DNAS_RANK_SECONDS, RunError if the ranks cannot connect.
    """
    if not launched() or count() > 1:
        yield
        return
    text = os.environ.get("DNAS_RANK_SECONDS", SECONDS)
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"DNAS_RANK_SECONDS must be a whole number of seconds above 0, got {text!r}")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _together():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=int(text)))
    yield
    # Not after an error: the others may be waiting for this rank, and the process ends anyway.
    dist.destroy_process_group()


@contextlib.contextmanager
def first_on_machine() -> Iterator[None]:
    """Let one rank of each machine execute the block first, and then the others."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        wait()
    yield
    if first:
        wait()


# --- a batch in parts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """The share of a batch that this rank computes.

    Attributes:
        of: Number of images of the whole batch.
        rows: Rows of this rank.
        parts: Parts of this rank, as slices of its rows.
    """

    of: int
    rows: slice
    parts: tuple[slice, ...]

    def weight(self, part: slice) -> float:
        """Return the share of a part in the batch."""
        return float(part.stop - part.start) / self.of


def share(images: int, parts: int) -> Share:
    """Return the share of this rank in a batch that is divided into nearly equal parts."""
    mine = parts // count()
    bounds = [images * p // parts for p in range(rank() * mine, (rank() + 1) * mine + 1)]
    first = bounds[0]
    slices = tuple(slice(a - first, b - first) for a, b in pairwise(bounds))
    return Share(images, slice(first, bounds[-1]), slices)


def check_parts(parts: int, section: str) -> None:
    """Raise InputError if the number of ranks does not divide the parts of a batch."""
    if parts % count():
        raise InputError(
            f"{section}.parts={parts} cannot be divided among {count()} ranks; start a number of ranks that divides it"
        )


# --- exchange between ranks -----------------------------------------------------------------------------------


def total(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the sum over ranks of each tensor, in one message; None stays None. All have the same dtype and device."""
    if count() == 1:
        return list(tensors)
    there = [tensor for tensor in tensors if tensor is not None]
    flat = torch.cat([tensor.reshape(-1) for tensor in there])
    with _together():
        dist.all_reduce(flat)
    sums = iter(torch.split(flat, [tensor.numel() for tensor in there]))
    # In the original layout: the fused SGD reads gradients as if they had the layout of their parameters.
    return [None if t is None else torch.empty_like(t).copy_(next(sums).view(t.shape)) for t in tensors]


def number(value: float) -> float:
    """Return the sum of a number over ranks."""
    if count() == 1:
        return value
    sums = torch.tensor([value], dtype=torch.float64)
    with _together():
        dist.all_reduce(sums)
    return float(sums.item())


def most(*values: int) -> tuple[int, ...]:
    """Return the maximum of each number over ranks."""
    if count() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.int64)
    with _together():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return tuple(largest.tolist())


def wait() -> None:
    """Wait until all ranks have reached this point."""
    most(0)


def from_first(value: T) -> T:
    """Return the value of the first rank."""
    if count() == 1:
        return value
    box = [value]
    with _together():
        dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def from_all(value: T) -> list[T]:
    """Return the values of all ranks, in order."""
    found = [value] * count()
    if count() > 1:
        with _together():
            dist.all_gather_object(found, value)
    return found


def require_same(what: Mapping[str, str], where: str) -> None:
    """Raise RunError that names the first entry that differs between ranks.

    Args:
        what: Digest of each value that must be equal.
        where: Position in the run, for the message.
    """
    if count() == 1:
        return
    found = from_all(dict(what))
    for other, theirs in enumerate(found[1:], 1):
        for name in {**found[0], **theirs}:
            if found[0].get(name) != theirs.get(name):
                raise RunError(
                    f"{where}: rank {other} differs from rank 0 in {name}, so their results would also differ; resume "
                    "from the last checkpoint, and check the memory and the software of their machines"
                )


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Execute a block that requires all ranks. Raises RunError if one is missing."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"another rank was lost or did not start ({reason}); resume with `dnas resume`") from error

"""Ranks: the processes that `torchrun` starts, on one machine or several, to make one run together.

A batch is cut into the `parts` of the settings. Each has batch-norm statistics of its own, and the gradients of all are
added, each by its share of the images. The number of ranks only decides who computes which part: with the same parts a
run has the same result on any number of ranks that they can be shared among, one included, up to the order of sums.
(Statistics over all ranks would cost two messages a batch norm and pass, of which a supernet has hundreds, and would
leave out the native kernels.)

What is drawn is drawn for the whole batch, on every rank alike, and all ranks take the same steps. The first one alone
writes; at every checkpoint all compare what they have.
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

# Within which all ranks must have come to the same point. The longest that one works alone is the download of a data
# set, or its first listing.
SECONDS = "600"
T = TypeVar("T")


def count() -> int:
    """How many ranks make the run; 1 without torchrun."""
    return int(dist.get_world_size()) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is."""
    return int(dist.get_rank()) if count() > 1 else 0


def leads() -> bool:
    """Whether this is the first rank, which writes and speaks."""
    return rank() == 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Within the block this process is one of the ranks, where torchrun has started it with others.

    Raises InputError for a DNAS_RANK_SECONDS that is none, RunError where they do not find each other.
    """
    if not launched() or count() > 1:
        yield
        return
    text = os.environ.get("DNAS_RANK_SECONDS", SECONDS)
    if not text.isdecimal() or int(text) == 0:
        raise InputError(f"DNAS_RANK_SECONDS is {text!r}; give whole seconds above 0")
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with _together():
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=int(text)))
    yield
    # Not after an error: the others may wait for what never comes, and the process ends anyway.
    dist.destroy_process_group()


@contextlib.contextmanager
def first_on_machine() -> Iterator[None]:
    """The block is entered by one rank of each machine, and by the others when that has left it."""
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not first:
        wait()
    yield
    if first:
        wait()


# --- a batch in parts -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """What of a batch this rank computes.

    Attributes:
        of: Images of the whole batch.
        rows: Those of this rank.
        parts: Its parts, as slices of its rows.
    """

    of: int
    rows: slice
    parts: tuple[slice, ...]

    def weight(self, part: slice) -> float:
        """A part's share of the batch."""
        return float(part.stop - part.start) / self.of


def share(images: int, parts: int) -> Share:
    """This rank's share of a batch that is cut into nearly equal parts."""
    mine = parts // count()
    bounds = [images * p // parts for p in range(rank() * mine, (rank() + 1) * mine + 1)]
    first = bounds[0]
    slices = tuple(slice(a - first, b - first) for a, b in pairwise(bounds))
    return Share(images, slice(first, bounds[-1]), slices)


def check_parts(parts: int, section: str) -> None:
    """Raises InputError where the ranks cannot share the parts of a batch."""
    if parts % count():
        raise InputError(
            f"{section}.parts is {parts}, which {count()} ranks cannot share; start a number that divides it"
        )


# --- what all ranks know --------------------------------------------------------------------------------------


def total(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The sum over ranks of each, in one message; None stays. They have one type and device."""
    if count() == 1:
        return list(tensors)
    there = [tensor for tensor in tensors if tensor is not None]
    flat = torch.cat([tensor.reshape(-1) for tensor in there])
    with _together():
        dist.all_reduce(flat)
    sums = iter(torch.split(flat, [tensor.numel() for tensor in there]))
    # In the layout of what was given: the fused SGD reads gradients as if they had their parameters'.
    return [None if t is None else torch.empty_like(t).copy_(next(sums).view(t.shape)) for t in tensors]


def number(value: float) -> float:
    """The sum over ranks of a number."""
    if count() == 1:
        return value
    sums = torch.tensor([value], dtype=torch.float64)
    with _together():
        dist.all_reduce(sums)
    return float(sums.item())


def most(*values: int) -> tuple[int, ...]:
    """The largest over ranks of each."""
    if count() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.int64)
    with _together():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return tuple(largest.tolist())


def wait() -> None:
    """Until all ranks are here."""
    most(0)


def from_first(value: T) -> T:
    """What the first rank has."""
    if count() == 1:
        return value
    box = [value]
    with _together():
        dist.broadcast_object_list(box, device=torch.device("cpu"))
    return box[0]


def from_all(value: T) -> list[T]:
    """What each rank has, in their order."""
    found = [value] * count()
    if count() > 1:
        with _together():
            dist.all_gather_object(found, value)
    return found


def require_same(what: Mapping[str, str], where: str) -> None:
    """Raises RunError naming the first entry that is not the same on all ranks.

    Args:
        what: A digest of everything that must be.
        where: In the run, for the message.
    """
    if count() == 1:
        return
    found = from_all(dict(what))
    for other, theirs in enumerate(found[1:], 1):
        for name in {**found[0], **theirs}:
            if found[0].get(name) != theirs.get(name):
                raise RunError(
                    f"{where}: rank {other} differs from rank 0 in {name}, so their results would, too; resume from "
                    "the last checkpoint, and check the memory and the software of their machines"
                )


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """The block needs all ranks. Raises RunError where one does not come."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"another rank was lost, or did not come ({reason}); `dnas resume` goes on") from error

"""Limits of memory: what images may take, and what is said when it runs short."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from dnas.errors import InputError, RunError

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
# As torch and numpy say it.
_ASKED = re.compile(r"allocate (\d+(?:\.\d+)?) ?(bytes|[KMGTPE]iB)")


def require_tensor_fits(count: int, channels: int, size: int, instead: str = "") -> None:
    """Raises InputError where so many images may not be held; `instead`: what else can be done."""
    require_memory(count * channels * size * size, images(count, channels, size), FEWER_IMAGES + instead)


FEWER_IMAGES = "give a smaller --image-size or fewer images"


def images(count: int, channels: int, size: int) -> str:
    """Images in memory, in words."""
    return f"{count:,} images with {channels} channels at --image-size {size}"


def fit_in_memory(count: int, channels: int, size: int) -> bool:
    """Whether so many images may be held: they take at most half of this machine's memory."""
    return count * channels * size * size <= _memory_limit()


def require_memory(size: int, what: str, remedy: str) -> None:
    """Raises InputError for a number of bytes above half of this machine's memory."""
    limit = _memory_limit()
    if size > limit:
        raise InputError(
            f"{what} would take {amount(size)}, above half of this machine's memory ({amount(limit)}); {remedy}"
        )


def _memory_limit() -> int:
    import psutil  # type: ignore[import-untyped,unused-ignore]

    return int(psutil.virtual_memory().total) // 2


def amount(size: int) -> str:
    """A number of bytes for a reader, such as "1.5 GiB"."""
    for unit in ("GiB", "MiB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:,.1f} {unit}"
    return f"{size:,} bytes"


def is_short(error: BaseException) -> bool:
    """Whether an error is that memory ran short, by whichever library."""
    if isinstance(error, InputError | RunError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch's own type is not imported for this: it is the only one of this name, and the processor's has none.
    named = type(error).__name__ == "OutOfMemoryError"
    return (
        isinstance(error, MemoryError) or named or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )


def shortage(error: BaseException, device: str = "cpu") -> str:
    """What is missing: how much was asked for, where the error has it, and how much there is.

    Args:
        error: One for which `is_short` holds.
        device: Whose memory it is.
    """
    asked = _ASKED.search(str(error))
    needed = int(float(asked[1]) * _UNITS[asked[2]]) if asked else 0
    return "out of memory: " + (f"{amount(needed)} more were needed, and " if needed else "") + _there_is(device)


@contextmanager
def memory_for(size: int, what: str, remedy: str) -> Iterator[None]:
    """Running out of memory as a RunError with what was to be held.

    Args:
        size: The bytes that it takes.
        what: The same in words.
        remedy: What the user can do.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_short(error):
            raise
        raise RunError(
            f"out of memory: {what} take {amount(size)}, and {_there_is('cpu')}; {remedy}, or end other programs"
        ) from error


def _there_is(device: str) -> str:
    if device == "cuda":
        import torch

        free, total = torch.cuda.mem_get_info()
        return f"{amount(free)} of {amount(total)} are free on the GPU"
    import psutil

    memory = psutil.virtual_memory()
    text = f"{amount(int(memory.available))} of {amount(int(memory.total))} are free"
    limit = _own_limit()
    return text if limit is None else f"{text}, with a limit of {amount(limit)} for this process"


def _own_limit() -> int | None:
    """The bytes of addresses that this process may have (ulimit -v), if there is a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit

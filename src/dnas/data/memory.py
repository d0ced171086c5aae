"""Memory limits: how much images may use, and messages if memory runs out."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from dnas.errors import InputError, RunError

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "PiB": 2**50, "EiB": 2**60}
# As in messages of torch and numpy.
_ASKED = re.compile(r"allocate (\d+(?:\.\d+)?) ?(bytes|[KMGTPE]iB)")


def require_tensor_fits(count: int, channels: int, size: int, instead: str = "") -> None:
    """Raise InputError if this many images do not fit into memory; `instead`: another remedy."""
    require_memory(count * channels * size * size, images(count, channels, size), FEWER_IMAGES + instead)


FEWER_IMAGES = "use a smaller --image-size or fewer images"


def images(count: int, channels: int, size: int) -> str:
    """Describe images in memory."""
    return f"{count:,} images with {channels} channels at --image-size {size}"


def fit_in_memory(count: int, channels: int, size: int) -> bool:
    """Return True if this many images need at most half of the memory of this machine."""
    return count * channels * size * size <= _memory_limit()


def require_memory(size: int, what: str, remedy: str) -> None:
    """Raise InputError for a number of bytes above half of the memory of this machine."""
    limit = _memory_limit()
    if size > limit:
        raise InputError(
            f"{what} would need {amount(size)}, above half of the memory of this machine ({amount(limit)}); {remedy}"
        )


def _memory_limit() -> int:
    import psutil  # type: ignore[import-untyped,unused-ignore]

    return int(psutil.virtual_memory().total) // 2


def amount(size: int) -> str:
    """Format a number of bytes, such as "1.5 GiB"."""
    for unit in ("GiB", "MiB"):
        if size >= _UNITS[unit]:
            return f"{size / _UNITS[unit]:,.1f} {unit}"
    return f"{size:,} bytes"


def is_short(error: BaseException) -> bool:
    """Return True if an error of any library means that memory ran out."""
    if isinstance(error, InputError | RunError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # The type of torch is not imported for this: its name is unique, and on the CPU torch has no such type.
    named = type(error).__name__ == "OutOfMemoryError"
    return (
        isinstance(error, MemoryError) or named or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )


def shortage(error: BaseException, device: str = "cpu") -> str:
    """Describe the shortage: how much was requested, if the error contains it, and how much is available.

    Args:
        error: An error for which `is_short` is True.
        device: Device whose memory ran out.
    """
    asked = _ASKED.search(str(error))
    needed = int(float(asked[1]) * _UNITS[asked[2]]) if asked else 0
    return "out of memory: " + (f"{amount(needed)} more were needed, and " if needed else "") + _there_is(device)


@contextmanager
def memory_for(size: int, what: str, remedy: str) -> Iterator[None]:
    """Return a RunError for lack of memory that names the data that did not fit.

    Args:
        size: Required bytes.
        what: Description of the data.
        remedy: Advice for the user.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_short(error):
            raise
        raise RunError(
            f"out of memory: {what} need {amount(size)}, and {_there_is('cpu')}; {remedy}, or close other programs"
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
    """Return the limit of the address space of this process in bytes (ulimit -v), if there is one."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit

"""Requirements of a run on this machine: device, backend and memory; and the versions of packages."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import psutil
import torch

from dnas.data.memory import amount, is_short, shortage
from dnas.errors import InputError, RunError, unknown
from dnas.kernels import native
from dnas.network.handmade import get_handmade, require_package
from dnas.runtime import distributed
from dnas.runtime.execution import Execution
from dnas.runtime.scalars import require_tensorboard

Device = Literal["cpu", "cuda"]
DEVICES = ("auto", *get_args(Device))  # what may be asked for


def environment(handmade: str = "") -> dict[str, Any]:
    """Return what a result depends on in addition to its settings, such as versions of packages."""
    package = get_handmade(handmade).package if handmade else ""
    return {
        "dnas": version("dnas"),
        "torch": torch.__version__,
        **({package: version(package)} if package else {}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "threads": torch.get_num_threads(),
        **({"ranks": distributed.count()} if distributed.count() > 1 else {}),
        "kernels": "native" if native.available() else "torch",
    }


@cache
def _processor() -> str:
    """The processor's name; on Linux `platform.processor` often has none."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        if name := re.search(r"^model name\s*:\s*(\S.*)$", text, re.M):
            return " ".join(name[1].split())
    return platform.processor() or platform.machine()


@contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Turn running out of memory into a RunError with options to reduce."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_short(error):
            raise
        raise RunError(
            f"{shortage(error, device)}, after a peak of {amount(peak_memory(device))}; free memory and run "
            "`dnas resume`, or start a new run with a smaller --batch-size, --channels or --layers"
        ) from error


def peak_memory(device: str) -> int:
    """The most memory that this process has held, in bytes; on a GPU, the most that torch has allocated there."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def check_machine(device: str, backend: native.Backend, handmade: str) -> None:
    """Raise InputError if the device, the kernels or the networks of these settings are not available."""
    check_device(device)
    choose_backend(device, backend)
    if handmade:
        require_package(handmade)


def check_execution(execution: Execution) -> None:
    """Raise InputError if something that an execution requires is missing."""
    if execution.tensorboard:
        require_tensorboard()


def check_device(device: str) -> None:
    """Raise InputError if the device does not exist."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")


def choose_backend(device: str, backend: native.Backend) -> None:
    """Raise InputError if native kernels are requested and cannot run."""
    if backend == "native" and device != "cpu":
        raise InputError(f"--backend native cannot be used with --device {device}; use --backend auto or torch")
    native.choose(backend)


def resolve_device(name: str) -> str:
    """Return the device for a setting: `auto` is cuda if available. Raises InputError for unknown names."""
    if name not in DEVICES:
        raise unknown("device", "--device", name, DEVICES)
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"

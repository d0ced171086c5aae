"""Finds or builds the native kernels: compiled once from `native.c`, cached by content, called through ctypes.

Never part of an installation. Where there is no C compiler, everything works without, and slower.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from dnas.errors import InputError

# No -ffast-math: gcc would also make the whole process flush denormal numbers.
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-std=gnu11")
# The pair that works is taken: Apple's clang has no OpenMP, and some compilers on ARM want -mcpu for -march.
VARIANTS = (("-fopenmp",), ())


@cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where they cannot be had or DNAS_BACKEND=torch rules them out.

    Raises InputError for another value of DNAS_BACKEND than auto and torch.
    """
    if _backend() == "torch":
        return None
    source = resources.files("dnas.kernels").joinpath("native.c").read_bytes()
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    facts = f"{compiler} {FLAGS} {platform.machine()} {_processor()}".encode()
    name = f"native-{hashlib.sha256(source + facts).hexdigest()[:20]}.so"
    for folder in _folders():
        path = folder / name
        try:
            if not path.exists():
                _compile(compiler, source, path)
            return _declared(ctypes.CDLL(str(path)))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def advice() -> str | None:
    """What to tell a user whose runs go slower than they could; None where there is nothing to tell."""
    if library() is not None or _backend() == "torch":
        return None
    return "no working C compiler was found, so training goes slower; install gcc or clang, or set CC"


def covers(*tensors: Tensor) -> bool:
    """Whether these tensors are what the kernels take: float32 on the CPU."""
    return all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors) and library() is not None


def depthwise_weight_gradient(x: Tensor, grad: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """The gradient [C, 1, k, k] of a depthwise kernel, for k 3 or 5; x and grad [B, C, H, W], channels last."""
    lib = library()
    assert lib is not None and kernel in (3, 5)
    x = x.contiguous(memory_format=torch.channels_last)
    grad = grad.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    out = torch.empty(kernel, kernel, channels)
    sizes = (batch, height, width, channels, *grad.shape[2:], kernel, stride, dilation, torch.get_num_threads())
    if lib.depthwise_weight_gradient(x.data_ptr(), grad.data_ptr(), out.data_ptr(), *sizes):
        raise MemoryError("no memory for a weight gradient")
    return out.permute(2, 0, 1)[:, None].contiguous()


def _backend() -> str:
    value = os.environ.get("DNAS_BACKEND", "auto")
    if value not in ("auto", "torch"):
        raise InputError(f"the environment has DNAS_BACKEND={value}; it is auto or torch")
    return value


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int
    lib.depthwise_weight_gradient.argtypes = [pointer] * 3 + [number] * 10
    lib.depthwise_weight_gradient.restype = number
    return lib


def _compile(compiler: str, source: bytes, path: Path) -> None:
    """Built beside its place and moved there, so that two processes cannot see half a library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file, built = Path(folder) / "native.c", Path(folder) / path.name
        file.write_bytes(source)
        for n, extra in enumerate(VARIANTS):
            try:
                command = [compiler, *FLAGS, *extra, str(file), "-o", str(built)]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                break
            except subprocess.CalledProcessError:
                if n == len(VARIANTS) - 1:
                    raise
        built.replace(path)


def _folders() -> list[Path]:
    """Where a library may be kept: the user's cache, else the temporary folder."""
    folders = []
    if "XDG_CACHE_HOME" in os.environ:
        folders.append(Path(os.environ["XDG_CACHE_HOME"]) / "dnas" / "kernels")
    else:
        with contextlib.suppress(RuntimeError):  # no HOME
            folders.append(Path.home() / ".cache" / "dnas" / "kernels")
    owner = os.getuid() if hasattr(os, "getuid") else 0
    return [*folders, Path(tempfile.gettempdir()) / f"dnas-kernels-{owner}"]


def _processor() -> str:
    """What -march=native depends on: a cache that moves to another machine must not be used there."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")

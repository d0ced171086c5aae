"""Find or build the native kernels: compiled once from the .c files here, cached by content, called through ctypes.

They are never part of an installation. Without a C compiler everything works, but more slowly. A library is loaded only
from a folder that no other user can write to (`trust`). Without such a folder every process compiles its own, in a
temporary folder that is deleted once the library is loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Literal, get_args

import torch

from dnas.errors import InputError, RunError
from dnas.kernels import limits, trust

# No -ffast-math: gcc would also make the whole process flush denormals.
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-std=gnu11")
# The first pair that works is used: Apple's clang has no OpenMP, and some compilers on ARM need -mcpu for -march.
VARIANTS = (("-fopenmp",), ())
NO_COMPILER = "no working C compiler found; install gcc or clang, or set CC"

Backend = Literal["auto", "native", "torch"]
_chosen: Backend = "auto"


def choose(backend: Backend) -> None:
    """Select the backend from now on: native kernels or torch; auto: native if available.

    Raises InputError if native kernels are requested, but not available.
    """
    global _chosen
    before, _chosen = _chosen, backend
    if backend == "native" and not available():
        _chosen = before
        raise InputError(f"--backend native: {NO_COMPILER}, or choose --backend auto")


@contextlib.contextmanager
def only_torch() -> Iterator[None]:
    """Disable native kernels within the block, for functions that are differentiated twice."""
    global _chosen
    before, _chosen = _chosen, "torch"
    try:
        yield
    finally:
        _chosen = before


def wanted() -> bool:
    """Return True if native kernels are allowed: by `choose`, else by DNAS_BACKEND.

    Raises InputError for a value of DNAS_BACKEND other than auto, native and torch.
    """
    value = os.environ.get("DNAS_BACKEND", "auto")
    if value not in get_args(Backend):
        raise InputError(f"DNAS_BACKEND must be auto, native or torch, got {value!r}")
    return (value if _chosen == "auto" else _chosen) != "torch"


REALS = {torch.float32: "float", torch.float64: "double"}


def library(source: str, *structures: type[ctypes.Structure], **defines: str | int) -> ctypes.CDLL | None:
    """Load `source`.c, compiled with the macros of `limits` and these; None without a compiler, or with backend torch.

    `structures` are the argument types of its functions, in the order of its table of sizes.

    Raises RunError if C and Python disagree on the size of one of them, which would corrupt memory.
    """
    return _built(source, structures, **defines) if wanted() else None


@cache
def _built(source: str, structures: tuple[type[ctypes.Structure], ...], **defines: str | int) -> ctypes.CDLL | None:
    found = _find_or_compile(source, {**limits.MACROS, **defines})
    if found is not None and structures:
        sizes = [ctypes.sizeof(structure) for structure in structures]
        table = (ctypes.c_size_t * (len(sizes) + 1)).in_dll(found, "structures")
        in_c = list(takewhile(bool, table))  # 0 ends the table
        if in_c != sizes:
            raise RunError(
                f"internal error: structures of {source}.c have {in_c} bytes in C and {sizes} in Python; use --backend "
                "torch, and report this error"
            )
    return found


def _find_or_compile(source: str, macros: dict[str, str | int]) -> ctypes.CDLL | None:
    files = {
        file.name: file.read_bytes()
        for file in resources.files("dnas.kernels").iterdir()
        if file.name == f"{source}.c" or file.name.endswith(".h")
    }
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
    compiler = shlex.split(os.environ.get("CC") or found)
    if not compiler or (version := _version(tuple(compiler))) is None:
        return None
    flags = (*FLAGS, *(f"-D{name}={value}" for name, value in sorted(macros.items())))
    content = repr((sorted(files.items()), compiler, version, flags, platform.machine(), _processor()))
    name = f"{source}-{hashlib.sha256(content.encode()).hexdigest()[:20]}.so"
    if (folder := cache_folder()) is not None:
        path = folder / name
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if trust.owned(path):
                with contextlib.suppress(OSError):  # the file is incomplete
                    return ctypes.CDLL(str(path))
            _compile(compiler, flags, files, f"{source}.c", path)
            return ctypes.CDLL(str(path))
    # Useless to other processes, so it is deleted: a loaded library does not need its file.
    with (
        contextlib.suppress(OSError, subprocess.SubprocessError),
        tempfile.TemporaryDirectory(prefix="dnas-kernels-", ignore_cleanup_errors=True) as own,
    ):
        path = Path(own) / name
        if trust.out_of_reach(path.parent, sticky=True):
            _compile(compiler, flags, files, f"{source}.c", path)
            return ctypes.CDLL(str(path))
    return None


@cache
def _version(compiler: tuple[str, ...]) -> str | None:
    """Return the version text of the compiler, since an update may compile differently; None if it does not exist."""
    command, plain = [*compiler, "--version"], {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, env=plain)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout + done.stderr).decode(errors="replace")


# Calls that bypass torch, and so a dispatch mode, since the start: {name: [count, bytes in and out]}.
calls: dict[str, list[int]] = {}


def count(name: str, moved: int) -> None:
    """Record a call that moves this many bytes."""
    entry = calls.setdefault(name, [0, 0])
    entry[0] += 1
    entry[1] += moved


def threads(numbers: int) -> int:
    """Return the number of threads for a call on this many numbers: those of torch, but few if synchronizing is slower.

    If other programs also use the processors, synchronizing takes milliseconds: 64 images of 8×8 pixels, 8 channels,
    0.085 s per search step on one thread, 0.7 s on two next to another program.
    """
    return min(torch.get_num_threads(), 1 + numbers // 2**16)


def available() -> bool:
    """Return True if native kernels are allowed and available."""
    return library("depthwise", REAL="float") is not None


def advice() -> str | None:
    """Return advice for a user whose runs are slower than necessary; None if there is none."""
    if not wanted() or available():
        return None
    return f"{NO_COMPILER}; without one, runs are several times slower"


def _compile(compiler: list[str], flags: tuple[str, ...], files: dict[str, bytes], main: str, path: Path) -> None:
    """Compile to a temporary file and move it into place, so that no process loads a partial library."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        built = Path(folder) / path.name
        for n, extra in enumerate(VARIANTS):
            try:
                command = [*compiler, *flags, *extra, str(Path(folder) / main), "-o", str(built), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                ctypes.CDLL(str(built))  # some compilers accept -fopenmp, but have no OpenMP library
                break
            except (OSError, subprocess.CalledProcessError):
                if n == len(VARIANTS) - 1:
                    raise
        built.replace(path)


def cache_folder() -> Path | None:
    """Return the folder in which libraries are kept between processes; None if other users could change its content."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        caches = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no HOME
        return None
    folder = caches / "dnas" / "kernels"
    return folder if trust.secured(folder) else None


def _processor() -> str:
    """Return what -march=native depends on: a cache must not be used on another kind of machine."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")

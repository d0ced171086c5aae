"""Finds or builds the native kernels: compiled once from the .c files here, cached by content, called through ctypes.

Never part of an installation. Without a C compiler everything works, and slower. A library is loaded only from a folder
that nobody else can write to (`trust`); without such a folder every process compiles its own, in a folder that is gone
once the library is loaded.
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

# No -ffast-math: gcc would also make the whole process flush denormal numbers.
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared", "-std=gnu11")
# The pair that works is taken: Apple's clang has no OpenMP, and some compilers on ARM want -mcpu for -march.
VARIANTS = (("-fopenmp",), ())
NO_COMPILER = "no working C compiler was found; install gcc or clang, or set CC"

Backend = Literal["auto", "native", "torch"]
_chosen: Backend = "auto"


def choose(backend: Backend) -> None:
    """Set what computes from here on: native kernels or torch; auto: native where they can be had.

    Raises InputError where native ones are asked for and cannot be had.
    """
    global _chosen
    before, _chosen = _chosen, backend
    if backend == "native" and not available():
        _chosen = before
        raise InputError(f"--backend native: {NO_COMPILER}, or choose --backend auto")


@contextlib.contextmanager
def only_torch() -> Iterator[None]:
    """Nothing native runs inside: for what is differentiated twice."""
    global _chosen
    before, _chosen = _chosen, "torch"
    try:
        yield
    finally:
        _chosen = before


def wanted() -> bool:
    """Whether native kernels may run: by `choose`, else by DNAS_BACKEND.

    Raises InputError for another value of DNAS_BACKEND than auto, native and torch.
    """
    value = os.environ.get("DNAS_BACKEND", "auto")
    if value not in get_args(Backend):
        raise InputError(f"the environment has DNAS_BACKEND={value}; it is auto, native or torch")
    return (value if _chosen == "auto" else _chosen) != "torch"


REALS = {torch.float32: "float", torch.float64: "double"}


def library(source: str, *structures: type[ctypes.Structure], **defines: str | int) -> ctypes.CDLL | None:
    """Load `source`.c, compiled with the macros of `limits` and these; None without a compiler, or if torch is wanted.

    `structures` are what its functions take, in the order of its table of sizes.

    Raises RunError if C and Python differ in the size of one of them: then each would write where the other does not.
    """
    return _built(source, structures, **defines) if wanted() else None


@cache
def _built(source: str, structures: tuple[type[ctypes.Structure], ...], **defines: str | int) -> ctypes.CDLL | None:
    found = _find_or_compile(source, {**limits.MACROS, **defines})
    if found is not None and structures:
        sizes = [ctypes.sizeof(structure) for structure in structures]
        table = (ctypes.c_size_t * (len(sizes) + 1)).in_dll(found, "structures")
        in_c = list(takewhile(bool, table))  # 0 ends it
        if in_c != sizes:
            raise RunError(
                f"internal error: structures of {source}.c have {in_c} bytes in C and {sizes} in Python; report it, "
                "and use --backend torch"
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
                with contextlib.suppress(OSError):  # it is not whole
                    return ctypes.CDLL(str(path))
            _compile(compiler, flags, files, f"{source}.c", path)
            return ctypes.CDLL(str(path))
    # Of no use to any other process, so nothing of it need stay: what is loaded lives on without its file.
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
    """What the compiler says of itself: an update may compile otherwise. None where there is no such program."""
    command, plain = [*compiler, "--version"], {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, env=plain)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout + done.stderr).decode(errors="replace")


# Calls past torch since the start, {name: [count, bytes in and out]}: what a dispatch mode cannot see.
calls: dict[str, list[int]] = {}


def count(name: str, moved: int) -> None:
    """Note a call that moves so many bytes."""
    entry = calls.setdefault(name, [0, 0])
    entry[0] += 1
    entry[1] += moved


def threads(numbers: int) -> int:
    """How many threads a call on so many numbers is worth: torch's, but few for what takes less time than to meet.

    Where other programs want the processors, too, a meeting takes milliseconds: 64 pictures of 8×8 pixels, 8 channels,
    0.085 s a search step on one thread, 0.7 on two beside another program.
    """
    return min(torch.get_num_threads(), 1 + numbers // 2**16)


def available() -> bool:
    """Whether native kernels may run and can be had."""
    return library("depthwise", REAL="float") is not None


def advice() -> str | None:
    """What to tell a user whose runs go slower than they could; None where there is nothing to tell."""
    if not wanted() or available():
        return None
    return f"{NO_COMPILER}; without, everything goes several times slower"


def _compile(compiler: list[str], flags: tuple[str, ...], files: dict[str, bytes], main: str, path: Path) -> None:
    """Built beside its place and moved there, so that two processes cannot see half a library."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        built = Path(folder) / path.name
        for n, extra in enumerate(VARIANTS):
            try:
                command = [*compiler, *flags, *extra, str(Path(folder) / main), "-o", str(built), "-lm"]
                subprocess.run(command, check=True, capture_output=True, timeout=120)
                ctypes.CDLL(str(built))  # some compilers take -fopenmp and have no OpenMP to load
                break
            except (OSError, subprocess.CalledProcessError):
                if n == len(VARIANTS) - 1:
                    raise
        built.replace(path)


def cache_folder() -> Path | None:
    """The folder where libraries are kept from process to process; None if others could change what lies there."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        caches = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no HOME
        return None
    folder = caches / "dnas" / "kernels"
    return folder if trust.secured(folder) else None


def _processor() -> str:
    """What -march=native depends on: a cache that moves to another machine must not be used there."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")

"""Whether native kernels stay in their memory: their tests under AddressSanitizer and UndefinedBehaviorSanitizer.

    python benchmarks/sanitize.py                 # seconds, by gcc
    python benchmarks/sanitize.py -k supernets    # what pytest is told instead

Tensors and pieces of scratch memory then lie apart, so that one number too far is seen. That it is seen is seen, too:
the tests run once more on a copy of the package with an overrun, and on one with a list that is too short for what
Python lets through; both must fail. Without gcc or its sanitizers nothing is checked, and that is said.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = "tests/test_kernel_bounds.py"
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so.6")  # the last, as torch throws exceptions
# Behind all other flags, so it is this optimisation that counts: it compiles four times as fast.
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
FOLDER = "DNAS_SANITIZED_KERNELS"  # names the folder for libraries to this file's part inside pytest


@dataclass(frozen=True)
class Planted:
    """`old` becomes `new` in a file of kernels, and the report must then have `seen`."""

    file: str
    old: str
    new: str
    seen: str


PLANTED = (
    Planted(
        "depthwise.c", "for (int c = 0; c < channels; c++)", "for (int c = 0; c <= channels; c++)", "AddressSanitizer"
    ),
    Planted("limits.py", '"TAPS": TAPS,', '"TAPS": 9,', "out of bounds"),
)


def pytest_configure() -> None:
    """Inside pytest (-p sanitize): every tensor of its own size, and libraries where a report finds their lines."""
    from dnas.kernels import memory, native

    memory.blocks = False
    native.cache_folder = lambda: Path(os.environ[FOLDER])


def tools() -> tuple[list[str], list[str]] | str:
    """The compiler and the libraries to load first; or why there are none."""
    compiler = shlex.split(os.environ.get("CC") or shutil.which("gcc") or "")
    if not compiler:
        return "there is no gcc"
    found = []
    for name in LIBRARIES:
        try:
            command = [*compiler, f"-print-file-name={name}"]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            return f"{compiler[0]} cannot be asked: {error}"
        if not Path(answer).is_absolute() or not Path(answer).exists():
            return f"{compiler[0]} has no {name}"
        found.append(answer)
    return compiler, found


def checked(package: Path, folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Run the tests on a package. Returns pytest's exit code, and reports and output."""
    compiler, libraries = tools()
    folder.mkdir()
    program = folder / "cc"
    program.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec {shlex.join(compiler)} "$@" {FLAGS}\n', "utf-8")
    program.chmod(0o700)
    report = f"log_path={folder / 'report'}"
    environment = {
        **os.environ,
        "CI": "true",  # the same draws of hypothesis each time: others can miss the second planted fault
        "CC": str(program),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": f"detect_leaks=0:{report}",  # Python leaks
        "UBSAN_OPTIONS": f"print_stacktrace=1:{report}",
        "PYTHONPATH": os.pathsep.join([str(package), str(Path(__file__).parent)]),
        "PYTHONMALLOC": "malloc",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",  # more threads than processors do not spin
        FOLDER: str(folder),
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "sanitize", "-p", "no:cacheprovider", "-sx", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    reports = [file.read_text("utf-8", "replace") for file in sorted(folder.glob("report*"))]
    built = len(list(folder.glob("*.so")))
    if done.returncode == 0 and not built:
        return 1, f"no kernel was compiled\n{done.stdout}{done.stderr}"
    # The first lines of a report say what was done where; Python's own hundred calls below them say nothing.
    return done.returncode, "\n".join([*(text[:4000] for text in (*reports, done.stderr)), done.stdout[-4000:]])


def see_planted(planted: Planted, folder: Path) -> str | None:
    """Why a planted fault was not seen; None where it was."""
    package = folder / "package"
    shutil.copytree(ROOT / "src" / "dnas", package / "dnas", ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "dnas" / "kernels" / planted.file
    text = file.read_text("utf-8")
    if text.count(planted.old) != 1:
        return f"{planted.file} has {planted.old!r} {text.count(planted.old)} times, not once"
    file.write_text(text.replace(planted.old, planted.new), "utf-8")
    code, output = checked(package, folder / "kernels", [TESTS, "-k", "weight_gradients"])
    return None if code and planted.seen in output else f"{planted.new!r} in {planted.file} was not seen:\n{output}"


def main(arguments: list[str]) -> int:
    if isinstance(found := tools(), str):
        print(f"kernels were not checked: {found}")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        code, output = checked(ROOT / "src", folder / "kernels", [TESTS, *arguments])
        print(output if code else "kernels stay in their memory")
        for n, planted in enumerate(PLANTED):
            problem = see_planted(planted, folder / str(n))
            print(problem or f"seen: {planted.new!r} in {planted.file}")
            code = code or (problem is not None)
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

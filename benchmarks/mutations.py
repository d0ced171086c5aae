"""Whether the tests see a wrong formula: one change of each method's mathematics at a time, and the test that fails.

    python benchmarks/mutations.py                # all of them; prints the table of docs/mutations.md
    python benchmarks/mutations.py darts snas     # those of some methods

Every mutation replaces a text in a copy of the package; the method's own tests then run on the copy, until the first
failure. A mutation that no test sees is an error, and so is a text that is not there exactly once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cyclopts import App

ROOT = Path(__file__).parents[1]
app = App(help=__doc__, help_format="plaintext")


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in `file` of src/dnas/methods; `tests` must then fail."""

    method: str
    what: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "darts",
        "σ in the place of the softmax",
        "darts.py",
        "softmax(mapping.terms())",
        "mapping.terms()[0].sigmoid()",
        "test_method_darts.py",
    ),
)


def failing_test(mutation: Mutation, folder: Path) -> str:
    """The name of the first test that fails on the mutated package. Raises ValueError if none does."""
    package = folder / "dnas"
    shutil.copytree(ROOT / "src" / "dnas", package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "methods" / mutation.file
    text = file.read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.file} has {mutation.old!r} {text.count(mutation.old)} times, not once")
    file.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{mutation.tests}"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", done.stdout, re.M)
    if done.returncode != 1 or found is None:
        raise ValueError(f"no test of {mutation.tests} sees it:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found[1]


@app.default
def main(*methods: str) -> None:
    """Apply the mutations, one by one.

    Args:
        methods: Only of these; all unless given.
    """
    print("| method | what was changed | the test that fails |\n|---|---|---|", flush=True)
    missed = 0
    for mutation in MUTATIONS:
        if methods and mutation.method not in methods:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                seen = f"`{failing_test(mutation, Path(folder))}`"
            except ValueError as error:
                missed += 1
                seen = f"**none**: {error}"
        print(f"| `{mutation.method}` | {mutation.what} | {seen} |", flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    app()

"""What to type next: after a result, and where somebody types `dnas` alone.

Reads names and small files only, so that it answers at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dnas.errors import InputError
from dnas.runtime.names import CONFIG_FILE, RESULT_FILE
from dnas.study.names import STUDY_FILE

# A command line, and what it does.
Suggestion = tuple[str, str]
RUNS = "runs"  # where runs go that have no --out
FIRST: Sequence[Suggestion] = (
    ("dnas run", "search, train and test on scikit-learn's digits, in minutes on two cores"),
    ("dnas run --data PATH --budget 10m", "on your own pictures: a folder for each class, a list, or an archive"),
    ("dnas doctor", "what this machine has and lacks"),
)


def after_run(result: Mapping[str, Any]) -> list[Suggestion]:
    """What makes sense with a run that has ended; its result.json."""
    run = shlex.quote(str(result["run"]))
    if "test_accuracy" not in result:
        return [(f"dnas train {run}", "train and test what was found"), (f"dnas show {run}", "its layers and size")]
    return [
        _page(run, "it"),
        (f"dnas train --from {run}", "train it longer; with --data PATH on other pictures"),
    ]


def after_study(summary: Mapping[str, Any], out: Path) -> list[Suggestion]:
    """What makes sense with a study, as `tables.summarise` gives it."""
    study = shlex.quote(str(out))
    page = _page(study, "it")
    if summary["missing"]:
        return [(f"dnas resume {study}", "make what is missing"), page]
    more = 2 * int(summary["settings"]["seeds"])
    return [page, (f"dnas compare --resume {study} --seeds {more}", "add seeds")]


def at_start(folder: Path) -> list[Suggestion]:
    """What makes sense in a folder: with what lies there, or to begin with."""
    found: list[Suggestion] = []
    study = folder / "study"
    if (study / STUDY_FILE).is_file():
        found.append(_page("study", "the study in this folder, finished or not"))
    if run := _newest(folder / RUNS):
        name = shlex.quote(str(run.relative_to(folder)))
        if (run / RESULT_FILE).is_file():
            found.append(_page(name, "the last run"))
        else:
            found.append((f"dnas resume {name}", "go on with the last run, which has not ended"))
    return [*found, *FIRST]


def _page(of: str, what: str) -> Suggestion:
    there = all(find_spec(package) for package in ("jinja2", "matplotlib"))
    return f"dnas report {of}", f"a page about {what}" + ("" if there else "; first pip install 'dnas[report]'")


def _newest(runs: Path) -> Path | None:
    """The run that was begun last."""
    try:
        configs = [(file.stat().st_mtime, file.parent) for file in runs.glob(f"*/{CONFIG_FILE}")]
    except OSError as error:
        raise InputError(f"cannot read {runs} ({error.strerror or error})") from None
    return max(configs)[1] if configs else None


def lines(suggestions: Sequence[Suggestion]) -> list[str]:
    """As they are printed, in two columns."""
    width = max(len(command) for command, _ in suggestions)
    return [f"  {command:<{width}}  {does}" for command, does in suggestions]

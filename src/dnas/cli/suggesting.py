"""Suggested commands: after a result, and for `dnas` without arguments.

Only names and small files are read, so that the answer is immediate.
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

# A command line and its description.
Suggestion = tuple[str, str]
RUNS = "runs"  # default folder for runs without --out
FIRST: Sequence[Suggestion] = (
    ("dnas run", "search, train and test on scikit-learn's digits, about a minute on two cores"),
    ("dnas run --data PATH --budget 10m", "the same on your own images: one folder per class, a list or an archive"),
    ("dnas doctor", "check this machine"),
)


def after_run(result: Mapping[str, Any]) -> list[Suggestion]:
    """Suggest commands for a finished run, given its result.json."""
    run = shlex.quote(str(result["run"]))
    if "test_accuracy" not in result:
        return [
            (f"dnas train {run}", "train and test the searched network"),
            (f"dnas show {run}", "show its layers and size"),
        ]
    return [
        _page(run, "this run"),
        (f"dnas train --from {run}", "train it longer, or on other images with --data PATH"),
    ]


def after_study(summary: Mapping[str, Any], out: Path) -> list[Suggestion]:
    """Suggest commands for a study, given the result of `tables.summarise`."""
    study = shlex.quote(str(out))
    page = _page(study, "this study")
    if summary["missing"]:
        return [(f"dnas resume {study}", "execute the missing runs"), page]
    more = 2 * int(summary["settings"]["seeds"])
    return [page, (f"dnas compare --resume {study} --seeds {more}", "add more seeds")]


def at_start(folder: Path) -> list[Suggestion]:
    """Suggest commands for a folder: for the runs in it, and to start with."""
    found: list[Suggestion] = []
    study = folder / "study"
    if (study / STUDY_FILE).is_file():
        found.append(_page("study", "the study in this folder"))
    if run := _newest(folder / RUNS):
        name = shlex.quote(str(run.relative_to(folder)))
        if (run / RESULT_FILE).is_file():
            found.append(_page(name, "the last run"))
        else:
            found.append((f"dnas resume {name}", "resume the last run, which has not finished"))
    return [*found, *FIRST]


def _page(of: str, what: str) -> Suggestion:
    there = all(find_spec(package) for package in ("jinja2", "matplotlib"))
    return f"dnas report {of}", f"write a report on {what}" + (
        "" if there else "; requires: pip install 'dnas[report]'"
    )


def _newest(runs: Path) -> Path | None:
    """Return the run that was started last."""
    try:
        configs = [(file.stat().st_mtime, file.parent) for file in runs.glob(f"*/{CONFIG_FILE}")]
    except OSError as error:
        raise InputError(f"cannot read {str(runs)!r} ({error.strerror or error})") from None
    return max(configs)[1] if configs else None


def lines(suggestions: Sequence[Suggestion]) -> list[str]:
    """Format suggestions as lines of two columns."""
    width = max(len(command) for command, _ in suggestions)
    return [f"  {command:<{width}}  {does}" for command, does in suggestions]

"""The results of a study, as one JSON value and as tables: text, Markdown, CSV and LaTeX.

A row is a method with its parts under a mapping, one of its controls, or a reference network. It contains the mean over
searches and the best search, which is selected by validation accuracy, never by test images.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tabulate import tabulate

from dnas.disk import read_toml, write_atomically
from dnas.errors import InputError
from dnas.pipeline.presets import DEFAULT_PRESET
from dnas.runtime.names import ARCHITECTURE_FILE, CONFIG_FILE
from dnas.space.agreement import agreement
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.registry import get_space
from dnas.study.design import Network, StudySettings, method_and_parts, networks, read_study, results
from dnas.study.jobs import read_failures
from dnas.study.names import BEGUN, FAILED, RUNS, SEARCHED, STUDY_FORMAT, SUMMARY_FILE, TO_DO, Kind
from dnas.study.practices import StudyFacts, practices
from dnas.study.statistics import Difference, adjusted, estimate, paired
from dnas.study.surroundings import Surroundings, compared
from dnas.supernet.mapping import SHARED

FORMS = {"md": "markdown", "csv": "csv", "tex": "latex"}
CONTROLS: dict[Kind, str] = {"random": "random, same size", "shuffled": "layers shuffled"}


def summarise(path: Path) -> dict[str, Any]:
    """Return the results of a study so far as JSON: rows, paired differences, practices and missing runs."""
    settings, found = read_study(path), results(path)
    rows: dict[str, list[Network]] = {}
    for network in networks(settings):
        rows.setdefault(_name(network), []).append(network)
    made = [row for row in (_row(name, group, settings, found) for name, group in rows.items()) if row["searches"]]
    for row in made:
        row["agreement"] = _agreement(row, path, settings, found)
    # A row, followed by its controls.
    order = [row["name"] for row in made if row["of"] is None]
    made.sort(key=lambda row: order.index(row["of"] or row["name"]))
    missing = [
        network.run(training)
        for training in range(settings.training_seeds)
        for network in networks(settings)
        if network.run(training) not in found
    ]
    first = next(iter(found.values()), {})
    configs = [_config(path / RUNS / name) for name in found]
    return {
        "format": STUDY_FORMAT,
        "data": first.get("data", settings.run.get("data", {}).get("source", "")),
        "preset": settings.run.get("preset", DEFAULT_PRESET),
        "test_images": first.get("test_images"),
        "command": settings.command(),
        "settings": settings.model_dump(),
        "rows": made,
        "differences": _differences(made),
        "practices": [asdict(practice) for practice in practices(_facts(settings, made, compared(configs)))],
        "missing": missing,
        "unfinished": _unfinished(path, missing),
    }


def _unfinished(path: Path, missing: Sequence[str]) -> list[dict[str, str]]:
    """Return the state of each run without a result (failed, begun, or to do), and the reason of a failure."""
    failures = read_failures(path)

    def state(run: str) -> str:
        if run in failures:
            return FAILED
        return BEGUN if (path / RUNS / run / CONFIG_FILE).is_file() else TO_DO

    return [{"run": run, "state": state(run), "why": failures.get(run, "")} for run in missing]


def _name(network: Network) -> str:
    base = f"{network.method} ({network.mapping})" if network.mapping else network.method
    return f"{base}, {CONTROLS[network.kind]}" if network.kind in CONTROLS else base


def _row(
    name: str, group: Sequence[Network], settings: StudySettings, found: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    searches = []
    for network in group:
        runs = [
            (network.run(t), found[network.run(t)]) for t in range(settings.training_seeds) if network.run(t) in found
        ]
        if not runs:
            continue
        trainings = [{"seed": r["seed"], "run": f"{RUNS}/{n}", "test_accuracy": r["test_accuracy"]} for n, r in runs]
        run, result = runs[0]
        searches.append(
            {
                "seed": network.seed,
                "run": f"{RUNS}/{run}",
                "validation_accuracy": result.get("validation_accuracy"),
                "params": result["params"],
                "macs": result["macs"],
                "search_seconds": result["search_seconds"] or None,
                "step_equivalents": result.get("step_equivalents"),
                "signal": result.get("signal"),
                "trainings": trainings,
            }
        )
    first = group[0]
    method, with_parts = method_and_parts(first.method)
    errors = {search["seed"]: _error(search) for search in searches}
    return {
        "name": name,
        "method": method,
        "with_parts": with_parts,
        "mapping": first.mapping,
        "kind": first.kind,
        "level": ("cell" if first.mapping == SHARED else "global") if first.mapping else "",
        "of": _name(replace(first, kind=SEARCHED)) if first.kind in CONTROLS else None,
        "searches": searches,
        "planned": len(group),
        "test_error": asdict(estimate(errors.values())),
        "best": _best(searches),
        "params": _mean(searches, "params"),
        "macs": _mean(searches, "macs"),
        "search_seconds": _mean(searches, "search_seconds"),
    }


def _agreement(
    row: Mapping[str, Any], path: Path, settings: StudySettings, found: Mapping[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Return the agreement of networks searched with different seeds, corrected for chance; None for fewer than two.

    It excludes a search whose finals were won by a network that it did not find, and one whose file is missing.
    """
    if row["kind"] != SEARCHED:
        return None
    architectures = []
    for search in row["searches"]:
        run = path / search["run"]
        if any(each.get("winner") for each in found[run.name].get("finals", [])[1:]):
            continue
        with suppress(InputError):
            architectures.append(Architecture.load(run / ARCHITECTURE_FILE))
    both = agreement(architectures, get_space(settings.run.get("space", DARTS.name)))
    if both is None:
        return None
    # With lists instead of tuples, as in JSON.
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(both).items()}
    return {"networks": len(architectures), **values}


def _error(search: Mapping[str, Any]) -> float:
    """Return the mean test error over the trainings of a network, 0 to 1."""
    accuracies: list[float] = [training["test_accuracy"] for training in search["trainings"]]
    return 1 - sum(accuracies) / len(accuracies)


def _best(searches: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the search with the best network on validation images, with the test error over its trainings."""
    judged = [search for search in searches if search["validation_accuracy"] is not None]
    if not judged:
        return None
    best = max(judged, key=lambda search: search["validation_accuracy"])
    return {"seed": best["seed"], **asdict(estimate(1 - t["test_accuracy"] for t in best["trainings"]))}


def _mean(searches: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [search[key] for search in searches if search[key] is not None]
    return sum(values) / len(values) if values else None


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the differences of each row from its controls, and of all searched pairs, with adjusted p values."""
    searched = [row for row in rows if row["of"] is None]
    pairs = [(row, control) for row in searched for control in rows if control["of"] == row["name"]]
    pairs += list(combinations(searched, 2))
    found: list[Difference] = []
    for a, b in pairs:
        one, two = ({search["seed"]: _error(search) for search in row["searches"]} for row in (a, b))
        found.append(paired(one, two))
    return [
        {"a": a["name"], "b": b["name"], **asdict(difference)}
        for (a, b), difference in zip(pairs, adjusted(found), strict=True)
    ]


def _config(run: Path) -> dict[str, Any]:
    """Return the initial settings of a run; {} if they are missing or unreadable, and so unknown."""
    try:
        return read_toml(run / CONFIG_FILE)
    except (InputError, OSError):
        return {}


def _facts(settings: StudySettings, rows: Sequence[Mapping[str, Any]], runs: Surroundings) -> StudyFacts:
    searches = list(settings.searches())
    return StudyFacts(
        methods=len(searches),
        seeds=min((len(row["searches"]) for row in rows if row["kind"] == SEARCHED), default=0),
        training_seeds=settings.training_seeds,
        random_baseline="random" in settings.methods,
        same_data=runs.data.same,
        # The space is a setting of the whole study.
        same_space=True,
        same_trainer=runs.trainer.same,
        same_machine=runs.machine.same,
        same_versions=runs.versions.same,
        found={
            "data and split": runs.data.found,
            "the final training": runs.trainer.found,
            "the machine": runs.machine.found,
            "versions": runs.versions.found,
        },
        equal_cost=bool(settings.run.get("search", {}).get("seconds")),
        ablations=sum(_differ_in_one(a, b) for a, b in combinations(searches, 2)),
        tuned_on_test=False,
        settings_recorded=True,
        versions_recorded=runs.versions.same is not None,
        machine_recorded=runs.machine.same is not None,
        cost_reported=True,
        curves_reported=False,
    )


def _differ_in_one(a: tuple[str, str], b: tuple[str, str]) -> bool:
    """Return True if two searches are one method under two mappings, or one method with and without a part.

    They are given by their names with parts, and their mappings.
    """
    if a[1] != b[1]:
        return a[0] == b[0]
    (one, fewer), (other, more) = sorted(map(method_and_parts, (a[0], b[0])), key=lambda pair: len(pair[1]))
    return one == other and len(more) == len(fewer) + 1 and [part for part in more if part in fewer] == fewer


def keep(path: Path) -> dict[str, Any]:
    """Summarize a study, and write study.json and table.md, .csv and .tex into its folder."""
    summary = summarise(path)
    files = {SUMMARY_FILE: json.dumps(summary, indent=2, allow_nan=False) + "\n"}
    files |= {f"table.{end}": render(summary, form) for end, form in FORMS.items()}
    for name, text in files.items():
        write_atomically(path / name, text.encode())
    return summary


# --- renderings ----------------------------------------------------------------------------------------------

HEADER = (
    "network", "level", "searches", "test error %", "best search %", "agreement", "params M", "MACs M", "search s",
)  # fmt: skip
DIFFERENCES = (
    "difference", "pairs", "test error, percentage points", "95% CI", "p", "adjusted p", "seeds for 80% power",
)  # fmt: skip


RANKING_HEADER = ("measure", "Kendall's τ", "95% CI", "p", "architectures", "seconds each")


def ranking_title(summary: Mapping[str, Any]) -> str:
    """Return the title of the table of a ranking."""
    return f"{summary['architectures']} random architectures: rank correlation with full training"


def ranking_cells(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table of a ranking, as texts for the columns RANKING_HEADER."""
    rows: list[tuple[str, ...]] = []
    for row in summary["rows"]:
        known = row.get("tau") is not None
        rows.append(
            (
                row["measure"],
                f"{row['tau']:.2f}" if known else "",
                f"{row['low']:.2f} to {row['high']:.2f}" if known and row["low"] is not None else "",
                f"{row['p']:.3f}" if known else "",
                str(row.get("count", "")),
                "" if row["seconds"] is None else f"{row['seconds']:.1f}",
            )
        )
    return rows


def cells(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table, as texts for the columns HEADER."""
    return [
        (
            row["name"],
            row["level"],
            of_planned(len(row["searches"]), row["planned"]),
            _spread(row["test_error"]),
            "" if row["best"] is None else _spread(row["best"]),
            "" if row["agreement"] is None else f"{row['agreement']['operations']:.2f}",
            _scaled(row["params"], 1e6, 3),
            _scaled(row["macs"], 1e6, 1),
            _scaled(row["search_seconds"], 1, 0),
        )
        for row in summary["rows"]
    ]


def of_planned(made: int, planned: int) -> str:
    """Return how many exist, and of how many if some are missing."""
    return str(made) if made == planned else f"{made} of {planned}"


def difference_cells(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the paired differences, as texts for the columns DIFFERENCES."""
    return [
        (
            f"{d['a']} − {d['b'].replace(d['a'] + ', ', 'its ')}",
            str(d["count"]),
            "" if d["mean"] is None else f"{100 * d['mean']:+.2f}",
            "" if d["low"] is None else f"{100 * d['low']:+.2f} to {100 * d['high']:+.2f}",
            _scaled(d["p"], 1, 3),
            _scaled(d["p_adjusted"], 1, 3),
            "" if d["seeds_needed"] is None else str(d["seeds_needed"]),
        )
        for d in summary["differences"]
    ]


def _spread(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return ""
    return f"{100 * value['mean']:.2f}" + ("" if value["sd"] is None else f" ± {100 * value['sd']:.2f}")


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def render(summary: Mapping[str, Any], form: str) -> str:
    """Return both tables as "markdown" or "latex", or the first as "csv"."""
    if form == "csv":
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([HEADER, *cells(summary)])
        return file.getvalue()
    style = {"markdown": "github", "latex": "latex_booktabs"}[form]
    tables = [(HEADER, cells(summary)), (DIFFERENCES, difference_cells(summary))]
    # As texts: 5.10 must not become 5.1.
    return "\n\n".join(tabulate(rows, header, style, disable_numparse=True) for header, rows in tables) + "\n"

"""Page of a study: errors, paired differences and sizes of its rows, and their operations by depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnas.disk import read_json
from dnas.drawing.svg import thumbnail as draw_thumbnail
from dnas.errors import InputError
from dnas.pages import charts
from dnas.pages.charts import Interval, Point
from dnas.pages.template import (
    amount,
    both,
    href,
    in_points,
    kinds_of,
    legend,
    mean_layer,
    p_value,
    percent,
    percents,
    profile,
    render,
    safe,
    short_source,
    spread,
    thirds,
)
from dnas.runtime.names import ARCHITECTURE_FILE, PAGE_FILE
from dnas.space.architecture import Architecture
from dnas.study import verdict
from dnas.study.names import BEGUN, FAILED, SEARCHED, STUDY_FORMAT, SUMMARY_FILE, TO_DO
from dnas.units import time_text

if TYPE_CHECKING:
    from markupsafe import Markup


def read_summary(path: Path) -> dict[str, Any]:
    """Read the summary that `dnas compare` wrote last. Raises InputError if it cannot be read."""
    study = read_json(path / SUMMARY_FILE)
    if study.get("format") != STUDY_FORMAT:
        raise InputError(f"{str(path / SUMMARY_FILE)!r} has format {study.get('format')!r}, must be {STUDY_FORMAT!r}")
    return study


def study_page(study: Mapping[str, Any], path: Path, base: Path) -> str:
    """Return the page of a study.

    Args:
        study: Content of study.json.
        path: Study folder.
        base: Folder to which its links are relative.
    """
    try:
        return _study_page(path, base, study)
    except (KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path / SUMMARY_FILE} is damaged ({reason}); let `dnas compare` write it again") from error


def _study_page(path: Path, base: Path, study: Mapping[str, Any]) -> str:
    rows = [_row(number, row, path, base) for number, row in enumerate(study["rows"], start=1)]
    known = sorted((row for row in rows if row["mean"] is not None), key=lambda row: row["mean"])
    differences = [_difference(row) for row in study["differences"]]
    kinds = kinds_of(p for row in rows for p in row["profiles"])
    return render(
        "study.html",
        title=f"Search methods compared on {short_source(str(study['data']))}",
        study={"preset": "unknown", "test_images": None, "command": "dnas compare", **study},
        conclusion=verdict.of_study(study),
        rows=rows,
        errors=_errors(known),
        differences=differences,
        paired=_paired(differences),
        sizes=_sizes(known),
        shapes=[
            f"{shape} {kind}" for kind, shape in charts.SHAPES.items() if any(row["kind"] == kind for row in known)
        ],
        profiles=[{**row, "thirds": thirds(row["alike"], kinds)} for row in rows if row["depth"] is not None],
        legend_items=legend([layer for row in rows for p in row["profiles"] for layer in p]),
        practices=study.get("practices") or [],
        unfinished=_unfinished(study),
    )


def _unfinished(study: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the runs without a result by state; failed runs with the reason."""
    # Studies of earlier versions only list missing runs, without their state.
    runs = study.get("unfinished") or [{"run": run, "state": TO_DO, "why": ""} for run in study.get("missing") or []]
    states: dict[str, list[str]] = {FAILED: [], BEGUN: [], TO_DO: []}
    for each in runs:
        states[each["state"]].append(f"{each['run']} ({each['why']})" if each["why"] else each["run"])
    return {state: names for state, names in states.items() if names}


def _errors(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw the test errors of the rows, lowest first."""
    if not rows:
        return None
    lines = [
        Interval(
            f"{row['number']} {row['name']}",
            row["mean"],
            row["low"],
            row["high"],
            row["dots"],
            row["kind"] == SEARCHED,
        )
        for row in rows
    ]
    return both(charts.intervals, "errors", "Test error of every row", lines, label="test error, %")


def _paired(differences: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw the differences; significant ones stand out."""
    lines = [
        Interval(
            f"{row['a']} − {row['b_short']}",
            row["mean"],
            row["low"],
            row["high"],
            strong=bool(row["direction"]),
        )
        for row in differences
        if row["mean"] is not None
    ]
    if not lines:
        return None
    label = "difference in percentage points; left of zero: the first is better"
    return both(charts.intervals, "paired", "Paired differences of test error", lines, label=label, zero=True)


def _row(number: int, row: Mapping[str, Any], path: Path, base: Path) -> dict[str, Any]:
    """Return a row with its searches, each with a thumbnail if its architecture is in the study."""
    error = row["test_error"] or {}
    searches, profiles = [], []
    for search in row["searches"]:
        accuracies = [t["test_accuracy"] for t in search["trainings"] if t.get("test_accuracy") is not None]
        mean = None if not accuracies else 1 - sum(accuracies) / len(accuracies)
        folders = [_inside(path, run) for run in (search.get("run"), *(t.get("run") for t in search["trainings"]))]
        folder = next((f for f in folders if f is not None and (f / ARCHITECTURE_FILE).is_file()), None)
        thumbnail = None
        if folder is not None:
            try:
                architecture = Architecture.load(folder / ARCHITECTURE_FILE)
            except InputError:
                architecture = None
            if architecture is not None:
                title = f"{row['name']}, seed {search['seed']}: {len(architecture)} layers"
                thumbnail = safe(draw_thumbnail(architecture, title=title))
                profiles.append(profile(architecture))
        page = folder / PAGE_FILE if folder is not None and (folder / PAGE_FILE).is_file() else folder
        searches.append({
            "seed": search["seed"],
            "error": percent(mean),
            "mean": mean,
            "href": None if page is None else href(page, base),
            "thumbnail": thumbnail,
            "params": search.get("params"),
        })  # fmt: skip
    depths = Counter(len(profile) for profile in profiles)
    depth = depths.most_common(1)[0][0] if depths else 0
    alike = [profile for profile in profiles if len(profile) == depth]
    mean_profile = [mean_layer([profile[k] for profile in alike]) for k in range(depth)]
    best = row.get("best")
    return {
        "number": number,
        "name": str(row["name"]),
        "method": row["method"],
        "mapping": row.get("mapping") or "",
        "kind": row["kind"],
        "level": row.get("level") or "",
        "mean": error.get("mean"),
        "low": error.get("low"),
        "high": error.get("high"),
        "error": percent(error.get("mean")) if error.get("sd") is None else spread(error["mean"], error["sd"]),
        "interval": percents(error.get("low"), error.get("high")),
        "count": _of_planned(error.get("count"), row.get("planned")),
        "agreement": "–" if not row.get("agreement") else f"{row['agreement']['operations']:.2f}",
        "best": None if not best else f"{percent(best.get('mean'))} (seed {best.get('seed')})",
        "dots": [search["mean"] for search in searches if search["mean"] is not None],
        "params": row.get("params"),
        "params_text": amount(row.get("params")),
        "macs_text": amount(row.get("macs")),
        "seconds_text": time_text(row.get("search_seconds")),
        "searches": searches,
        "profiles": profiles,
        "averaged": len(alike),
        "depth": None if not alike else safe(charts.shares_by_layer(
            f"depth-{number}", f"{row['name']}: operations by layer", mean_profile, small=True)),
        "alike": alike,
    }  # fmt: skip


def _of_planned(made: int | None, planned: int | None) -> str:
    if made is None:
        return "–"
    return str(made) if planned in (None, made) else f"{made} of {planned}"


def _difference(row: Mapping[str, Any]) -> dict[str, Any]:
    direction = verdict.direction(row)
    bounds = [in_points(bound) for bound in (row.get("low"), row.get("high")) if bound is not None]
    words = {-1: f"{row['a']} is better", 1: f"{row['b']} is better", 0: "no", None: "unknown"}
    return {
        "a": row["a"],
        "b": row["b"],
        "b_short": row["b"].replace(f"{row['a']}, ", "its "),
        "mean": row.get("mean"),
        "low": row.get("low"),
        "high": row.get("high"),
        "direction": direction,
        "words": words[direction],
        "points": in_points(row.get("mean")),
        "interval": " to ".join(bounds) or "–",
        "count": row.get("count"),
        "p": p_value(row.get("p")),
        "p_adjusted": p_value(row.get("p_adjusted")),
        "seeds_needed": row.get("seeds_needed"),
    }


def _sizes(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    points = [
        Point(str(row["number"]), row["kind"], row["params"] / 1e6, row["mean"], row["low"], row["high"])
        for row in rows
        if row["params"] is not None
    ]
    if not points:
        return None
    labels = {"x_label": "parameters, millions", "y_label": "test error, %"}
    return both(charts.scatter, "sizes", "Test error against size", points, **labels)


def _inside(path: Path, name: Any) -> Path | None:
    """Return the folder of a run of this study; None if it does not exist or is outside the study."""
    if not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    folder = path / name
    return folder if folder.is_dir() else None

"""What commands print: results for people as tables, or one JSON value on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnas.runtime.names import BASELINE_STAGE, SEARCH_STAGE, STAGE_LABELS, TRAIN_STAGE

if TYPE_CHECKING:
    from rich.console import Console

    from dnas.space.architecture import Architecture


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """The content of a result.json."""
    if as_json:
        print_json(result)
        return
    from rich.console import Console
    from rich.table import Table

    from dnas.study import verdict

    console = Console()
    if "test_accuracy" in result:
        table = Table(title=f"{result['data']}: {result['test_images']} test images", title_justify="left")
        balanced = () if verdict.of_classes(result) is None else ("balanced",)
        for column in ("network", "test accuracy", "95 % interval", *balanced, "parameters", "MACs"):
            table.add_column(column, justify="left" if column == "network" else "right")
        for label, row in verdict.networks(result):
            low, high = row["test_interval"]
            table.add_row(
                label,
                f"{row['test_accuracy']:.4f}",
                f"{low:.4f} – {high:.4f}",
                *(f"{row['balanced_accuracy']:.4f}" if "balanced_accuracy" in row else "" for _ in balanced),
                f"{row['params']:,}",
                f"{row['macs']:,}",
            )
        console.print(table)
    for sentence in verdict.sentences(result):
        console.print(sentence, highlight=False)
    taken = {
        SEARCH_STAGE: result["search_seconds"],
        TRAIN_STAGE: result["train_seconds"],
        BASELINE_STAGE: result.get("baseline", {}).get("seconds"),
    }
    seconds = [f"{STAGE_LABELS[stage]} {value:.0f} s" for stage, value in taken.items() if value]
    console.print(f"{', '.join(seconds)}; everything is in {result['run']}", highlight=False)


def print_evaluation(result: dict[str, Any], as_json: bool) -> None:
    """What `evaluation.evaluate` gives; its warnings go to stderr."""
    if as_json:
        print_json(result)
        return
    from dnas.study import verdict

    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    low, high = result["test_interval"]
    print(
        f"{result['test_accuracy']:.4f} of {result['test_images']} test images of {result['data']} "
        f"(95 % interval {low:.4f} to {high:.4f})"
    )
    if balance := verdict.of_classes(result):
        print(balance)
    if result["left_out"]:
        count = result["left_out"] + result["test_images"]
        print(f"{result['left_out']} of {count} images left out: they are among the run's training images")


def _wide_console() -> Console:
    """For tables: a file or a pipe has room that a terminal may lack."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_study(summary: dict[str, Any], out: Path) -> None:
    """What `tables.summarise` gives."""
    from rich.table import Table

    from dnas.study.tables import DIFFERENCES, HEADER, cells, difference_cells

    console = _wide_console()
    # A control stands below what it controls, so the name need not be said again.
    named = zip(summary["rows"], cells(summary), strict=True)
    results = [(texts[0].replace(f"{row['of']}, ", "  "), *texts[1:]) for row, texts in named]
    title = f"{summary['data']}: {summary['test_images']} test images, preset {summary['preset']}"
    for caption, header, rows in (
        (title, HEADER, results),
        ("Paired differences of test error", DIFFERENCES, difference_cells(summary)),
    ):
        table = Table(title=caption, title_justify="left")
        for i, name in enumerate(header):
            table.add_column(name, justify="right" if i else "left", no_wrap=not i)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    missing = f"{len(summary['missing'])} runs are missing; " if summary["missing"] else ""
    console.print(f"{missing}everything is in {out}", highlight=False)


def print_ranking(summary: dict[str, Any], out: Path) -> None:
    """What `ranking.ranked` gives."""
    from rich.table import Table

    console = _wide_console()
    table = Table(title=f"{summary['architectures']} random architectures, ranked as full training does")
    for name in ("measure", "Kendall's τ", "95 % interval", "p", "architectures", "seconds each"):
        table.add_column(name, justify="left" if name == "measure" else "right", no_wrap=name == "measure")
    for row in summary["rows"]:
        known = row.get("tau") is not None
        table.add_row(
            row["measure"],
            f"{row['tau']:.2f}" if known else "",
            f"{row['low']:.2f} to {row['high']:.2f}" if known and row["low"] is not None else "",
            f"{row['p']:.3f}" if known else "",
            str(row.get("count", "")),
            "" if row["seconds"] is None else f"{row['seconds']:.1f}",
        )
    console.print(table)
    failed = f"{len(summary['failed'])} runs failed; " if summary["failed"] else ""
    console.print(f"{failed}everything is in {out}", highlight=False)


def print_architecture(architecture: Architecture) -> None:
    """A line for every layer."""
    from rich.console import Console

    from dnas.drawing.terminal import terminal

    console = Console()
    console.print(terminal(architecture, width=console.width))


def print_json(value: Any) -> None:
    """The one JSON value of `--json`."""
    print(json.dumps(value, allow_nan=False))


def print_findings(findings: Mapping[str, Any]) -> None:
    """What `dnas doctor` found: facts, and of every check what to do where it is not well."""
    for key, value in findings.items():
        if key == "findings":
            print("findings:")
            for finding in value:
                advice = f"; {finding['advice']}" if finding["advice"] else ""
                print(f"  {finding['status']:<7}  {finding['name']}: {finding['finding']}{advice}")
        elif key == "data":  # said in the findings
            continue
        elif isinstance(value, dict):
            print(f"{key}:")
            for inner, text in value.items():
                print(f"  {inner}: {text}")
        else:
            print(f"{key}: {value}")

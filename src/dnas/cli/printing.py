"""Output of the commands: results as tables for people, or one JSON value on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnas.cli import suggesting
from dnas.disk import read_json
from dnas.errors import LISTED
from dnas.runtime.names import BASELINE_STAGE, RESULT_FILE, SEARCH_STAGE, STAGE_LABELS, TRAIN_STAGE
from dnas.study.names import BEGUN, FAILED, TO_DO

if TYPE_CHECKING:
    from rich.console import Console

    from dnas.data.inspection import Inspection
    from dnas.space.architecture import Architecture

MOST_CLASSES = 30  # rows of a table in the terminal


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """Print the content of a result.json."""
    if as_json:
        print_json(result)
        return
    from rich.console import Console

    from dnas.study import verdict

    console = Console()
    _print_networks(result, console)
    for sentence in verdict.sentences(result):
        console.print(sentence, highlight=False)
    taken = {
        SEARCH_STAGE: result["search_seconds"],
        TRAIN_STAGE: result["train_seconds"],
        BASELINE_STAGE: result.get("baseline", {}).get("seconds"),
    }
    seconds = [f"{STAGE_LABELS[stage]} {value:.0f} s" for stage, value in taken.items() if value]
    console.print(f"{', '.join(seconds)}; results: {result['run']}", highlight=False)
    print_next(suggesting.after_run(result))


def _print_networks(result: Mapping[str, Any], console: Console) -> None:
    """Print the table of a result.json."""
    from rich.table import Table

    from dnas.study import verdict

    if "test_accuracy" not in result:
        return
    table = Table(title=f"{result['data']}: {result['test_images']} test images", title_justify="left")
    balanced = () if verdict.of_classes(result) is None else ("balanced",)
    for column in ("network", "test accuracy", "95% CI", *balanced, "parameters", "MACs"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for label, row in verdict.networks(result):
        low, high = row["test_interval"]
        table.add_row(
            label,
            f"{row['test_accuracy']:.4f}",
            f"{low:.4f}–{high:.4f}",
            *(f"{row['balanced_accuracy']:.4f}" if "balanced_accuracy" in row else "" for _ in balanced),
            f"{row['params']:,}",
            f"{row['macs']:,}",
        )
    console.print(table)


def print_answers(run: Path | None) -> None:
    """Print the networks of a run for several values of a limit, with their folders. Print nothing for other runs."""
    if run is None or not (run / RESULT_FILE).is_file():
        return
    result = read_json(run / RESULT_FILE)
    if "answers" in result:
        from rich.console import Console

        print("this is the network for the largest of several values of a limit:")
        _print_networks(result, Console())
        print("the others are in", ", ".join(str(run / row["run"]) for row in result["answers"][:-1]))


def print_next(suggestions: Sequence[suggesting.Suggestion]) -> None:
    """Print the commands to type next."""
    print("next:", *suggesting.lines(suggestions), sep="\n")


def print_evaluation(result: dict[str, Any], as_json: bool) -> None:
    """Print the result of `evaluation.evaluate`; warnings go to stderr."""
    if as_json:
        print_json(result)
        return
    from dnas.study import verdict

    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    low, high = result["test_interval"]
    print(
        f"test accuracy on {result['data']}: {result['test_accuracy']:.4f} "
        f"({result['test_images']} images, 95% CI {low:.4f}–{high:.4f})"
    )
    if balance := verdict.of_classes(result):
        print(balance)
    if result["left_out"]:
        count = result["left_out"] + result["test_images"]
        print(f"{result['left_out']} of {count} images left out because the run was trained on them")


def print_start(folder: Path) -> None:
    """Print commands to start with in this folder; for `dnas` without arguments."""
    print("dnas searches for a small network for your images, trains it and tests it. For example:")
    print(*suggesting.lines(suggesting.at_start(folder)), sep="\n")
    print("dnas --help lists all commands, and dnas run --help lists the options of a command.")


def print_inspection(found: Inspection, sheet: str | None) -> None:
    """Print the result of `inspection.inspect_data`."""
    from rich.table import Table
    from rich.text import Text

    from dnas.data import findings

    for subject, text in findings.facts(found):
        print(f"{subject + ':':<15}{text}")
    console = _wide_console()
    table = Table(title_justify="left")
    for column in ("class", "training", "test", "share of training"):
        table.add_column(column, justify="left" if column == "class" else "right")
    counts = list(zip(found.classes, found.counts["train"], found.counts["test"], strict=True))
    if len(counts) > MOST_CLASSES:  # only the smallest and the largest
        counts.sort(key=lambda row: row[1])
        counts = [*counts[: MOST_CLASSES // 2], *counts[-MOST_CLASSES // 2 :]]
    total = max(1, found.images["train"])
    for k, (name, train, test) in enumerate(counts):
        if len(found.classes) > MOST_CLASSES and k == MOST_CLASSES // 2:
            table.add_row("…", "…", "…", "…")
        shown = name if name.isprintable() else repr(name)
        table.add_row(Text(shown), f"{train:,}", f"{test:,}", f"{100 * train / total:.1f}%")
    console.print(table)
    for line in findings.left_out(found):
        print(f"left out: {line}")
    warnings = findings.warnings(found)
    for line in warnings:
        print(line if line.startswith("hint: ") else f"warning: {line}")
    if not warnings:
        print("no problems found: no copies within or across the splits, and every class is in both")
    if sheet is not None:
        print(f"contact sheet: {sheet}")


def _wide_console() -> Console:
    """Return a console for wide tables: a file or pipe is not limited to the width of a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def print_study(summary: dict[str, Any], out: Path) -> None:
    """Print the result of `tables.summarise`."""
    from rich.table import Table

    from dnas.study.tables import DIFFERENCES, HEADER, cells, difference_cells

    console = _wide_console()
    # A control is printed below its searched network, so the name is not repeated.
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
    for state in (FAILED, BEGUN, TO_DO):
        runs = [each["run"] for each in summary["unfinished"] if each["state"] == state]
        if runs:
            more = f" and {len(runs) - LISTED} more" if len(runs) > LISTED else ""
            console.print(f"{state}: {', '.join(runs[:LISTED])}{more}", highlight=False)
    console.print(f"results: {out}", highlight=False)
    print_next(suggesting.after_study(summary, out))


def print_ranking(summary: dict[str, Any], out: Path) -> None:
    """Print the result of `ranking.ranked`."""
    from rich.table import Table

    from dnas.study.tables import RANKING_HEADER, ranking_cells, ranking_title

    console = _wide_console()
    table = Table(title=ranking_title(summary))
    for name in RANKING_HEADER:
        table.add_column(name, justify="left" if name == "measure" else "right", no_wrap=name == "measure")
    for row in ranking_cells(summary):
        table.add_row(*row)
    console.print(table)
    failed = f"{len(summary['failed'])} runs failed; " if summary["failed"] else ""
    console.print(f"{failed}results: {out}", highlight=False)


def print_architecture(architecture: Architecture) -> None:
    """Print one line per layer."""
    from rich.console import Console

    from dnas.drawing.terminal import terminal

    console = Console()
    console.print(terminal(architecture, width=console.width))


def print_json(value: Any) -> None:
    """Print the JSON value of `--json`."""
    print(json.dumps(value, allow_nan=False))


def print_findings(findings: Mapping[str, Any]) -> None:
    """Print the facts and checks of `dnas doctor`, with advice for each check that did not pass."""
    for key, value in findings.items():
        if key == "findings":
            print("findings:")
            for finding in value:
                advice = f"; {finding['advice']}" if finding["advice"] else ""
                print(f"  {finding['status']:<7}  {finding['name']}: {finding['finding']}{advice}")
        elif key == "data":  # already in the findings
            continue
        elif key == "latency":
            print(f"latency of one image, in networks of {value['shape']}:")
            for row in value["operations"]:
                name, channels, stride, side = row["operation"].split()
                what = f"{name}, {channels} channels, stride {stride}, {side}×{side}"
                print(f"  {what}: {row['nanoseconds'] / 1e3:.1f} µs, spread {row['spread']:.0%}")
            errors = ", ".join(f"{error:+.0%}" for error in value["errors"])
            print(
                f"  networks: {value['constant_nanoseconds'] / 1e3:.0f} µs and {value['factor']:.2f} times their "
                f"operations; errors of {len(value['errors'])} others: {errors}"
            )
        elif isinstance(value, dict):
            print(f"{key}:")
            for inner, text in value.items():
                print(f"  {inner}: {text}")
        else:
            print(f"{key}: {value}")


def print_export(result: dict[str, Any]) -> None:
    """Print the result of `deploy.export`."""
    from rich.table import Table

    from dnas.deploy.card import change
    from dnas.units import size_text

    console = _wide_console()
    low, high = result["test_interval"]
    table = Table(
        title=f"{result['data']}: {result['test_images']} test images; torch {result['test_accuracy']:.4f} "
        f"(95% CI {low:.4f}–{high:.4f})",
        title_justify="left",
    )
    for name in ("format", "file", "size", "test accuracy", "agreement", "latency", "memory"):
        table.add_column(name, justify="left" if name in ("format", "file") else "right", no_wrap=True)
    for row in result["exports"]:
        figures: tuple[str, ...] = ("not run",)
        if "test_accuracy" in row:
            figures = (
                f"{row['test_accuracy']:.4f}",
                f"{row['agreement']:.2%}",
                f"{1000 * row['latency_seconds']:.2f} ms",
                size_text(row["peak_memory_bytes"]),
            )
        table.add_row(row["format"], row["file"], size_text(row["bytes"]), *figures)
    console.print(table)
    for row in result["exports"]:
        if not row["exact"]:
            images = round(abs(row["accuracy_lost"]) * result["test_images"])
            console.print(f"{row['format']} {change(row)} ({images} of the test images)", highlight=False)
    console.print(f"results: {result['folder']}", highlight=False)

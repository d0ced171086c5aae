"""The section of a run's page about its networks for several values of a limit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.pages import charts
from dnas.pages.charts import Point
from dnas.pages.template import both, href, percent, percents
from dnas.study import verdict
from dnas.study.names import Kind


def _point(number: int, kind: Kind, row: Mapping[str, Any]) -> Point:
    return Point(str(number), kind, row["used"], row["test_accuracy"], *row["test_interval"])


def front(result: Mapping[str, Any] | None, path: Path, base: Path) -> dict[str, Any] | None:
    """A chart of accuracy against what the limit counts, and its table; None where there is one network.

    Args:
        result: The content of result.json.
        path: The run folder.
        base: The folder from which links lead.
    """
    if result is None or "answers" not in result:
        return None
    counted = verdict.LIMITED[result["answers"][0]["limit"]]
    points, rows = [], []
    for number, answer in enumerate(result["answers"], 1):
        other = answer.get("baseline")
        points.append(_point(number, "searched", answer))
        if other:
            points.append(_point(number, "random", other))
        rows.append(
            {
                "number": number,
                "value": f"{answer['value']:,}",
                "used": f"{answer['used']:,}",
                "accuracy": percent(answer["test_accuracy"]),
                "interval": percents(*answer["test_interval"]),
                "random": percent(other["test_accuracy"]) if other else None,
                "params": f"{answer['params']:,}",
                "macs": f"{answer['macs']:,}",
                "front": answer["front"],
                "folder": href(path / answer["run"], base),
            }
        )
    chart = both(
        charts.scatter, "front", f"Test accuracy against {counted}", points, x_label=counted, y_label="test accuracy, %"
    )
    return {"counted": counted, "chart": chart, "rows": rows, "said": verdict.of_answers(result)}

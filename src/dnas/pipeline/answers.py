"""Several results of one search: a separate run for each value of a limit except the largest.

The largest value is that of the run itself. The runs for the other values are in its folder, each with the architecture
that the search found within its limits. They are complete runs for `dnas resume`, `report`, `export` and `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dnas.data.splits import DataInfo
from dnas.pipeline import budget, limits
from dnas.pipeline.config import Config
from dnas.runtime.names import ANSWERS_FOLDER
from dnas.settings import AnswerSettings, TrainSettings
from dnas.space.architecture import Architecture

# Columns of the table for each network and its random baseline.
FIGURES = ("test_accuracy", "test_interval", "params", "macs")


def name_of(config: Config) -> str:
    """Return the name of the folder of the run for one value, inside the run for the largest value."""
    assert config.limits is not None
    return "-".join(f"{name}-{most}" for name, most in config.limits.given.items())


def configs(config: Config, seconds: float = 0.0) -> list[Config]:
    """Return the configurations of the runs for all values except the largest, in ascending order.

    Args:
        seconds: The time budget of each, if there is one.
    """
    if config.limits is None or not config.answers:
        return []
    assert isinstance(config.train, TrainSettings)
    found = []
    for own, known in zip(config.limits.tighter, config.answers, strict=True):
        train = config.train.model_copy(update={"channels": known.channels})
        own = own.model_copy(update={"times": known.times})
        update: dict[str, Any] = {"limits": own, "answers": [], "train": train, "budget": seconds}
        if known.steps:
            update |= {"train": budget.planned(train, known.steps), "baseline_steps": known.baseline_steps}
            update |= {"finals_steps": known.finals_steps, "prior": known.prior}
        found.append(config.model_copy(update=update))
    return found


def planned(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[AnswerSettings]:
    """Return the plan that replaces the time budget of each run, from the rows of the table."""
    return [
        known.model_copy(
            update={
                "steps": row["plan"]["steps"],
                "finals_steps": row["plan"]["finals"] if config.finals else [],
                "prior": row["plan"]["prior"],
                "baseline_steps": row["plan"].get("baseline", 0),
            }
        )
        for known, row in zip(config.answers, rows[:-1], strict=True)
    ]


def table(config: Config, results: Sequence[Mapping[str, Any]], info: DataInfo) -> list[dict[str, Any]]:
    """Return one row per value, in ascending order.

    `limit` is the name of the limit, `value` its maximum, and `used` the cost of the network. `front` is True if none
    of the other networks is as good at a lower cost, or better at the same cost. `baseline` has the same figures for
    the random baseline.

    Args:
        results: The results of all runs, with that for the largest value last.
    """
    assert config.limits is not None
    (name,) = config.limits.several
    rows = []
    for own, result in zip([*configs(config), config], results, strict=True):
        of_limit = result["limits"][name]
        row = {"limit": name, "value": of_limit["limit"], "used": of_limit["used"]}
        row["run"] = "." if own is config else f"{ANSWERS_FOLDER}/{name_of(own)}"
        row |= {figure: result[figure] for figure in (*FIGURES, *(["plan"] if config.budget else []))}
        if "baseline" in result:
            within, other = limits.feasible(own, info), result["baseline"]
            assert within is not None
            used = within.delivered.costs(Architecture.from_json(other["architecture"]), [name])[name]
            row["baseline"] = {"used": used, **{figure: other[figure] for figure in FIGURES}}
        rows.append(row)
    for row in rows:
        row["front"] = not any(_beats(other, row) for other in rows)
    return rows


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if one network dominates the other: it costs no more, is no worse, and differs in at least one."""
    a, b = ((row["used"], -row["test_accuracy"]) for row in (one, other))
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))

"""Several answers to one search: a run of its own for each of several values of a limit, but the largest.

The largest is that of the run itself. The other runs lie in its folder, with what the search found within their limits;
each is a run like any other, which `dnas resume`, `report`, `export` and `evaluate` take.
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

# What the table has of each network, and of the random one of its size.
FIGURES = ("test_accuracy", "test_interval", "params", "macs")


def name_of(config: Config) -> str:
    """Where the run for one value lies within that for the largest."""
    assert config.limits is not None
    return "-".join(f"{name}-{most}" for name, most in config.limits.given.items())


def configs(config: Config, seconds: float = 0.0) -> list[Config]:
    """Those of the runs for all values but the largest, in ascending order.

    Args:
        seconds: The budget of each, where there is one.
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
    """What a budget has become, of the rows of the table."""
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
    """A row for each value, in ascending order.

    `limit` is its name, `value` what it allows, `used` what the network uses of it, and `front` whether no other of
    these networks is as good for less, or better for as much; `baseline` has the same figures of the random network.

    Args:
        results: Of all runs, that for the largest value last.
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
    """Whether one uses no more, is no worse, and is not the same in both."""
    a, b = ((row["used"], -row["test_accuracy"]) for row in (one, other))
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))

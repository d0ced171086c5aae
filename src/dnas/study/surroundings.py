"""Compare the data, training settings and environments of the runs of a study, read from their config.toml files.

A run records the environment in which it started: if it was resumed elsewhere, only its log.txt shows that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from dnas.network.handmade import PACKAGE

MACHINE = ("processor", "processors", "gpu", "platform", "threads", "ranks")
VERSIONS = ("dnas", "torch", "python", "kernels", PACKAGE)
# Recorded by every run of this version; a graphics card and ranks only if they are used.
NEEDED = frozenset({"processor", "processors", "platform", "threads", "dnas", "torch", "python", "kernels"})
# Only recorded by runs that use it, so a missing value is not a difference.
OF_SOME = frozenset({PACKAGE})
SHOWN = 3  # the maximum number of reported values per key


@dataclass(frozen=True)
class Common:
    """The answer whether something is the same for all runs, and a description of the observations."""

    same: bool | None
    """None if a run does not record it."""
    found: str


@dataclass(frozen=True)
class Surroundings:
    """Possible causes of differences between runs, other than settings of a search."""

    machine: Common
    versions: Common
    data: Common
    """The images and their split, by fingerprint."""
    trainer: Common
    """The settings of the trainings after a search."""


def compared(configs: Sequence[Mapping[str, Any]]) -> Surroundings:
    """Compare all runs of a study.

    Args:
        configs: The content of the config.toml of each run; {} if it is missing.
    """
    environments = [config.get("environment") or {} for config in configs]
    prints = [{"fingerprint": (config.get("data") or {}).get("fingerprint")} for config in configs]
    # Trainings of controls belong to searched networks and take their training settings.
    trainings = [_training(config) for config in configs if config.get("command") == "run" or not config]
    return Surroundings(
        machine=_common(environments, MACHINE, NEEDED),
        versions=_common(environments, VERSIONS, NEEDED),
        data=_common(prints, ("fingerprint",), frozenset({"fingerprint"})),
        trainer=_common(trainings, dict.fromkeys(key for table in trainings for key in table), frozenset()),
    )


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training settings of a run, with the resolved depth instead of 0."""
    train = config.get("train") or {}
    if not train:
        return {}
    return {**train, "layers": train.get("layers") or (config.get("search") or {}).get("layers")}


def _common(tables: Sequence[Mapping[str, Any]], keys: Iterable[str], needed: Set[str]) -> Common:
    """Compare tables, one per run, by these keys; the result is only known if all tables have the needed keys."""
    if empty := sum(not table for table in tables) or not tables:
        return Common(None, _unrecorded(empty, len(tables), "it") if tables else "there are no results yet")
    differing, lacking, shared = [], [], []
    for key in keys:
        values = Counter(_text(table.get(key)) for table in tables if key not in OF_SOME or key in table)
        missing = values.pop("", 0)
        if missing and key in needed:
            lacking.append(_unrecorded(missing, len(tables), key))
        if len(values) > 1 or (missing and values and key not in needed):
            told = [f"{value} in {_runs(n)}" for value, n in values.most_common(SHOWN)]
            told += [f"{len(values) - SHOWN} others"] if len(values) > SHOWN else []
            told += [f"none in {_runs(missing)}"] if missing and key not in needed else []
            differing.append(f"{key} {', '.join(told)}")
        elif values:
            shared.append(f"{key} {next(iter(values))}")
    if differing:
        return Common(False, "; ".join(differing))
    if lacking:
        return Common(None, "; ".join(lacking))
    return Common(True, ", ".join(shared))


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _unrecorded(missing: int, count: int, what: str) -> str:
    return f"{missing} of {_runs(count)} {'does' if missing == 1 else 'do'} not record {what}"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"

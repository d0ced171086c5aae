"""What the runs of a study had in common besides their settings, read from the config.toml of each.

The environment that a run records is that in which it began: where it was resumed elsewhere, only its log.txt says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from dnas.network.handmade import PACKAGE

MACHINE = ("processor", "processors", "gpu", "platform", "threads", "ranks")
VERSIONS = ("dnas", "torch", "python", "kernels", PACKAGE)
# What every run of today records; a graphics card and ranks only those that have them.
NEEDED = frozenset({"processor", "processors", "platform", "threads", "dnas", "torch", "python", "kernels"})
# Recorded only by the runs that use it, so the others do not differ by it.
OF_SOME = frozenset({PACKAGE})
SHOWN = 3  # values of one key that are told


@dataclass(frozen=True)
class Common:
    """Whether something is the same for all runs, and what was found, in words."""

    same: bool | None
    """None where some run does not record it."""
    found: str


@dataclass(frozen=True)
class Surroundings:
    """What can make a difference between runs, and is no setting of a search."""

    machine: Common
    versions: Common
    data: Common
    """The images and their split, by fingerprint."""
    trainer: Common
    """The settings of the trainings after a search."""


def compared(configs: Sequence[Mapping[str, Any]]) -> Surroundings:
    """Look at all runs of a study.

    Args:
        configs: The content of each run's config.toml; {} where it is not there.
    """
    environments = [config.get("environment") or {} for config in configs]
    prints = [{"fingerprint": (config.get("data") or {}).get("fingerprint")} for config in configs]
    # The trainings of controls are of networks that were found: they take the settings of a search's own.
    trainings = [_training(config) for config in configs if config.get("command") == "run" or not config]
    return Surroundings(
        machine=_common(environments, MACHINE, NEEDED),
        versions=_common(environments, VERSIONS, NEEDED),
        data=_common(prints, ("fingerprint",), frozenset({"fingerprint"})),
        trainer=_common(trainings, dict.fromkeys(key for table in trainings for key in table), frozenset()),
    )


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's training, with the depth that 0 stands for."""
    train = config.get("train") or {}
    if not train:
        return {}
    return {**train, "layers": train.get("layers") or (config.get("search") or {}).get("layers")}


def _common(tables: Sequence[Mapping[str, Any]], keys: Iterable[str], needed: Set[str]) -> Common:
    """What tables, one a run, have in common by these keys; those that are needed must be in all to be known."""
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

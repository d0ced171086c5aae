"""The design of a ranking from options, and additions to an existing ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from dnas.disk import read_toml
from dnas.errors import InputError, calling
from dnas.pipeline.overrides import in_file, nested, typed
from dnas.settings import Settings
from dnas.study.design import parts_beside
from dnas.study.growth import added_to, of_its_parts, require_same, same_threads, with_new_options
from dnas.study.names import RANKING_FILE
from dnas.validation import checked

# Settings to which names or numbers can be added, and the option of each.
LISTS = {"methods": "--methods", "layers": "--proxy-layers", "epochs": "--proxy-epochs"}
_METHODS = ["dnas"]  # the default


class RankingSettings(Settings):
    """The architectures, methods and trainings that a ranking compares.

    Attributes:
        run: Settings of all runs, nested as in the config.toml of a run.
    """

    count: int = Field(20, ge=4, le=100_000, description="random architectures, with one pair of layers each")
    methods: list[str] = Field(
        default_factory=list, description="methods whose supernets evaluate them; METHOD+PART+… for its own parts"
    )
    layers: list[Annotated[int, Field(ge=3, le=1000)]] = Field(
        default_factory=list, description="depths of shallower trainings"
    )
    epochs: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list, description="epochs of shorter trainings")
    seed: int = Field(0, ge=0, lt=2**63)
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads per run; 0: those of the machine, shared; on a cluster 1"
    )
    run: dict[str, Any] = Field(default_factory=dict)


def read_ranking(path: Path) -> RankingSettings:
    """Return the settings in the file of a ranking. Raises InputError if it cannot be read."""
    values = read_toml(path / RANKING_FILE)
    with calling(in_file(values, path / RANKING_FILE)):
        return checked(RankingSettings, values)


def called(given: Mapping[str, Any]) -> dict[str, str]:
    """Return what the user typed for each setting of a ranking, in the form that `errors.calling` takes.

    Args:
        given: Flat options of its runs.
    """
    return {"with_parts": "--methods"} | typed("run", given) | {"method": "--methods"}


def asked(
    path: Path,
    given: dict[str, Any],
    methods: Sequence[str] | None,
    chosen: Mapping[str, Any],
    threads: int,
    *,
    adds: bool,
) -> RankingSettings:
    """Return the settings of a ranking from options.

    Args:
        path: The folder of the ranking.
        given: Flat options of its runs; None for an omitted one.
        methods: Names of methods, or None; a + before a name adds it to an existing ranking.
        chosen: `count`, `layers`, `epochs` and `seed`; None for an omitted one.
        adds: If True, add all of this to the existing ranking, which keeps its settings.

    Raises:
        InputError: An option is invalid.
    """
    if methods is None:
        methods = () if adds else _METHODS
    names = added_to(path, {"methods": methods}, RANKING_FILE)["methods"]
    run = nested("run", given, parts_beside(names))
    del run["command"]
    if adds and given["device"] is None and given["config"] is None:
        del run["device"]  # detected, not given by the user
    values = {name: value for name, value in chosen.items() if value is not None}
    with calling({**LISTS, "count": "--architectures", "threads": "--threads"}):
        settings = checked(RankingSettings, {**values, "methods": names, "threads": threads, "run": run})
    return grown(path, settings) if adds else settings


def grown(path: Path, added: RankingSettings) -> RankingSettings:
    """Return the settings of a ranking together with additions to it.

    Args:
        path: The folder of the ranking.
        added: Only the additions.

    Raises:
        InputError: There is no ranking, or a given value contradicts it.
    """
    old = read_ranking(path)
    if "count" in added.model_fields_set and added.count < old.count:
        raise InputError(
            f"--architectures is {old.count} in {path} and {added.count} here: a ranking can only grow; leave it out"
        )
    return _extended(path, old, added, whole=False)


def joined(path: Path, settings: RankingSettings) -> RankingSettings:
    """Return these complete settings of a ranking, together with the additional ones in its folder.

    Raises:
        InputError: A setting of the runs differs.
    """
    return _extended(path, read_ranking(path), settings, whole=True)


def _extended(path: Path, old: RankingSettings, new: RankingSettings, *, whole: bool) -> RankingSettings:
    if (whole or "seed" in new.model_fields_set) and old.seed != new.seed:
        raise InputError(f"--seed is {old.seed} in {path} and {new.seed} here: leave it out or use another --out")
    require_same(path, *of_its_parts(old, new), whole=whole)
    update: dict[str, Any] = {name: list(dict.fromkeys([*getattr(old, name), *getattr(new, name)])) for name in LISTS}
    if "count" in new.model_fields_set:
        update["count"] = max(old.count, new.count)
    return old.model_copy(
        update=update | {"threads": same_threads(path, old, new), "run": with_new_options(old.run, new.run)}
    )

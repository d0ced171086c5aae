"""The design of a study from options, and additions to an existing study.

Methods, mappings, architectures and seeds may be added. The settings of its runs are fixed, so that rows stay
comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tomli_w
from filelock import FileLock

from dnas.disk import write_atomically
from dnas.errors import InputError
from dnas.options import flag_of
from dnas.parts.registry import OPTIONS
from dnas.pipeline.config import Config
from dnas.pipeline.overrides import nested, typed
from dnas.settings import AUTO_RESIZE, Settings
from dnas.study.design import StudySettings, method_and_parts, parts_beside, read_study, with_all_parts
from dnas.study.names import DEFAULT_MAPPING, LOCK_FILE, STUDY_FILE
from dnas.validation import checked

Compared = TypeVar("Compared", bound=Settings)
LISTS = ("methods", "mappings", "architectures")
COUNTS = {"seeds": "--seeds", "training_seeds": "--training-seeds"}


class Asked(Protocol):
    """The settings shared by studies and rankings."""

    @property
    def methods(self) -> list[str]: ...

    @property
    def run(self) -> dict[str, Any]: ...

    @property
    def threads(self) -> int: ...


# Sections of a run in which one option may set both settings.
_BOTH = ("search", "train")


def called(given: Mapping[str, Any]) -> dict[str, str]:
    """Return what the user typed for each setting of a study, in the form that `errors.calling` takes.

    Args:
        given: Flat options of its runs.
    """
    own = {name: f"--{name.replace('_', '-')}" for name in (*LISTS, *COUNTS, "threads")}
    own |= {"method": "--methods", "mapping": "--mappings"}
    return {"with_parts": "--methods"} | typed("run", given) | own


def asked(
    path: Path,
    given: dict[str, Any],
    lists: Mapping[str, Sequence[str]],
    counts: Mapping[str, int | None],
    threads: int,
    *,
    adds: bool,
) -> StudySettings:
    """Return the settings of a study from options.

    Args:
        path: The folder of the study.
        given: Flat options of its runs; None for an omitted one.
        lists: By `LISTS`; a + before a name adds it to an existing study.
        counts: By `COUNTS`; None for an omitted one.
        adds: If True, add all of this to the existing study, which keeps its settings.

    Raises:
        InputError: An option is invalid.
    """
    names = added_to(path, lists)
    run = nested("run", given, parts_beside(names["methods"]))
    del run["command"]
    if adds and given["device"] is None and given["config"] is None:
        del run["device"]  # detected, not given by the user
    chosen = {name: count for name, count in counts.items() if count is not None}
    settings = checked(StudySettings, {**names, **chosen, "threads": threads, "run": run})
    return grown(path, settings) if adds else settings


def added_to(path: Path, texts: Mapping[str, Sequence[str]], file: str = STUDY_FILE) -> dict[str, list[str]]:
    """Return names without the + that adds them to a study. Raises InputError if `path` does not contain one.

    Args:
        file: The file that identifies a study or a ranking.
    """
    kind = file.partition(".")[0]
    for key, names in texts.items():
        for name in () if (path / file).is_file() else names:
            if name.startswith("+"):
                raise InputError(
                    f"--{key} {name} adds to a {kind} and {path} is not one; give --resume {kind.upper()} or omit the +"
                )
    return {key: [name.removeprefix("+") for name in names] for key, names in texts.items()}


def with_those_of(path: Path, settings: Compared, file: str, joined: Callable[[Path, Compared], Compared]) -> Compared:
    """Return these settings, joined with those in the `file` of a folder, if any.

    Raises:
        InputError: As `joined`; or the folder contains something else.
    """
    if (path / file).is_file():
        return joined(path, settings)
    if path.exists() and any(entry.name != LOCK_FILE for entry in path.iterdir()):
        raise InputError(f"--out {path} exists and is not a {file.partition('.')[0]}; choose another folder")
    return settings


def write_begun(path: Path, settings: Compared, file: str, joined: Callable[[Path, Compared], Compared]) -> Compared:
    """Write the settings to `file`, joined with additions that another process has made since, and return them."""
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / LOCK_FILE):
        settings = joined(path, settings)
        write_atomically(path / file, tomli_w.dumps(settings.model_dump()).encode())
    return settings


def grown(path: Path, added: StudySettings) -> StudySettings:
    """Return the settings of a study together with additions to it.

    Args:
        path: The folder of the study.
        added: Only the additions: names, counts, and settings of runs that repeat those of the study.

    Raises:
        InputError: There is no study, or a given value contradicts it.
    """
    old = read_study(path)
    for name, option in COUNTS.items():
        ours, theirs = getattr(added, name), getattr(old, name)
        if name in added.model_fields_set and ours < theirs:
            raise InputError(f"{option} is {theirs} in {path} and {ours} here: a study can only grow; leave it out")
    require_same(path, *of_its_parts(old, added), whole=False)
    return _extended(path, old, added)


def joined(path: Path, settings: StudySettings) -> StudySettings:
    """Return these complete settings of a study, together with the additional ones in its folder.

    Raises:
        InputError: A setting of the runs differs.
    """
    old = read_study(path)
    require_same(path, *of_its_parts(old, settings), whole=True)
    return _extended(path, old, settings)


def _extended(path: Path, old: StudySettings, new: StudySettings) -> StudySettings:
    update: dict[str, Any] = {name: list(dict.fromkeys([*getattr(old, name), *getattr(new, name)])) for name in LISTS}
    if new.mappings and not old.mappings and old.methods:
        # An empty list stands for the mapping of each method, which is kept in addition to added ones.
        update["mappings"] = list(dict.fromkeys([DEFAULT_MAPPING, *new.mappings]))
    update |= {name: max(getattr(old, name), getattr(new, name)) for name in COUNTS if name in new.model_fields_set}
    return old.model_copy(
        update=update | {"threads": same_threads(path, old, new), "run": with_new_options(old.run, new.run)}
    )


def same_threads(path: Path, old: Asked, new: Asked) -> int:
    """Return the threads of both, of which one may be automatic. Raises InputError if they differ."""
    if 0 not in (old.threads, new.threads) and old.threads != new.threads:
        raise InputError(
            f"--threads is {old.threads} in {path} and {new.threads} here, and the rounding of results depends on it: "
            "leave it out or use another --out"
        )
    return new.threads or old.threads


def with_new_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the old runs, with the options of parts that a new method adds."""
    if OPTIONS not in new:
        return dict(old)
    return {**old, OPTIONS: {**old.get(OPTIONS, {}), **new[OPTIONS]}}


def of_its_parts(old: Asked, new: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of the runs of both studies, without options of parts that no old search has."""
    known = {part for name in with_all_parts(old.methods, old.run) for part in method_and_parts(name)[1]}

    def kept(run: Mapping[str, Any]) -> dict[str, Any]:
        return {**run, OPTIONS: {part: values for part, values in run.get(OPTIONS, {}).items() if part in known}}

    return kept(old.run), kept(new.run)


def require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, whole: bool) -> None:
    """Raise InputError with both values of each setting that differs.

    Args:
        whole: If True, an omitted setting stands for its default, instead of the value in the study.
    """
    ours, theirs = dict(_flat(new)), dict(_flat(old))
    defaults = dict(_flat(Config().to_toml())) | {"data.resize": AUTO_RESIZE}
    differing = {}
    for key in dict.fromkeys((*theirs, *ours) if whole else ours):
        a, b = theirs.get(key, defaults.get(key)), ours.get(key, defaults.get(key))
        if a != b:
            differing[key] = (_text(a), _text(b))
    if not differing:
        return
    said = dict.fromkeys(
        f"{_name(key, differing)} is {before} in {path} and {here} here" for key, (before, here) in differing.items()
    )
    it = "it" if len(said) == 1 else "them"
    if ours.keys() >= differing.keys():
        remedy = f"leave {it} out" if not whole else f"set {it} to the same value as there"
    else:
        remedy = f"add to it with --resume {path}, which keeps its settings,"
    raise InputError(f"{'; '.join(said)}: {remedy} or use another --out")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(key: str, differing: Mapping[str, tuple[str, str]]) -> str:
    """Return the name of a setting in messages: the common option of search and training only if both differ alike."""
    section, _, name = key.rpartition(".")
    other = f"{_BOTH[section == _BOTH[0]]}.{name}"
    if section in _BOTH and flag_of(key) == flag_of(other) and differing.get(other) != differing[key]:
        return key
    return flag_of(key)


def _text(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return str(value) or "empty"

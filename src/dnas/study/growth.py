"""What a study is asked to compare, and one that has begun: what may be added to it, and what must stay as it was.

Methods, mappings, architectures and seeds are added. The settings of its runs stay, or its rows could not be compared.
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
    """What a study and a ranking have in common."""

    @property
    def methods(self) -> list[str]: ...

    @property
    def run(self) -> dict[str, Any]: ...

    @property
    def threads(self) -> int: ...


# Sections of a run whose settings may have one option for both.
_BOTH = ("search", "train")


def called(given: Mapping[str, Any]) -> dict[str, str]:
    """What the user typed for each setting of a study, as `errors.calling` takes it.

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
    """Return what a study compares, from options.

    Args:
        path: The study's folder.
        given: Flat options of its runs; None where one is not given.
        lists: By `LISTS`; a + before a name says that it is added to a study.
        counts: By `COUNTS`; None where one is not given.
        adds: Whether all of this is added to the study that is there, which keeps its settings.

    Raises:
        InputError: An option that cannot work.
    """
    names = added_to(path, lists)
    run = nested("run", given, parts_beside(names["methods"]))
    del run["command"]
    if adds and given["device"] is None and given["config"] is None:
        del run["device"]  # found out, and not given
    chosen = {name: count for name, count in counts.items() if count is not None}
    settings = checked(StudySettings, {**names, **chosen, "threads": threads, "run": run})
    return grown(path, settings) if adds else settings


def added_to(path: Path, texts: Mapping[str, Sequence[str]], file: str = STUDY_FILE) -> dict[str, list[str]]:
    """Names without the + that says that they are added to a study. Raises InputError where there is none in `path`.

    Args:
        file: What a study has, or a ranking.
    """
    kind = file.partition(".")[0]
    for key, names in texts.items():
        for name in () if (path / file).is_file() else names:
            if name.startswith("+"):
                raise InputError(
                    f"--{key} {name} adds to a {kind}, and {path} is none; give --resume {kind.upper()}, or omit the +"
                )
    return {key: [name.removeprefix("+") for name in names] for key, names in texts.items()}


def with_those_of(path: Path, settings: Compared, file: str, joined: Callable[[Path, Compared], Compared]) -> Compared:
    """These settings, joined with those that a folder has in `file`, if it has any.

    Raises:
        InputError: As `joined`; or the folder has something else.
    """
    if (path / file).is_file():
        return joined(path, settings)
    if path.exists() and any(entry.name != LOCK_FILE for entry in path.iterdir()):
        raise InputError(f"--out {path} exists and is no {file.partition('.')[0]}; choose another folder")
    return settings


def write_begun(path: Path, settings: Compared, file: str, joined: Callable[[Path, Compared], Compared]) -> Compared:
    """Write what is compared to `file`, and return it: with what another process has begun or added there since."""
    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / LOCK_FILE):
        settings = joined(path, settings)
        write_atomically(path / file, tomli_w.dumps(settings.model_dump()).encode())
    return settings


def grown(path: Path, added: StudySettings) -> StudySettings:
    """Return what a study compares with what is added to it.

    Args:
        path: The study's folder.
        added: What is given besides, and nothing else: names, counts, and settings of runs that repeat the study's.

    Raises:
        InputError: There is no study, or something given is not as in the study.
    """
    old = read_study(path)
    for name, option in COUNTS.items():
        ours, theirs = getattr(added, name), getattr(old, name)
        if name in added.model_fields_set and ours < theirs:
            raise InputError(f"{option} is {theirs} in {path} and {ours} here: a study only grows; leave it out")
    require_same(path, *of_its_parts(old, added), whole=False)
    return _extended(path, old, added)


def joined(path: Path, settings: StudySettings) -> StudySettings:
    """Return these settings, which are all of a study's, with what its folder has besides.

    Raises:
        InputError: A setting of the runs differs.
    """
    old = read_study(path)
    require_same(path, *of_its_parts(old, settings), whole=True)
    return _extended(path, old, settings)


def _extended(path: Path, old: StudySettings, new: StudySettings) -> StudySettings:
    update: dict[str, Any] = {name: list(dict.fromkeys([*getattr(old, name), *getattr(new, name)])) for name in LISTS}
    if new.mappings and not old.mappings and old.methods:
        # No mappings are each method's own, which stay beside those that are added.
        update["mappings"] = list(dict.fromkeys([DEFAULT_MAPPING, *new.mappings]))
    update |= {name: max(getattr(old, name), getattr(new, name)) for name in COUNTS if name in new.model_fields_set}
    return old.model_copy(
        update=update | {"threads": same_threads(path, old, new), "run": with_new_options(old.run, new.run)}
    )


def same_threads(path: Path, old: Asked, new: Asked) -> int:
    """The threads of both, of which one may leave them open. Raises InputError where they differ."""
    if 0 not in (old.threads, new.threads) and old.threads != new.threads:
        raise InputError(
            f"--threads is {old.threads} in {path} and {new.threads} here, and the last bits of runs depend on it: "
            "leave it out or take another --out"
        )
    return new.threads or old.threads


def with_new_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the old runs, with the options of parts that come with a new method."""
    if OPTIONS not in new:
        return dict(old)
    return {**old, OPTIONS: {**old.get(OPTIONS, {}), **new[OPTIONS]}}


def of_its_parts(old: Asked, new: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of both studies' runs, without options of parts that no search of the old one has."""
    known = {part for name in with_all_parts(old.methods, old.run) for part in method_and_parts(name)[1]}

    def kept(run: Mapping[str, Any]) -> dict[str, Any]:
        return {**run, OPTIONS: {part: values for part, values in run.get(OPTIONS, {}).items() if part in known}}

    return kept(old.run), kept(new.run)


def require_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, whole: bool) -> None:
    """Raises InputError, naming each setting that differs with both values.

    Args:
        whole: Whether a setting that is not given stands for its default, and not for that of the study.
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
        remedy = f"leave {it} out" if not whole else f"give {it} as there"
    else:
        remedy = f"add to it by --resume {path}, which keeps its settings,"
    raise InputError(f"{'; '.join(said)}: {remedy} or take another --out")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _name(key: str, differing: Mapping[str, tuple[str, str]]) -> str:
    """What a message calls a setting: the option for a search and a training only where both differ alike."""
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

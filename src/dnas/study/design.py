"""The design of a study, the place of its results, and its format."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from dnas.disk import read_json, read_toml
from dnas.errors import InputError, SettingError, calling
from dnas.methods.registry import get_method
from dnas.network.handmade import HANDMADE
from dnas.options import flag, flag_of
from dnas.parts.registry import OPTIONS, SETTING
from dnas.pipeline.config import train_settings
from dnas.pipeline.overrides import in_file
from dnas.pipeline.presets import DEFAULT_PRESET, QUICK_LAYERS
from dnas.runtime.names import RESULT_FILE
from dnas.settings import ARCHITECTURE_SETTINGS, WIDTH_SETTINGS, Settings
from dnas.space.protocol import PAPER_LAYERS
from dnas.study.names import (
    DEFAULT_MAPPING,
    REFERENCES,
    RUNS,
    SEARCHED,
    SEEDS,
    STUDY_FILE,
    STUDY_FORMAT,
    Kind,
    StudyFormat,
)
from dnas.supernet.mapping import SHARED
from dnas.validation import checked

# The distance between training seeds after the first, so that no two searches share one.
TRAINING_STRIDE = 1_000_000
# Settings of a run that do not apply to a training.
OF_SEARCHES = ("search", "options", "space", "limits", SETTING, OPTIONS)


class StudySettings(Settings):
    """The methods, mappings, architectures and seeds that a study compares.

    Attributes:
        run: Settings of all runs, nested as in the config.toml of a run.
    """

    format: StudyFormat = STUDY_FORMAT
    methods: list[str] = Field(
        default_factory=list,
        description="methods to search with, each under the mappings that it supports; METHOD+PART+… for its own parts",
    )
    mappings: list[str] = Field(
        default_factory=list, description="mappings; if empty, or for default: that of each method"
    )
    architectures: list[str] = Field(
        default_factory=list, description="published architectures and reference networks, trained by the same trainer"
    )
    seeds: int = Field(SEEDS, ge=1, le=1000, description="searches per method, with the seeds 0, 1, …")
    training_seeds: int = Field(1, ge=1, le=1000, description="trainings per network")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads per run; 0: those of the machine, shared; on a cluster 1"
    )
    run: dict[str, Any] = Field(default_factory=dict)

    def searches(self) -> Iterator[tuple[str, str]]:
        """Yield pairs of a method, with all its parts, and a mapping, in order."""
        for name in with_all_parts(self.methods, self.run):
            method = get_method(method_and_parts(name)[0])
            chosen = (method.default_mapping if m == DEFAULT_MAPPING else m for m in self.mappings or [DEFAULT_MAPPING])
            yield from ((name, mapping) for mapping in dict.fromkeys(chosen) if mapping in method.mappings)

    def command(self) -> str:
        """Return the command line of this study, which omits --out if it is the default."""
        words = ["dnas", "compare"]
        lists = {"methods": self.methods, "mappings": self.mappings, "architectures": self.architectures}
        counts = {"seeds": self.seeds, "training-seeds": self.training_seeds}
        if self.threads:
            counts["threads"] = self.threads
        flags = {name: ",".join(values) for name, values in lists.items() if values} | counts
        for section, values in self.run.items():
            if section in ("data", "limits"):
                flags |= {flag_of(f"{section}.{name}").removeprefix("--"): value for name, value in values.items()}
            elif isinstance(values, list):
                flags |= {section: ",".join(values)} if values else {}
            elif not isinstance(values, dict):
                flags[section] = values
        for name, value in flags.items():
            if value is not False:
                words += [flag(name), *([] if value is True else [str(value)])]
        for part, values in self.run.get("with_options", {}).items():
            words += [word for name, value in values.items() for word in ("-o", f"{part}.{name}={value}")]
        for section in ("search", "options", "train"):
            for name, value in self.run.get(section, {}).items():
                words += ["-o", f"{name if section == 'options' else f'{section}.{name}'}={value}"]
        return shlex.join(words)


def method_and_parts(name: str) -> tuple[str, list[str]]:
    """Split a name such as "dnas+oles" into the names of a method and of its parts."""
    method, *with_parts = name.split("+")
    return method, with_parts


def parts_beside(methods: Sequence[str]) -> list[str]:
    """Return the parts that methods have of their own."""
    return [part for name in methods for part in method_and_parts(name)[1]]


def with_all_parts(methods: Sequence[str], run: Mapping[str, Any]) -> list[str]:
    """Return methods with the parts of all runs, followed by their own: METHOD+PART+…"""
    each = (method_and_parts(name) for name in methods)
    return ["+".join((method, *run.get(SETTING, ()), *own)) for method, own in each]


def of_search(name: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a search by METHOD+PART+… from those of all runs, without the options of other parts."""
    method, with_parts = method_and_parts(name)
    options = {part: values for part, values in run.get(OPTIONS, {}).items() if part in with_parts}
    return {"method": method, SETTING: with_parts, OPTIONS: options}


def require_parts_of_options(methods: Sequence[str], run: Mapping[str, Any]) -> None:
    """Raise InputError for options of a part that no search has."""
    taken = {part for name in with_all_parts(methods, run) for part in method_and_parts(name)[1]}
    for part in run.get(OPTIONS, {}):
        if part not in taken:
            remedy = f"--with {part}, or METHOD+{part} among --methods"
            raise SettingError(f"{OPTIONS}.{part}", f"--option {part}.…", f" only applies to {remedy}")


@dataclass(frozen=True)
class Network:
    """One network of a study; each of its trainings is a run.

    Attributes:
        kind: "searched", its controls "random" and "shuffled", or a reference, "published" or "handmade".
        method, mapping: Those of its search, or of the search that it controls, with "dnas+oles" for a method with a
            part; for a reference, its name and "".
        seed: The seed of that search, or of the training of a reference.
    """

    kind: Kind
    method: str
    mapping: str
    seed: int

    def run(self, training: int = 0) -> str:
        """Return the name of the run folder of a training; the first one of a searched network includes its search."""
        stem = "-".join(part for part in (self.method, self.mapping, f"s{self.seed}") if part)
        control = "" if self.kind in (SEARCHED, *REFERENCES) else f"-{self.kind}"
        return f"{stem}{control}" + (f"-t{training}" if training else "")


def networks(settings: StudySettings) -> list[Network]:
    """Return all networks of a study. Searched ones are ordered by seed, so that an interrupted study is balanced."""
    found = [
        Network(SEARCHED, method, mapping, seed)
        for seed in range(settings.seeds)
        for method, mapping in settings.searches()
    ]
    controls = [replace(network, kind="random") for network in found]
    controls += [replace(network, kind="shuffled") for network in found if network.mapping != SHARED]
    references = [
        Network("handmade" if name in HANDMADE else "published", name, "", seed)
        for name in settings.architectures
        for seed in range(settings.seeds)
    ]
    return found + controls + references


def depth_of(run: Mapping[str, Any]) -> int:
    """Return the number of layers of trained networks by these settings, to which published genotypes are stacked."""
    given = [run.get(section, {}).get("layers", 0) for section in ("train", "search")]
    quick = run.get("preset", DEFAULT_PRESET) == "quick"
    return next(filter(None, given), QUICK_LAYERS if quick else PAPER_LAYERS)


def read_study(path: Path) -> StudySettings:
    """Return the settings of a study. Raises InputError if the folder does not contain one."""
    if not (path / STUDY_FILE).is_file():
        raise InputError(f"{path} is not a study, since it has no {STUDY_FILE}; give the folder of `dnas compare`")
    values = read_toml(path / STUDY_FILE)
    with calling(in_file(values, path / STUDY_FILE)):
        return checked(StudySettings, values)


def settings_names(settings: StudySettings) -> Iterator[tuple[Network, int, str]]:
    """Yield each network of a study with its training seed and the name of its run."""
    for training in range(settings.training_seeds):
        for network in networks(settings):
            yield network, training, network.run(training)


def run_overrides(settings: StudySettings, network: Network, training: int) -> dict[str, Any]:
    """Return the settings of one run of a study."""
    given = {"finals": 0, **settings.run, "baseline": False, "seed": network.seed + TRAINING_STRIDE * training}
    handmade = network.method if network.kind == "handmade" else ""
    if "train" in given:
        # The width and depth of a search do not apply to a reference network, nor its width to architectures.
        lost = {*ARCHITECTURE_SETTINGS, *WIDTH_SETTINGS} - train_settings(handmade).model_fields.keys()
        given["train"] = {name: value for name, value in given["train"].items() if name not in lost}
    if network.kind == SEARCHED and training == 0:
        return {**given, "command": "run", **of_search(network.method, given), "mapping": network.mapping}
    given = {key: value for key, value in given.items() if key not in (*OF_SEARCHES, "finals")}
    given |= {"command": "train", "architecture": network.run()}
    if handmade:
        given |= {"architecture": handmade, "handmade": handmade}
    return given


def results(path: Path) -> Mapping[str, dict[str, Any]]:
    """Return the content of each existing result.json, by the name of the run."""
    found = sorted((path / RUNS).glob(f"*/{RESULT_FILE}"))
    return {file.parent.name: read_json(file) for file in found}

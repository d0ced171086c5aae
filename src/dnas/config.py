"""Every setting once: what it means, its default, and what the presets make of it.

Order of precedence: preset < method's paper < configuration file < command line. What is in force is
written to `config.toml`, which `--config` reads back.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError

from dnas import ranks
from dnas.data import DataInfo, Memory
from dnas.errors import InputError
from dnas.handmade import PACKAGE, get_handmade
from dnas.methods import Method, SupernetMethod, create, get_method
from dnas.plan import check_channels
from dnas.settings import (
    ARCHITECTURE_SETTINGS,
    GradientSettings,
    NetworkTrainSettings,
    SearchSettings,
    Settings,
    SupernetSettings,
    TrainSettings,
    TrialSettings,
)
from dnas.space import get_space, reduction_layers
from dnas.supernet import check_width

CIFAR10_IMAGES = 50_000


class DataSettings(Settings):
    """Where the images come from, and what was found there."""

    source: str = Field("digits", description="a named data set or a folder")
    data_dir: str = Field("", description="where named data sets lie")
    image_size: int = Field(0, ge=0, le=4096, description="pixels of a side; 0: from the data")
    memory: Memory = Field(
        "auto", description="whole: hold all images; stream: decode a batch at a time; auto: stream what is too large"
    )
    workers: int = Field(
        0, ge=0, le=1024, description="processes that decode what is streamed; 0: as many as torch has threads"
    )
    train_images: int = Field(0, ge=0)
    fingerprint: str = ""


class Config(Settings):
    """A whole run."""

    format: Literal["dnas-run/1"] = "dnas-run/1"
    command: Literal["run", "search", "train"] = "run"
    preset: Literal["quick", "shared", "paper"] = "quick"
    method: str = "dnas"
    mapping: str = ""
    space: str = "darts"
    architecture: str = Field("", description="what `train` was given")
    handmade: str = Field("", description="the hand-made network that `train` trains in place of an architecture")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Literal["cpu", "cuda"] = "cpu"
    deterministic: bool = False
    backend: Literal["auto", "native", "torch"] = "auto"
    baseline: bool = Field(True, description="also train a random architecture of the same size")
    data: DataSettings = DataSettings()
    search: SerializeAsAny[SearchSettings] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: SerializeAsAny[NetworkTrainSettings] | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    def to_toml(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


# --- presets -------------------------------------------------------------------------------------------

# Tiny-ImageNet as NASP trains it, which is where the paper's table 3 compares (rotation and flip, no crop).
PAPER_TRAIN: dict[str, dict[str, Any]] = {
    "tiny-imagenet": {
        "channels": 48,
        "epochs": 250,
        "learning_rate": 0.1,
        "schedule": "exponential",
        "weight_decay": 3e-5,
        "label_smoothing": 0.1,
        "drop_path": 0.0,
        "cutout": 0,
        "pad": 0,
        "rotation": 20.0,
        "stem": "tiny-imagenet",
    },
}

# The depth of networks for CIFAR since NASNet.
PAPER_LAYERS = 20

# A search sees this many images in all, and a training: minutes on two cores, whatever the data set.
QUICK_LAYERS = 6
QUICK_SEARCH_IMAGES = 2_048
QUICK_SEARCH_EPOCHS = 10
QUICK_TRIALS = 16
QUICK_TRIAL_EPOCHS = 3
QUICK_TRAIN_IMAGES_IN_ALL = 36_000
QUICK_TRAIN_IMAGES = 12_000


def paper_travel(method: Method) -> float:
    """How far Adam can carry an architecture parameter in the method's own search on CIFAR-10.

    Steps after the warm-up × their learning rate: 35 · 391 · 3e-4 = 4.1 for DNAS, 2.1 for PC-DARTS. A short
    search that keeps the learning rate instead would end at its initial noise.
    """
    if not issubclass(method.Settings, GradientSettings):
        return 0.0
    settings = method.Settings(**method.paper_settings("cifar10").get("search", {}))
    settings = settings.resolved(CIFAR10_IMAGES, 0.0, 32)
    return settings.architecture_steps * settings.architecture_learning_rate


def preset_settings(preset: str, method: Method, info: DataInfo, count: int) -> dict[str, dict[str, Any]]:
    """What a preset sets for a data set with `count` training images: {"search": …, "train": …}.

    "paper" is each method's own, "shared" the same for all: DARTS' defaults at the depth of the trained network.
    """
    paper = {"search": {"layers": PAPER_LAYERS}} if preset == "shared" else method.paper_settings(info.source)
    search = dict(paper.get("search", {}))
    train = paper.get("train", {}) | PAPER_TRAIN.get(info.source, {})
    if "stem" not in train and info.image_size >= 128:
        train["stem"] = "imagenet"
    if preset != "quick":
        return {"search": search, "train": train}
    images = min(count, QUICK_TRAIN_IMAGES)
    search |= {
        "layers": QUICK_LAYERS,
        "channels": 8,
        "epochs": QUICK_SEARCH_EPOCHS,
        "batch_size": 64,
        "images": min(count, QUICK_SEARCH_IMAGES),
        "learning_rate": 0.1,
        "learning_rate_min": 0.001,
    }
    if issubclass(method.Settings, GradientSettings):
        search |= {"architecture_learning_rate": 0.0}
    if issubclass(method.Settings, TrialSettings):
        search |= {"trials": QUICK_TRIALS, "epochs": QUICK_TRIAL_EPOCHS}
    search |= method.quick.get("search", {})
    train |= {
        "layers": 0,
        "channels": 16,
        "epochs": max(2, round(QUICK_TRAIN_IMAGES_IN_ALL / images)),
        "batch_size": 96,
        "images": images,
        "learning_rate": 0.1,
        "schedule": "cosine",
        "weight_decay": 3e-4,
        "drop_path": 0.1,
    }
    return {"search": search, "train": train}


def resolve(
    overrides: Mapping[str, Any], info: DataInfo, count: int, fingerprint: str, memory: Memory = "whole"
) -> tuple[Config, Method]:
    """The configuration in force, and its method.

    Args:
        overrides: Nested values of the configuration file and command line, e.g. {"search": {"layers": 8}}.
        info, count, fingerprint, memory: Of the training split.

    Raises:
        InputError: A value or combination that cannot work, with its name.
    """
    chosen = dict(overrides)
    draft = parse({**chosen, "search": None, "train": None})
    quick = get_method(draft.method).quick.get("options", {}) if draft.preset == "quick" else {}
    method = create(draft.method, draft.mapping or None, {**quick, **draft.options}, get_space(draft.space))
    base = preset_settings(draft.preset, method, info, count)
    if draft.handmade:
        base["train"] = {key: value for key, value in base["train"].items() if key not in ARCHITECTURE_SETTINGS}
    if ranks.count() > 1:
        base["train"]["parts"] = ranks.count()
        if isinstance(method, SupernetMethod):
            base["search"]["parts"] = ranks.count()
        elif draft.command != "train":
            raise InputError(
                f"--method {method.name} trains candidates one by one, which ranks do not share; start it without "
                "torchrun, and give -o search.processes"
            )
    config = parse(
        {
            **chosen,
            "mapping": method.mapping_name,
            "options": method.options.model_dump(exclude_none=True),
            "data": {
                **chosen.get("data", {}),
                "image_size": info.image_size,
                "memory": memory,
                "train_images": count,
                "fingerprint": fingerprint,
            },
            "search": {**base["search"], **chosen.get("search", {})},
            "train": {**base["train"], **chosen.get("train", {})},
            "environment": environment(draft.handmade),
        }
    )
    assert config.search is not None and config.train is not None
    updates: dict[str, Any] = {"search": None, "train": None}
    if config.command == "search":
        updates["baseline"] = False
    if config.command != "train":
        search = config.search
        if isinstance(method, SupernetMethod):
            check_width(search.channels, method.options.partial_channels)
        else:
            check_channels(search.channels)
        # On a GPU trials would share its memory, and one fills it.
        threads = int(config.environment["threads"]) if config.device == "cpu" else 1
        updates["search"] = search.resolved(count, paper_travel(method), info.image_size, threads)
        if isinstance(search, SupernetSettings):
            ranks.check_parts(search.parts, "search")
    else:
        updates |= {"method": "", "mapping": "", "options": {}}
    if config.command != "search":
        train = config.train
        if isinstance(train, TrainSettings):
            per_layer = config.command == "run" and method.mapping_name != "shared"
            if per_layer and train.layers not in (0, config.search.layers):
                raise InputError(
                    f"--train-layers {train.layers} differs from the searched {config.search.layers}: with "
                    f"--mapping {method.mapping_name} every layer has its own gene, so both are the same depth"
                )
            if train.layers:
                reduction_layers(train.layers)
            check_channels(train.channels)
        updates["train"] = train.resolved(count, info.image_size)
        ranks.check_parts(train.parts, "train")
    return config.model_copy(update=updates), method


def parse(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping. Raises InputError naming the first key, its value and what is wrong."""
    values = dict(values)
    name = values.get("method", Config.model_fields["method"].default)
    if isinstance(values.get("search"), Mapping) and isinstance(name, str) and name:
        values["search"] = checked(get_method(name).Settings, values["search"], "search", f" of method {name}")
    handmade = values.get("handmade", "")
    if isinstance(handmade, str) and handmade:
        _check_handmade(handmade, values)
    if isinstance(values.get("train"), Mapping):
        values["train"] = checked(NetworkTrainSettings if handmade else TrainSettings, values["train"], "train")
    return checked(Config, values)


def _check_handmade(name: str, values: Mapping[str, Any]) -> None:
    """Raises InputError for a name that is not known, and for what only an architecture has use for."""
    get_handmade(name)
    command = values.get("command", Config.model_fields["command"].default)
    if command != "train":
        raise InputError(f"handmade is {name!r}, which `dnas {command}` has no use for; use `dnas train {name}`")
    if values.get("baseline"):
        raise InputError(f"--baseline has no use with {name}: a random network of the same size is a search's control")
    useless = [key for key in values.get("train") or () if key in ARCHITECTURE_SETTINGS]
    if useless:
        raise InputError(f"{_flag(f'train.{useless[0]}')} has no use with {name}, whose shape is its own; leave it out")


_Checked = TypeVar("_Checked", bound=BaseModel)


def checked(cls: type[_Checked], values: Mapping[str, Any], section: str = "", whose: str = "") -> _Checked:
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in ((section, *first["loc"]) if section else first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown setting {key}{whose}; see `dnas methods` and docs/settings.md") from None
        value = repr(first["input"])
        shown = value if len(value) <= 60 else value[:57] + "…"
        raise InputError(f"{_flag(key)} is {shown}: {first['msg']}") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """A configuration file as nested values. What a run found (environment, fingerprint) is left out.

    Raises InputError naming the file.
    """
    from dnas.runfolder import read_toml

    values = read_toml(Path(path))
    for section in ("data", "search", "options", "train"):
        if not isinstance(values.get(section, {}), dict):
            raise InputError(f"{section} in {path} is a value; it is a table: [{section}]")
    values.pop("environment", None)
    for found in ("fingerprint", "train_images"):
        values.get("data", {}).pop(found, None)
    return values


def environment(handmade: str = "") -> dict[str, Any]:
    """What a result depends on besides its settings; a hand-made network on the package that has it, too."""
    import torch

    from dnas.kernels import native

    return {
        "dnas": version("dnas"),
        "torch": torch.__version__,
        **({PACKAGE: version(PACKAGE)} if handmade else {}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        **({"ranks": ranks.count()} if ranks.count() > 1 else {}),
        "kernels": "native" if native.available() else "torch",
    }


# Settings of a search or a training that have an option of their own on the command line.
_FLAGS = {name: f"--{name.replace('_', '-')}" for name in ("layers", "channels", "epochs", "batch_size", "flip")}


def _flag(key: str) -> str:
    """What the command line calls a setting: search.batch_size → --batch-size, search.pad → --option search.pad."""
    section, _, name = key.rpartition(".")
    if section == "":
        return f"--{name.replace('_', '-')}"
    if section == "options":
        return f"--option {name}"
    if key in ("search.seconds", "search.steps"):
        return f"--search-{name}"
    if key in ("data.memory", "data.workers"):
        return f"--data-{name}"
    if section in ("search", "train"):
        return _FLAGS.get(name, f"--option {key}")
    return key

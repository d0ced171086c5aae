"""Every setting once: what it means, its default, and what the presets make of it.

Order of precedence: defaults < method's paper < quick preset < configuration file < command line; under the preset
`shared` no method has settings of its own. What is in force is written to `config.toml`, which `--config` reads back.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, SerializeAsAny

from dnas import ranks
from dnas.data import DataInfo, Memory
from dnas.errors import InputError, SettingError
from dnas.handmade import PACKAGE, get_handmade
from dnas.methods import Method, SupernetMethod, create, get_method
from dnas.options import flag_of
from dnas.pictures import SMALLEST_IMAGE
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
from dnas.space import get_space
from dnas.supernet import check_width
from dnas.validation import checked

CIFAR10_IMAGES = 50_000


def _size(pixels: int) -> int:
    if pixels != 0 and pixels < SMALLEST_IMAGE:
        raise ValueError(f"must be at least {SMALLEST_IMAGE}, got {pixels}")
    return pixels


class DataSettings(Settings):
    """Where the images come from, and what was found there."""

    source: str = Field("digits", description="name of a data set, or a folder of images")
    data_dir: str = Field("", description="folder of the named data sets; empty: $DNAS_DATA_DIR, else ~/.cache/dnas")
    image_size: Annotated[int, AfterValidator(_size)] = Field(
        0,
        le=4096,
        description=f"pixels of a side, at least {SMALLEST_IMAGE}; 0: from the data, for which --image-size is left "
        "out",
    )
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
    preset: Literal["quick", "shared", "paper"] = Field(
        "quick",
        description="quick: minutes on two cores; paper: the settings of the method's paper; shared: DARTS' for every "
        "method",
    )
    method: str = Field("dnas", description="how to search: a name that `dnas methods` lists")
    mapping: str = Field(
        "", description="how parameters describe the layers: shared, full or decoupled; empty: the method's own"
    )
    space: str = Field("darts", description="what is searched in: darts, s1, s2, s3 or s4")
    architecture: str = Field("", description="what `train` was given")
    handmade: str = Field("", description="the hand-made network that `train` trains in place of an architecture")
    seed: int = Field(0, ge=0, lt=2**63, description="decides every random draw")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="cpu or cuda; --device auto, the default, takes cuda where torch has it"
    )
    deterministic: bool = Field(False, description="bit-for-bit equal results on a GPU too, which costs speed")
    backend: Literal["auto", "native", "torch"] = Field(
        "auto",
        description="native: compiled kernels on the CPU; torch: without; auto: native where there is a C compiler",
    )
    baseline: bool = Field(True, description="also train a random architecture of the same size")
    data: DataSettings = DataSettings()
    search: SerializeAsAny[SearchSettings] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: SerializeAsAny[NetworkTrainSettings] | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    def to_toml(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


def sections(method: type[Method]) -> dict[str, type[BaseModel]]:
    """The tables of a configuration file and what they can hold, with this method; "" is its top."""
    return {
        "": Config,
        "search": method.Settings,
        "options": method.Options,
        "train": TrainSettings,
        "data": DataSettings,
    }


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


def draft(overrides: Mapping[str, Any]) -> tuple[Config, Method]:
    """Check the settings of a run as far as no image is needed, and return them before automatic values are resolved.

    Raises:
        InputError: A value, a name or a combination that cannot work, whatever the images are.
    """
    data = parse({**overrides, "search": None, "train": None}).data
    # A stand-in: what the presets make of the number and the size of images is in order for any.
    info = DataInfo(data.source, (), 3, data.image_size or 32, (), (), flip=False)
    config, method = _composed(overrides, info, CIFAR10_IMAGES)
    if data.workers and data.memory == "whole":
        raise InputError(
            f"--data-workers {data.workers} only applies to streamed images, not to --data-memory whole; remove one"
        )
    if config.command != "train":
        assert config.search is not None
        if isinstance(method, SupernetMethod):
            check_width(config.search.channels, method.options.partial_channels)
        else:
            check_channels(config.search.channels, "search.channels")
        config.search.check()
        if isinstance(config.search, SupernetSettings):
            ranks.check_parts(config.search.parts, "search")
    if config.command != "search":
        train = config.train
        assert train is not None
        if isinstance(train, TrainSettings):
            if config.command == "run" and method.mapping_name != "shared":
                assert config.search is not None
                if train.layers not in (0, config.search.layers):
                    raise SettingError(
                        "train.layers",
                        "--train-layers",
                        f" {train.layers} does not match the searched depth of {config.search.layers}; another depth "
                        "requires --mapping shared",
                    )
            check_channels(train.channels, "train.channels")
        train.check()
        ranks.check_parts(train.parts, "train")
    return config, method


def _composed(
    overrides: Mapping[str, Any], info: DataInfo, count: int, found: Mapping[str, Any] | None = None
) -> tuple[Config, Method]:
    """The settings with those of preset and method below them, each value checked by itself, and the method.

    Args:
        info, count: Of the training images.
        found: More of the configuration, which is nobody's choice.
    """
    chosen = dict(overrides)
    own = parse({**chosen, "search": None, "train": None})
    quick = get_method(own.method).quick.get("options", {}) if own.preset == "quick" else {}
    method = create(own.method, own.mapping or None, {**quick, **own.options}, get_space(own.space))
    base = preset_settings(own.preset, method, info, count)
    if own.handmade:
        base["train"] = {key: value for key, value in base["train"].items() if key not in ARCHITECTURE_SETTINGS}
    if ranks.count() > 1:
        base["train"]["parts"] = ranks.count()
        if isinstance(method, SupernetMethod):
            base["search"]["parts"] = ranks.count()
        elif own.command != "train":
            raise InputError(
                f"--method {method.name} trains candidates one by one, which ranks do not share; start it without "
                "torchrun, and give -o search.processes"
            )
    config = parse(
        {
            **chosen,
            "mapping": method.mapping_name,
            "options": method.options.model_dump(exclude_none=True),
            "search": {**base["search"], **chosen.get("search", {})},
            "train": {**base["train"], **chosen.get("train", {})},
            **(found or {}),
        }
    )
    return config, method


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
    own, _ = draft(overrides)
    data = {
        **overrides.get("data", {}),
        "image_size": info.image_size,
        "memory": memory,
        "train_images": count,
        "fingerprint": fingerprint,
    }
    found = {"data": data, "environment": environment(own.handmade)}
    config, method = _composed(overrides, info, count, found)
    assert config.search is not None and config.train is not None
    updates: dict[str, Any] = {"search": None, "train": None}
    if config.command == "search":
        updates["baseline"] = False
    if config.command != "train":
        # On a GPU trials would share its memory, and one fills it.
        threads = int(config.environment["threads"]) if config.device == "cpu" else 1
        updates["search"] = config.search.resolved(count, paper_travel(method), info.image_size, threads)
    else:
        updates |= {"method": "", "mapping": "", "options": {}}
    if config.command != "search":
        updates["train"] = config.train.resolved(count, info.image_size)
    return config.model_copy(update=updates), method


def parse(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping. Raises InputError naming the first key, its value and what is wrong."""
    values = dict(values)
    name = values.get("method", Config.model_fields["method"].default)
    if isinstance(values.get("search"), Mapping) and isinstance(name, str) and name:
        own = get_method(name).Settings
        values["search"] = checked(own, values["search"], "search", f" of method {name}", f"`dnas methods {name}`")
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
        key = f"train.{useless[0]}"
        raise SettingError(key, flag_of(key), f" has no use with {name}, whose shape is its own; leave it out")


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
        "processor": _processor(),
        "processors": os.cpu_count() or 1,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "threads": torch.get_num_threads(),
        **({"ranks": ranks.count()} if ranks.count() > 1 else {}),
        "kernels": "native" if native.available() else "torch",
    }


@cache
def _processor() -> str:
    """The processor's name; on Linux `platform.processor` often has none."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        if name := re.search(r"^model name\s*:\s*(\S.*)$", text, re.M):
            return " ".join(name[1].split())
    return platform.processor() or platform.machine()

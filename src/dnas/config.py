"""Every setting once: what it means, its default, and what the presets make of it.

Order of precedence: preset < method's paper < configuration file < command line. What is in force is
written to `config.toml`, which `--config` reads back.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnas.data import DataInfo
from dnas.errors import InputError
from dnas.methods import GradientMethod, create
from dnas.plan import check_channels
from dnas.space import DARTS, reduction_layers
from dnas.supernet import check_width

CIFAR10_IMAGES = 50_000


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class SearchSettings(Settings):
    """The search. Defaults are those of DARTS on CIFAR-10 (Liu et al. 2019, A.1)."""

    layers: int = Field(8, ge=3, le=1000, description="depth L of the supernet")
    channels: int = Field(16, ge=2, description="width C of its first cells")
    epochs: int = Field(50, ge=1, description="passes over the training half")
    warmup_epochs: int = Field(-1, ge=-1, description="A14: epochs in which only weights move; -1: 30 % of the epochs")
    batch_size: int = Field(64, ge=2, description="images of a step")
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    learning_rate: float = Field(0.025, gt=0, description="A15: of the weights' SGD, at the start")
    learning_rate_min: float = Field(0.001, ge=0, description="A15: at the end of the cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the weights' SGD")
    weight_decay: float = Field(3e-4, ge=0, description="of all weights")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    architecture_learning_rate: float = Field(
        3e-4,
        ge=0,
        description="A15: of the architecture parameters' Adam; 0: such that they travel as far as in the paper",
    )
    architecture_beta1: float = Field(0.5, ge=0, lt=1, description="A15: of Adam")
    architecture_beta2: float = Field(0.999, ge=0, lt=1, description="A15: of Adam")
    architecture_weight_decay: float = Field(1e-3, ge=0, description="A17: of the architecture parameters")
    update: Literal["first-order", "second-order", "single-level"] = Field(
        "first-order", description="A13: bilevel with either gradient, or both steps on the same batch"
    )
    pad: int = Field(-1, ge=-1, description="pixels of padding before a random crop; -1: an eighth of the image")
    recompute: bool = Field(
        False, description="compute a layer's operations again in the backward pass: less memory, more time"
    )

    def resolved(self, count: int, travel: float, image_size: int) -> SearchSettings:
        """With every automatic value replaced by its number, for `count` training images."""
        warmup = round(0.3 * self.epochs) if self.warmup_epochs < 0 else self.warmup_epochs
        if warmup >= self.epochs:
            raise InputError(
                f"warmup_epochs is {warmup} of {self.epochs} epochs, so the architecture would never move; lower it"
            )
        images = min(self.images or count, count)
        rate = self.architecture_learning_rate
        settings = self.model_copy(update={"warmup_epochs": warmup, "images": images})
        _check_batches(images if self.update == "single-level" else images // 2, self.batch_size)
        if rate == 0:
            rate = float(f"{travel / settings.architecture_steps:.4g}")
        pad = round(image_size / 8) if self.pad < 0 else self.pad
        return settings.model_copy(update={"architecture_learning_rate": rate, "pad": pad})

    @property
    def steps_per_epoch(self) -> int:
        images = self.images if self.update == "single-level" else round(self.images * 0.5)
        return math.ceil(images / self.batch_size)

    def rate(self, epoch: int) -> float:
        """The weights' learning rate in an epoch: a cosine that starts at its top (Loshchilov & Hutter 2017)."""
        return _cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)

    @property
    def architecture_steps(self) -> int:
        return (self.epochs - self.warmup_epochs) * self.steps_per_epoch


class TrainSettings(Settings):
    """The training of a discrete network. Defaults are those of DARTS on CIFAR-10."""

    layers: int = Field(0, ge=0, le=1000, description="depth, for a shared cell that is stacked anew; 0: as found")
    channels: int = Field(36, ge=2, description="width C of the first cells")
    epochs: int = Field(600, ge=1, description="passes over the training images")
    batch_size: int = Field(96, ge=2, description="images of a step")
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    learning_rate: float = Field(0.025, gt=0, description="of the SGD, at the start")
    learning_rate_min: float = Field(0.0, ge=0, description="at the end of the cosine")
    schedule: Literal["cosine", "exponential"] = Field("cosine", description="of the learning rate")
    decay: float = Field(0.97, gt=0, le=1, description="factor of an epoch, with schedule=exponential")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the weights' SGD")
    weight_decay: float = Field(3e-4, ge=0, description="of all weights")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label that goes to all classes")
    auxiliary_weight: float = Field(0.4, ge=0, description="of the auxiliary head's loss; 0: no head")
    drop_path: float = Field(0.2, ge=0, lt=1, description="probability at the end of a linear ramp")
    cutout: int = Field(-1, ge=-1, description="side of the cut square in pixels; -1: half the image")
    pad: int = Field(-1, ge=-1, description="pixels of padding before a random crop; -1: an eighth of the image")
    rotation: float = Field(0.0, ge=0, le=180, description="largest random rotation, in degrees")
    stem: Literal["cifar", "tiny-imagenet", "imagenet"] = Field(
        "cifar", description="cifar, tiny-imagenet (64 → 32 pixels) or imagenet (224 → 28)"
    )

    def resolved(self, count: int, image_size: int) -> TrainSettings:
        """With every automatic value replaced by its number, for `count` training images."""
        defaults = TrainSettings()
        if self.schedule == "cosine" and self.decay != defaults.decay:
            raise InputError(f"train.decay={self.decay} has no use with train.schedule=cosine; choose exponential")
        if self.schedule == "exponential" and self.learning_rate_min != defaults.learning_rate_min:
            raise InputError(
                f"train.learning_rate_min={self.learning_rate_min} has no use with train.schedule=exponential; "
                "choose cosine"
            )
        images = min(self.images or count, count)
        _check_batches(images, self.batch_size)
        return self.model_copy(
            update={
                "images": images,
                "cutout": image_size // 2 if self.cutout < 0 else self.cutout,
                "pad": round(image_size / 8) if self.pad < 0 else self.pad,
            }
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch."""
        if self.schedule == "exponential":
            return float(self.learning_rate * self.decay**epoch)
        return _cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)


class DataSettings(Settings):
    """Where the images come from, and what was found there."""

    source: str = Field("digits", description="a named data set or a folder")
    data_dir: str = Field("", description="where named data sets lie")
    image_size: int = Field(0, ge=0, le=4096, description="pixels of a side; 0: from the data")
    train_images: int = Field(0, ge=0)
    fingerprint: str = ""


class Config(Settings):
    """A whole run."""

    format: Literal["dnas-run/1"] = "dnas-run/1"
    command: Literal["run", "search", "train"] = "run"
    preset: Literal["quick", "paper"] = "quick"
    method: str = "dnas"
    mapping: str = ""
    architecture: str = Field("", description="what `train` was given")
    seed: int = Field(0, ge=0, lt=2**63)
    device: Literal["cpu", "cuda"] = "cpu"
    deterministic: bool = False
    backend: Literal["auto", "native", "torch"] = "auto"
    baseline: bool = Field(True, description="also train a random architecture of the same size")
    data: DataSettings = DataSettings()
    search: SearchSettings | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    train: TrainSettings | None = None
    environment: dict[str, Any] = Field(default_factory=dict)

    def to_toml(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


def _check_batches(images: int, batch_size: int) -> None:
    """Raises InputError where a batch would have a single image, which has no batch statistics."""
    if images // max(1, math.ceil(images / batch_size)) < 2:
        raise InputError(
            f"--batch-size {batch_size} would leave a batch of one of {images} images; choose another or more images"
        )


def _cosine(top: float, bottom: float, epoch: int, epochs: int) -> float:
    # The last epoch is one step short of the bottom, as with the schedulers of DARTS' time.
    return bottom + (top - bottom) * (1 + math.cos(math.pi * epoch / epochs)) / 2


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

# A search sees this many images in all, and a training: minutes on two cores, whatever the data set.
QUICK_SEARCH_IMAGES = 2_048
QUICK_SEARCH_EPOCHS = 10
QUICK_TRAIN_IMAGES_IN_ALL = 36_000
QUICK_TRAIN_IMAGES = 12_000


def paper_travel(method: GradientMethod) -> float:
    """How far Adam can carry an architecture parameter in the method's own search on CIFAR-10.

    Steps after the warm-up × their learning rate: 35 · 391 · 3e-4 = 4.1 for DNAS, 2.1 for PC-DARTS. A short
    search that keeps the learning rate instead would end at its initial noise.
    """
    settings = SearchSettings(**method.paper_settings("cifar10").get("search", {}))
    settings = settings.resolved(CIFAR10_IMAGES, 0.0, 32)
    return settings.architecture_steps * settings.architecture_learning_rate


def preset_settings(preset: str, method: GradientMethod, info: DataInfo, count: int) -> dict[str, dict[str, Any]]:
    """What a preset sets for a data set with `count` training images: {"search": …, "train": …}."""
    paper = method.paper_settings(info.source)
    search = dict(paper.get("search", {}))
    train = paper.get("train", {}) | PAPER_TRAIN.get(info.source, {})
    if "stem" not in train and info.image_size >= 128:
        train["stem"] = "imagenet"
    if preset == "paper":
        return {"search": search, "train": train}
    images = min(count, QUICK_TRAIN_IMAGES)
    search |= {
        "layers": 6,
        "channels": 8,
        "epochs": QUICK_SEARCH_EPOCHS,
        "batch_size": 64,
        "images": min(count, QUICK_SEARCH_IMAGES),
        "learning_rate": 0.1,
        "learning_rate_min": 0.001,
        "architecture_learning_rate": 0.0,
    }
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
    overrides: Mapping[str, Any], info: DataInfo, count: int, fingerprint: str
) -> tuple[Config, GradientMethod]:
    """The configuration in force, and its method.

    Args:
        overrides: Nested values of the configuration file and command line, e.g. {"search": {"layers": 8}}.
        info, count, fingerprint: Of the training split.

    Raises:
        InputError: A value or combination that cannot work, with its name.
    """
    chosen = dict(overrides)
    draft = parse({**chosen, "search": None, "train": None})
    method = create(draft.method, draft.mapping or None, draft.options, DARTS)
    base = preset_settings(draft.preset, method, info, count)
    config = parse(
        {
            **chosen,
            "mapping": method.mapping_name,
            "options": method.options.model_dump(exclude_none=True),
            "data": {
                **chosen.get("data", {}),
                "image_size": info.image_size,
                "train_images": count,
                "fingerprint": fingerprint,
            },
            "search": {**base["search"], **chosen.get("search", {})},
            "train": {**base["train"], **chosen.get("train", {})},
            "environment": environment(),
        }
    )
    assert config.search is not None and config.train is not None
    updates: dict[str, Any] = {"search": None, "train": None}
    if config.command == "search":
        updates["baseline"] = False
    if config.command != "train":
        search = config.search
        check_width(search.channels, method.options.partial_channels)
        updates["search"] = search.resolved(count, paper_travel(method), info.image_size)
    else:
        updates |= {"method": "", "mapping": "", "options": {}}
    if config.command != "search":
        train = config.train
        if config.command == "run" and train.layers not in (0, config.search.layers):
            if method.mapping_name != "shared":
                raise InputError(
                    f"--train-layers {train.layers} differs from the searched {config.search.layers}: with --mapping "
                    f"{method.mapping_name} every layer has its own gene, so the depth is the searched one"
                )
            reduction_layers(train.layers)
        check_channels(train.channels)
        updates["train"] = train.resolved(count, info.image_size)
    return config.model_copy(update=updates), method


def parse(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping. Raises InputError naming the first key, its value and what is wrong."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InputError(f"unknown setting {key}; see `dnas methods` and docs/settings.md") from None
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


def environment() -> dict[str, Any]:
    """What a result depends on besides its settings."""
    import torch

    from dnas.kernels import native

    return {
        "dnas": version("dnas"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "kernels": "native" if native.available() else "torch",
    }


def _flag(key: str) -> str:
    """The command line's name of a setting that has one: search.batch_size → --batch-size."""
    section, _, name = key.rpartition(".")
    if section == "options":
        return f"--option {name}"
    return f"--{name.replace('_', '-')}" if section in ("search", "train", "") else key

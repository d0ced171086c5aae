"""The options that several commands share, from flat names to the nested settings of `config.py`.

The command line and the Python functions take the same options; this module is where they are listed.
Needs no torch, so that `dnas --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from dnas.errors import InputError


def _whole(kind: Any, tokens: Sequence[Token]) -> int:
    """A text as a whole number: by itself cyclopts would round 0.5 without a word."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


WHOLE = Parameter(converter=_whole)

_DATA = Group("Data", sort_key=1)
_SEARCH = Group("Search", sort_key=2)
_TRAIN = Group("Training", sort_key=3)
_RUN = Group("Run", sort_key=4)
_EXECUTION = Group("Execution", sort_key=5)
_CLUSTER = Group("Cluster", sort_key=6)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    data: Annotated[str | None, Parameter(group=_DATA)] = None
    "digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a folder: class folders of images (with train/ and test/ or without), or IDX files. [default: digits]"
    data_dir: Annotated[str | None, Parameter(group=_DATA)] = None
    "Where named data sets lie. [default: $DNAS_DATA_DIR or ~/.cache/dnas]"
    image_size: Annotated[int | None, WHOLE, Parameter(group=_DATA)] = None
    "Pixels of a side. [default: from the data]"
    data_memory: Annotated[str | None, Parameter(group=_DATA)] = None
    "whole: hold all images. stream: leave pictures in their files and decode a batch at a time. auto: stream what would take more than half of the memory. [default: auto]"
    data_workers: Annotated[int | None, WHOLE, Parameter(group=_DATA)] = None
    "Processes that decode what is streamed. [default: as many as torch has threads]"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    seed: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Of everything that is drawn. [default: 0]"
    preset: Annotated[str | None, Parameter(group=_RUN)] = None
    "quick: minutes on two cores. paper: the settings of the method's paper. shared: DARTS' for every method. [default: quick]"
    config: Annotated[str | None, Parameter(group=_RUN)] = None
    "A TOML file of settings, as config.toml of a run; options given here go before it."
    out: Annotated[str | None, Parameter(group=_RUN)] = None
    "The run folder to make. [default: a new one under runs/]"
    device: Annotated[str | None, Parameter(group=_RUN)] = None
    "auto, cpu or cuda. [default: auto]"
    backend: Annotated[str | None, Parameter(group=_RUN)] = None
    "native: compiled kernels on the CPU. torch: without. auto: native where there is a C compiler. [default: auto]"
    deterministic: Annotated[bool | None, Parameter(group=_RUN, negative="")] = None
    "Bit-equal results on a GPU too, at the cost of speed; on the CPU they always are."
    layers: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Depth of the network, in cells."
    channels: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Width of its first cells."
    epochs: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Passes over the images."
    batch_size: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Images of a step."
    flip: Annotated[str | None, Parameter(group=_RUN)] = None
    "Mirror half of the training images left to right: on, off, or auto, which measures whether that confuses classes. [default: auto]"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    method: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "See `dnas methods`. [default: dnas]"
    mapping: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "shared: one cell pair for all layers. full: a table for every layer. decoupled: the paper's. [default: the method's]"
    space: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "darts, or s1, s2, s3, s4: where differentiable search is known to fail. [default: darts]"
    search_seconds: Annotated[float | None, Parameter(group=_SEARCH)] = None
    "Stop searching after this time. [default: no limit]"
    search_steps: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Stop searching after the cost of so many training steps. [default: no limit]"
    option: Annotated[list[str] | None, Parameter(name=["--option", "-o"], group=_SEARCH, negative="")] = None
    "NAME=VALUE of the method's own options, or of any setting as search.NAME or train.NAME; repeatable."


@dataclass(frozen=True, kw_only=True)
class BothOptions:
    search_channels: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Width of the supernet only."
    search_epochs: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Epochs of the search only."
    train_channels: Annotated[int | None, WHOLE, Parameter(group=_TRAIN)] = None
    "Width of the trained network only."
    train_epochs: Annotated[int | None, WHOLE, Parameter(group=_TRAIN)] = None
    "Epochs of the training only."
    train_layers: Annotated[int | None, WHOLE, Parameter(group=_TRAIN)] = None
    "Depth of the trained network; with --mapping shared it may differ from the searched one."


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Of one execution (see `execution.py`): never part of a configuration, and each resume may give others."""

    checkpoint_every: Annotated[float | None, Parameter(group=_EXECUTION)] = None
    "Seconds between checkpoints; 0: one after every step. [default: 30]"
    time_limit: Annotated[float | None, Parameter(group=_EXECUTION)] = None
    "Seconds after which this command must have stopped: it ends before, with a checkpoint and exit code 75. [default: no limit]"
    tensorboard: Annotated[bool | None, Parameter(group=_EXECUTION, negative="")] = None
    "Also write the scalars of metrics.jsonl to RUN/tensorboard; needs dnas[tensorboard]."


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    ray: Annotated[str | None, Parameter(group=_CLUSTER)] = None
    "Make the runs on a Ray cluster whose nodes all see --out: auto, or HOST:PORT of its head. [default: on this machine]"
    ray_retries: Annotated[int | None, WHOLE, Parameter(group=_CLUSTER)] = None
    "How often a run whose process or node was lost is tried again. [default: 3]"
    ray_timeout: Annotated[float | None, Parameter(group=_CLUSTER)] = None
    "Seconds after which a run counts as hung: its process is ended and it is tried again. [default: never]"


_DATA_SETTINGS = {
    "data": "source",
    "data_dir": "data_dir",
    "image_size": "image_size",
    "data_memory": "memory",
    "data_workers": "workers",
}


def nested(command: Literal["run", "search", "train"], given: dict[str, Any]) -> dict[str, Any]:
    """Flat options (those that are not None) over a configuration file, as nested settings.

    Raises InputError for an option that the command has no use for, or that is malformed.
    """
    from dnas.config import read_settings

    given = {k: v for k, v in given.items() if v is not None}
    settings: dict[str, Any] = read_settings(given.pop("config")) if "config" in given else {}
    if settings.get("command", command) != command:
        # A file of another command still says how to search or to train.
        for key in ("architecture", "handmade", "baseline"):
            settings.pop(key, None)
    if given.get("handmade") and not settings.get("handmade"):
        # So does a file of an architecture, but for what only that has use for.
        from dnas.settings import ARCHITECTURE_SETTINGS

        settings["train"] = {k: v for k, v in settings.get("train", {}).items() if k not in ARCHITECTURE_SETTINGS}
    settings["command"] = command
    for key, name in _DATA_SETTINGS.items():
        if key in given:
            settings.setdefault("data", {})[name] = given.pop(key)
    if "data" in settings:
        folders = {key: _absolute(settings["data"][key]) for key in ("source", "data_dir") if key in settings["data"]}
        settings["data"] = {**settings["data"], **folders}
    device = given.pop("device", settings.get("device", "auto"))
    settings["device"] = _device(device)
    sections = {"run": ("search", "train"), "search": ("search",), "train": ("train",)}[command]
    for key in ("layers", "channels", "epochs", "batch_size", "flip"):
        if key in given:
            value = given.pop(key)
            for section in sections:
                # In a run the trained network is as deep as the searched one; only --train-layers says otherwise.
                if not (command == "run" and key == "layers" and section == "train"):
                    settings.setdefault(section, {})[key] = value
    for section in ("search", "train"):
        for key in ("layers", "channels", "epochs", "seconds", "steps"):
            if f"{section}_{key}" in given:
                settings.setdefault(section, {})[key] = given.pop(f"{section}_{key}")
    add_options(settings, given.pop("option", []), [*sections, "options"] if "search" in sections else sections)
    if command == "train":
        settings.pop("method", None)
        settings.pop("mapping", None)
        settings.pop("space", None)
        settings.pop("options", None)
    for section in {"search", "train"} - set(sections):
        settings.pop(section, None)
    return settings | given


def add_options(settings: dict[str, Any], texts: Sequence[str], sections: Sequence[str]) -> None:
    """Put NAME=VALUE texts where they belong: SECTION.NAME, or the plain NAME of a method's option.

    Raises InputError for a text of another form, or for a section that is not among `sections`; plain names
    belong to the section "options".
    """
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--option {text!r} is not NAME=VALUE")
        section, key = name.split(".", 1) if "." in name else ("options", name)
        if section not in sections or name.startswith("options."):
            kinds = ["NAME of a method's option" if s == "options" else f"{s}.NAME" for s in sections]
            raise InputError(f"--option {name} has no use here; what has is {' or '.join(kinds)}")
        settings[section] = {**settings.get(section, {}), key: _value(value)}


def names(*groups: type) -> set[str]:
    """The option names of some groups."""
    return {field.name for group in groups for field in fields(group)}


def _value(text: str) -> Any:
    """An option's text as TOML would read it; a bare word is a text."""
    match text:
        case "true" | "True":
            return True
        case "false" | "False":
            return False
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _absolute(value: Any) -> Any:
    """A folder's whole path, so that a run can be resumed from elsewhere; the name of a data set goes before it."""
    from dnas.sources import NAMES

    if isinstance(value, str) and value and value not in NAMES and Path(value).is_dir():
        return str(Path(value).absolute())
    return value


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name!r} is not known; choose from auto, cpu, cuda")
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

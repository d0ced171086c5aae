"""The options that several commands share, each once, and the settings that each option sets.

The command line and the Python functions have the same options, which are listed here.
Does not import torch, so that `dnas --help` is fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from dnas.units import byte_count, duration, one_or_several, whole_number


def _whole(kind: Any, tokens: Sequence[Token]) -> int:
    """Return a text as a whole number. Without this, cyclopts would round 0.5 without a warning."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number") from None


def _seconds(kind: Any, tokens: Sequence[Token]) -> float:
    return duration(tokens[0].value)


def _many(kind: Any, tokens: Sequence[Token]) -> int:
    return whole_number(tokens[0].value)


def _several_many(kind: Any, tokens: Sequence[Token]) -> str:
    one_or_several(whole_number, tokens[0].value)
    return tokens[0].value


def _several_bytes(kind: Any, tokens: Sequence[Token]) -> str:
    one_or_several(byte_count, tokens[0].value)
    return tokens[0].value


def _several_durations(kind: Any, tokens: Sequence[Token]) -> str:
    one_or_several(duration, tokens[0].value)
    return tokens[0].value


WHOLE = Parameter(converter=_whole)
DURATION = Parameter(converter=_seconds)
MANY = Parameter(converter=_many)
# One or several, as the settings read them.
SEVERAL_MANY = Parameter(converter=_several_many)
SEVERAL_BYTES = Parameter(converter=_several_bytes)
SEVERAL_DURATION = Parameter(converter=_several_durations)
_DATA = Group("Data", sort_key=1)
_SEARCH = Group("Search", sort_key=2)
TRAIN = Group("Training", sort_key=3)
_LIMITS = Group("Limits on the network", sort_key=4)
_RUN = Group("Run", sort_key=5)
_EXECUTION = Group("Execution", sort_key=6)
_CLUSTER = Group("Cluster", sort_key=7)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options for the images."""

    data: Annotated[str | None, Parameter(group=_DATA)] = None
    "digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a path: class folders of images (with train/ and test/ or without), IDX files, arrays (.npz, .npy), a list (.csv, .tsv, .jsonl), shards of Hugging Face (.parquet, .arrow), or an archive (.zip, .tar, .tar.gz). [default: digits]"
    image_column: Annotated[str | None, Parameter(group=_DATA)] = None
    "The column of a list that holds the paths of images. [default: path, file, filename, file_name or image]"
    label_column: Annotated[str | None, Parameter(group=_DATA)] = None
    "The column of a list that holds the classes. [default: label, class, target or category]"
    root: Annotated[str | None, Parameter(group=_DATA)] = None
    "The folder that the paths of a list are relative to. [default: the folder of the list]"
    data_dir: Annotated[str | None, Parameter(group=_DATA)] = None
    "The folder of the named data sets. [default: $DNAS_DATA_DIR or ~/.cache/dnas]"
    image_size: Annotated[int | None, WHOLE, Parameter(group=_DATA)] = None
    "Side of the images in pixels, at least 8. [default: determined from the data]"
    resize: Annotated[str | None, Parameter(group=_DATA)] = None
    "How images become squares. crop: resize the shorter side and crop the center. pad: resize the longer side and pad with the mean color. squeeze: resize both sides. auto: pad if the longer side of most images is more than 1.6 times the shorter one, else crop. [default: auto]"
    data_memory: Annotated[str | None, Parameter(group=_DATA)] = None
    "whole: load all images into memory. stream: leave images in their files and decode them batch by batch. auto: stream if the images need more than half of the memory. [default: auto]"
    data_workers: Annotated[int | None, WHOLE, Parameter(group=_DATA)] = None
    "Worker processes that decode streamed images. [default: as many as torch has threads]"
    skip_broken: Annotated[bool | None, Parameter(group=_DATA, negative="")] = None
    "Skip images that cannot be read, if they are at most a tenth of the training or test images, and list them in the run folder."


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options for a run as a whole."""

    seed: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Random seed of the run. [default: 0]"
    preset: Annotated[str | None, Parameter(group=_RUN)] = None
    "Set of default settings. quick: takes minutes on two cores. paper: the settings of the method's paper. shared: the settings of DARTS for every method. [default: quick]"
    config: Annotated[str | None, Parameter(group=_RUN)] = None
    "TOML file of settings, such as config.toml of an earlier run. Options given here take precedence. [default: none]"
    out: Annotated[str | None, Parameter(group=_RUN)] = None
    "The run folder to create. [default: a new folder in runs/]"
    device: Annotated[str | None, Parameter(group=_RUN)] = None
    "Device for the computation: auto, cpu or cuda. [default: auto]"
    backend: Annotated[str | None, Parameter(group=_RUN)] = None
    "native: compiled kernels on the CPU. torch: PyTorch only. auto: native if there is a C compiler. [default: auto]"
    deterministic: Annotated[bool | None, Parameter(group=_RUN, negative="")] = None
    "Make GPU results bitwise reproducible as well, at some cost in speed. CPU results always are, for a fixed number of threads."
    budget: Annotated[float | None, DURATION, Parameter(group=_RUN)] = None
    "Processor time for the whole run, in seconds or as 10m or 1h30m. Replaces the number of epochs: dnas measures the speed of this machine and plans the epochs that fit. [default: the epochs of the preset]"
    layers: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Depth: number of layers. [default: from the preset, 6 for quick; for training only, the depth of the architecture]"
    channels: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Initial number of channels (width). [default: from the preset; for quick, 8 in the search and 16 in the training]"
    epochs: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Number of epochs. [default: from the preset, by the number of images]"
    batch_size: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Number of images per step. [default: from the preset, 64 for quick]"
    flip: Annotated[str | None, Parameter(group=_RUN)] = None
    "Flip half of the training images horizontally: on, off, or auto, which measures whether that confuses classes. A training can also use alternate: each image is flipped in every other epoch (for `dnas run`: -o train.flip=alternate). [default: auto]"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options for a search."""

    method: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "Search method; `dnas methods` lists all. [default: dnas]"
    mapping: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "Parameter sharing scheme. shared: one set for all normal layers, and one for all reductions. full: separate parameters per layer. decoupled: the factorization of the DNAS paper. [default: that of the method]"
    space: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "Search space: darts, mobile, resnet-d, shuffle or another of `dnas list spaces`, or s1, s2, s3, s4, in which differentiable search is known to fail. auto (`dnas run`): several, whose candidates meet in the finals. [default: resnet for a run with finals in which nothing about the search is chosen, otherwise darts]"
    search_seconds: Annotated[float | None, DURATION, Parameter(group=_SEARCH)] = None
    "Stop the search after this time, in seconds or as 5m or 1h30m. [default: no limit]"
    search_steps: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Stop the search after compute equal to this many training steps (forward and backward pass on one batch). [default: no limit]"
    with_parts: Annotated[str | None, Parameter(name="--with", group=_SEARCH)] = None
    "Parts to add to a differentiable method, separated by commas; `dnas methods --parts` lists all. [default: none]"
    option: Annotated[list[str] | None, Parameter(name=["--option", "-o"], group=_SEARCH, negative="")] = None
    "NAME=VALUE for an option of the method, PART.NAME=VALUE for one of a part, or search.NAME=VALUE or train.NAME=VALUE for any setting. Can be repeated."
    max_params: Annotated[str | None, SEVERAL_MANY, Parameter(group=_LIMITS)] = None
    "Most parameters of the delivered network, such as 100k. Unless --channels is given, its width is also chosen to fit. With `dnas run`, one of the limits can have several values, such as 50k,100k: one search, and a network for each value. [default: no limit]"
    max_macs: Annotated[str | None, SEVERAL_MANY, Parameter(group=_LIMITS)] = None
    "Most multiply-accumulates (MACs) for one image, such as 10M. [default: no limit]"
    max_ram: Annotated[str | None, SEVERAL_BYTES, Parameter(group=_LIMITS)] = None
    "Most bytes of activations that are in memory at a time, for one image, such as 256KB or 256KiB. [default: no limit]"
    max_size: Annotated[str | None, SEVERAL_BYTES, Parameter(group=_LIMITS)] = None
    "Largest file that `dnas export --format onnx` may write, such as 500KB. [default: no limit]"
    max_latency: Annotated[str | None, SEVERAL_DURATION, Parameter(group=_LIMITS)] = None
    "Longest time for one image on the CPU of this machine, by one thread of ONNX Runtime, such as 5ms. dnas measures the operations. Requires dnas[export]. [default: no limit]"
    ram_precision: Annotated[str | None, Parameter(group=_LIMITS)] = None
    "Type of the activations that --max-ram counts: int8 or float32. [default: int8]"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of the training of any network, which do not apply to a search."""

    class_weights: Annotated[str | None, Parameter(group=TRAIN)] = None
    "balanced: images of rare classes have more weight in the training loss, so that all classes have equal weight. Does not affect a search. [default: none]"


@dataclass(frozen=True, kw_only=True)
class BothOptions(TrainOptions):
    """Options for a search and a training."""

    search_channels: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Initial number of channels of the supernet only. [default: --channels]"
    search_epochs: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Epochs of the search only. [default: --epochs]"
    train_channels: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Initial number of channels of the trained network only. [default: --channels]"
    train_epochs: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Epochs of the training only. [default: --epochs]"
    finals: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Number of candidates that start the training, of which only the best is trained to the end: the searched network, some from a prior, second choices, published and random ones. [default: 4 with --budget, and in the quick preset unless epochs or images are given; with --space auto 2 per space]"
    prior: Annotated[str | None, Parameter(group=TRAIN)] = None
    "Prior from which half of these candidates are drawn: none, pictures (for the darts space), a file written by benchmarks/prior.py, or auto: pictures for short trainings. [default: from the preset]"
    train_layers: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Number of layers of the trained network. With --mapping shared it may differ from the searched depth. [default: --layers]"


@dataclass(frozen=True, kw_only=True)
class WidthOptions(TrainOptions):
    """Options of one training, including those for reference networks with a width."""

    from_run: Annotated[str | None, Parameter(name="--from", group=TRAIN)] = None
    "Run whose trained weights are the initial weights: to train it longer, or to fine-tune it on other data (other classes get a new last layer). Its data and settings are the defaults; if the classes are the same, with a tenth of its learning rates. [default: random weights, drawn by the seed]"
    width: Annotated[float | None, Parameter(group=TRAIN)] = None
    "Factor of the channels of a reference network such as resnet8. [default: 1]"
    params: Annotated[int | None, MANY, Parameter(group=TRAIN)] = None
    "Instead of --width: choose the width whose number of parameters is closest to this, such as 130k, 1.2M or 78186."


# Options that mean something else in one command, or do not apply to it, have another help there.


@dataclass(frozen=True, kw_only=True)
class StudySearchOptions(SearchOptions):
    """Options of many searches, with lists of methods and mappings; those of a single search are hidden and rejected."""

    method: Annotated[str | None, Parameter(group=_SEARCH, show=False)] = None
    mapping: Annotated[str | None, Parameter(group=_SEARCH, show=False)] = None


@dataclass(frozen=True, kw_only=True)
class StudyRunOptions(RunOptions):
    """Options of the runs of a study, which has many seeds."""

    seed: Annotated[int | None, WHOLE, Parameter(group=_RUN, show=False)] = None
    out: Annotated[str | None, Parameter(group=_RUN, help="The study folder. [default: study]")] = None


@dataclass(frozen=True, kw_only=True)
class RankingRunOptions(RunOptions):
    """Options of the runs of a ranking."""

    out: Annotated[str | None, Parameter(group=_RUN, help="The ranking folder. [default: ranking]")] = None


@dataclass(frozen=True, kw_only=True)
class TestDataOptions(DataOptions):
    """Options of the images on which a trained network is tested."""

    data: Annotated[
        str | None,
        Parameter(group=_DATA, help="A named data set or a path, as for `dnas run`. [default: test images of the run]"),
    ] = None
    image_size: Annotated[
        int | None, WHOLE, Parameter(group=_DATA, help="Side in pixels. [default: as in the run]")
    ] = None
    resize: Annotated[str | None, Parameter(group=_DATA, show=False)] = None


@dataclass(frozen=True, kw_only=True)
class InspectedDataOptions(DataOptions):
    """Options of images that are inspected and not loaded; options that do not apply are hidden and rejected."""

    data: Annotated[str | None, Parameter(group=_DATA, show=False)] = None
    data_memory: Annotated[str | None, Parameter(group=_DATA, show=False)] = None
    data_workers: Annotated[int | None, WHOLE, Parameter(group=_DATA, show=False)] = None
    skip_broken: Annotated[bool | None, Parameter(group=_DATA, show=False, negative="")] = None


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Options of one execution (see `execution.py`): never part of a configuration, and free to differ in each resume."""

    checkpoint_every: Annotated[float | None, DURATION, Parameter(group=_EXECUTION)] = None
    "Time between checkpoints, in seconds or as 5m; 0: a checkpoint after every step. [default: 30]"
    time_limit: Annotated[float | None, DURATION, Parameter(group=_EXECUTION)] = None
    "Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a checkpoint and exit code 75. [default: no limit]"
    tensorboard: Annotated[bool | None, Parameter(group=_EXECUTION, negative="")] = None
    "Also write the scalars of metrics.jsonl to RUN/tensorboard; requires dnas[tensorboard]."


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Options for a cluster."""

    ray: Annotated[str | None, Parameter(group=_CLUSTER)] = None
    "Execute the runs on a Ray cluster: auto, or HOST:PORT of its head node. All nodes must share --out. [default: this machine]"
    ray_retries: Annotated[int | None, WHOLE, Parameter(group=_CLUSTER)] = None
    "Number of retries for a run whose process or node was lost. [default: 3]"
    ray_timeout: Annotated[float | None, DURATION, Parameter(group=_CLUSTER)] = None
    "Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and the run is retried. [default: never]"


Command = Literal["run", "search", "train"]
_DATA_SETTINGS = {
    "data": "source",
    "image_column": "image_column",
    "label_column": "label_column",
    "root": "root",
    "data_dir": "data_dir",
    "image_size": "image_size",
    "resize": "resize",
    "data_memory": "memory",
    "data_workers": "workers",
    "skip_broken": "skip_broken",
}
_LIMIT_SETTINGS = {
    "max_params": "params",
    "max_macs": "macs",
    "max_ram": "ram",
    "max_size": "size",
    "max_latency": "latency",
    "ram_precision": "precision",
}
LIMIT_OPTIONS = frozenset(_LIMIT_SETTINGS)
SECTIONS: dict[Command, tuple[str, ...]] = {
    "run": ("search", "train"),
    "search": ("search",),
    "train": ("train",),
}
_NO_NAMES = {"with_parts": "--with", "from_run": "--from"}
# Settings that one option sets for both the search and the training.
_COMMON = ("layers", "channels", "epochs", "batch_size", "flip")


def places(command: Command, option: str) -> tuple[str, ...]:
    """Return the dotted names of the settings that an option sets: ("search.epochs", "train.epochs") for "epochs"."""
    if option in _DATA_SETTINGS:
        return (f"data.{_DATA_SETTINGS[option]}",)
    if option in _LIMIT_SETTINGS:
        return (f"limits.{_LIMIT_SETTINGS[option]}",)
    if option in _COMMON:
        # In a run the trained network is as deep as the searched one, unless --train-layers is given.
        sections = ("search",) if command == "run" and option == "layers" else SECTIONS[command]
        return tuple(f"{section}.{option}" for section in sections)
    if option in names(WidthOptions) - {"from_run"}:
        return (f"train.{option}",)
    section, _, name = option.partition("_")
    if section in ("search", "train") and name in (*_COMMON, "seconds", "steps"):
        return (f"{section}.{name}",)
    return (option,)


def common_first(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options sorted: first those that set both sections, since the others take precedence over them."""
    return dict(sorted(given.items(), key=lambda item: item[0] not in _COMMON))


def flag_of(key: str, own: bool = True) -> str:
    """Return the name of a setting in messages: its flag, or its dotted name if it has none.

    Args:
        own: Whether flags are used; False for a setting that does not exist.
    """
    section, _, name = key.rpartition(".")
    if section == "options":
        return f"--option {name}"
    if section.startswith("with_options."):
        return f"--option {key.removeprefix('with_options.')}"
    if own:
        for option in (*_COMMON, *names(DataOptions, RunOptions, SearchOptions, BothOptions, WidthOptions), "baseline"):
            if key in places("run", option) and (key != "train.layers" or option == "train_layers"):
                return flag(option)
    return key


def flag(option: str) -> str:
    """Return the flag of an option. The options for --with and --from have other names, since Python reserves these."""
    return _NO_NAMES.get(option) or f"--{option.replace('_', '-')}"


def names(*groups: type) -> set[str]:
    """Return the option names of these groups."""
    return {field.name for group in groups for field in fields(group)}

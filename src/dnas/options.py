"""The options that several commands share, each once, and which settings it sets.

The command line and the Python functions take the same options; this module is where they are listed.
Needs no torch, so that `dnas --help` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from dnas.units import byte_count, duration, one_or_several, whole_number


def _whole(kind: Any, tokens: Sequence[Token]) -> int:
    """A text as a whole number: by itself cyclopts would round 0.5 without a word."""
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
    data: Annotated[str | None, Parameter(group=_DATA)] = None
    "digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a path: class folders of images (with train/ and test/ or without), IDX files, arrays (.npz, .npy), a list (.csv, .tsv, .jsonl), shards of Hugging Face (.parquet, .arrow), or an archive (.zip, .tar, .tar.gz). [default: digits]"
    image_column: Annotated[str | None, Parameter(group=_DATA)] = None
    "The column of a list that holds the paths of images. [default: path, file, filename, file_name or image]"
    label_column: Annotated[str | None, Parameter(group=_DATA)] = None
    "The column of a list that holds the classes. [default: label, class, target or category]"
    root: Annotated[str | None, Parameter(group=_DATA)] = None
    "The folder that the paths of a list are relative to. [default: the folder of the list]"
    data_dir: Annotated[str | None, Parameter(group=_DATA)] = None
    "Where named data sets lie. [default: $DNAS_DATA_DIR or ~/.cache/dnas]"
    image_size: Annotated[int | None, WHOLE, Parameter(group=_DATA)] = None
    "Pixels of a side, at least 8. [default: from the data; leave it out for that]"
    resize: Annotated[str | None, Parameter(group=_DATA)] = None
    "How pictures become squares. crop: the shorter side is scaled, and the middle square kept. pad: the longer side is scaled, and the rest filled up with the mean color. squeeze: both sides are scaled. auto: pad where most are longer than 1.6 times their shorter side, else crop. [default: auto]"
    data_memory: Annotated[str | None, Parameter(group=_DATA)] = None
    "whole: hold all images. stream: leave pictures in their files and decode a batch at a time. auto: stream what would take more than half of the memory. [default: auto]"
    data_workers: Annotated[int | None, WHOLE, Parameter(group=_DATA)] = None
    "Processes that decode what is streamed. [default: as many as torch has threads]"
    skip_broken: Annotated[bool | None, Parameter(group=_DATA, negative="")] = None
    "Go on without images that cannot be read, if they are at most a tenth of the training or test images; they are listed in the run folder."


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    seed: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Of everything that is drawn. [default: 0]"
    preset: Annotated[str | None, Parameter(group=_RUN)] = None
    "quick: minutes on two cores. paper: the settings of the method's paper. shared: DARTS' for every method. [default: quick]"
    config: Annotated[str | None, Parameter(group=_RUN)] = None
    "A TOML file of settings, as config.toml of a run; options given here go before it. [default: none]"
    out: Annotated[str | None, Parameter(group=_RUN)] = None
    "The run folder to make. [default: a new one under runs/]"
    device: Annotated[str | None, Parameter(group=_RUN)] = None
    "auto, cpu or cuda. [default: auto]"
    backend: Annotated[str | None, Parameter(group=_RUN)] = None
    "native: compiled kernels on the CPU. torch: without. auto: native where there is a C compiler. [default: auto]"
    deterministic: Annotated[bool | None, Parameter(group=_RUN, negative="")] = None
    "Bit-equal results on a GPU too, at the cost of speed; on the CPU they always are."
    budget: Annotated[float | None, DURATION, Parameter(group=_RUN)] = None
    "Time that it may take, in seconds or as 10m or 1h30m, in place of epochs: this machine is measured, and what it can do in that time is planned. [default: the preset's epochs]"
    layers: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Depth of the network, in cells. [default: the preset's, quick: 6; of what is only trained its own]"
    channels: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Width of its first cells, in channels. [default: the preset's; quick: 8 to search, 16 to train]"
    epochs: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Passes over the images. [default: the preset's, by the number of images]"
    batch_size: Annotated[int | None, WHOLE, Parameter(group=_RUN)] = None
    "Images of a step. [default: the preset's; quick: 64]"
    flip: Annotated[str | None, Parameter(group=_RUN)] = None
    "Mirror half of the training images left to right: on, off, or auto, which measures whether that confuses classes; in a training also alternate, each in every other epoch (with `dnas run` as -o train.flip=alternate). [default: auto]"


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    method: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "See `dnas methods`. [default: dnas]"
    mapping: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "shared: one cell pair for all layers. full: a table for every layer. decoupled: the paper's. [default: the method's]"
    space: Annotated[str | None, Parameter(group=_SEARCH)] = None
    "darts, or s1, s2, s3, s4: where differentiable search is known to fail; `dnas list spaces` has those of other packages, too. [default: darts]"
    search_seconds: Annotated[float | None, DURATION, Parameter(group=_SEARCH)] = None
    "Stop searching after this time, in seconds or as 5m or 1h30m. [default: no limit]"
    search_steps: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Stop searching after the cost of so many training steps. [default: no limit]"
    with_parts: Annotated[str | None, Parameter(name="--with", group=_SEARCH)] = None
    "Parts that any method with gradients can take, with commas between them; see `dnas methods --parts`. [default: none]"
    option: Annotated[list[str] | None, Parameter(name=["--option", "-o"], group=_SEARCH, negative="")] = None
    "NAME=VALUE of the method's own options, PART.NAME=VALUE of a part's, or search.NAME or train.NAME of any setting; repeatable."
    max_params: Annotated[str | None, SEVERAL_MANY, Parameter(group=_LIMITS)] = None
    "Most parameters of the network that is delivered, such as 100k. Unless --channels is given, its width is planned to fit, too. With `dnas run` this or another limit may have several values, such as 50k,100k: a network for each, of one search. [default: no limit]"
    max_macs: Annotated[str | None, SEVERAL_MANY, Parameter(group=_LIMITS)] = None
    "Most multiply-accumulates for one image, such as 10M. [default: no limit]"
    max_ram: Annotated[str | None, SEVERAL_BYTES, Parameter(group=_LIMITS)] = None
    "Most bytes of activations that are live at a time, for one image, such as 256KB or 256KiB. [default: no limit]"
    max_size: Annotated[str | None, SEVERAL_BYTES, Parameter(group=_LIMITS)] = None
    "Most bytes of the file that `dnas export --format onnx` writes, such as 500KB. [default: no limit]"
    max_latency: Annotated[str | None, SEVERAL_DURATION, Parameter(group=_LIMITS)] = None
    "Most time for one image on this machine's CPU, with one thread of ONNX Runtime, such as 5ms; its operations are measured. Needs dnas[export]. [default: no limit]"
    ram_precision: Annotated[str | None, Parameter(group=_LIMITS)] = None
    "int8 or float32: of the activations that --max-ram counts. [default: int8]"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Of the training of any network, which a search has no use for."""

    class_weights: Annotated[str | None, Parameter(group=TRAIN)] = None
    "balanced: images of rare classes count for more in the training's loss, so that each class counts alike; a search weighs all images alike. [default: none]"


@dataclass(frozen=True, kw_only=True)
class BothOptions(TrainOptions):
    search_channels: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Width of the supernet only, in channels. [default: --channels]"
    search_epochs: Annotated[int | None, WHOLE, Parameter(group=_SEARCH)] = None
    "Epochs of the search only. [default: --epochs]"
    train_channels: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Width of the trained network only, in channels. [default: --channels]"
    train_epochs: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Epochs of the training only. [default: --epochs]"
    finals: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Candidates that begin the training, of which the best goes on: the found network, some of a prior, second choices, published cells and random ones. [default: 4 with --budget, and in the quick preset unless epochs or images are given]"
    prior: Annotated[str | None, Parameter(group=TRAIN)] = None
    "What half of these candidates are drawn from: none, pictures (in the darts space), a file that benchmarks/prior.py wrote, or auto: pictures for short trainings. [default: the preset's]"
    train_layers: Annotated[int | None, WHOLE, Parameter(group=TRAIN)] = None
    "Depth of the trained network, in cells; with --mapping shared it may differ from the searched one. [default: --layers]"


@dataclass(frozen=True, kw_only=True)
class WidthOptions(TrainOptions):
    """Of one training, and of a hand-made network that has a width."""

    from_run: Annotated[str | None, Parameter(name="--from", group=TRAIN)] = None
    "A run with whose trained weights this training begins: to train it longer, or to fine-tune it on other data, where other classes get a new last layer. Its data and settings are taken; where the classes are the same, with a tenth of its learning rates. [default: weights are drawn by the seed]"
    width: Annotated[float | None, Parameter(group=TRAIN)] = None
    "What the channels of a hand-made network such as resnet8 are multiplied by. [default: 1]"
    params: Annotated[int | None, MANY, Parameter(group=TRAIN)] = None
    "In place of --width: the one whose number of parameters comes closest to this, such as 130k, 1.2M or 78186."


# Where an option that commands share means something else in one, or is refused there, the help must say so.


@dataclass(frozen=True, kw_only=True)
class StudySearchOptions(SearchOptions):
    """Of many searches, whose methods and mappings are lists; the options of one are refused, and not shown."""

    method: Annotated[str | None, Parameter(group=_SEARCH, show=False)] = None
    mapping: Annotated[str | None, Parameter(group=_SEARCH, show=False)] = None


@dataclass(frozen=True, kw_only=True)
class StudyRunOptions(RunOptions):
    """Of the runs of a study, which has many seeds."""

    seed: Annotated[int | None, WHOLE, Parameter(group=_RUN, show=False)] = None
    out: Annotated[str | None, Parameter(group=_RUN, help="The study's folder. [default: study]")] = None


@dataclass(frozen=True, kw_only=True)
class RankingRunOptions(RunOptions):
    """Of the runs of a ranking."""

    out: Annotated[str | None, Parameter(group=_RUN, help="The ranking's folder. [default: ranking]")] = None


@dataclass(frozen=True, kw_only=True)
class TestDataOptions(DataOptions):
    """Of the images that a trained network is tested on."""

    data: Annotated[
        str | None,
        Parameter(group=_DATA, help="A named data set or a path, as of `dnas run`. [default: the run's test images]"),
    ] = None
    image_size: Annotated[int | None, WHOLE, Parameter(group=_DATA, help="Pixels of a side. [default: the run's]")] = (
        None
    )
    resize: Annotated[str | None, Parameter(group=_DATA, show=False)] = None


@dataclass(frozen=True, kw_only=True)
class InspectedDataOptions(DataOptions):
    """Of images that are looked at and not held; what does not apply is refused, and not shown."""

    data: Annotated[str | None, Parameter(group=_DATA, show=False)] = None
    data_memory: Annotated[str | None, Parameter(group=_DATA, show=False)] = None
    data_workers: Annotated[int | None, WHOLE, Parameter(group=_DATA, show=False)] = None
    skip_broken: Annotated[bool | None, Parameter(group=_DATA, show=False, negative="")] = None


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Of one execution (see `execution.py`): never part of a configuration, and each resume may give others."""

    checkpoint_every: Annotated[float | None, DURATION, Parameter(group=_EXECUTION)] = None
    "Time between checkpoints, in seconds or as 5m; 0: one after every step. [default: 30]"
    time_limit: Annotated[float | None, DURATION, Parameter(group=_EXECUTION)] = None
    "Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a checkpoint and exit code 75. [default: no limit]"
    tensorboard: Annotated[bool | None, Parameter(group=_EXECUTION, negative="")] = None
    "Also write the scalars of metrics.jsonl to RUN/tensorboard; needs dnas[tensorboard]."


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    ray: Annotated[str | None, Parameter(group=_CLUSTER)] = None
    "Make the runs on a Ray cluster whose nodes all see --out: auto, or HOST:PORT of its head. [default: on this machine]"
    ray_retries: Annotated[int | None, WHOLE, Parameter(group=_CLUSTER)] = None
    "How often a run whose process or node was lost is tried again. [default: 3]"
    ray_timeout: Annotated[float | None, DURATION, Parameter(group=_CLUSTER)] = None
    "Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and it is tried again. [default: never]"


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
# Settings of a search and a training that one option sets for both.
_COMMON = ("layers", "channels", "epochs", "batch_size", "flip")


def places(command: Command, option: str) -> tuple[str, ...]:
    """Return the dotted names of the settings that an option sets: ("search.epochs", "train.epochs") for "epochs"."""
    if option in _DATA_SETTINGS:
        return (f"data.{_DATA_SETTINGS[option]}",)
    if option in _LIMIT_SETTINGS:
        return (f"limits.{_LIMIT_SETTINGS[option]}",)
    if option in _COMMON:
        # In a run the trained network is as deep as the searched one; only --train-layers says otherwise.
        sections = ("search",) if command == "run" and option == "layers" else SECTIONS[command]
        return tuple(f"{section}.{option}" for section in sections)
    if option in names(WidthOptions) - {"from_run"}:
        return (f"train.{option}",)
    section, _, name = option.partition("_")
    if section in ("search", "train") and name in (*_COMMON, "seconds", "steps"):
        return (f"{section}.{name}",)
    return (option,)


def common_first(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those first that set both sections, over which the others take precedence."""
    return dict(sorted(given.items(), key=lambda item: item[0] not in _COMMON))


def flag_of(key: str, own: bool = True) -> str:
    """Return what a message calls a setting: its flag, or if it has none its dotted name.

    Args:
        own: Without, only the dotted name (of a setting that does not exist).
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
    """Return what an option is called on the command line; "with" or "from" alone would be no name in Python."""
    return _NO_NAMES.get(option) or f"--{option.replace('_', '-')}"


def names(*groups: type) -> set[str]:
    """The option names of some groups."""
    return {field.name for group in groups for field in fields(group)}

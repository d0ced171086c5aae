"""Search and train by keyword, with the options of the commands.

`tests/signature_tools.py` writes the options into signatures and docstrings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dnas.api.beginning import begin
from dnas.api.results import RunResult, SearchResult, TrainResult, run_result
from dnas.data.sources.objects import Data
from dnas.pipeline.subjects import to_train
from dnas.reporter import Reporter
from dnas.runtime.execution import OnEpoch
from dnas.space.architecture import Architecture


def run(
    *,
    data: Data | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    resize: Literal["auto", "crop", "pad", "squeeze"] | None = None,
    data_memory: Literal["auto", "whole", "stream"] | None = None,
    data_workers: int | None = None,
    skip_broken: bool | None = None,
    method: str | None = None,
    mapping: Literal["shared", "full", "decoupled"] | None = None,
    space: str | None = None,
    search_seconds: float | str | None = None,
    search_steps: int | None = None,
    with_parts: str | Sequence[str] | None = None,
    option: Mapping[str, object] | Sequence[str] | None = None,
    max_params: int | str | Sequence[int | str] | None = None,
    max_macs: int | str | Sequence[int | str] | None = None,
    max_ram: int | str | Sequence[int | str] | None = None,
    max_size: int | str | Sequence[int | str] | None = None,
    max_latency: float | str | Sequence[float | str] | None = None,
    ram_precision: str | None = None,
    class_weights: Literal["none", "balanced"] | None = None,
    search_channels: int | None = None,
    search_epochs: int | None = None,
    train_channels: int | None = None,
    train_epochs: int | None = None,
    finals: int | None = None,
    prior: str | Path | None = None,
    train_layers: int | None = None,
    seed: int | None = None,
    preset: Literal["quick", "paper", "shared"] | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    backend: Literal["auto", "native", "torch"] | None = None,
    deterministic: bool | None = None,
    budget: float | str | None = None,
    layers: int | None = None,
    channels: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    flip: Literal["auto", "on", "off"] | None = None,
    checkpoint_every: float | str | None = None,
    time_limit: float | str | None = None,
    tensorboard: bool | None = None,
    baseline: bool = True,
    on_epoch: OnEpoch | None = None,
    progress: bool = False,
    reporter: Reporter | None = None,
) -> RunResult:
    """Search for an architecture, train it from scratch and test it, beside a random network of the same size.

    As `dnas run`. Without arguments: the DNAS method on scikit-learn's digits, about a minute on two cores. None stands
    for what is not given.

    Args:
        data: A name ("digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"), a path, or images: arrays or
            tensors (images, labels), a torch `Dataset` of (picture, label), or a mapping of "train", "validation" and
            "test" to either. See docs/python.md. [default: "digits"]
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: Where named data sets lie. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Pixels of a side, at least 8. [default: from the data; leave it out for that]
        resize: How pictures become squares. crop: the shorter side is scaled, and the middle square kept. pad: the
            longer side is scaled, and the rest filled up with the mean color. squeeze: both sides are scaled. auto: pad
            where most are longer than 1.6 times their shorter side, else crop. [default: auto]
        data_memory: whole: hold all images. stream: leave pictures in their files and decode a batch at a time. auto:
            stream what would take more than half of the memory. [default: auto]
        data_workers: Processes that decode what is streamed. [default: as many as torch has threads]
        skip_broken: Go on without images that cannot be read, if they are at most a tenth of the training or test
            images; they are listed in the run folder.
        method: See `dnas methods`. [default: dnas]
        mapping: shared: one cell pair for all layers. full: a table for every layer. decoupled: the paper's. [default:
            the method's]
        space: darts, or s1, s2, s3, s4: where differentiable search is known to fail; `dnas list spaces` has those of
            other packages, too. [default: darts]
        search_seconds: Stop searching after this time, in seconds or as 5m or 1h30m. [default: no limit]
        search_steps: Stop searching after the cost of so many training steps. [default: no limit]
        with_parts: Names of parts that any method with gradients can take, or one text of them with commas between.
        option: Values by name: NAME of the method's own options, PART.NAME of a part's, or search.NAME or train.NAME of
            any setting.
        max_params: Most parameters of the network that is delivered, such as 100k. Unless channels is given, its width
            is planned to fit, too. With `dnas run` this or another limit may have several values, such as 50k,100k: a
            network for each, of one search. [default: no limit]
        max_macs: Most multiply-accumulates for one image, such as 10M. [default: no limit]
        max_ram: Most bytes of activations that are live at a time, for one image, such as 256KB or 256KiB. [default: no
            limit]
        max_size: Most bytes of the file that `dnas export format onnx` writes, such as 500KB. [default: no limit]
        max_latency: Most time for one image on this machine's CPU, with one thread of ONNX Runtime, such as 5ms; its
            operations are measured. Needs dnas[export]. [default: no limit]
        ram_precision: int8 or float32: of the activations that max_ram counts. [default: int8]
        class_weights: balanced: images of rare classes count for more in the training's loss, so that each class counts
            alike; a search weighs all images alike. [default: none]
        search_channels: Width of the supernet only, in channels. [default: channels]
        search_epochs: Epochs of the search only. [default: epochs]
        train_channels: Width of the trained network only, in channels. [default: channels]
        train_epochs: Epochs of the training only. [default: epochs]
        finals: Candidates that begin the training, of which the best goes on: the found network, some of a prior,
            second choices, published cells and random ones. [default: 4 with budget, and in the quick preset unless
            epochs or images are given]
        prior: What half of these candidates are drawn from: none, pictures (in the darts space), a file that
            benchmarks/prior.py wrote, or auto: pictures for short trainings. [default: the preset's]
        train_layers: Depth of the trained network, in cells; with mapping shared it may differ from the searched one.
            [default: layers]
        seed: Of everything that is drawn. [default: 0]
        preset: quick: minutes on two cores. paper: the settings of the method's paper. shared: DARTS' for every method.
            [default: quick]
        config: A TOML file of settings, as config.toml of a run; options given here go before it. [default: none]
        out: The run folder to make. [default: a new one under runs/]
        device: "auto", "cpu" or "cuda". [default: "auto"]
        backend: native: compiled kernels on the CPU. torch: without. auto: native where there is a C compiler.
            [default: auto]
        deterministic: Bit-equal results on a GPU too, at the cost of speed; on the CPU they always are.
        budget: Time that it may take, in seconds or as 10m or 1h30m, in place of epochs: this machine is measured, and
            what it can do in that time is planned. [default: the preset's epochs]
        layers: Depth of the network, in cells. [default: the preset's, quick: 6; of what is only trained its own]
        channels: Width of its first cells, in channels. [default: the preset's; quick: 8 to search, 16 to train]
        epochs: Passes over the images. [default: the preset's, by the number of images]
        batch_size: Images of a step. [default: the preset's; quick: 64]
        flip: Mirror half of the training images left to right: on, off, or auto, which measures whether that confuses
            classes; in a training also alternate, each in every other epoch (with `dnas run` as -o
            train.flip=alternate). [default: auto]
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: one after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; needs dnas[tensorboard].
        baseline: Also train a random network of the same size.
        on_epoch: Called with the metrics of each epoch, as metrics.jsonl has them, and to stop the run returns True: it
            ends with `Interrupted`, and `dnas.resume` goes on.
        progress: Show bars with rate and remaining time on stderr or in a notebook, or lines in a pipe.
        reporter: An object of your own to show progress; see `dnas.reporter`.

    Returns:
        The result, which is also in the run folder's result.json; a `FrontResult` where a limit has several values.

    Raises:
        InputError: An option that cannot work.
        RunError: The run failed; `dnas.resume` goes on.
        Interrupted: Ctrl-C, `on_epoch` or `time_limit` stopped it; `dnas.resume` goes on.
    """
    given: dict[str, Any] = locals()
    return run_result(begin("run", given))


def search(
    *,
    data: Data | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    resize: Literal["auto", "crop", "pad", "squeeze"] | None = None,
    data_memory: Literal["auto", "whole", "stream"] | None = None,
    data_workers: int | None = None,
    skip_broken: bool | None = None,
    method: str | None = None,
    mapping: Literal["shared", "full", "decoupled"] | None = None,
    space: str | None = None,
    search_seconds: float | str | None = None,
    search_steps: int | None = None,
    with_parts: str | Sequence[str] | None = None,
    option: Mapping[str, object] | Sequence[str] | None = None,
    max_params: int | str | Sequence[int | str] | None = None,
    max_macs: int | str | Sequence[int | str] | None = None,
    max_ram: int | str | Sequence[int | str] | None = None,
    max_size: int | str | Sequence[int | str] | None = None,
    max_latency: float | str | Sequence[float | str] | None = None,
    ram_precision: str | None = None,
    seed: int | None = None,
    preset: Literal["quick", "paper", "shared"] | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    backend: Literal["auto", "native", "torch"] | None = None,
    deterministic: bool | None = None,
    budget: float | str | None = None,
    layers: int | None = None,
    channels: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    flip: Literal["auto", "on", "off"] | None = None,
    checkpoint_every: float | str | None = None,
    time_limit: float | str | None = None,
    tensorboard: bool | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = False,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Search for an architecture, without training it afterwards. As `dnas search`.

    Args:
        data: As of `run`.
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: Where named data sets lie. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Pixels of a side, at least 8. [default: from the data; leave it out for that]
        resize: How pictures become squares. crop: the shorter side is scaled, and the middle square kept. pad: the
            longer side is scaled, and the rest filled up with the mean color. squeeze: both sides are scaled. auto: pad
            where most are longer than 1.6 times their shorter side, else crop. [default: auto]
        data_memory: whole: hold all images. stream: leave pictures in their files and decode a batch at a time. auto:
            stream what would take more than half of the memory. [default: auto]
        data_workers: Processes that decode what is streamed. [default: as many as torch has threads]
        skip_broken: Go on without images that cannot be read, if they are at most a tenth of the training or test
            images; they are listed in the run folder.
        method: See `dnas methods`. [default: dnas]
        mapping: shared: one cell pair for all layers. full: a table for every layer. decoupled: the paper's. [default:
            the method's]
        space: darts, or s1, s2, s3, s4: where differentiable search is known to fail; `dnas list spaces` has those of
            other packages, too. [default: darts]
        search_seconds: Stop searching after this time, in seconds or as 5m or 1h30m. [default: no limit]
        search_steps: Stop searching after the cost of so many training steps. [default: no limit]
        with_parts: Names of parts that any method with gradients can take, or one text of them with commas between.
        option: Values by name: NAME of the method's own options, PART.NAME of a part's, or search.NAME or train.NAME of
            any setting.
        max_params: Most parameters of the network that is delivered, such as 100k. Unless channels is given, its width
            is planned to fit, too. With `dnas run` this or another limit may have several values, such as 50k,100k: a
            network for each, of one search. [default: no limit]
        max_macs: Most multiply-accumulates for one image, such as 10M. [default: no limit]
        max_ram: Most bytes of activations that are live at a time, for one image, such as 256KB or 256KiB. [default: no
            limit]
        max_size: Most bytes of the file that `dnas export format onnx` writes, such as 500KB. [default: no limit]
        max_latency: Most time for one image on this machine's CPU, with one thread of ONNX Runtime, such as 5ms; its
            operations are measured. Needs dnas[export]. [default: no limit]
        ram_precision: int8 or float32: of the activations that max_ram counts. [default: int8]
        seed: Of everything that is drawn. [default: 0]
        preset: quick: minutes on two cores. paper: the settings of the method's paper. shared: DARTS' for every method.
            [default: quick]
        config: A TOML file of settings, as config.toml of a run; options given here go before it. [default: none]
        out: The run folder to make. [default: a new one under runs/]
        device: "auto", "cpu" or "cuda". [default: "auto"]
        backend: native: compiled kernels on the CPU. torch: without. auto: native where there is a C compiler.
            [default: auto]
        deterministic: Bit-equal results on a GPU too, at the cost of speed; on the CPU they always are.
        budget: Time that it may take, in seconds or as 10m or 1h30m, in place of epochs: this machine is measured, and
            what it can do in that time is planned. [default: the preset's epochs]
        layers: Depth of the network, in cells. [default: the preset's, quick: 6; of what is only trained its own]
        channels: Width of its first cells, in channels. [default: the preset's; quick: 8 to search, 16 to train]
        epochs: Passes over the images. [default: the preset's, by the number of images]
        batch_size: Images of a step. [default: the preset's; quick: 64]
        flip: Mirror half of the training images left to right: on, off, or auto, which measures whether that confuses
            classes; in a training also alternate, each in every other epoch (with `dnas run` as -o
            train.flip=alternate). [default: auto]
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: one after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; needs dnas[tensorboard].
        on_epoch: As of `run`.
        progress: As of `run`.
        reporter: As of `run`.

    Returns:
        The result; its `architecture` is what was found.

    Raises:
        InputError: An option that cannot work.
        RunError: The run failed; `dnas.resume` goes on.
        Interrupted: As of `run`.
    """
    given: dict[str, Any] = locals()
    return SearchResult.of(begin("search", given))


def train(
    architecture: Architecture | str | Path | None = None,
    *,
    data: Data | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    resize: Literal["auto", "crop", "pad", "squeeze"] | None = None,
    data_memory: Literal["auto", "whole", "stream"] | None = None,
    data_workers: int | None = None,
    skip_broken: bool | None = None,
    seed: int | None = None,
    preset: Literal["quick", "paper", "shared"] | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    backend: Literal["auto", "native", "torch"] | None = None,
    deterministic: bool | None = None,
    budget: float | str | None = None,
    layers: int | None = None,
    channels: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    flip: Literal["auto", "on", "off", "alternate"] | None = None,
    class_weights: Literal["none", "balanced"] | None = None,
    from_run: str | Path | None = None,
    width: float | None = None,
    params: int | str | None = None,
    checkpoint_every: float | str | None = None,
    time_limit: float | str | None = None,
    tensorboard: bool | None = None,
    option: Mapping[str, object] | Sequence[str] | None = None,
    baseline: bool = False,
    on_epoch: OnEpoch | None = None,
    progress: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a network from scratch and test it. As `dnas train`.

    Args:
        architecture: An `Architecture`, or as on the command line: an architecture file, a run folder, a published name
            ("DARTS_V2"), or a hand-made network ("resnet8"). A run hands on its data and its training, unless options
            say otherwise.
        data: As of `run`; if a run is named, by default its own.
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: Where named data sets lie. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Pixels of a side, at least 8. [default: from the data; leave it out for that]
        resize: How pictures become squares. crop: the shorter side is scaled, and the middle square kept. pad: the
            longer side is scaled, and the rest filled up with the mean color. squeeze: both sides are scaled. auto: pad
            where most are longer than 1.6 times their shorter side, else crop. [default: auto]
        data_memory: whole: hold all images. stream: leave pictures in their files and decode a batch at a time. auto:
            stream what would take more than half of the memory. [default: auto]
        data_workers: Processes that decode what is streamed. [default: as many as torch has threads]
        skip_broken: Go on without images that cannot be read, if they are at most a tenth of the training or test
            images; they are listed in the run folder.
        seed: Of everything that is drawn. [default: 0]
        preset: quick: minutes on two cores. paper: the settings of the method's paper. shared: DARTS' for every method.
            [default: quick]
        config: A TOML file of settings, as config.toml of a run; options given here go before it. [default: none]
        out: The run folder to make. [default: a new one under runs/]
        device: "auto", "cpu" or "cuda". [default: "auto"]
        backend: native: compiled kernels on the CPU. torch: without. auto: native where there is a C compiler.
            [default: auto]
        deterministic: Bit-equal results on a GPU too, at the cost of speed; on the CPU they always are.
        budget: Time that it may take, in seconds or as 10m or 1h30m, in place of epochs: this machine is measured, and
            what it can do in that time is planned. [default: the preset's epochs]
        layers: Depth of the network, in cells. [default: the preset's, quick: 6; of what is only trained its own]
        channels: Width of its first cells, in channels. [default: the preset's; quick: 8 to search, 16 to train]
        epochs: Passes over the images. [default: the preset's, by the number of images]
        batch_size: Images of a step. [default: the preset's; quick: 64]
        flip: Mirror half of the training images left to right: on, off, or auto, which measures whether that confuses
            classes; in a training also alternate, each in every other epoch (with `dnas run` as -o
            train.flip=alternate). [default: auto]
        class_weights: balanced: images of rare classes count for more in the training's loss, so that each class counts
            alike; a search weighs all images alike. [default: none]
        from_run: A run with whose trained weights this training begins: to train it longer, or to fine-tune it on other
            data, where other classes get a new last layer. Its data and settings are taken; where the classes are the
            same, with a tenth of its learning rates. [default: weights are drawn by the seed]
        width: What the channels of a hand-made network such as resnet8 are multiplied by. [default: 1]
        params: In place of width: the one whose number of parameters comes closest to this, such as 130k, 1.2M or
            78186.
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: one after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; needs dnas[tensorboard].
        option: Settings of the training by name: {"train.cutout": 8}.
        baseline: Also train a random network of the same size.
        on_epoch: As of `run`.
        progress: As of `run`.
        reporter: As of `run`.

    Returns:
        The result; its `model()` is the trained network.

    Raises:
        InputError: No such network, or an option that cannot work.
        RunError: The run failed; `dnas.resume` goes on.
        Interrupted: As of `run`.
    """
    given: dict[str, Any] = locals()
    options, found = to_train(architecture, given)
    return TrainResult.of(begin("train", options, found))

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
    """Search for an architecture, train it from scratch and test it, against a random network of the same size.

    Like `dnas run`. Without arguments: the DNAS method on scikit-learn's digits, about a minute on two cores. None
    means that an option is not given.

    Args:
        data: A name ("digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet"), a path, or images: arrays or
            tensors (images, labels), a torch `Dataset` of (image, label), or a mapping of "train", "validation" and
            "test" to either. See docs/python.md. [default: "digits"]
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: The folder of the named data sets. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Side of the images in pixels, at least 8. [default: determined from the data]
        resize: How images become squares. crop: resize the shorter side and crop the center. pad: resize the longer
            side and pad with the mean color. squeeze: resize both sides. auto: pad if the longer side of most images is
            more than 1.6 times the shorter one, else crop. [default: auto]
        data_memory: whole: load all images into memory. stream: leave images in their files and decode them batch by
            batch. auto: stream if the images need more than half of the memory. [default: auto]
        data_workers: Worker processes that decode streamed images. [default: as many as torch has threads]
        skip_broken: Skip images that cannot be read, if they are at most a tenth of the training or test images, and
            list them in the run folder.
        method: Search method; `dnas methods` lists all. [default: dnas]
        mapping: Parameter sharing scheme. shared: one set for all normal layers, and one for all reductions. full:
            separate parameters per layer. decoupled: the factorization of the DNAS paper. [default: that of the method]
        space: Search space: darts, mobile, resnet-d, shuffle or another of `dnas list spaces`, or s1, s2, s3, s4, in
            which differentiable search is known to fail. auto (`dnas run`): several, whose candidates meet in the
            finals. [default: resnet for a run with finals in which nothing about the search is chosen, otherwise darts]
        search_seconds: Stop the search after this time, in seconds or as 5m or 1h30m. [default: no limit]
        search_steps: Stop the search after compute equal to this many training steps (forward and backward pass on one
            batch). [default: no limit]
        with_parts: Names of parts that any method with gradients can take, or one text of them with commas between.
        option: Values by name: NAME of the method's own options, PART.NAME of a part's, or search.NAME or train.NAME of
            any setting.
        max_params: Most parameters of the delivered network, such as 100k. Unless channels is given, its width is also
            chosen to fit. With `dnas run`, one of the limits can have several values, such as 50k,100k: one search, and
            a network for each value. [default: no limit]
        max_macs: Most multiply-accumulates (MACs) for one image, such as 10M. [default: no limit]
        max_ram: Most bytes of activations that are in memory at a time, for one image, such as 256KB or 256KiB.
            [default: no limit]
        max_size: Largest file that `dnas export format onnx` may write, such as 500KB. [default: no limit]
        max_latency: Longest time for one image on the CPU of this machine, by one thread of ONNX Runtime, such as 5ms.
            dnas measures the operations. Requires dnas[export]. [default: no limit]
        ram_precision: Type of the activations that max_ram counts: int8 or float32. [default: int8]
        class_weights: balanced: images of rare classes have more weight in the training loss, so that all classes have
            equal weight. Does not affect a search. [default: none]
        search_channels: Initial number of channels of the supernet only. [default: channels]
        search_epochs: Epochs of the search only. [default: epochs]
        train_channels: Initial number of channels of the trained network only. [default: channels]
        train_epochs: Epochs of the training only. [default: epochs]
        finals: Number of candidates that start the training, of which only the best is trained to the end: the searched
            network, some from a prior, second choices, published and random ones. [default: 4 with budget, and in the
            quick preset unless epochs or images are given; with space auto 2 per space]
        prior: Prior from which half of these candidates are drawn: none, pictures (for the darts space), a file written
            by benchmarks/prior.py, or auto: pictures for short trainings. [default: from the preset]
        train_layers: Number of layers of the trained network. With mapping shared it may differ from the searched
            depth. [default: layers]
        seed: Random seed of the run. [default: 0]
        preset: Set of default settings. quick: takes minutes on two cores. paper: the settings of the method's paper.
            shared: the settings of DARTS for every method. [default: quick]
        config: TOML file of settings, such as config.toml of an earlier run. Options given here take precedence.
            [default: none]
        out: The run folder to create. [default: a new folder in runs/]
        device: "auto", "cpu" or "cuda". [default: "auto"]
        backend: native: compiled kernels on the CPU. torch: PyTorch only. auto: native if there is a C compiler.
            [default: auto]
        deterministic: Make GPU results bitwise reproducible as well, at some cost in speed. CPU results always are, for
            a fixed number of threads.
        budget: Processor time for the whole run, in seconds or as 10m or 1h30m. Replaces the number of epochs: dnas
            measures the speed of this machine and plans the epochs that fit. [default: the epochs of the preset]
        layers: Depth: number of layers. [default: from the preset, 6 for quick; for training only, the depth of the
            architecture]
        channels: Initial number of channels (width). [default: from the preset; for quick, 8 in the search and 16 in
            the training]
        epochs: Number of epochs. [default: from the preset, by the number of images]
        batch_size: Number of images per step. [default: from the preset, 64 for quick]
        flip: Flip half of the training images horizontally: on, off, or auto, which measures whether that confuses
            classes. A training can also use alternate: each image is flipped in every other epoch (for `dnas run`: -o
            train.flip=alternate). [default: auto]
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: a checkpoint after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; requires dnas[tensorboard].
        baseline: Also train a random network of the same size.
        on_epoch: Called with the metrics of each epoch, as in metrics.jsonl. If it returns True, the run stops with
            `Interrupted`, and `dnas.resume` continues it.
        progress: Show bars with rate and remaining time on stderr or in a notebook, or lines in a pipe.
        reporter: Your own object for progress; see `dnas.reporter`.

    Returns:
        The result, which is also in result.json of the run folder; a `FrontResult` if a limit has several values.

    Raises:
        InputError: An invalid option.
        RunError: The run failed; `dnas.resume` continues it.
        Interrupted: Ctrl-C, `on_epoch` or `time_limit` stopped it; `dnas.resume` continues it.
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
    """Search for an architecture, without training it afterwards. Like `dnas search`.

    Args:
        data: As for `run`.
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: The folder of the named data sets. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Side of the images in pixels, at least 8. [default: determined from the data]
        resize: How images become squares. crop: resize the shorter side and crop the center. pad: resize the longer
            side and pad with the mean color. squeeze: resize both sides. auto: pad if the longer side of most images is
            more than 1.6 times the shorter one, else crop. [default: auto]
        data_memory: whole: load all images into memory. stream: leave images in their files and decode them batch by
            batch. auto: stream if the images need more than half of the memory. [default: auto]
        data_workers: Worker processes that decode streamed images. [default: as many as torch has threads]
        skip_broken: Skip images that cannot be read, if they are at most a tenth of the training or test images, and
            list them in the run folder.
        method: Search method; `dnas methods` lists all. [default: dnas]
        mapping: Parameter sharing scheme. shared: one set for all normal layers, and one for all reductions. full:
            separate parameters per layer. decoupled: the factorization of the DNAS paper. [default: that of the method]
        space: Search space: darts, mobile, resnet-d, shuffle or another of `dnas list spaces`, or s1, s2, s3, s4, in
            which differentiable search is known to fail. auto (`dnas run`): several, whose candidates meet in the
            finals. [default: resnet for a run with finals in which nothing about the search is chosen, otherwise darts]
        search_seconds: Stop the search after this time, in seconds or as 5m or 1h30m. [default: no limit]
        search_steps: Stop the search after compute equal to this many training steps (forward and backward pass on one
            batch). [default: no limit]
        with_parts: Names of parts that any method with gradients can take, or one text of them with commas between.
        option: Values by name: NAME of the method's own options, PART.NAME of a part's, or search.NAME or train.NAME of
            any setting.
        max_params: Most parameters of the delivered network, such as 100k. Unless channels is given, its width is also
            chosen to fit. With `dnas run`, one of the limits can have several values, such as 50k,100k: one search, and
            a network for each value. [default: no limit]
        max_macs: Most multiply-accumulates (MACs) for one image, such as 10M. [default: no limit]
        max_ram: Most bytes of activations that are in memory at a time, for one image, such as 256KB or 256KiB.
            [default: no limit]
        max_size: Largest file that `dnas export format onnx` may write, such as 500KB. [default: no limit]
        max_latency: Longest time for one image on the CPU of this machine, by one thread of ONNX Runtime, such as 5ms.
            dnas measures the operations. Requires dnas[export]. [default: no limit]
        ram_precision: Type of the activations that max_ram counts: int8 or float32. [default: int8]
        seed: Random seed of the run. [default: 0]
        preset: Set of default settings. quick: takes minutes on two cores. paper: the settings of the method's paper.
            shared: the settings of DARTS for every method. [default: quick]
        config: TOML file of settings, such as config.toml of an earlier run. Options given here take precedence.
            [default: none]
        out: The run folder to create. [default: a new folder in runs/]
        device: "auto", "cpu" or "cuda". [default: "auto"]
        backend: native: compiled kernels on the CPU. torch: PyTorch only. auto: native if there is a C compiler.
            [default: auto]
        deterministic: Make GPU results bitwise reproducible as well, at some cost in speed. CPU results always are, for
            a fixed number of threads.
        budget: Processor time for the whole run, in seconds or as 10m or 1h30m. Replaces the number of epochs: dnas
            measures the speed of this machine and plans the epochs that fit. [default: the epochs of the preset]
        layers: Depth: number of layers. [default: from the preset, 6 for quick; for training only, the depth of the
            architecture]
        channels: Initial number of channels (width). [default: from the preset; for quick, 8 in the search and 16 in
            the training]
        epochs: Number of epochs. [default: from the preset, by the number of images]
        batch_size: Number of images per step. [default: from the preset, 64 for quick]
        flip: Flip half of the training images horizontally: on, off, or auto, which measures whether that confuses
            classes. A training can also use alternate: each image is flipped in every other epoch (for `dnas run`: -o
            train.flip=alternate). [default: auto]
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: a checkpoint after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; requires dnas[tensorboard].
        on_epoch: As for `run`.
        progress: As for `run`.
        reporter: As for `run`.

    Returns:
        The result; its `architecture` is the searched architecture.

    Raises:
        InputError: An invalid option.
        RunError: The run failed; `dnas.resume` continues it.
        Interrupted: As for `run`.
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
    """Train a network from scratch and test it. Like `dnas train`.

    Args:
        architecture: An `Architecture`, or as on the command line: an architecture file, a run folder, a published name
            ("DARTS_V2"), or a reference network ("resnet8"). The data and training settings of a run folder are
            used, unless options override them.
        data: As for `run`; for a run folder, by default its data.
        image_column: The column of a list that holds the paths of images. [default: path, file, filename, file_name or
            image]
        label_column: The column of a list that holds the classes. [default: label, class, target or category]
        root: The folder that the paths of a list are relative to. [default: the folder of the list]
        data_dir: The folder of the named data sets. [default: $DNAS_DATA_DIR or ~/.cache/dnas]
        image_size: Side of the images in pixels, at least 8. [default: determined from the data]
        resize: How images become squares. crop: resize the shorter side and crop the center. pad: resize the longer
            side and pad with the mean color. squeeze: resize both sides. auto: pad if the longer side of most images is
            more than 1.6 times the shorter one, else crop. [default: auto]
        data_memory: whole: load all images into memory. stream: leave images in their files and decode them batch by
            batch. auto: stream if the images need more than half of the memory. [default: auto]
        data_workers: Worker processes that decode streamed images. [default: as many as torch has threads]
        skip_broken: Skip images that cannot be read, if they are at most a tenth of the training or test images, and
            list them in the run folder.
        seed: Random seed of the run. [default: 0]
        preset: Set of default settings. quick: takes minutes on two cores. paper: the settings of the method's paper.
            shared: the settings of DARTS for every method. [default: quick]
        config: TOML file of settings, such as config.toml of an earlier run. Options given here take precedence.
            [default: none]
        out: The run folder to create. [default: a new folder in runs/]
        device: "auto", "cpu" or "cuda". [default: "auto"]
        backend: native: compiled kernels on the CPU. torch: PyTorch only. auto: native if there is a C compiler.
            [default: auto]
        deterministic: Make GPU results bitwise reproducible as well, at some cost in speed. CPU results always are, for
            a fixed number of threads.
        budget: Processor time for the whole run, in seconds or as 10m or 1h30m. Replaces the number of epochs: dnas
            measures the speed of this machine and plans the epochs that fit. [default: the epochs of the preset]
        layers: Depth: number of layers. [default: from the preset, 6 for quick; for training only, the depth of the
            architecture]
        channels: Initial number of channels (width). [default: from the preset; for quick, 8 in the search and 16 in
            the training]
        epochs: Number of epochs. [default: from the preset, by the number of images]
        batch_size: Number of images per step. [default: from the preset, 64 for quick]
        flip: Flip half of the training images horizontally: on, off, or auto, which measures whether that confuses
            classes. A training can also use alternate: each image is flipped in every other epoch (for `dnas run`: -o
            train.flip=alternate). [default: auto]
        class_weights: balanced: images of rare classes have more weight in the training loss, so that all classes have
            equal weight. Does not affect a search. [default: none]
        from_run: Run whose trained weights are the initial weights: to train it longer, or to fine-tune it on other
            data (other classes get a new last layer). Its data and settings are the defaults; if the classes are the
            same, with a tenth of its learning rates. [default: random weights, drawn by the seed]
        width: Factor of the channels of a reference network such as resnet8. [default: 1]
        params: Instead of width: choose the width whose number of parameters is closest to this, such as 130k, 1.2M or
            78186.
        checkpoint_every: Time between checkpoints, in seconds or as 5m; 0: a checkpoint after every step. [default: 30]
        time_limit: Stop in time to finish within this time of the start, in seconds or as 5m or 1h30m, with a
            checkpoint and exit code 75. [default: no limit]
        tensorboard: Also write the scalars of metrics.jsonl to RUN/tensorboard; requires dnas[tensorboard].
        option: Settings of the training by name: {"train.cutout": 8}.
        baseline: Also train a random network of the same size.
        on_epoch: As for `run`.
        progress: As for `run`.
        reporter: As for `run`.

    Returns:
        The result; its `model()` is the trained network.

    Raises:
        InputError: There is no such network, or an option is invalid.
        RunError: The run failed; `dnas.resume` continues it.
        Interrupted: As for `run`.
    """
    given: dict[str, Any] = locals()
    options, found = to_train(architecture, given)
    return TrainResult.of(begin("train", options, found))

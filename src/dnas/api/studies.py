"""Compare and rank by keyword.

`tests/signature_tools.py` writes the options into the signature and the docstring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dnas.api.beginning import Started, plain
from dnas.api.results import RankingResult, StudyResult
from dnas.errors import InputError, calling
from dnas.options import ClusterOptions, ExecutionOptions, names
from dnas.reporter import Reporter
from dnas.study import ranking, ranking_design
from dnas.study.compare import carry_through
from dnas.study.design import StudySettings
from dnas.study.growth import COUNTS, LISTS, asked, called


def compare(
    methods: Sequence[str] | str = (),
    *,
    mappings: Sequence[str] | str = (),
    seeds: int | None = None,
    training_seeds: int | None = None,
    architectures: Sequence[str] | str = (),
    resume: str | Path | None = None,
    processes: int = 0,
    threads: int = 0,
    data: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    resize: Literal["auto", "crop", "pad", "squeeze"] | None = None,
    data_memory: Literal["auto", "whole", "stream"] | None = None,
    data_workers: int | None = None,
    skip_broken: bool | None = None,
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
    ray: str | None = None,
    ray_retries: int | None = None,
    ray_timeout: float | str | None = None,
    progress: bool = False,
    reporter: Reporter | None = None,
) -> StudyResult:
    """Compare search methods over several seeds, each against random networks of the same size. Like `dnas compare`.

    Repeat the call with the same `out` to resume the study; `resume` adds to a study.

    Args:
        methods: Names, as a sequence or one text with commas; "dnas+oles" is a method with a part.
        mappings: Names, like methods; each method runs under those that it supports. [default: that of each method]
        seeds: Number of searches per method, with the seeds 0, 1, … [default: 4]
        training_seeds: Number of trainings per searched network. [default: 1]
        architectures: Published architectures and reference networks, trained with the same settings.
        resume: The folder of a study to resume, or to add seeds, methods, mappings or architectures to; it keeps its
            settings.
        processes: Number of runs to execute in parallel. [default: one per thread on the CPU, else 1; on a cluster, as
            many as fit]
        threads: CPU threads per run. [default: those of the machine, shared by its runs; 1 on a cluster]
        data: digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a path: class folders of images (with train/
            and test/ or without), IDX files, arrays (.npz, .npy), a list (.csv, .tsv, .jsonl), shards of Hugging Face
            (.parquet, .arrow), or an archive (.zip, .tar, .tar.gz). [default: digits]
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
        preset: Set of default settings. quick: takes minutes on two cores. paper: the settings of the method's paper.
            shared: the settings of DARTS for every method. [default: quick]
        config: TOML file of settings, such as config.toml of an earlier run. Options given here take precedence.
            [default: none]
        out: The study folder. [default: study]
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
        ray: Execute the runs on a Ray cluster: auto, or HOST:PORT of its head node. All nodes must share out. [default:
            this machine]
        ray_retries: Number of retries for a run whose process or node was lost. [default: 3]
        ray_timeout: Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and the
            run is retried. [default: never]
        progress: As for `run`.
        reporter: As for `run`.

    Returns:
        The results so far; its `failed` lists the failed runs.

    Raises:
        InputError: An invalid setting; raised before any run starts.
        Interrupted: Ctrl-C or `time_limit` stopped it; the same call or `dnas.resume` continues.
    """
    given: dict[str, Any] = locals()
    started = _started(given, "compare")
    path = _folder(resume, out, "study")
    lists = {name: _listed(given[name]) for name in LISTS}
    counts = {"seeds": seeds, "training_seeds": training_seeds}
    own = {*LISTS, *COUNTS, *_OF_BOTH}
    options = {name: plain(value) for name, value in given.items() if name not in own}
    with calling(called(options)):
        settings = asked(path, options, lists, counts, threads, adds=resume is not None)
        return carry_out(path, settings, processes, _cluster(given), started)


def carry_out(
    path: Path, settings: StudySettings, processes: int, cluster: ClusterOptions, started: Started
) -> StudyResult:
    """Make the runs of a study that are missing. Raises InputError and Interrupted."""
    failed, content = carry_through(path, settings, processes, cluster, started.reporter, started.execution)
    return StudyResult(folder=path, failed=tuple(failed), content=content)


def rank(
    methods: Sequence[str] | str | None = None,
    *,
    architectures: int | None = None,
    proxy_layers: Sequence[int] = (),
    proxy_epochs: Sequence[int] = (),
    resume: str | Path | None = None,
    processes: int = 0,
    threads: int = 0,
    data: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    root: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    resize: Literal["auto", "crop", "pad", "squeeze"] | None = None,
    data_memory: Literal["auto", "whole", "stream"] | None = None,
    data_workers: int | None = None,
    skip_broken: bool | None = None,
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
    ray: str | None = None,
    ray_retries: int | None = None,
    ray_timeout: float | str | None = None,
    progress: bool = False,
    reporter: Reporter | None = None,
) -> RankingResult:
    """Measure how well supernets, and shallower and shorter trainings, rank architectures. Like `dnas rank`.

    Repeat the call with the same `out` to resume the ranking; `resume` adds to a ranking.

    Args:
        methods: Methods whose supernets score them: names, as a sequence or one text with commas; "dnas+oles" is a
            method with a part. [default: dnas]
        architectures: Number of random architectures. [default: 20]
        proxy_layers: Depths of shallower trainings.
        proxy_epochs: Lengths of shorter trainings.
        resume: The folder of a ranking to resume, or to add architectures, methods or shorter trainings to; it
            keeps its settings.
        processes: As for `compare`.
        threads: As for `compare`.
        data: digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a path: class folders of images (with train/
            and test/ or without), IDX files, arrays (.npz, .npy), a list (.csv, .tsv, .jsonl), shards of Hugging Face
            (.parquet, .arrow), or an archive (.zip, .tar, .tar.gz). [default: digits]
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
        out: The ranking folder. [default: ranking]
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
        ray: Execute the runs on a Ray cluster: auto, or HOST:PORT of its head node. All nodes must share out. [default:
            this machine]
        ray_retries: Number of retries for a run whose process or node was lost. [default: 3]
        ray_timeout: Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and the
            run is retried. [default: never]
        progress: As for `run`.
        reporter: As for `run`.

    Returns:
        The results so far; its `failed` lists the failed runs.

    Raises:
        InputError: An invalid setting; raised before any run starts.
        Interrupted: Ctrl-C or `time_limit` stopped it; the same call or `dnas.resume` continues.
    """
    given: dict[str, Any] = locals()
    started = _started(given, "rank")
    path = _folder(resume, given["out"], "ranking")
    chosen = {
        "count": architectures,
        "layers": list(proxy_layers),
        "epochs": list(proxy_epochs),
        "seed": given["seed"],
    }
    own = {"architectures", "proxy_layers", "proxy_epochs", "methods", "seed", *_OF_BOTH}
    options = {name: plain(value) for name, value in given.items() if name not in own}
    listed = None if methods is None else _listed(methods)
    with calling(ranking_design.called(options)):
        settings = ranking_design.asked(path, options, listed, chosen, threads, adds=resume is not None)
        return carry_out_ranking(path, settings, processes, _cluster(given), started)


def carry_out_ranking(
    path: Path, settings: ranking_design.RankingSettings, processes: int, cluster: ClusterOptions, started: Started
) -> RankingResult:
    """Make the runs of a ranking that are missing. Raises InputError and Interrupted."""
    content = ranking.carry_through(path, settings, processes, cluster, started.reporter, started.execution)
    return RankingResult(
        folder=path,
        architectures=content["architectures"],
        failed=tuple(content["failed"]),
        missing=tuple(content["missing"]),
        content=content,
    )


_OF_BOTH = {
    *names(ClusterOptions, ExecutionOptions),
    *("threads", "processes", "progress", "reporter", "out", "resume"),
}


def _started(given: Mapping[str, Any], function: str) -> Started:
    started = Started.of(given)
    if started.place is not None:
        raise InputError(
            f"data of {function} must be a name or a path, which its processes can read; save arrays by np.savez"
        )
    return started


def _folder(resume: str | Path | None, out: str | Path | None, kind: str) -> Path:
    if resume is not None and out is not None:
        raise InputError(f"out={out} cannot be used with resume={resume}, which is the {kind}'s folder; remove one")
    return Path(resume or out or kind)


def _cluster(given: Mapping[str, Any]) -> ClusterOptions:
    return ClusterOptions(**{name: given[name] for name in names(ClusterOptions)})


def _listed(value: Sequence[str] | str) -> list[str]:
    texts = value.split(",") if isinstance(value, str) else value
    return [text.strip() for text in texts if text.strip()]

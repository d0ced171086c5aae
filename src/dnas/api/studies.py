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
    """Compare search methods over several seeds, each beside random networks of the same size. As `dnas compare`.

    Call it again with the same `out` to go on; `resume` adds to a study.

    Args:
        methods: Names, or one text of them with commas between; "dnas+oles" is a method with a part.
        mappings: Likewise; a method is run under those it knows. [default: each method's own]
        seeds: Searches with every method, by the seeds 0, 1, … [default: 4]
        training_seeds: Trainings of every searched network. [default: 1]
        architectures: Published names and hand-made networks, trained by the same trainer.
        resume: The folder of a study to go on with, or to add seeds, methods, mappings or architectures to; it keeps
            its settings.
        processes: Runs at a time. [default: one a thread on the CPU, else 1; what a cluster has room for]
        threads: Threads of every run. [default: the machine's, shared by its runs; 1 on a cluster]
        data: digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a path: class folders of images (with train/
            and test/ or without), IDX files, arrays (.npz, .npy), a list (.csv, .tsv, .jsonl), shards of Hugging Face
            (.parquet, .arrow), or an archive (.zip, .tar, .tar.gz). [default: digits]
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
        preset: quick: minutes on two cores. paper: the settings of the method's paper. shared: DARTS' for every method.
            [default: quick]
        config: A TOML file of settings, as config.toml of a run; options given here go before it. [default: none]
        out: The study's folder. [default: study]
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
        ray: Make the runs on a Ray cluster whose nodes all see out: auto, or HOST:PORT of its head. [default: on this
            machine]
        ray_retries: How often a run whose process or node was lost is tried again. [default: 3]
        ray_timeout: Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and it
            is tried again. [default: never]
        progress: As of `run`.
        reporter: As of `run`.

    Returns:
        What came out so far; its `failed` names the runs that failed.

    Raises:
        InputError: A setting that cannot work, before anything is run.
        Interrupted: Ctrl-C or `time_limit` stopped it; the same call or `dnas.resume` goes on.
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
    """Ask how well supernets, shallower and shorter trainings rank architectures as full training does. As `dnas rank`.

    Call it again with the same `out` to go on; `resume` adds to a ranking.

    Args:
        methods: Whose supernets judge them: names, or one text of them with commas between; "dnas+oles" is a method
            with a part. [default: dnas]
        architectures: How many random ones are ranked. [default: 20]
        proxy_layers: Depths of shallower trainings.
        proxy_epochs: Lengths of shorter trainings.
        resume: The folder of a ranking to go on with, or to add architectures, methods or shorter trainings to; it
            keeps its settings.
        processes: As of `compare`.
        threads: As of `compare`.
        data: digits, fashion-mnist, cifar10, cifar100, tiny-imagenet, or a path: class folders of images (with train/
            and test/ or without), IDX files, arrays (.npz, .npy), a list (.csv, .tsv, .jsonl), shards of Hugging Face
            (.parquet, .arrow), or an archive (.zip, .tar, .tar.gz). [default: digits]
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
        out: The ranking's folder. [default: ranking]
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
        ray: Make the runs on a Ray cluster whose nodes all see out: auto, or HOST:PORT of its head. [default: on this
            machine]
        ray_retries: How often a run whose process or node was lost is tried again. [default: 3]
        ray_timeout: Time, in seconds or as 5m or 1h30m, after which a run counts as hung: its process is ended and it
            is tried again. [default: never]
        progress: As of `run`.
        reporter: As of `run`.

    Returns:
        What came out so far; its `failed` names the runs that failed.

    Raises:
        InputError: A setting that cannot work, before anything is run.
        Interrupted: Ctrl-C or `time_limit` stopped it; the same call or `dnas.resume` goes on.
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

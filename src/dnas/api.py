"""The Python functions behind the commands: the same options, by keyword."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dnas.data.inspection import Inspection
from dnas.deploy.export import export as write_export
from dnas.errors import InputError, calling, did_you_mean
from dnas.options import (
    BothOptions,
    DataOptions,
    ExecutionOptions,
    InspectedDataOptions,
    RunOptions,
    SearchOptions,
    WidthOptions,
    names,
)
from dnas.pipeline import run as pipeline
from dnas.pipeline.classifier import Classifier
from dnas.pipeline.inputs import inspected
from dnas.pipeline.model import load_model
from dnas.pipeline.overrides import nested, typed
from dnas.pipeline.subjects import Named, to_train
from dnas.reporter import Reporter
from dnas.runtime.execution import execution
from dnas.runtime.names import ARCHITECTURE_FILE
from dnas.space.architecture import Architecture


def run(*, baseline: bool = True, reporter: Reporter | None = None, **options: Any) -> dict[str, Any]:
    """Search, train and test; the content of result.json. Options as of `dnas run`, e.g. data="cifar10".

    Raises:
        InputError: An option that is not known or cannot work.
        RunError: The run failed; `dnas.resume` goes on.
    """
    _known("run", options, DataOptions, RunOptions, ExecutionOptions, SearchOptions, BothOptions)
    return _start("run", {**options, "baseline": baseline}, reporter)


def search(*, reporter: Reporter | None = None, **options: Any) -> dict[str, Any]:
    """Search only; the content of result.json, with the architecture as an `Architecture`."""
    _known("search", options, DataOptions, RunOptions, ExecutionOptions, SearchOptions)
    result = _start("search", options, reporter)
    return result | {"architecture": Architecture.load(Path(result["run"]) / ARCHITECTURE_FILE)}


def train(
    architecture: Architecture | str | Path | None = None,
    *,
    baseline: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train and test a network and return the content of result.json. Options match those of `dnas train`.

    Args:
        architecture: An `Architecture`, or as on the command line: an architecture file, a run folder, a published name
            ("DARTS_V2"), or a hand-made network ("resnet8"). A run hands on its data and its training, unless options
            say otherwise. With `from_run`, a run folder, it may be left out: the training begins with the weights of
            that run's network.

    Raises:
        InputError: No such network, or an option that is not known or cannot work.
        RunError: The run failed; `dnas.resume` goes on.
    """
    _known("train", options, DataOptions, RunOptions, WidthOptions, ExecutionOptions, more=["option"])
    given, found = to_train(architecture, {**options, "baseline": baseline})
    return _start("train", given, reporter, found)


def resume(run: str | Path, *, reporter: Reporter | None = None, **options: Any) -> dict[str, Any]:
    """Go on from the last checkpoint of a run folder; the content of result.json. Options as of `dnas resume`."""
    _known("resume", options, ExecutionOptions)
    return pipeline.resume(run, reporter=reporter, execution=execution(**options))


def inspect_data(data: str | Path, *, reporter: Reporter | None = None, **options: Any) -> Inspection:
    """Look at a data set as `dnas run` would read it, without running; options as of `dnas data`, e.g. image_size=64.

    Returns:
        An `Inspection`: classes and counts, what is left out and why, copies within and across the splits.

    Raises:
        InputError: There is no such data set, it would be refused, or an option is not known.
    """
    _known("data", options, InspectedDataOptions)
    for name in ("data", "data_memory", "data_workers", "skip_broken"):
        if name in options:
            raise InputError(f"{name} does not apply to inspect_data; remove it")
    return inspected(str(data), options, reporter)


def load(run: str | Path) -> Classifier:
    """Load the trained network of a run folder, in evaluation mode.

    Returns:
        A `Classifier`: it has `classes`, `image_size`, `channels`, `mean` and `std`, and `predict(pictures)` takes
        paths, PIL images, uint8 arrays and tensors. Called with normalized images, as `preprocess(pictures)` gives
        them, it returns logits. `network` is the plain module.

    Raises:
        InputError: There is no trained network, or its file is damaged.
    """
    return Classifier(*load_model(run)).eval()


def export(
    run: str | Path,
    format: str | Sequence[str] = "onnx",
    *,
    out: str | Path | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write the trained network of a run so that it runs without dnas; the content of export.json, and its `folder`.

    Args:
        format: One or several of those that `dnas export --help` lists.
        out: The folder; by default `export` in the run folder.
        data, data_dir: Images to test it on, and to calibrate int8 by; by default the run's.

    Raises:
        InputError: No trained network, an unknown format or one that cannot hold it, or a package is missing.
        RunError: What was written does not run, or does not agree with torch.
    """
    return write_export(run, [format] if isinstance(format, str) else format, out, data, data_dir, reporter)


def _start(
    command: Any, options: dict[str, Any], reporter: Reporter | None, subject: Named | None = None
) -> dict[str, Any]:
    options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
    if isinstance(options.get("option"), dict):
        options["option"] = [f"{k}={v}" for k, v in options["option"].items()]
    out = options.pop("out", None)
    now = execution(**{name: options.pop(name, None) for name in names(ExecutionOptions)})
    with calling(typed(command, options)):
        settings, architecture = nested(command, options), None
        if subject is not None:
            settings, architecture = subject.beneath(settings), subject.architecture
        return pipeline.start(settings, out=out, architecture=architecture, reporter=reporter, execution=now)


def _known(command: str, options: dict[str, Any], *groups: type, more: Collection[str] = ()) -> None:
    known = names(*groups) | set(more)
    for name in options:
        if name not in known:
            hint = did_you_mean(name, sorted(known)) or f"; list all with `dnas {command} --help`"
            raise InputError(f"unknown option {name!r}{hint}")

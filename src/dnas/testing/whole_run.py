"""Checks of a whole run with a method."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from PIL import Image

from dnas.data.splits import load_test
from dnas.errors import Interrupted
from dnas.methods.registry import get_method
from dnas.pipeline.run import resume, start
from dnas.reporter import Silent
from dnas.runtime.names import ARCHITECTURE_FILE, DRAWING_FILE, METRICS_FILE, PARAMETERS_FILE, RESULT_FILE
from dnas.testing.planted import pictures, plant
from dnas.testing.record import REAL, Options, search, tested_method


def check_reads_no_test_images(name: str, options: Options | None = None) -> None:
    """Check that a search only reads the training split. Also see `check_pipeline`."""
    with _no_test_images():
        search(name, None, options, planted=plant(get_method(name).default_mapping, 0))


@contextmanager
def _no_test_images() -> Iterator[None]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a search must not read test images, and load_test was called; use the split it is given")

    assert isinstance(load_test, FunctionType)
    # Replace the code instead of the name, which other modules have imported.
    code, load_test.__code__ = load_test.__code__, refuse.__code__
    try:
        yield
    finally:
        load_test.__code__ = code


def check_pipeline(name: str, options: Options | None = None, with_parts: Mapping[str, Options] | None = None) -> None:
    """Check that an interrupted and resumed search in a run folder writes the same bytes as an uninterrupted one.

    A signal interrupts it in the middle of an epoch or trial. The test images of its data are damaged, which must not
    matter.

    Args:
        with_parts: Parts to add, with their options.
    """
    method, values = tested_method(
        name, None, options, {key: value for key, value in REAL.items() if key != "watch_images"}
    )
    overrides = {
        "command": "search",
        "method": name,
        "mapping": method.mapping_name,
        "options": {key: value for key, value in (options or {}).items() if not key.startswith("search.")},
        "search": values,
        "with_parts": list(with_parts or {}),
        "with_options": {part: dict(given) for part, given in (with_parts or {}).items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        source = _poisoned(Path(folder) / "images", values["images"])
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        steps = _Steps()
        data = {"source": str(source)}
        with _no_test_images():
            start({**overrides, "data": data}, out=whole, reporter=steps)
            try:
                start({**overrides, "data": data}, out=broken, reporter=_Steps(steps.count // 2 + 1))
            except Interrupted:
                resume(broken)
            else:
                raise AssertionError(f"the search of {name} has no step after which it could be interrupted")
        one, two = (_contents(run) for run in (whole, broken))
    assert one.keys() == two.keys(), f"interrupted and resumed, {name} leaves {sorted(two)} instead of {sorted(one)}"
    differing = [file for file in one if one[file] != two[file]]
    assert not differing, f"interrupted and resumed, {name} leaves another {', '.join(differing)}; see check_resumes"


class _Steps(Silent):
    """A reporter that counts steps and requests a stop at one of them."""

    def __init__(self, stop: int = 0) -> None:
        self.count, self.stop = 0, stop

    def step(self, step: int, shown: Mapping[str, float]) -> None:
        self.count += 1
        if self.count == self.stop:
            signal.raise_signal(signal.SIGTERM)


def _poisoned(folder: Path, count: int) -> Path:
    """Write training images as files, and unreadable test images."""
    split, _ = pictures(count)
    for i, (image, label) in enumerate(zip(split.batch(torch.arange(count)), split.labels.tolist(), strict=True)):
        for part in ("train", "test"):
            (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / "train" / str(label) / f"{i}.png")
        (folder / "test" / str(label) / f"{i}.png").write_bytes(b"no picture")
    return folder


def _contents(run: Path) -> dict[str, Any]:
    """Return the reproducible results of a search, by file."""
    result = json.loads((run / RESULT_FILE).read_text("utf-8"))
    for key in ("run", "search_seconds", "train_seconds", "peak_memory_bytes"):
        result.pop(key)
    names = {ARCHITECTURE_FILE, DRAWING_FILE, METRICS_FILE, PARAMETERS_FILE}
    files = {entry.name: entry.read_bytes() for entry in run.iterdir() if entry.name in names}
    return {**files, RESULT_FILE: result}

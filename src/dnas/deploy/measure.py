"""Run an exported network as its users would: on the test images, in a process without dnas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnas.data.splits import DataInfo, Split
from dnas.deploy.protocol import Floats, Format
from dnas.errors import RunError
from dnas.training.accuracy import TEST_BATCH, Accuracy

# An exact format must agree with torch on this share of the test images, and its logits may differ by at most this
# fraction of the largest logit (of 1, if that is smaller).
AGREEMENT, CLOSE = 0.999, 1e-4
LAST = 4  # last lines of a failed process to show


@dataclass(frozen=True)
class TestImages:
    """Test images in a file, uint8 [N, C, S, S], with their labels int64 [N] and the logits of torch [N, classes]."""

    pixels: Path
    labels: Any
    logits: Floats
    info: DataInfo

    def accuracy(self, logits: Floats) -> Accuracy:
        return Accuracy(int((logits.argmax(1) == self.labels).sum()), len(self.labels))


def write_pixels(split: Split, path: Path) -> None:
    """Write all images of a split to a .npy file, batch by batch."""
    out = np.lib.format.open_memmap(path, "w+", np.uint8, tuple(split.images.shape))
    for indices in torch.split(torch.arange(len(split)), TEST_BATCH):
        out[indices.numpy()] = split.batch(indices).numpy()
    out.flush()


def run(form: Format, folder: Path, tests: TestImages, place: Path) -> tuple[dict[str, Any], Floats]:
    """Run the file of a format on the test images, on the CPU with one thread.

    Args:
        folder: Folder of the exported file.
        place: Folder for files exchanged between the processes.

    Returns:
        Measurements: `latency_seconds` per image (median) and `latency_quartiles`; `peak_memory_bytes` of a process at
        batch size 1, and the part of it that is due to the network (`network_memory_bytes`). And the logits of all
        images.

    Raises:
        RunError: The process failed.
    """
    (place / "opened.py").write_text(form.opening, "utf-8")
    told = {
        "without": form.without,
        "opened": str(place),
        "pixels": str(tests.pixels),
        "mean": tests.info.mean,
        "std": tests.info.std,
        "logits": str(place / "logits.npy"),
        "figures": str(place / "figures.json"),
    }
    (place / "told.json").write_text(json.dumps(told), "utf-8")
    script = resources.files("dnas.deploy") / "carried" / "run.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with resources.as_file(script) as runner:
        ended = subprocess.run(
            [sys.executable, str(runner), str(place / "told.json")],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if ended.returncode:
        last = " ".join(line.strip() for line in ended.stderr.strip().splitlines()[-LAST:])
        raise RunError(f"{form.name}: {form.file} does not run and was discarded: {last}")
    figures: dict[str, Any] = json.loads((place / "figures.json").read_text("utf-8"))
    assert figures.pop("missing") == list(form.without)
    return figures, np.load(place / "logits.npy")


def compared(form: Format, logits: Floats, tests: TestImages) -> dict[str, Any]:
    """Return the accuracy of an exported network, and how closely its logits agree with those of torch.

    Raises:
        RunError: The format is exact, but its predictions differ.
    """
    accuracy, torch_accuracy = tests.accuracy(logits), tests.accuracy(tests.logits)
    same = float((logits.argmax(1) == tests.logits.argmax(1)).mean())
    furthest = float(np.abs(logits - tests.logits).max())
    bound = CLOSE * max(1.0, float(np.abs(tests.logits).max()))
    if form.exact and (same < AGREEMENT or not furthest <= bound):
        raise RunError(
            f"{form.name}: {form.file} was discarded: it agrees with torch on {same:.2%} of {len(logits)} test images "
            f"(required: {AGREEMENT:.1%}), and its logits differ by up to {furthest:.2g} (allowed: {bound:.2g})"
        )
    return {
        "test_accuracy": accuracy.value,
        "test_interval": list(accuracy.interval),
        "accuracy_lost": torch_accuracy.value - accuracy.value,
        "agreement": same,
        "largest_difference": furthest,
    }

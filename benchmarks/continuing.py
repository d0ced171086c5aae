"""By what share of a full learning rate trained weights go on best: the same classes a little longer, or other classes.

    python benchmarks/continuing.py --data digits
    python benchmarks/continuing.py --data sign-digits.zip --image-size 16

Of the training images 70 % train and the rest judge; test images are not read. A small network is trained on all
classes, and goes on for one and for four epochs; another is trained on the lower half of the classes, and goes on with
100 images of the others. What is printed is the accuracy on the images that judge.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import App
from rich.console import Console
from rich.table import Table

import dnas
from dnas.data.splits import load_train
from dnas.rng import numpy_stream

SHARES = (0.1, 0.2, 0.5, 1.0)  # of a full rate
RATE, MUON_RATE = 0.1, 0.05  # full ones: the quick preset's
SMALL = {"channels": 8, "batch_size": 32, "preset": "quick"}
EPOCHS, FEW = 20, 100

app = App(help=__doc__, help_format="plaintext")


def written(folder: Path, source: str, image_size: int | None) -> dict[str, Path]:
    """Arrays of what trains and what judges: of all classes, of the lower half of them, and of the others."""
    split, info = load_train(source, image_size=image_size)
    images = split.batch(torch.arange(len(split))).permute(0, 2, 3, 1).numpy()
    labels = split.labels.numpy()
    drawn = numpy_stream(0, "continuing").permutation(len(labels))
    trained, judged = np.split(drawn, [7 * len(labels) // 10])
    half = len(info.classes) // 2

    def kept(name: str, low: int, high: int, few: int | None = None) -> Path:
        parts: dict[str, Any] = {}
        for part, indices in (("train", trained), ("test", judged)):
            of_these = indices[(labels[indices] >= low) & (labels[indices] < high)]
            of_these = of_these[:few] if part == "train" else of_these
            parts |= {f"{part}_images": images[of_these].squeeze(), f"{part}_labels": labels[of_these] - low}
        np.savez(folder / f"{name}.npz", **parts)
        return folder / f"{name}.npz"

    count = len(info.classes)
    return {"all": kept("all", 0, count), "lower": kept("lower", 0, half), "few": kept("few", half, count, FEW)}


def accuracy(folder: Path, architecture: dnas.Architecture | None = None, share: float = 1.0, **options: Any) -> float:
    rates = [f"train.learning_rate={share * RATE}", f"train.muon_learning_rate={share * MUON_RATE}"]
    result = dnas.train(architecture, out=folder, option=rates, **options)
    return float(result["test_accuracy"])


@app.default
def main(data: str = "digits", image_size: int | None = None, seeds: int = 3) -> None:
    architecture = dnas.load_published("DARTS_V2", 3)
    found: dict[str, dict[float, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = written(folder, data, image_size)
        for seed in range(seeds):
            whole, lower = folder / f"all-{seed}", folder / f"lower-{seed}"
            before = accuracy(whole, architecture, data=sets["all"], seed=seed, epochs=EPOCHS, **SMALL)
            accuracy(lower, architecture, data=sets["lower"], seed=seed, epochs=EPOCHS, **SMALL)
            alone = accuracy(folder / f"few-{seed}", architecture, data=sets["few"], seed=seed, epochs=EPOCHS, **SMALL)
            ways: dict[str, tuple[float, dict[str, Any]]] = {
                "the same classes, 1 epoch": (before, {"from_run": whole, "epochs": 1}),
                "the same classes, 4 epochs": (before, {"from_run": whole, "epochs": 4}),
                f"{FEW} images of other classes, {EPOCHS} epochs": (alone, {"from_run": lower, "data": sets["few"]}),
            }
            for way, (without, options) in ways.items():
                row = found.setdefault(way, {share: [] for share in (0.0, *SHARES)})
                row[0.0].append(without)
                for share in SHARES:
                    out = folder / f"{len(row[share])}-{way}-{share}"
                    row[share].append(accuracy(out, share=share, seed=seed, **options))
    table = Table(title=f"{data}: mean accuracy in % of {seeds} seeds")
    table.add_column("goes on with")
    for column in ("before, or without", *(f"{share:g} of the rate" for share in SHARES)):
        table.add_column(column, justify="right")
    for way, row in found.items():
        table.add_row(way, *(f"{100 * statistics.mean(values):.1f}" for values in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    app()

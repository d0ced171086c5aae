"""What a supernet that trains sampled operations knows after so many steps: how well it does with random architectures.

    python benchmarks/paths.py --method spos --steps 100 --steps 400 --steps 1600
    python benchmarks/paths.py --method gdas --steps 120 --learning-rate 0.1 --data FOLDER

Each number of steps is a search of its own, with its own cosine of the learning rate. Then random architectures are
judged with the supernet's weights on the half of the training images that these did not see: their mean accuracy, its
spread, and the rank correlation of their accuracies on two halves of these images. Where the mean is near chance or the
correlation small, what evolution or a controller would choose by is noise. Test images are not read.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from dnas.data.splits import DataInfo, Split, load_train
from dnas.methods.protocol import SupernetMethod
from dnas.methods.registry import create
from dnas.pipeline.presets import paper_travel
from dnas.rng import numpy_stream
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.supernet.mapping import SHARED

LAST = 20  # steps whose loss is shown

app = App(help=__doc__, help_format="plaintext")


def searched(name: str, steps: int, split: Split, info: DataInfo, **shape: Any) -> tuple[Search, float]:
    """A search after about so many steps, in whole epochs, and the mean loss of the last ones."""
    method = create(name, SHARED, {}, DARTS)
    assert isinstance(method, SupernetMethod)
    own = method.paper_settings(info.source).get("search", {})
    rate = {"architecture_learning_rate": 0.0} if issubclass(method.Settings, GradientSettings) else {}
    settings = method.Settings(**{**own, **rate, "learning_rate_min": 0.001, "watch_images": 0, **shape})
    travel = paper_travel(method)
    epochs = max(1, round(steps / settings.resolved(len(split), travel, info.image_size).steps_per_epoch))
    settings = settings.model_copy(update={"epochs": epochs}).resolved(len(split), travel, info.image_size)
    search = Search(method, settings, split, info, 0, "cpu")
    losses = [search.step(step) for step in range(epochs * settings.steps_per_epoch)]
    return search, statistics.mean(losses[-LAST:])


def judged(search: Search, count: int) -> dict[str, float]:
    """Of random architectures: the mean accuracy, its spread, and the rank correlation between halves of the images."""
    layers, half = search.settings.layers, len(search.validation_part) // 2
    drawn = [sampling.sample(DARTS, numpy_stream(7, "probe", k), layers, shared=True) for k in range(count)]
    whole = [search.accuracy(architecture) for architecture in drawn]
    one, two = ([search.accuracy(each, half, first) for each in drawn] for first in (0, half))
    ranks = float(spearmanr(one, two).statistic)
    return {"mean": float(np.mean(whole)), "spread": float(np.std(whole)), "halves": ranks}


@app.default
def main(
    *,
    method: str = "spos",
    steps: tuple[int, ...] = (100, 400),
    learning_rate: float = 0.025,
    data: str = "digits",
    layers: int = 3,
    channels: int = 8,
    batch_size: int = 64,
    architectures: int = 12,
) -> None:
    """Train supernets of sampled paths, and judge random architectures with them."""
    split, info = load_train(data)
    table = Table("method", "rate", "steps", "loss", "accuracy of random paths", "spread", "ranks between halves")
    shape = {"layers": layers, "channels": channels, "batch_size": batch_size, "learning_rate": learning_rate}
    for count in steps:
        search, loss = searched(method, count, split, info, **shape)
        found = judged(search, architectures)
        shown = (f"{value:.3f}" for value in (loss, found["mean"], found["spread"], found["halves"]))
        table.add_row(method, f"{learning_rate:g}", str(search.trained), *shown)
    Console().print(table)


if __name__ == "__main__":
    app()

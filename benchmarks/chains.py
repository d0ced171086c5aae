"""Training steps of networks of chains with native kernels beside the same steps in PyTorch.

    python benchmarks/chains.py                     # 64 images of 32×32 pixels, 24 channels, one thread

Both kinds of steps alternate, on the same weights. The table has the lower quartile of their processor times, and the
median of the ratios of adjacent steps.
"""

from __future__ import annotations

import statistics
import time

import torch
from cyclopts import App
from rich.console import Console
from rich.table import Table

from dnas.data.splits import DataInfo, Split
from dnas.kernels import native
from dnas.methods.registry import create
from dnas.pipeline.presets import preset_settings
from dnas.rng import numpy_stream, torch_stream
from dnas.settings import TrainSettings
from dnas.space.registry import SPACES
from dnas.space.sampling import sample
from dnas.training.build import built
from dnas.training.trainer import Training

WARM_UP = 3
BACKENDS: tuple[native.Backend, ...] = ("native", "torch")

app = App(help=__doc__, help_format="plaintext")


def drawn_images(count: int, side: int) -> tuple[Split, DataInfo]:
    """Images of noise, in ten classes."""
    generator = torch_stream(0, "images")
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    classes = tuple(map(str, range(10)))
    return Split(images, torch.arange(count) % 10), DataInfo("drawn", classes, 3, side, (0.5,) * 3, (0.3,) * 3, False)


@app.default
def main(
    *, spaces: str = "resnet,mobile,shuffle", layers: int = 6, channels: int = 24, side: int = 32, steps: int = 20
) -> None:
    """Time steps of a random network of each space."""
    torch.set_num_threads(1)
    train, info = drawn_images(1024, side)
    table = Table("space", "native ms", "torch ms", "native / torch")
    for name in spaces.split(","):
        space = SPACES[name]
        quick = preset_settings("quick", create("dnas", None, {}, space), info, len(train))["train"]
        settings = TrainSettings(**{**quick, "channels": channels}).resolved(len(train), side)
        architecture = sample(space, numpy_stream(0, "chains"), layers)
        training = Training(built(architecture, settings, info, 0), settings, train, info, 0, "train", "cpu")
        taken: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
        for step in range(0, 2 * (steps + WARM_UP), 2):
            for backend in BACKENDS:
                native.choose(backend)
                began = time.thread_time()
                training.step(step + BACKENDS.index(backend))
                taken[backend].append(time.thread_time() - began)
        ours, theirs = (taken[backend][WARM_UP:] for backend in BACKENDS)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        quartiles = (f"{1e3 * statistics.quantiles(each)[0]:.1f}" for each in (ours, theirs))
        table.add_row(name, *quartiles, f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    app()

"""How far the architecture gradients of different seeds agree, while the architecture rests.

    python benchmarks/gradients.py --data FOLDER --image-size 16 --steps 300
    python benchmarks/gradients.py --mappings full --channels 8 -o partial_channels=1 --out gradients.json

Seeds differ in the supernet's initial weights and in the order of the images; architecture parameters stay equal, so
nothing that they do at first decides what follows. What the mean gradients of two seeds have in common is what a search
could know. The table has, for each table of parameters of a mapping, the correlation of its mean gradients between
seeds (`seeds`), and between the even and the odd steps of one seed (`halves`), which share the weights. Each number is
in units of its root mean square, as Adam would follow it. Then what the architectures agree in that follow from these
gradients alone, beyond chance, over (edge, operation) and over edges. Every step has images of its own as far as there
are enough; test images are not read.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dnas.data.splits import load_train
from dnas.methods.protocol import GradientMethod
from dnas.methods.registry import create
from dnas.pipeline.overrides import add_options
from dnas.searching.search import Search
from dnas.space.agreement import agreement
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.supernet.mapping import DECOUPLED, FULL

# Adam's rate while parameters rest, which must not be 0: that would stand for an automatic one.
AT_REST = 1e-12

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Job:
    data: str
    image_size: int
    method: str
    mapping: str
    options: dict[str, Any]
    layers: int
    channels: int
    batch_size: int
    steps: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Seen:
    """What a seed's gradients say: where they lead by the even and by the odd steps, by table of parameters."""

    ways: dict[str, tuple[Tensor, Tensor]]
    architecture: Architecture
    accuracy: float  # of the supernet
    seconds: float


def seen(job: Job) -> Seen:
    torch.set_num_threads(1)
    split, info = load_train(job.data, image_size=job.image_size or None)
    method = create(job.method, job.mapping, job.options, DARTS)
    assert isinstance(method, GradientMethod)
    images = min(len(split), 2 * job.steps * job.batch_size)
    epochs = max(1, round(job.steps * job.batch_size / (images // 2)))
    shape = {name: getattr(job, name) for name in ("layers", "channels", "batch_size", "learning_rate")}
    settings = method.Settings(
        **shape, images=images, epochs=epochs, warmup_epochs=0, architecture_learning_rate=AT_REST, watch_images=0
    ).resolved(len(split), 0.0, info.image_size)
    search = Search(method, settings, split, info, job.seed, "cpu")
    for p in search.architecture:
        p.data.zero_()
    began, steps = time.process_time(), epochs * settings.steps_per_epoch
    for step in range(steps):
        search.step(step)
    seconds = time.process_time() - began
    progress = search.progress(steps - 1)
    accuracy = search.accuracy(search.mixing(progress))
    assert search.halves is not None
    names = [name for name, _ in search.mapping.named_parameters()]
    # In units of a step's root mean square, so that all of them have moved by about one.
    ways = dict(zip(names, search.halves.travels(1 / steps), strict=True))
    for name, p in search.mapping.named_parameters():
        p.data.copy_(sum(ways[name]))
    return Seen(ways, method.derive(search.mapping, progress), accuracy, seconds)


def correlation(one: Tensor, two: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1])


def summary(found: Sequence[Seen]) -> dict[str, Any]:
    """Of the seeds of one mapping."""
    pairs = list(itertools.combinations(found, 2))
    between = agreement([each.architecture for each in found], DARTS)
    assert between is not None, "two seeds at least"
    return {
        "seeds": {
            name: statistics.mean(correlation(sum(a.ways[name]), sum(b.ways[name])) for a, b in pairs)
            for name in found[0].ways
        },
        "halves": {name: statistics.mean(correlation(*each.ways[name]) for each in found) for name in found[0].ways},
        "operations": between.operations,
        "edges": between.edges,
        "accuracy": statistics.mean(each.accuracy for each in found),
        "seconds": statistics.mean(each.seconds for each in found),
    }


@app.default
def main(
    *,
    data: str = "digits",
    image_size: int = 0,
    method: str = "dnas",
    mappings: str = f"{FULL},{DECOUPLED}",
    option: Annotated[tuple[str, ...], Parameter(name=("--option", "-o"))] = ("zero_one_weight=0",),
    layers: int = 6,
    channels: int = 8,
    batch_size: int = 64,
    steps: int = 200,
    learning_rate: float = 0.05,
    seeds: int = 4,
    processes: int = os.cpu_count() or 1,
    out: Path | None = None,
) -> None:
    """Compare the gradients of several seeds.

    Parameters
    ----------
    data: A name or a folder.
    image_size: Of the images; 0: as they are.
    method: One with gradients.
    mappings: Names with commas between them.
    option: Of the method.
    learning_rate: Of the weights, which stays as it is.
    seeds: Two at least.
    processes: Seeds at a time.
    out: A file for the figures, as JSON.
    """
    shape = (layers, channels, batch_size, steps, learning_rate)
    given: dict[str, Any] = {}
    add_options(given, option, ["options"])
    options = given.get("options", {})
    results = {}
    table = Table("mapping", "table", "seeds", "halves", title=f"{Path(data).name}, {method}, {', '.join(option)}")
    for mapping in mappings.split(","):
        jobs = [Job(data, image_size, method, mapping, options, *shape, seed) for seed in range(seeds)]
        with ProcessPoolExecutor(processes) as pool:
            found = summary(list(pool.map(seen, jobs)))
        results[mapping] = {"settings": asdict(jobs[0])} | found
        for name, value in found["seeds"].items():
            table.add_row(mapping, name, f"{value:.2f}", f"{found['halves'][name]:.2f}")
        table.add_row(mapping, "architectures", f"{found['operations']:.2f}", f"edges {found['edges']:.2f}")
        table.add_row(mapping, "supernet", f"{found['accuracy']:.3f}", f"{found['seconds']:.0f} s each")
    if out is not None:
        out.write_text(json.dumps(results, indent=2), "utf-8")
    Console().print(table)


if __name__ == "__main__":
    app()

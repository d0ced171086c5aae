"""Makes a prior: what short trainings on some data sets say about the factors of an architecture.

    python benchmarks/prior.py --data cifar10-jpeg,fashion-mnist,sign-digits --trainings 150 --out prior

Architectures are trained for equal processor time of one thread by the quick recipe, on images of at most 32 pixels,
and judged on training images that were held out; test images are never read. The first are drawn such that they differ
more than uniform ones do: in each stage operations have other chances. The others are the best under one draw from what
the model says so far (Thompson sampling), so that it is sure of what is good. Every training is a line of
trainings.jsonl, with which an interrupted command goes on; `prior.json` is fitted to all of them.
`dnas run --prior prior/prior.json` draws candidates from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cyclopts import App, Parameter
from held_out import parts, trained_for

from dnas.data.splits import DataInfo, Split, load_train
from dnas.disk import write_atomically
from dnas.methods.registry import create
from dnas.pipeline.presets import QUICK_LAYERS, preset_settings
from dnas.rng import numpy_stream
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.sampling import sample
from dnas.supernet.worth import LEAST_TRAININGS, Worth, fit, places

SIDE = 32
EVENNESS = 0.4  # of the chances of operations; 1 is uniform over all chances

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@cache
def images(data: str) -> tuple[Split, Split, DataInfo]:
    """Those that are trained on, those that judge, and what they are; all of them small."""
    split, info = load_train(data)
    pictures = [split.batch(part).float() for part in torch.arange(len(split)).split(1_000)]
    side = min(SIDE, info.image_size)
    small = [F.interpolate(part, size=(side, side), mode="area").round().to(torch.uint8) for part in pictures]
    split, info = Split(torch.cat(small), split.labels), replace(info, image_size=side)
    return *parts(split), info


def trained(data: str, seconds: float, architecture: Architecture, origin: str, seed: int) -> dict[str, Any]:
    """A line of trainings.jsonl."""
    torch.set_num_threads(1)
    train, judges, info = images(data)
    quick = preset_settings("quick", create("dnas", None, {}, DARTS), info, len(train))["train"]
    settings = TrainSettings(**{**quick, "epochs": 1, "images": 0}).resolved(len(train), info.image_size)
    found = trained_for(seconds, architecture, settings, train, judges, info, seed)
    return {
        "data": Path(data).name,
        "origin": origin,
        "seed": seed,
        "seconds": seconds,
        "steps": found.steps,
        "params": found.params,
        "accuracy": found.accuracy,
        "architecture": architecture.to_json(),
    }


def varied(rng: np.random.Generator, layers: int) -> Architecture:
    """A uniform architecture but for its operations, whose chances are drawn for each stage: some common, some rare."""
    architecture = sample(DARTS, rng, layers)
    stages = [stage for stage, _ in places(layers)]
    chances = rng.dirichlet([EVENNESS] * len(DARTS.primitives), max(stages) + 1)
    cells = [
        Cell(
            tuple(
                tuple((DARTS.primitives[rng.choice(len(DARTS.primitives), p=chances[stage])], s) for _, s in node)
                for node in cell.nodes
            )
        )
        for stage, cell in zip(stages, architecture.layers, strict=True)
    ]
    return Architecture(tuple(cells), architecture.reductions, architecture.space)


def fitted(lines: Sequence[Mapping[str, Any]], layers: int) -> Worth:
    """The model of all trainings."""
    # What other time has led to is another measure.
    names = [f"trainings of {line['seconds']:g} s on {line['data']}" for line in lines]
    accuracies = {
        name: [line["accuracy"] if own == name else None for own, line in zip(names, lines, strict=True)]
        for name in sorted(set(names))
    }
    worth = fit([Architecture.from_json(line["architecture"]) for line in lines], accuracies, DARTS, layers)
    longest = max(line["seconds"] for line in lines)
    return replace(
        worth,
        source=", ".join(f"{names.count(name)} {name}" for name in accuracies),
        steps=round(np.median([line["steps"] for line in lines if line["seconds"] == longest])),
    )


def chosen(lines: Sequence[Mapping[str, Any]], first: int, layers: int, number: int) -> tuple[Architecture, str]:
    """What is trained next, and where it comes from."""
    rng = numpy_stream(number, "prior")
    if len(lines) < max(LEAST_TRAININGS, first):
        return varied(rng, layers), "varied"
    return fitted(lines, layers).best(layers, rng=rng), "proposed"


@app.default
def main(
    *,
    data: str = "digits",
    trainings: int = 150,
    first: float = 0.5,
    seconds: float = 80.0,
    layers: int = QUICK_LAYERS,
    processes: int = os.cpu_count() or 1,
    out: Path = Path("prior"),
) -> None:
    """Train, and fit a prior.

    Parameters
    ----------
    data: Names of data sets or folders, with commas between them.
    trainings: On each data set.
    first: The share of them whose architectures are drawn, not proposed.
    seconds: Of processor time, for every training.
    processes: Trainings at a time.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / "trainings.jsonl"
    lines = [json.loads(text) for text in file.read_text("utf-8").splitlines()] if file.exists() else []
    sets = data.split(",")
    wanted = [name for _ in range(trainings) for name in sets]
    for line in lines:
        name = next((each for each in wanted if Path(each).name == line["data"]), None)
        if name is not None:
            wanted.remove(name)
    with ProcessPoolExecutor(processes) as pool, file.open("a", encoding="utf-8") as log:
        running = set()
        number = len(lines)
        while wanted or running:
            while wanted and len(running) < processes:
                architecture, origin = chosen(lines, round(first * trainings * len(sets)), layers, number)
                running.add(pool.submit(trained, wanted.pop(0), seconds, architecture, origin, number))
                number += 1
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                lines.append(future.result())
                log.write(json.dumps(lines[-1]) + "\n")
                log.flush()
    worth = fitted(lines, layers)
    write_atomically(out / "prior.json", (json.dumps(worth.to_json()) + "\n").encode())
    for origin in ("varied", "proposed"):
        for name in sorted({line["data"] for line in lines}):
            known = [line["accuracy"] for line in lines if line["data"] == name and line["origin"] == origin]
            if known:
                print(f"{name}, {origin}: {np.mean(known):.4f}, sd {np.std(known):.4f}, of {len(known)}")
    print(f"share of the variance that is predicted: {worth.explained:.2f}")


if __name__ == "__main__":
    app()

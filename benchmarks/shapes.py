"""How deep and how wide residual networks should be for the time of their training, on held-out training images.

    python benchmarks/shapes.py --data FOLDER --seconds 60 --shapes 6x24,3x16,3x24,3x32 --seeds 2

A shape is a number of layers and of initial channels; all layers are the known block of a space of chains, such as two
3×3 convolutions. Each network is trained by the quick recipe, for as many steps as it takes in this processor time of
one thread. The duration of a step is measured beforehand, for all shapes in turn, so that other work on the machine
slows them down alike. Test images are never read. A space may precede a shape, and a setting of the training may follow
it:

    python benchmarks/shapes.py --data FOLDER --seconds 60 --shapes resnet/3x24,resnet-d/3x24,resnet-d/3x24:pad=4
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

import torch
from cyclopts import App
from held_out import parts
from rich.console import Console
from rich.table import Table

from dnas.data.splits import DataInfo, Split, load_train
from dnas.methods.registry import create
from dnas.network.network import params
from dnas.pipeline.presets import QUICK_SPACE, preset_settings
from dnas.runtime.session import Session
from dnas.settings import TrainSettings
from dnas.space.architecture import stack
from dnas.space.chain import ChainSpace
from dnas.space.registry import get_space
from dnas.study.statistics import paired
from dnas.training.accuracy import measure_accuracy
from dnas.training.build import built
from dnas.training.trainer import Training, train_network

ROUNDS, STEPS = 6, 3  # of the measurement of the duration of a step

app = App(help=__doc__, help_format="plaintext")


@dataclass(frozen=True)
class Shape:
    """Layers and initial channels of a network of the known block of a space of chains."""

    space: str
    layers: int
    channels: int
    setting: str = ""  # of the training
    value: float = 0

    def begun(self, train: Split, info: DataInfo, seed: int, steps: int) -> Training:
        """Return the training of a network with this shape."""
        space = get_space(self.space)
        quick = preset_settings("quick", create("dnas", None, {}, space), info, len(train))["train"]
        epochs = math.ceil(steps / math.ceil(len(train) / quick["batch_size"]))
        given = {**quick, "channels": self.channels, "images": 0, "epochs": epochs, "steps": steps}
        if self.setting:
            given[self.setting] = self.value
        settings = TrainSettings(**given).resolved(len(train), info.image_size)
        assert isinstance(space, ChainSpace)
        _, block = space.known[0]
        network = built(stack(block, block, self.layers, space=space.name), settings, info, seed)
        return Training(network, settings, train, info, seed, "train", "cpu")


def shape_of(text: str) -> Shape:
    """Read [SPACE/]LAYERSxCHANNELS[:SETTING=NUMBER]."""
    size, _, setting = text.partition(":")
    *space, size = size.split("/")
    layers, channels = map(int, size.split("x"))
    name, _, value = setting.partition("=")
    return Shape(space[0] if space else QUICK_SPACE, layers, channels, name, json.loads(value or "0"))


def seconds_per_step(shapes: list[Shape], train: Split, info: DataInfo) -> dict[Shape, float]:
    """Return the duration of a step of each shape: the lower quartile, of steps that alternate between the shapes."""
    trainings = {shape: shape.begun(train, info, 0, ROUNDS * STEPS) for shape in shapes}
    taken: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    for first in range(0, ROUNDS * STEPS, STEPS):
        for shape, training in trainings.items():
            for step in range(first, first + STEPS):
                began = time.thread_time()
                training.step(step)
                taken[shape].append(time.thread_time() - began)
    return {shape: sorted(each)[len(each) // 4] for shape, each in taken.items()}


@app.default
def main(
    *, data: str = "digits", seconds: float = 5.0, shapes: str = "6x24,3x16,3x24", seeds: int = 2, first_seed: int = 0
) -> None:
    """Train each shape.

    Parameters
    ----------
    shapes: [SPACE/]LAYERSxCHANNELS[:SETTING=NUMBER], with commas between them; the others are compared with the
        first. Without a space: that of the quick preset.
    """
    torch.set_num_threads(1)
    split, info = load_train(data)
    train, judges = parts(split)
    every = list(map(shape_of, shapes.split(",")))
    durations = seconds_per_step(every, train, info)
    table = Table(
        "space",
        "layers",
        "channels",
        "setting",
        "parameters",
        "steps",
        "accuracy of each seed",
        "better than the first by",
    )
    first: dict[int, float] = {}
    for shape in every:
        accuracies = {}
        for seed in range(first_seed, first_seed + seeds):
            training = shape.begun(train, info, seed, int(seconds / durations[shape]))
            network = train_network(
                training.network, training.settings, train, info, seed=seed, session=Session(None, {})
            )
            accuracies[seed] = measure_accuracy(network, judges, info).value
        first = first or accuracies
        difference = paired(accuracies, first)
        ahead = "" if accuracies is first or difference.mean is None else f"{difference.mean:+.4f}"
        if ahead and difference.low is not None and difference.high is not None:
            ahead += f" ({difference.low:+.4f} to {difference.high:+.4f})"
        each = " ".join(f"{accuracy:.4f}" for accuracy in accuracies.values())
        setting = f"{shape.setting}={shape.value}" if shape.setting else ""
        row = (shape.space, shape.layers, shape.channels, setting, f"{params(network):,}", training.settings.step_count)
        table.add_row(*map(str, row), each, ahead)
    Console().print(table)


if __name__ == "__main__":
    app()

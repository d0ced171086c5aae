"""Whether every architecture of the DARTS space trains, and none diverges, with the quick preset's recipe.

    python benchmarks/every_architecture.py                       # 200 random ones, 20 adversarial ones
    python benchmarks/every_architecture.py --random 10 --processes 2
    python benchmarks/every_architecture.py --data FOLDER --steps 0

Each is a small network that is trained for some steps. It fails where a loss after the tenth step is above three times
that of a network that knows nothing, log(classes), or where a loss or gradient is not finite. Random architectures have
3 to 20 layers. Each adversarial one has one operation everywhere and one wiring of the nodes, or both drawn anew in
every layer, and is trained with 3 and with 20 layers. Prints the failures, the largest losses, and how many have learnt
something by the last steps, which of deep and narrow networks not all have; the exit code is 1 where one fails.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import measure
import torch
from cyclopts import App, Parameter

from dnas.data.splits import DataInfo, Split, load_train
from dnas.errors import RunError
from dnas.pipeline.presets import QUICK_RECIPE
from dnas.rng import numpy_stream
from dnas.runtime.session import Captured, Session
from dnas.runtime.workers import Workers
from dnas.settings import MIN_LAYERS, SMALLEST_IMAGE, TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.protocol import reduction_layers
from dnas.space.sampling import sample
from dnas.training.build import built
from dnas.training.trainer import train_network

DEEPEST = 20
# The losses after so many steps count, and are too large above so many times log(classes).
SETTLED, BOUND = 10, 3.0
WORST = 5  # how many of the largest losses are shown
AT_ONCE = 10  # architectures of a job

OPERATIONS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "dil_conv_5x5", "sep_conv_5x5")
# The two inputs of node n, which are to differ; its own state is n + 2.
WIRINGS: dict[str, Callable[[int], tuple[int, int]]] = {
    "star": lambda n: (0, 1),  # all read the two inputs of the cell
    "chain": lambda n: (n, n + 1),  # each reads the two before it
    "chain from an input": lambda n: (0, n + 1),  # each reads the one before it, and the same input of the cell
}
MIXTURES = 5

app = App(help=__doc__)


@dataclass(frozen=True)
class Case:
    """An architecture with the name that is printed."""

    name: str
    architecture: Architecture


@dataclass(frozen=True)
class Training:
    """How an architecture was trained: the loss of every step, and what ended it early, if anything."""

    name: str
    losses: tuple[float, ...]
    error: str = ""

    @property
    def worst(self) -> float:
        """The largest loss that counts; infinite if the training ended early."""
        return math.inf if self.error else max(self.losses[SETTLED:])

    def learns(self, classes: int) -> bool:
        """Whether the losses that count are below log(classes) in the mean."""
        counted = self.losses[SETTLED:]
        return not self.error and sum(counted) / len(counted) < math.log(classes)

    def fails(self, classes: int) -> bool:
        """Whether it is above the bound."""
        return not self.worst <= BOUND * math.log(classes)


class Recorder(Session):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        super().__init__(None, {})
        self.losses: list[float] = []

    def step_done(self, step: int, shown: Mapping[str, float], capture: Callable[[], Captured]) -> None:
        self.losses.append(shown["loss"])
        super().step_done(step, shown, capture)


# --- architectures --------------------------------------------------------------------------------------


def uniform_cell(operation: str, wiring: str) -> Cell:
    """The cell with one operation everywhere."""
    nodes = range(DARTS.nodes)
    return Cell(tuple(tuple((operation, source) for source in WIRINGS[wiring](n)) for n in nodes))


def architecture_of(cells: Sequence[Cell]) -> Architecture:
    return Architecture(tuple(cells), reduction_layers(len(cells)))


def adversarial(layers: int) -> list[Case]:
    """20: every operation in every wiring, and mixtures of both."""
    cells = {f"{name}, {wiring}": uniform_cell(name, wiring) for name in OPERATIONS for wiring in WIRINGS}
    cases = [Case(f"{name}, {layers} layers", architecture_of([cell] * layers)) for name, cell in cells.items()]
    for number in range(MIXTURES):
        drawn = numpy_stream(number, "adversarial").choice(list(cells), layers)
        mixed = architecture_of([cells[name] for name in drawn.tolist()])
        cases.append(Case(f"mixture {number}, {layers} layers", mixed))
    return cases


def random_ones(count: int, seed: int) -> list[Case]:
    """So many uniform architectures, of uniform depths."""
    cases = []
    for number in range(count):
        rng = numpy_stream(seed, "every-architecture", number)
        layers = int(rng.integers(MIN_LAYERS, DEEPEST + 1))
        cases.append(Case(f"random {number} of seed {seed}, {layers} layers", sample(DARTS, rng, layers)))
    return cases


# --- training -------------------------------------------------------------------------------------------


def recipe(split: Split, info: DataInfo, channels: int, batch: int, steps: int) -> TrainSettings:
    """The quick preset's for a training of at most one epoch, resolved."""
    half = 0.5 if info.image_size >= 2 * SMALLEST_IMAGE else 0.0
    settings = TrainSettings(**QUICK_RECIPE, epochs=1, steps=steps, batch_size=batch, channels=channels, half_size=half)
    return settings.resolved(len(split), info.image_size)


def train(case: Case, settings: TrainSettings, split: Split, info: DataInfo, seed: int) -> Training:
    """Train the network of an architecture. Needs more than `SETTLED` steps."""
    assert settings.step_count > SETTLED
    session, error = Recorder(), ""
    network = built(case.architecture, settings, info, seed)
    try:
        train_network(network, settings, split, info, seed=seed, session=session)
    except RunError as failure:  # what is not finite
        error = str(failure)
    return Training(case.name, tuple(session.losses), error)


@dataclass(frozen=True)
class Job:
    """Some architectures, which a process trains one after another."""

    cases: tuple[Case, ...]
    data: str
    channels: int
    batch: int
    steps: int
    seed: int


def do(job: Job) -> list[Training]:
    split, info = load_train(job.data)
    settings = recipe(split, info, job.channels, job.batch, job.steps)
    return [train(case, settings, split, info, job.seed) for case in job.cases]


def train_all(jobs: Sequence[Job], processes: int) -> Iterator[Training]:
    """All trainings of the jobs, as these come. Raises the error of a job that has one."""
    with Workers(processes, 1) as workers:
        for outcome in workers.run(do, jobs, lambda: False):
            if outcome.error is not None:
                raise outcome.error
            assert outcome.result is not None
            yield from outcome.result


# --- the command ----------------------------------------------------------------------------------------


@app.default
def main(
    *,
    random: int = 200,
    data: str = "digits",
    channels: int = 4,
    batch: int = 96,
    steps: int = 15,
    seed: int = 0,
    processes: int = 1,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Train all of them.

    Args:
        random: How many random architectures.
        data: Images, as of `dnas run`.
        channels: Width of the first cells.
        batch: Images of a step.
        steps: How many steps, more than ten, where an epoch has more; 0: an epoch.
        seed: Of the random architectures, the weights and the order of the images.
        processes: How many at a time, with one thread each.
        json: Print everything as one JSON object in the last line.
    """
    torch.set_num_threads(1)
    facts = measure.machine()
    measure.show_facts(facts)
    split, info = load_train(data)
    classes, settled = len(info.classes), recipe(split, info, channels, batch, steps).step_count
    if settled <= SETTLED:
        sys.exit(f"--steps {steps}: only steps after the {SETTLED}th count; give more steps or images")
    cases = [*adversarial(MIN_LAYERS), *adversarial(DEEPEST), *random_ones(random, seed)]
    # The deep ones are spread over the jobs.
    count = -(-len(cases) // AT_ONCE)
    jobs = [Job(tuple(cases[k::count]), data, channels, batch, steps, seed) for k in range(count)]
    trainings = list(train_all(jobs, processes))
    failures = [training for training in trainings if training.fails(classes)]
    for training in failures:
        print(f"FAILS: {training.name}: {training.error or f'a loss of {training.worst:.2f}'}")
    largest = sorted(trainings, key=lambda training: training.worst, reverse=True)[:WORST]
    print(f"the largest losses after step {SETTLED}: " + "; ".join(f"{t.worst:.2f} {t.name}" for t in largest))
    print(
        f"{len(trainings) - len(failures)} of {len(trainings)} pass: no loss after step {SETTLED} above "
        f"{BOUND:.0f} × log({classes}) = {BOUND * math.log(classes):.2f}"
    )
    learning = sum(training.learns(classes) for training in trainings)
    print(f"{learning} of them are below log({classes}) = {math.log(classes):.2f} in the mean of these losses")
    found: dict[str, Any] = {
        "machine": facts,
        "steps": settled,
        "learning": learning,
        "failures": [training.name for training in failures],
        "losses": {training.name: training.losses for training in trainings},
    }
    measure.finish(found, json)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    app()

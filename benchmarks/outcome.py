"""What comes out for the time: the default run's network against others that were given the same processor time.

    python benchmarks/outcome.py --data cifar10-jpeg,fashion-mnist --budgets 500,1500 --seeds 5 --out outcome
    python benchmarks/outcome.py --data cifar10-jpeg --budgets 500 --max-macs 5M --networks resnet8,mobilenet
    python benchmarks/outcome.py --data cifar10-jpeg --budgets 500 --space darts,mobile,resnet --networks random

For every data set, budget and seed, each in a process of its own with one thread:

- found: `dnas run --no-baseline --budget T`, so that T holds the search, the finals and the training;
- random: a fresh random network of the found one's size, which took part in nothing, trained for T;
- hand-made networks of its size, trained for T; with `--max-macs`, of the largest width within this limit.

All are trained by one recipe. T counts seconds of processor time of the one thread, so that a busy machine changes
little; what each process really took is in the table. A study that was interrupted goes on where it was. The accuracy
is that on the test images, once, at the end; nothing is chosen by it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from dnas.disk import read_json, read_toml
from dnas.network.handmade import build_handmade
from dnas.network.network import macs
from dnas.pipeline.config import parse
from dnas.pipeline.model import read_info
from dnas.settings import TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.controls import random_of_size
from dnas.study.statistics import Difference, estimate, paired
from dnas.training.build import parameters_of
from dnas.units import whole_number

FOUND, RANDOM = "found", "random"
HANDMADE = ("resnet8", "resnet20", "mobilenet")
# So that no control shares the random streams of a search.
CONTROL_SEEDS = 1000

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Setting:
    """A data set, a budget in seconds, and where its runs lie."""

    data: str
    budget: float
    folder: Path
    max_macs: int = 0  # 0: no limit
    space: str = ""  # empty: that of `dnas run`

    def run(self, network: str, seed: int) -> Path:
        return self.folder / f"{network}-{seed}"


@dataclass(frozen=True)
class Row:
    """A network that was trained and tested."""

    network: str
    seed: int
    accuracy: float
    params: int
    macs: int
    seconds: float  # of processor time, of the whole process


def carry_out(setting: Setting, networks: Sequence[str], seed: int, more: Sequence[str]) -> list[Row]:
    """The found network of a seed and those that it is compared with."""
    limits = ["--max-macs", str(setting.max_macs)] if setting.max_macs else []
    space = ["--space", setting.space] if setting.space else []
    rows = [made(setting, FOUND, seed, ["run", "--no-baseline", *space, *limits, *more])]
    for network in networks:
        if network == RANDOM:
            subject = [str(control(setting, seed)), "--channels", str(found_training(setting, seed).channels)]
        elif setting.max_macs:
            subject = [network, "--width", f"{widest(network, setting, seed):.2f}"]
        else:
            subject = [network, "--params", str(rows[0].params)]
        rows.append(made(setting, network, seed, ["train", *subject]))
    return rows


def control(setting: Setting, seed: int) -> Path:
    """The file of a random architecture of the found one's size."""
    path = setting.folder / f"{RANDOM}-{seed}.json"
    if not path.exists():
        run = setting.run(FOUND, seed)
        count = parameters_of(found_training(setting, seed), read_info(run / "model.safetensors"))
        found = Architecture.load(run / "architecture.json")
        path.write_text(random_of_size(found, count, CONTROL_SEEDS + seed).dumps(), "utf-8")
    return path


def widest(network: str, setting: Setting, seed: int) -> float:
    """The largest width, in hundredths, with which a hand-made network is within the limit."""
    info = read_info(setting.run(FOUND, seed) / "model.safetensors")
    image = (info.channels, info.image_size, info.image_size)

    def cost(hundredths: int) -> int:
        width = hundredths / 100
        return macs(build_handmade(network, len(info.classes), info.channels, info.image_size, 0, width), image)

    hundredths = range(1, 400)
    return hundredths[bisect_right(hundredths, setting.max_macs, key=cost) - 1] / 100


def found_training(setting: Setting, seed: int) -> TrainSettings:
    """How the found network was trained; its width may have been given as an option."""
    train = parse(read_toml(setting.run(FOUND, seed) / "config.toml")).train
    assert isinstance(train, TrainSettings)
    return train


def made(setting: Setting, network: str, seed: int, command: list[str]) -> Row:
    """Make a run, or go on with it, or read what came out of it."""
    run = setting.run(network, seed)
    result = run / "result.json"
    spent = run.with_suffix(".seconds.json")
    while not result.exists():
        if (run / "config.toml").exists():
            words = ["resume", str(run)]
        else:
            given = ["--data", setting.data, "--seed", str(seed), "--budget", f"{setting.budget}s", "--out", str(run)]
            words = [*command, *given]
        seconds = processor_seconds([sys.executable, "-m", "dnas", *words, "--quiet"])
        before = json.loads(spent.read_text("utf-8")) if spent.exists() else 0.0
        spent.write_text(json.dumps(before + seconds), "utf-8")
    found: dict[str, Any] = read_json(result)
    seconds = json.loads(spent.read_text("utf-8"))
    return Row(network, seed, found["test_accuracy"], found["params"], found["macs"], seconds)


def processor_seconds(command: list[str]) -> float:
    """Run a command with one thread. Returns the processor time that it took, its children's included."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return usage.ru_utime + usage.ru_stime


# --- what comes out -------------------------------------------------------------------------------------


def accuracies(rows: Sequence[Row], network: str) -> dict[int, float]:
    return {row.seed: row.accuracy for row in rows if row.network == network}


def differences(rows: Sequence[Row], networks: Sequence[str]) -> dict[str, Difference]:
    """Of the found network's accuracy and each other's, paired by seed."""
    return {network: paired(accuracies(rows, FOUND), accuracies(rows, network)) for network in networks}


def table(setting: Setting, rows: Sequence[Row], networks: Sequence[str]) -> Table:
    out = Table(
        title=f"{Path(setting.data).name}, {setting.space or 'default space'}, {setting.budget:g} s of processor time",
        title_justify="left",
    )
    for name in ("network", "accuracy", "sd", "parameters", "MACs", "seconds", "found is better by", "p"):
        out.add_column(name, justify="left" if name == "network" else "right")
    compared = differences(rows, networks)
    for network in (FOUND, *networks):
        of = [row for row in rows if row.network == network]
        if not of:
            continue
        known = estimate([row.accuracy for row in of])
        mean = {name: sum(getattr(row, name) for row in of) / len(of) for name in ("params", "macs", "seconds")}
        cells = [network, f"{known.mean:.4f}", "–" if known.sd is None else f"{known.sd:.4f}"]
        cells += [f"{mean['params']:,.0f}", f"{mean['macs'] / 1e6:.1f}M", f"{mean['seconds']:.0f}"]
        cells += list(_compared(compared[network])) if network in compared else ["", ""]
        out.add_row(*cells)
    return out


def _compared(difference: Difference) -> Iterator[str]:
    if difference.mean is None:
        yield "–"
    elif difference.low is None or difference.high is None:
        yield f"{difference.mean:+.4f}"
    else:
        yield f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    yield "–" if difference.p is None else f"{difference.p:.3g}"


@app.default
def main(
    *,
    data: str = "digits",
    budgets: str = "60",
    seeds: int = 5,
    first_seed: int = 0,
    networks: str = ",".join((RANDOM, *HANDMADE)),
    max_macs: str = "",
    space: str = "",
    out: Path = Path("outcome"),
    processes: int = os.cpu_count() or 1,
    option: Annotated[list[str] | None, Parameter(name=["--option", "-o"])] = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Compare, and print a table for each data set and budget.

    Parameters
    ----------
    data: Names of data sets or folders, with commas between them.
    budgets: Seconds, likewise.
    seeds: How many searches.
    networks: What the found network is compared with.
    max_macs: A limit on all networks, such as 5M.
    space: Search spaces, with commas between them; each has a table of its own. [default: that of `dnas run`]
    processes: Runs at a time.
    option: Passed on to `dnas run`, such as --option=method=… ; repeatable.
    """
    names = [name for name in networks.split(",") if name]
    limit = whole_number(max_macs) if max_macs else 0
    settings = [
        Setting(source, float(budget), out / f"{name or 'default'}-{Path(source).name}-{float(budget):g}s", limit, name)
        for name in space.split(",")
        for source in data.split(",")
        for budget in budgets.split(",")
    ]
    for setting in settings:
        setting.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    more = [word for text in option or [] for word in ("-o", text)]
    with ThreadPoolExecutor(processes) as pool:
        jobs = {
            setting: [
                pool.submit(carry_out, setting, names, seed, more) for seed in range(first_seed, first_seed + seeds)
            ]
            for setting in settings
        }
    found = {setting: [row for job in jobs[setting] for row in job.result()] for setting in settings}
    if as_json:
        shown = [
            {
                "data": setting.data,
                "space": setting.space,
                "budget": setting.budget,
                "rows": [asdict(row) for row in rows],
                "differences": {name: asdict(each) for name, each in differences(rows, names).items()},
            }
            for setting, rows in found.items()
        ]
        print(json.dumps(shown, indent=2))
        return
    console = Console()
    for setting, rows in found.items():
        console.print(table(setting, rows, names))
    console.print(f"{time.monotonic() - began:.0f} s, {processes} at a time")


if __name__ == "__main__":
    app()

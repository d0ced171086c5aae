"""How good random networks of each search space are, of one size, after the same processor time.

    python benchmarks/spaces.py --data FOLDER --seconds 120 --spaces darts:16,mobile:24,resnet:24 --seeds 4

For every seed and space, of 60 random architectures the one whose number of parameters is closest to `--params` at the
given channels is trained by `dnas train --budget`, in a process of its own with one thread. All networks of a seed are
trained at the same time if there are as many processors, so that other work on the machine slows them down alike. To
choose a space, give a folder whose test images are training images that no network is trained on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cyclopts import App
from rich.console import Console
from rich.table import Table

from dnas.disk import read_json
from dnas.space.architecture import Architecture
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.space.registry import get_space
from dnas.space.sampling import sample
from dnas.study.statistics import paired

DRAWS, LAYERS, CLASSES, STEM = 60, 6, 10, "halving"

app = App(help=__doc__, help_format="plaintext")


@dataclass(frozen=True)
class Contender:
    """A space, and the initial channels of its networks."""

    space: str
    channels: int

    def drawn(self, params: int, seed: int) -> Architecture:
        """Return the random architecture that is closest to a number of parameters."""

        def distance(architecture: Architecture) -> int:
            return abs(size(plan(architecture, channels=self.channels, classes=CLASSES, stem=STEM), 32).params - params)

        space = get_space(self.space)
        rngs = (np.random.default_rng(1000 * seed + draw) for draw in range(DRAWS))
        return min((sample(space, rng, LAYERS) for rng in rngs), key=distance)


def accuracy(contender: Contender, data: str, seconds: float, params: int, seed: int, out: Path) -> float:
    """Train a network, or read what came out of it."""
    run = out / f"{contender.space}-{contender.channels}-{seed}"
    if not (run / "result.json").exists():
        file = run.with_suffix(".json")
        contender.drawn(params, seed).save(file)
        words = ["train", str(file), "--data", data, "--channels", str(contender.channels), "--budget", f"{seconds}s"]
        words += ["-o", f"train.stem={STEM}", "--seed", str(seed), "--out", str(run), "--quiet"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "dnas", *words]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return float(read_json(run / "result.json")["test_accuracy"])


@app.default
def main(
    *,
    data: str = "digits",
    seconds: float = 10.0,
    spaces: str = "darts:16,mobile:24,resnet:24",
    params: int = 150_000,
    seeds: int = 4,
    out: Path = Path("spaces"),
    processes: int = os.cpu_count() or 1,
) -> None:
    """Train and compare.

    Parameters
    ----------
    spaces: Spaces, each with the initial channels of its networks; the others are compared with the first.
    """
    out.mkdir(parents=True, exist_ok=True)
    contenders = [Contender(name, int(channels)) for name, channels in (each.split(":") for each in spaces.split(","))]
    jobs = [(contender, seed) for seed in range(seeds) for contender in contenders]
    with ThreadPoolExecutor(processes) as pool:
        found = pool.map(lambda job: accuracy(job[0], data, seconds, params, job[1], out), jobs)
        known = dict(zip(jobs, found, strict=True))
    table = Table("space", "channels", "accuracy of each seed", "mean", f"better than {contenders[0].space} by")
    rows = {contender: {seed: known[contender, seed] for seed in range(seeds)} for contender in contenders}
    for contender, values in rows.items():
        each = " ".join(f"{value:.4f}" for value in values.values())
        difference = paired(values, rows[contenders[0]])
        text = "" if contender == contenders[0] or difference.mean is None else f"{difference.mean:+.4f}"
        if text and difference.low is not None and difference.high is not None:
            text += f" ({difference.low:+.4f} to {difference.high:+.4f})"
        table.add_row(contender.space, str(contender.channels), each, f"{sum(values.values()) / seeds:.4f}", text)
    Console().print(table)


if __name__ == "__main__":
    app()

"""How much noise searches keep where half of what they choose from is noise: the space S4, under each mapping.

    python benchmarks/noise.py                                          # all methods with gradients, on digits
    python benchmarks/noise.py --methods dnas,darts --seeds 4 --data FOLDER --out noise

Each edge of S4 (Zela et al., ICLR 2020) has two operations: a separable convolution, and standard normal noise in
place of whatever comes in. So the right answer is known, and a random architecture has half of its edges wrong. Each
search is `dnas search` with the quick preset, in a process of its own with one thread. A study that was interrupted
goes on where it was. The table has the mean share of noise over the seeds, the worst one, and how much the
architectures of different seeds agree beyond chance (0; equal: 1).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from dnas.methods.protocol import GradientMethod
from dnas.methods.registry import METHODS
from dnas.runtime.names import ARCHITECTURE_FILE, RESULT_FILE
from dnas.space.agreement import agreement
from dnas.space.architecture import Architecture
from dnas.space.darts import S4
from dnas.supernet.mapping import MAPPINGS

NOISE = "noise"

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Job:
    """One search."""

    method: str
    mapping: str
    seed: int
    run: Path

    def found(self, data: str, more: Sequence[str]) -> Architecture:
        """What it finds, or found."""
        if not (self.run / RESULT_FILE).exists():
            begun = (self.run / "config.toml").exists()
            words = (
                ["resume", str(self.run)] if begun else ["search", "--out", str(self.run), *self.options(data), *more]
            )
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "dnas", *words, "--quiet"]
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return Architecture.load(self.run / ARCHITECTURE_FILE)

    def options(self, data: str) -> list[str]:
        chosen = ["--method", self.method, "--mapping", self.mapping, "--space", S4.name]
        return [*chosen, "--data", data, "--seed", str(self.seed)]


def noise(architecture: Architecture) -> float:
    """The share of the kept operations that are noise."""
    kept = [operation for cell in architecture.layers for node in cell.nodes for operation, _ in node]
    return kept.count(NOISE) / len(kept)


@app.default
def main(
    *,
    methods: str = "",
    mappings: str = ",".join(MAPPINGS),
    data: str = "digits",
    seeds: int = 2,
    out: Path = Path("noise"),
    processes: int = os.cpu_count() or 1,
    option: Annotated[tuple[str, ...], Parameter(name=("--option", "-o"))] = (),
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Search S4 by each method under each mapping.

    Parameters
    ----------
    methods: Names with commas between them. [default: all with gradients]
    mappings: Likewise.
    data: A name or a folder.
    seeds: Searches of each method and mapping.
    out: Folder of the runs.
    processes: Searches at a time.
    option: Handed on to `dnas search`.
    """
    gradients = [name for name, method in METHODS.items() if issubclass(method, GradientMethod)]
    names = [name.strip() for name in methods.split(",") if name.strip()] or gradients
    jobs = [
        Job(name, mapping, seed, out / f"{name}-{mapping}-{seed}")
        for name in names
        for mapping in mappings.split(",")
        for seed in range(seeds)
    ]
    more = [word for each in option for word in ("-o", each)]
    with ThreadPoolExecutor(processes) as pool:
        found = dict(zip(jobs, pool.map(lambda job: job.found(data, more), jobs), strict=True))
    rows: list[dict[str, Any]] = []
    for job in jobs[::seeds]:
        of = [found[each] for each in jobs if (each.method, each.mapping) == (job.method, job.mapping)]
        shares = [noise(each) for each in of]
        between = agreement(of, S4)
        rows.append(
            {
                "method": job.method,
                "mapping": job.mapping,
                "noise": statistics.mean(shares),
                "worst": max(shares),
                "agreement": None if between is None else between.operations,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"S4, {Path(data).name}, {seeds} seeds", title_justify="left")
    for name in ("method", "mapping", "share of noise", "worst", "agreement of seeds"):
        table.add_column(name, justify="left" if name in ("method", "mapping") else "right")
    for row in rows:
        kept = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
        table.add_row(row["method"], row["mapping"], f"{row['noise']:.3f}", f"{row['worst']:.3f}", kept)
    Console().print(table)


if __name__ == "__main__":
    app()

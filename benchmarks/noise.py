"""How much noise searches keep where half of what they choose from is noise, under each mapping.

    python benchmarks/noise.py                                          # all methods with gradients, S4, on digits
    python benchmarks/noise.py --methods dnas,darts --seeds 4 --data FOLDER --out noise
    python benchmarks/noise.py --methods dnas --spaces s4,mobile-noise,resnet-noise,shuffle-noise

Each edge of S4 (Zela et al., ICLR 2020) has two operations: a separable convolution, and standard normal noise in
place of whatever comes in. So the right answer is known, and a random architecture has half of its edges wrong. In the
spaces of chains, which are registered here, each layer has one kind of block or noise, with every kernel, or a skip.
Each search has the quick preset and one thread. A study that was interrupted goes on where it was. The table has the
mean share of noise over the seeds, the worst one, and how much the architectures of different seeds agree beyond chance
(0; equal: 1).
"""

from __future__ import annotations

import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

import dnas
from dnas.methods.protocol import GradientMethod
from dnas.methods.registry import METHODS
from dnas.runtime.names import ARCHITECTURE_FILE, RESULT_FILE
from dnas.space.agreement import agreement
from dnas.space.architecture import Architecture
from dnas.space.blocks import BlockKind
from dnas.space.chain import chain_space
from dnas.space.darts import S4
from dnas.space.primitives import Chain, Conv, Norm
from dnas.space.primitives import Noise as NoiseLayer
from dnas.space.registry import get_space
from dnas.supernet.mapping import MAPPINGS

NOISE = "noise", "noise_block"
# The kind of block next to noise, the kernels, and the factor of the last convolution.
CHAINS = {"mobile": ("mbconv3", (3, 5, 7), 4), "resnet": ("basic", (3, 5), 0), "shuffle": ("shuffle", (3, 5, 7), 2)}

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


def noise_block(inputs: int, outputs: int, kernel: int, stride: int) -> Chain:
    """Return the layers of a block whose output does not depend on its input."""
    return (NoiseLayer(stride), Conv(inputs, outputs), Norm(outputs))


def nothing_around(inputs: int, outputs: int, stride: int) -> Chain:
    return ()


def register_chains() -> None:
    """Register a space with noise for each kind of chain, in this process."""
    torch.set_num_threads(1)
    dnas.register(BlockKind("noise_block", noise_block, (), nothing_around, "#B3B3B3", "noise", residual=False))
    for name, (kind, kernels, head) in CHAINS.items():
        dnas.register(chain_space(f"{name}-noise", (kind, "noise_block"), kernels, head))


@dataclass(frozen=True)
class Job:
    """One search."""

    space: str
    method: str
    mapping: Any
    seed: int
    data: str
    option: tuple[str, ...]
    run: Path

    def found(self) -> Architecture:
        """Return the architecture that the search finds, or has found."""
        if not (self.run / RESULT_FILE).exists():
            if (self.run / "config.toml").exists():
                dnas.resume(self.run)
            else:
                dnas.search(
                    data=self.data,
                    space=self.space,
                    method=self.method,
                    mapping=self.mapping,
                    seed=self.seed,
                    option=dict(each.split("=", 1) for each in self.option),
                    out=self.run,
                )
        return Architecture.load(self.run / ARCHITECTURE_FILE)


def noise(architecture: Architecture) -> float:
    """The share of the kept operations that are noise."""
    kept = [operation for cell in architecture.layers for node in cell.nodes for operation, _ in node]
    return sum(operation in NOISE for operation in kept) / len(kept)


@app.default
def main(
    *,
    spaces: str = S4.name,
    methods: str = "",
    mappings: str = ",".join(MAPPINGS),
    data: str = "digits",
    seeds: int = 2,
    out: Path = Path("noise"),
    processes: int = os.cpu_count() or 1,
    option: Annotated[tuple[str, ...], Parameter(name=("--option", "-o"))] = (),
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Search each space by each method under each mapping.

    Parameters
    ----------
    spaces: Names with commas between them.
    methods: Likewise. [default: all with gradients]
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
        Job(space, name, mapping, seed, data, option, out / f"{space}-{name}-{mapping}-{seed}")
        for space in spaces.split(",")
        for name in names
        for mapping in mappings.split(",")
        for seed in range(seeds)
    ]
    register_chains()
    with ProcessPoolExecutor(processes, initializer=register_chains) as pool:
        found = dict(zip(jobs, pool.map(Job.found, jobs), strict=True))
    rows: list[dict[str, Any]] = []
    for job in jobs[::seeds]:
        of = [found[each] for each in jobs if replace(each, seed=job.seed, run=job.run) == job]
        shares = [noise(each) for each in of]
        between = agreement(of, get_space(job.space))
        rows.append(
            {
                "space": job.space,
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
    table = Table(title=f"{Path(data).name}, {seeds} seeds", title_justify="left")
    for name in ("space", "method", "mapping", "share of noise", "worst", "agreement of seeds"):
        table.add_column(name, justify="left" if name in ("space", "method", "mapping") else "right")
    for row in rows:
        kept = "" if row["agreement"] is None else f"{row['agreement']:.2f}"
        table.add_row(row["space"], row["method"], row["mapping"], f"{row['noise']:.3f}", f"{row['worst']:.3f}", kept)
    Console().print(table)


if __name__ == "__main__":
    app()

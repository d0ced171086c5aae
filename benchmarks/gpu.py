"""The torch path on a GPU: whether it is right there, and what its steps take, beside the plain supernet.

    python benchmarks/gpu.py --json gpu.json --minutes 2    # without a GPU a reduced form on the CPU, of tiny shapes

Parts run in order of importance:

- The batched supernet against the plain one in float64, for mappings and relaxations; and derived networks on the GPU
  against the same networks on the CPU.
- A search step (architecture step and weight step) of both supernets, their steps in turns. At two shapes, in float32,
  TF32, and under autocast to bfloat16.
- A training step of a derived network, without the loading of data; the same precisions.
- Kernels that one step launches, by the profiler.
- As an experiment, forward and backward pass as one CUDA graph, and whether its loss and gradients are the eager ones.

A part that fails is reported with its exception, and the next goes on. After `--minutes` no further part begins. The
JSON file is written anew after every part, so it holds what was measured if the process is ended.

Memory is the most that was allocated on the GPU from before a variant was built until after its second step, less what
was allocated before. Times are of whole steps between two synchronisations. `cudnn.benchmark` is off, as it is in runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import measure
import torch
from cyclopts import App, Parameter
from gpu_check import check_networks, check_supernets
from gpu_setting import (
    BATCHED,
    BFLOAT16,
    CPU,
    DARTS_LIKE,
    DNAS_LIKE,
    FLOAT32,
    GPU,
    PLAIN,
    TF32,
    Setting,
    describe,
    machine,
)
from gpu_steps import (
    graph_search,
    graph_training,
    search_launches,
    time_search,
    time_training,
    training_launches,
)
from rich.console import Console
from rich.table import Table

from dnas.kernels import native

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Part:
    """Something to measure, and its name."""

    name: str
    run: Callable[[], dict[str, Any]]


@dataclass
class Report:
    """All that is known so far; `parts` are JSON objects in the order in which they ran."""

    facts: dict[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)


# --- all parts ------------------------------------------------------------------------------------------


def parts_of(setting: Setting) -> list[Part]:
    """In order of importance."""
    return [
        Part("check supernets", partial(check_supernets, setting)),
        Part("check networks", partial(check_networks, setting)),
        Part(f"search step, {DARTS_LIKE}, {FLOAT32}", partial(time_search, setting, DARTS_LIKE, FLOAT32)),
        Part(f"training step, {BFLOAT16}", partial(time_training, setting, BFLOAT16)),
        Part(f"training step, {FLOAT32}", partial(time_training, setting, FLOAT32)),
        Part(f"search step, {DNAS_LIKE}, {FLOAT32}", partial(time_search, setting, DNAS_LIKE, FLOAT32)),
        Part(f"launches of a search step, {DARTS_LIKE}", partial(search_launches, setting, DARTS_LIKE)),
        Part("launches of a training step", partial(training_launches, setting)),
        Part(f"search step, {DARTS_LIKE}, {TF32}", partial(time_search, setting, DARTS_LIKE, TF32)),
        Part(f"search step, {DARTS_LIKE}, {BFLOAT16}", partial(time_search, setting, DARTS_LIKE, BFLOAT16)),
        Part(f"training step, {TF32}", partial(time_training, setting, TF32)),
        Part(f"graph of a training step, {FLOAT32}", partial(graph_training, setting, FLOAT32)),
        Part(f"graph of a training step, {BFLOAT16}", partial(graph_training, setting, BFLOAT16)),
        Part(f"search step, {DNAS_LIKE}, {TF32}", partial(time_search, setting, DNAS_LIKE, TF32)),
        Part(f"search step, {DNAS_LIKE}, {BFLOAT16}", partial(time_search, setting, DNAS_LIKE, BFLOAT16)),
        Part(f"launches of a search step, {DNAS_LIKE}", partial(search_launches, setting, DNAS_LIKE)),
        Part(f"graph of a training step, {TF32}", partial(graph_training, setting, TF32)),
        # Last, because a capture that fails may leave the device in disorder.
        Part(f"graph of a weight step, {PLAIN}", partial(graph_search, setting, DARTS_LIKE, PLAIN)),
        Part(f"graph of a weight step, {BATCHED}", partial(graph_search, setting, DARTS_LIKE, BATCHED)),
    ]


def carry_out(part: Part, deadline: float) -> dict[str, Any]:
    """A part as a JSON object: its state (done, failed or skipped), seconds, and result or exception."""
    began = time.monotonic()
    if began >= deadline:
        return {"name": part.name, "state": "skipped", "seconds": 0.0, "error": "no time was left"}
    try:
        with native.only_torch():
            row = {"state": "done", "result": part.run()}
    except Exception as error:
        row = {"state": "failed", "error": describe(error)}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"name": part.name, "seconds": time.monotonic() - began, **row}


def measure_all(setting: Setting, minutes: float, file: Path | None, only: str = "") -> Report:
    """All parts whose name has the text `only` in it, one after another until the deadline."""
    deadline = time.monotonic() + 60 * minutes
    report = Report(machine(setting.device))
    for part in parts_of(setting):
        if only not in part.name:
            continue
        row = carry_out(part, deadline)
        report.parts.append(row)
        print(f"{row['name']}: {row['state']}, {row['seconds']:.1f} s {row.get('error', '')}", flush=True)
        if file is not None:
            file.write_text(json.dumps(asdict(report), indent=1))
    return report


# --- tables ---------------------------------------------------------------------------------------------


def variants_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a part's result, by variant."""
    return {name: row for name, row in result.items() if name in (PLAIN, BATCHED, "eager", "replay")}


def step_cells(part: Mapping[str, Any], variant: str, row: Mapping[str, Any]) -> list[str]:
    seconds, memory = row.get("seconds"), row.get("memory_bytes")
    time_cells = [f"{1e3 * seconds[key]:.2f}" for key in ("min", "median", "max")] if seconds else [""] * 3
    count = row.get("launches", row.get("operations"))
    return [
        part["name"],
        variant,
        *time_cells,
        f"{row['images_per_second']:,.0f}" if seconds else "",
        f"{memory / measure.GIB:.2f}" if memory else "",
        "" if count is None else f"{count:,}",
        f"{1e3 * row['kernel_seconds']:.2f}" if "kernel_seconds" in row else "",
    ]


def tables(report: Report) -> list[Table]:
    """The differences, and the steps."""
    differences = Table(title="Relative differences in float64", title_justify="left")
    for head in ("case", "output", "weight gradients", "architecture gradients", "statistics"):
        differences.add_column(head, justify="left" if head == "case" else "right")
    steps = Table(title="Steps", title_justify="left")
    for head in ("part", "variant", "ms min", "median", "max", "images/s", "peak GiB", "launches", "kernels ms"):
        steps.add_column(head, justify="left" if head in ("part", "variant") else "right")
    for part in report.parts:
        result = part.get("result", {})
        for name, row in result.get("differences", {}).items():
            kinds = ("output", "weight_gradients", "architecture_gradients", "statistics")
            differences.add_row(name, *(f"{row[kind]:.1e}" if kind in row else "–" for kind in kinds))
        for variant, row in variants_of(result).items():
            steps.add_row(*step_cells(part, variant, row))
    return [differences, steps]


def remarks(report: Report) -> Iterator[str]:
    """What the tables do not say: ratios, equality, exceptions, and what was left out."""
    for part in report.parts:
        result = part.get("result", {})
        if "equal" in result:
            yield f"{part['name']}: {'equal' if result['equal'] else 'NOT EQUAL'}, at most {result['largest']}"
        if "time_ratio" in result:
            memory = f", memory {result['memory_ratio']:.3f}" if "memory_ratio" in result else ""
            yield f"{part['name']}: {BATCHED} / {PLAIN}: time {result['time_ratio']:.3f}{memory}"
        if "equal_to_the_bit" in result:
            same = "to the bit" if result["equal_to_the_bit"] else "not to the bit"
            numbers = ", ".join(
                f"{key.replace('_', ' ')} {result[key]:.1e}"
                for key in ("loss_difference", "gradient_difference", "noise")
            )
            yield f"{part['name']}: replay as eager {same}; {numbers}"
        for name, row in {**variants_of(result), **result.get("differences", {})}.items():
            if "error" in row:
                yield f"{part['name']}, {name}: {row['error']}"
        if "error" in part:
            yield f"{part['name']}: {part['state']}: {part['error']}"


@app.default
def main(
    *,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    minutes: float = 10.0,
    only: str = "",
    device: Annotated[str, Parameter(help="auto, cuda or cpu")] = "auto",
) -> None:
    """Measure, and print two tables. The exit code is 1 where a check finds a difference.

    Args:
        json_file: Write everything to this JSON file.
        minutes: After so many no further part begins.
        only: Only parts whose name has this text in it.
        device: With cpu the reduced form; auto: cuda where there is one.
    """
    setting = GPU if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else CPU
    measure.show_facts(machine(setting.device))
    report = measure_all(setting, minutes, json_file, only)
    console = Console(width=140)
    for table in tables(report):
        console.print(table)
    for remark in remarks(report):
        print(remark)
    # A step that cannot be timed is told of; a wrong result is an error.
    if any(part.get("result", {}).get("equal") is False for part in report.parts):
        raise SystemExit(1)


if __name__ == "__main__":
    app()

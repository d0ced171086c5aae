"""Methods that propose architectures, against an oracle that nobody here wrote: the NAS-Bench-301 surrogate.

    python benchmarks/oracle.py FOLDER                                # all methods that train candidates, 300 trials
    python benchmarks/oracle.py FOLDER --methods bananas,evolution --seeds 2
    python benchmarks/oracle.py FOLDER --methods nasnet --option learning_rate=0.00035 --json

FOLDER has the surrogate as ONNX (`model_v2.onnx`) and the encoding of its inputs (`encoding_v2.json`), both from YAHPO
Gym (Pfisterer et al., AutoML 2022): a network that was fitted to NAS-Bench-301 (Zela et al., ICLR 2022) and expects
the validation accuracy on CIFAR-10 of a pair of DARTS cells. A method gives its proposals by `propose`, sees nothing
but their accuracies, and is told how many trials there are, as a search tells it. Needs the extra `dnas[bench]`.

Inputs in another order give values that look right, so the oracle is first asked for what is known of it.

The surrogate knows cells of four nodes. A smaller one (PNAS) is judged as the cell whose further nodes repeat its own,
and is never counted as the best.
"""

from __future__ import annotations

import json as json_module
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from dnas.methods.protocol import Method, Trial
from dnas.methods.registry import METHODS, create
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture, stack
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.sampling import sample

MODEL, ENCODING = "model_v2.onnx", "encoding_v2.json"
PREFIX = "NetworkSelectorDatasetInfo_COLON_darts_COLON_"
# Not the order of the JSON's keys, which is alphabetical.
INPUTS = tuple(
    f"{PREFIX}{name}"
    for name in (
        *(f"edge_{kind}_{edge}" for kind in ("normal", "reduce") for edge in range(14)),
        *(f"inputs_node_{kind}_{state}" for kind in ("normal", "reduce") for state in (3, 4, 5)),
    )
)
EPOCHS = 97  # of a training, as in most of the surrogate's data
LAYERS = 8
BASE = "random"
# In per cent: the mean of uniform cells, and cells of skip connections or max-poolings alone whose nodes all read the
# two cells before. In alphabetical order the inputs would give 92.27, 88.13 and 88.84.
KNOWN = {"uniform": 92.42, "skips": 89.93, "pools": 88.02}
TOLERANCE = 0.1

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


# --- the oracle -----------------------------------------------------------------------------------------------


class Oracle:
    """The accuracy, 0 to 1, that the surrogate expects of the pair of cells of an architecture."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime  # of an extra, which the tests of this file do without

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        self.codes: dict[str, dict[str, int]] = json_module.loads((folder / ENCODING).read_text("utf-8"))

    def __call__(self, architecture: Architecture) -> float:
        normal = next(k for k in range(len(architecture)) if k not in architecture.reductions)
        inputs = values(architecture.layers[normal], architecture.layers[architecture.reductions[0]])
        x = np.array([[self.codes[name][inputs[name]] for name in INPUTS]], np.int32)
        outputs = self.session.run(None, {"x_cat": x, "x_cont": np.full((1, 1), EPOCHS, np.float32)})
        return float(outputs[0][0, 0])


def values(normal: Cell, reduction: Cell) -> dict[str, str]:
    """The value of each of `INPUTS`: the operation of an edge, "#na#" where there is none; the states a node reads."""
    found = dict.fromkeys(INPUTS, "#na#")
    for kind, cell in (("normal", normal), ("reduce", reduction)):
        for n, node in enumerate(whole(cell).nodes):
            for op, source in node:
                found[f"{PREFIX}edge_{kind}_{DARTS.edges.index((n, source))}"] = op
            if n:  # The first node has no choice.
                found[f"{PREFIX}inputs_node_{kind}_{n + 2}"] = "_".join(str(source) for _, source in node)
    return found


def whole(cell: Cell) -> Cell:
    """The cell, its nodes repeated until there are as many as the surrogate knows."""
    return Cell(tuple(cell.nodes[n % len(cell.nodes)] for n in range(DARTS.nodes)))


def check(oracle: Callable[[Architecture], float]) -> dict[str, float]:
    """What the oracle says of cells of which its answer is known, in per cent. Raises ValueError where it differs."""

    def of_one(op: str) -> float:
        cell = Cell((((op, 0), (op, 1)),) * DARTS.nodes)
        return 100 * oracle(stack(cell, cell, LAYERS))

    drawn = [100 * oracle(sample(DARTS, numpy_stream(i, "oracle"), LAYERS, shared=True)) for i in range(300)]
    found = {"uniform": statistics.mean(drawn), "skips": of_one("skip_connect"), "pools": of_one("max_pool_3x3")}
    for name, value in found.items():
        if abs(value - KNOWN[name]) > TOLERANCE:
            raise ValueError(f"the oracle gives {name} {value:.2f} %, not {KNOWN[name]} %: are its inputs in order?")
    return found


# --- the runs -------------------------------------------------------------------------------------------------


def run(method: Method, oracle: Callable[[Architecture], float], trials: int, seed: int) -> dict[str, Any]:
    """Ask and tell until the trials are spent or nothing is proposed.

    Returns:
        The accuracies of whole cells in the order of their trials, None for what is no whole cell, and the processor
        time of `propose`.
    """
    history: list[Trial] = []
    seconds = 0.0
    while len(history) < trials:
        began = time.process_time()
        candidates = method.propose(history, LAYERS, seed)
        seconds += time.process_time() - began
        if not candidates:
            break
        history += [Trial(c.architecture, oracle(c.architecture), c.share) for c in candidates[: trials - len(history)]]
    accuracies = [trial.score if trial.architecture.in_space else None for trial in history]
    return {"seed": seed, "seconds": seconds, "trials": len(history), "accuracies": accuracies}


def proposers() -> list[str]:
    """The names of the methods whose candidates are trained one by one."""
    return [name for name, method in METHODS.items() if method.kind == "trials"]


def summary(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of every method, in per cent and seconds; `gain` is over random search, seed by seed, where that was run."""
    best = {name: [100 * max(a for a in one["accuracies"] if a is not None) for one in of] for name, of in runs.items()}
    rows = {}
    for name, of in runs.items():
        rows[name] = {
            "best": statistics.mean(best[name]),
            "best_error": error(best[name]),
            "seconds": statistics.mean(one["seconds"] for one in of),
            "trials": statistics.mean(one["trials"] for one in of),
        }
        if BASE in runs and name != BASE:
            gains = [mine - theirs for mine, theirs in zip(best[name], best[BASE], strict=True)]
            rows[name] |= {"gain": statistics.mean(gains), "gain_error": error(gains)}
    return rows


def error(numbers: Sequence[float]) -> float:
    """The standard error of their mean."""
    return statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan


def show(rows: Mapping[str, Mapping[str, float]], trials: int, seeds: int) -> None:
    table = Table(title=f"Best accuracy of {trials} trials, in %, mean ± standard error of {seeds} seeds")
    for title in ("method", "best", "over random", "own time, s"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for name, row in rows.items():
        gain = f"{row['gain']:+.2f} ± {row['gain_error']:.2f}" if "gain" in row else ""
        table.add_row(name, f"{row['best']:.2f} ± {row['best_error']:.2f}", gain, f"{row['seconds']:.1f}")
    Console().print(table)


@app.default
def main(
    folder: Path,
    /,
    *,
    methods: str = "",
    trials: int = 300,
    seeds: int = 5,
    option: Annotated[list[str], Parameter(negative="")] | None = None,
    json: bool = False,
) -> None:
    """Run the methods, seed by seed, and print what they found.

    Args:
        folder: Of the surrogate.
        methods: Names, with commas between them; all that train candidates unless given, or such as `spos`.
        trials: Of a run.
        seeds: Runs of a method: seeds 0, 1, …
        option: NAME=VALUE, options of the methods, of which there must be one then besides random.
        json: Print JSON, with all accuracies, and no table.
    """
    torch.set_num_threads(1)
    oracle = Oracle(folder)
    known = check(oracle)
    names = methods.split(",") if methods else proposers()
    runs: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        chosen = dict(each.split("=", 1) for each in option or ()) if name != BASE else {}
        runs[name] = []
        for seed in range(seeds):
            method = create(name, "shared", {key: parsed(value) for key, value in chosen.items()}, DARTS)
            # Who trains candidates is told how many, as `search_by_trials` does.
            method.budget = trials
            runs[name].append(run(method, oracle, trials, seed))
            if not json:
                one = runs[name][-1]
                top = max((100 * a for a in one["accuracies"] if a is not None), default=math.nan)
                print(f"{name}, seed {seed}: {top:.2f} % of {one['trials']}, {one['seconds']:.1f} s", file=sys.stderr)
    rows = summary(runs)
    if json:
        print(json_module.dumps({"oracle": known, "trials": trials, "summary": rows, "runs": runs}))
    else:
        show(rows, trials, seeds)


def parsed(text: str) -> Any:
    """A value of the command line: JSON where it is, else the text."""
    try:
        return json_module.loads(text)
    except json_module.JSONDecodeError:
        return text


if __name__ == "__main__":
    app()

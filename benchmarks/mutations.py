"""Whether the tests see a wrong formula: one change of mathematics at a time, and the test that fails.

    python benchmarks/mutations.py                # all of them; prints the table of docs/mutations.md
    python benchmarks/mutations.py darts snas     # those of some methods

Every mutation replaces a text in a copy of the package; the own tests of the method or part then run on the copy, until
the first failure. A mutation that no test sees is an error, and so is a text that is not there exactly once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cyclopts import App

ROOT = Path(__file__).parents[1]
app = App(help=__doc__, help_format="plaintext")


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new` in the file of a method, or of another `kind` of thing; its tests must then fail."""

    method: str
    what: str
    old: str
    new: str
    kind: str = "method"

    @property
    def stem(self) -> str:
        return self.method.replace("-", "_")

    @property
    def file(self) -> Path:
        """In the package."""
        return Path(f"{self.kind}s", f"{self.stem}.py")


MUTATIONS = (
    Mutation(
        "bayes-nas",
        "γ left out of ω",
        "(h / (weight + gamma * h)).sqrt()",
        "(h / (weight + h)).sqrt()",
    ),
    Mutation("bayes-nas", "what is kept ranked by γ", 'get_buffer("relevance"))', 'get_buffer("gamma_operations"))'),
    Mutation("bayes-nas", "what is switched off is all one", "OFF * evidence / (1 + evidence)", "OFF"),
    Mutation("bayes-nas", "1/H left out of γ*", "(s**2 - weight / h).clamp_min(0)", "s**2"),
    Mutation(
        "darts",
        "σ in the place of the softmax",
        "self.relaxed(mapping, progress)",
        "mapping.terms()[0].sigmoid()",
    ),
    Mutation(
        "darts-2nd",
        "no look-ahead",
        '{"update": "second-order"}',
        '{"update": "first-order"}',
    ),
    Mutation(
        "darts-plus",
        "one skip connection too late",
        "normal_skips(before) < limit <= normal_skips(now)",
        "normal_skips(before) <= limit < normal_skips(now)",
    ),
    Mutation(
        "data",
        "probabilities in the place of their logarithms",
        "self.scores(mapping, progress).clamp_min(1e-10).log()",
        "self.scores(mapping, progress).clamp_min(1e-10)",
    ),
    Mutation(
        "dnas",
        "the zero-one loss with the other sign",
        "return -self.options.zero_one_weight",
        "return self.options.zero_one_weight",
    ),
    Mutation(
        "drnas",
        "what an edge lacks keeps its share of a draw",
        "return left / left.sum(-1, keepdim=True)",
        "return left",
    ),
    Mutation(
        "drnas",
        "concentrations e^alpha on both sides",
        "1 + torch.nn.functional.elu(logits)",
        "logits.exp()",
    ),
    Mutation(
        "fair-darts",
        "the zero-one loss with the other sign",
        "return -self.options.zero_one_weight",
        "return self.options.zero_one_weight",
    ),
    Mutation(
        "gdas",
        "all operations executed",
        "active=(operations.detach() != 0).cpu()",
        "active=None",
    ),
    Mutation(
        "nasib",
        "exploration that grows",
        "(1 + math.cos(math.pi * progress.share)) / 2",
        "(1 - math.cos(math.pi * progress.share)) / 2",
    ),
    Mutation(
        "nasp",
        "no gradient through the projection",
        "discrete.operations + (a - a.detach())",
        "discrete.operations + 0.0 * a",
    ),
    Mutation(
        "pc-darts",
        "edges do not compete",
        "edge_softmax(logits, self.space)",
        "logits.sigmoid()",
    ),
    Mutation(
        "snas",
        "a temperature that rises",
        "progress.between(self.options.temperature, self.options.temperature_end)",
        "progress.between(self.options.temperature_end, self.options.temperature)",
    ),
    Mutation(
        "enas",
        "a baseline that follows at once",
        "(1 - decay) * (reward - baseline)",
        "decay * (reward - baseline)",
    ),
    Mutation(
        "rsws",
        "the worst advance to the last round",
        "key=lambda trial: trial.score or 0.0, reverse=True",
        "key=lambda trial: trial.score or 0.0, reverse=False",
    ),
    Mutation(
        "spos",
        "the worst are parents",
        "key=lambda trial: trial.score or 0.0, reverse=True",
        "key=lambda trial: trial.score or 0.0, reverse=False",
    ),
    Mutation(
        "evolution",
        "the worst of a sample is the parent",
        "return ranked[-1]",
        "return ranked[0]",
    ),
    Mutation(
        "nasnet",
        "ratios clipped from below only",
        "ratios.clamp(1 - clip, 1 + clip)",
        "ratios.clamp(1 - clip, 9.0)",
    ),
    Mutation(
        "pnas",
        "the worst of the beam are kept",
        "cells[order[:count]]",
        "cells[order.flip(0)[:count]]",
    ),
    Mutation(
        "pnas",
        "states that no trial read keep their random start",
        "member.states.weight[last + 1 :] = member.states.weight[last]",
        "member.states.weight[last + 1 :] += member.states.weight[last]",
    ),
    Mutation(
        "nasnet",
        "published batches however short the search",
        "LEAST_UPDATES, LEAST_BATCH = 30, 2",
        "LEAST_UPDATES, LEAST_BATCH = 4, 2",
    ),
    Mutation(
        "random",
        "one candidate again and again",
        'numpy_stream(seed, "candidate", len(history) + i)',
        'numpy_stream(seed, "candidate")',
    ),
    Mutation(
        "additive",
        "worse than the best taken for better",
        "z = (mean - best) / deviation",
        "z = (best - mean) / deviation",
    ),
    Mutation(
        "additive",
        "factors of one mapping under all",
        "counts(each, self.space, layers, self.mapping_name)",
        'counts(each, self.space, layers, "shared")',
    ),
    Mutation(
        "additive",
        "mutants of the worst",
        "key=lambda trial: -(trial.score or 0.0)",
        "key=lambda trial: trial.score or 0.0",
    ),
    Mutation(
        "bananas",
        "spread left out of the draws",
        "mean + spread * torch.randn",
        "mean + 0.0 * spread * torch.randn",
    ),
    Mutation(
        "bananas",
        "a gradient through units that are off",
        ".mul_(layers[k] > 0)",
        ".mul_(layers[k] >= 0)",
    ),
    Mutation(
        "beta-decay",
        "the largest logits drawn up",
        "return weight * smooth_maximum",
        "return -weight * smooth_maximum",
        "part",
    ),
    Mutation(
        "perturbation",
        "the best to first order in place of the worst",
        "epsilon * slope.sign()",
        "-epsilon * slope.sign()",
        "part",
    ),
    Mutation(
        "oles",
        "what agrees is frozen",
        'state["sum"] < self.options.threshold',
        'state["sum"] > self.options.threshold',
        "part",
    ),
    Mutation(
        "layer-alignment",
        "layers driven apart",
        "factor = -self._weight",
        "factor = self._weight",
        "part",
    ),
    Mutation(
        "pruning",
        "edges compared with their node's best",
        "topk(space.inputs_per_node, -1)",
        "topk(1, -1)",
        "part",
    ),
    Mutation(
        "pruning",
        "a reward for what costs",
        "return weight * self._cost",
        "return -weight * self._cost",
        "part",
    ),
    Mutation(
        "shrinking",
        "the weakest kept",
        "descending=True, stable=True",
        "descending=False, stable=True",
        "part",
    ),
    Mutation(
        "projection",
        "what is missed least is kept",
        "worth -= reached",
        "worth += reached",
        "part",
    ),
)


def failing_test(mutation: Mutation, folder: Path) -> str:
    """The name of the first test that fails on the mutated package. Raises ValueError if none does."""
    package = folder / "dnas"
    shutil.copytree(ROOT / "src" / "dnas", package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / mutation.file
    text = file.read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{file.name} has {mutation.old!r} {text.count(mutation.old)} times, not once")
    file.write_text(text.replace(mutation.old, mutation.new), "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        f"tests/test_{mutation.kind}_{mutation.stem}.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"^(?:FAILED|ERROR) \S+::(\w+)", done.stdout, re.M)
    if done.returncode != 1 or found is None:
        raise ValueError(f"no test sees it:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return found[1]


@app.default
def main(*methods: str) -> None:
    """Apply the mutations, one by one.

    Args:
        methods: Only of these; all unless given.
    """
    print("| method or part | what was changed | the test that fails |\n|---|---|---|", flush=True)
    missed = 0
    for mutation in MUTATIONS:
        if methods and mutation.method not in methods:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                seen = f"`{failing_test(mutation, Path(folder))}`"
            except ValueError as error:
                missed += 1
                seen = f"**none**: {error}"
        print(f"| `{mutation.method}` | {mutation.what} | {seen} |", flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    app()

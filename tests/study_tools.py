"""A study folder as `dnas compare` leaves it, with made-up figures and random architectures."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dnas.space import sampling
from dnas.space.darts import DARTS

ROWS = (
    # name, kind, level, the row that it controls, mean test error
    ("dnas (decoupled)", "searched", "global", None, 0.071),
    ("random, size of dnas", "random", "global", "dnas (decoupled)", 0.076),
    ("dnas, layers shuffled", "shuffled", "global", "dnas (decoupled)", 0.074),
    ("pc-darts (full)", "searched", "global", None, 0.073),
    ("darts (shared)", "searched", "cell", None, 0.079),
    ("random, size of darts", "random", "cell", "darts (shared)", 0.079),
    ("DARTS_V2", "published", "cell", None, 0.069),
    ("plain", "handmade", "", None, 0.091),
)


def make_study(
    folder: Path, rows: Any = ROWS, *, layers: int = 8, searches: int = 4, missing: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Writes study.json and an architecture in every run's folder. Returns the content of study.json."""
    rng = np.random.default_rng(0)
    entries, errors = [], {}
    for number, (name, kind, level, of, mean) in enumerate(rows):
        found = []
        for seed in range(searches):
            run = f"runs/row{number}-s{seed}"
            (folder / run).mkdir(parents=True)
            sampling.sample(DARTS, rng, layers).save(folder / run / "architecture.json")
            accuracies = 1 - mean + rng.normal(0, 0.0015, 2)
            found.append({
                "seed": seed, "run": run, "validation_accuracy": 0.9, "params": 3_300_000 + 4e5 * rng.normal(),
                "macs": 5.2e8, "search_seconds": 3_600.0, "step_equivalents": 1e4,
                "trainings": [{"seed": s, "run": f"{run}-t{s}", "test_accuracy": a} for s, a in enumerate(accuracies)],
            })  # fmt: skip
        means = [1 - np.mean([t["test_accuracy"] for t in search["trainings"]]) for search in found]
        errors[name] = np.array(means)
        entries.append({
            "name": name, "method": "dnas", "mapping": "decoupled", "kind": kind, "level": level, "of": of,
            "searches": found, "test_error": interval(errors[name]),
            "best": {"seed": 1, "mean": means[min(1, searches - 1)], "sd": 0.001, "count": 2},
            "params": float(np.mean([s["params"] for s in found])), "macs": 5.2e8, "search_seconds": 3_600.0,
        })  # fmt: skip
    pairs = [(name, of) for name, _, _, of, _ in rows if of is not None] or list(itertools.pairwise(errors))
    study = {
        "format": "dnas-study/1", "data": "cifar10", "preset": "quick", "test_images": 10_000,
        "command": "dnas compare --data cifar10", "rows": entries,
        "differences": [
            {"a": of, "b": name, **interval(errors[of] - errors[name]), **p_values(errors[of] - errors[name], len(pairs)),
             "seeds_needed": None}
            for name, of in pairs
        ],
        "practices": [
            {"key": "seeds", "practice": "Several seeds", "met": True, "why": "4 searches a row"},
            {"key": "controls", "practice": "Random controls", "met": False, "why": "some rows have none"},
            {"key": "tuning", "practice": "Equal tuning", "met": None, "why": "nobody recorded it"},
        ],
        "missing": list(missing),
    }  # fmt: skip
    write_study(folder, study)
    return study


def write_study(folder: Path, study: Any) -> None:
    (folder / "study.json").write_text(json.dumps(study), "utf-8")


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean with Student's 95 % interval."""
    count = len(values)
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if count > 1 else None
    half = None if sd is None else float(stats.t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    bounds = {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
    return {"mean": mean, "sd": sd, "count": count, **bounds}


def p_values(values: np.ndarray, comparisons: int) -> dict[str, Any]:
    """Of Student's test, and Bonferroni's."""
    if len(values) < 2:
        return {"p": None, "p_adjusted": None}
    p = float(stats.ttest_1samp(values, 0).pvalue)
    return {"p": p, "p_adjusted": min(1.0, comparisons * p)}

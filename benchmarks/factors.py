"""Which factors of an architecture predict its accuracy: those of the full or the decoupled mapping, or some of them.

    dnas compare --methods additive --mappings decoupled --seeds 8 -o search.trials=50 … --out study
    python benchmarks/factors.py study

The searches of a study by trials (`random`, `additive`) train many architectures for a short time. A ridge regression
of the log-odds of their accuracies on counts of factors is fitted to the trials of one search, or of all searches but
one, and predicts the uniform architectures of the others. The table has the correlation of prediction and log-odds, as
the mean over searches with its standard error. Architectures are not stored: they are proposed again from the scores.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from dnas.disk import read_toml
from dnas.methods.protocol import TrialMethod
from dnas.methods.registry import create
from dnas.pipeline.config import parse
from dnas.runtime.names import CONFIG_FILE, RESULT_FILE
from dnas.searching.judging import judged_in_rounds
from dnas.settings import TrialSettings
from dnas.space.architecture import Architecture
from dnas.space.registry import get_space
from dnas.supernet.mapping import DECOUPLED, FULL, SHARED
from dnas.supernet.ridge import Array, fit
from dnas.supernet.worth import counts, shapes

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
TABLES = ("alpha", "beta", "gamma")
# Rows: the mapping whose factors are counted, and which of its tables.
MODELS = (
    (FULL, TABLES),
    (DECOUPLED, TABLES),
    *((DECOUPLED, tuple(t for t in TABLES if t != without)) for without in TABLES),
    *((DECOUPLED, (only,)) for only in TABLES),
)

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Trials:
    """The trials of one search: architectures, and the log-odds of their accuracies without their mean, [N].

    Attributes:
        uniform: How many of the first ones are uniform.
    """

    space: str
    architectures: list[Architecture]
    odds: Array
    uniform: int


def trials(run: Path) -> Trials | None:
    """Those of a finished search; None if it has no trials, or shared cells."""
    config = parse(read_toml(run / CONFIG_FILE))
    if not isinstance(config.search, TrialSettings) or config.mapping == SHARED or not (run / RESULT_FILE).exists():
        return None
    method = create(config.method, config.mapping, config.options, get_space(config.space))
    assert isinstance(method, TrialMethod)
    count = method.budget = config.search.trials
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    scores = [line["accuracy"] for line in lines if "trial" in line]
    history = judged_in_rounds(method, config.search.layers, config.seed, scores, lambda number, candidates: [], count)
    odds = np.log(np.array(scores) / (1 - np.array(scores)))
    initial = method.at_most(config.options.get("initial", 40), 2) if config.method == "additive" else len(odds)
    return Trials(config.space, [trial.architecture for trial in history], odds - odds.mean(), initial)


def features(given: Trials, mapping: str, tables: Sequence[str]) -> Array:
    """[N, F] of the counts of some tables of a mapping."""
    space, layers = get_space(given.space), len(given.architectures[0])
    whole = np.stack([counts(each, space, layers, mapping) for each in given.architectures])
    sizes = [int(np.prod(shape)) for shape in shapes(space, layers, mapping)]
    parts = dict(zip(TABLES, np.split(whole, np.cumsum(sizes)[:-1], axis=1), strict=True))
    return np.concatenate([parts[name] for name in tables], axis=1)


def correlation(fitted: Sequence[int], tested: Sequence[int], x: Sequence[Array], found: Sequence[Trials]) -> float:
    """Of prediction and log-odds of the uniform trials of some searches, by a model of the trials of others."""
    model = fit(np.concatenate([x[i] for i in fitted]), np.concatenate([found[i].odds for i in fitted]), PENALTIES)
    predicted = model.predicted(np.concatenate([x[i][: found[i].uniform] for i in tested]))[0]
    return float(np.corrcoef(predicted, np.concatenate([found[i].odds[: found[i].uniform] for i in tested]))[0, 1])


@app.default
def main(study: Path, *, as_json: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """Compare models of the trials of a study.

    Parameters
    ----------
    study: Its folder; at least two searches of it have ended.
    """
    runs = sorted((study / "runs").glob(f"*/{CONFIG_FILE}"))
    found = [each for each in (trials(file.parent) for file in runs) if each is not None]
    assert len(found) > 1, "a prediction needs another search"
    searches, rows = range(len(found)), []
    for mapping, tables in MODELS:
        x = [features(each, mapping, tables) for each in found]
        others = [[i for i in searches if i != own] for own in searches]
        by_one = [correlation([own], others[own], x, found) for own in searches]
        by_others = [correlation(others[own], [own], x, found) for own in searches]
        rows.append(
            {
                "mapping": mapping,
                "tables": " + ".join(tables),
                "factors": x[0].shape[1],
                **{
                    name: {"mean": statistics.mean(each), "error": statistics.stdev(each) / len(each) ** 0.5}
                    for name, each in (("one search", by_one), ("all others", by_others))
                },
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    size = statistics.mean(len(each.odds) for each in found)
    table = Table(title=f"{study.name}: {len(found)} searches of {size:.0f} trials", title_justify="left")
    for name in ("mapping", "tables", "factors", "by one search", "by all others"):
        table.add_column(name, justify="left" if name in ("mapping", "tables") else "right")
    for row in rows:
        figures = (f"{row[name]['mean']:.2f} ± {row[name]['error']:.2f}" for name in ("one search", "all others"))
        table.add_row(row["mapping"], row["tables"], str(row["factors"]), *figures)
    Console().print(table)


if __name__ == "__main__":
    app()

"""How well the first steps of trainings rank networks of several spaces by their accuracy at the end.

    python benchmarks/early.py --data FOLDER --seconds 60 --spaces darts,mobile,resnet --seeds 2

For every seed, the known networks of each space and a random one are trained with the settings of the quick preset, for
as many steps as fit in the same processor time. Each is evaluated on the held-out images of the finals after shares of
its steps, and at its end. The table has, for each share, the accuracies, Kendall's rank correlation with those at the
end, and how far the network that leads at this share is below the best one at the end: over all networks, and over the
leading network of each space.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from dnas.pipeline import budget
from dnas.pipeline.config import resolve
from dnas.pipeline.inputs import checked_draft, load_data
from dnas.rng import numpy_stream
from dnas.searching.finals import Entrant, Finals
from dnas.settings import TrainSettings
from dnas.space.published import candidates
from dnas.space.registry import get_space
from dnas.space.sampling import sample

SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 1.0)

app = App(help=__doc__, help_format="plaintext")


def curves(space: str, data: str, seconds: float, seed: int) -> dict[str, list[float | None]]:
    """Train the networks of a space one by one. Return their accuracies after each share of the steps."""
    overrides = {"command": "run", "space": space, "finals": 2, "seed": seed, "data": {"source": data}}
    loaded = load_data(checked_draft(overrides))
    config, _ = resolve(overrides, loaded.info, len(loaded.train), loaded.fingerprint, loaded.train.memory)
    assert config.search is not None and isinstance(config.train, TrainSettings)
    rng, layers = numpy_stream(seed, "early"), config.search.layers
    networks = [*candidates(get_space(space), layers), ("random", sample(get_space(space), rng, layers))]
    found = {}
    for name, architecture in networks:
        steps = budget.steps_in(seconds, budget.pace(config, architecture, loaded.train, loaded.info))
        entrant = Entrant(architecture, budget.planned(config.train, steps), name)
        state = Finals([entrant], loaded.train, loaded.info, seed, config.device, half=False)
        found[f"{space} {name}"] = [state.judged(0, share, lambda loss: None) for share in SHARES]
    return found


def row(share: int, known: Sequence[dict[str, list[float]]]) -> list[str]:
    """Return the row of a share, as means over the seeds."""
    taus, lost, between = [], [], []
    for each in known:
        early, end = ([values[k] for values in each.values()] for k in (share, -1))
        taus.append(float(kendalltau(early, end).statistic))
        lost.append(max(end) - max(zip(early, end, strict=True))[1])
        leaders: dict[str, tuple[float, float]] = {}
        for name, values in each.items():
            space = name.split()[0]
            leaders[space] = max(leaders.get(space, (-1.0, 0.0)), (values[share], values[-1]))
        between.append(max(last for _, last in leaders.values()) - max(leaders.values())[1])
    shown = [f"{sum(numbers) / len(numbers):.3f}" for numbers in (taus, lost, between)]
    return [f"{100 * SHARES[share]:g}%", *shown]


@app.default
def main(
    *,
    data: str = "digits",
    seconds: float = 10.0,
    spaces: str = "darts,mobile,resnet",
    seeds: int = 2,
    first: int = 0,
    out: Path = Path("early"),
) -> None:
    """Train, or read what earlier calls have trained, and rank."""
    out.mkdir(parents=True, exist_ok=True)
    every: list[dict[str, Any]] = []
    for seed in range(first, first + seeds):
        known: dict[str, Any] = {}
        for space in spaces.split(","):
            file = out / f"{space}-{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(curves(space, data, seconds, seed)))
            known |= json.loads(file.read_text())
        every.append(known)
    console = Console(width=160)
    for seed, known in enumerate(every, first):
        table = Table(f"seed {seed}", *(f"{100 * share:g}%" for share in SHARES))
        for name, values in known.items():
            table.add_row(name, *("diverged" if value is None else f"{value:.4f}" for value in values))
        console.print(table)
    table = Table("share", "Kendall's tau with the end", "leader below the best", "leading space below the best")
    for share in range(len(SHARES)):
        table.add_row(*row(share, every))
    console.print(table)


if __name__ == "__main__":
    app()

"""What each part of the quick recipe brings: the recipe without it, at equal processor time, on held-out images.

    python benchmarks/recipe.py --data cifar10-jpeg --seconds 60 --seeds 4

For every seed a random architecture is drawn, and trained by the recipe and by each variant of it, for as many steps as
it does in the same processor time of one thread. It is judged on training images that were held out; test images are
never read. The table has the paired differences from the recipe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from held_out import parts, trained_for
from rich.console import Console
from rich.table import Table

from dnas.data.splits import load_train
from dnas.methods.registry import create
from dnas.pipeline.presets import preset_settings
from dnas.rng import numpy_stream
from dnas.settings import TrainSettings
from dnas.space.darts import DARTS
from dnas.space.sampling import sample
from dnas.study.statistics import estimate, paired

RECIPE = "recipe"
VARIANTS: dict[str, dict[str, Any]] = {
    RECIPE: {},
    "SGD alone at rate 0.1": {"optimizer": "sgd"},
    "SGD alone at rate 0.2": {"optimizer": "sgd", "learning_rate": 0.2},
    "half size half the time": {"half_size": 0.5},
    "no norm at the end": {"final_norm": False},
    "no label smoothing": {"label_smoothing": 0.0},
    "no weight decay of Muon": {"muon_weight_decay": 0.0},
    "no changes of colors": {"color": 0.0},
    "norms and biases decay": {"norm_decay": True},
    "plain momentum": {"nesterov": False},
    "cosine by epochs": {"schedule": "cosine"},
    "96 images a step": {"batch_size": 96},
    "cutout": {"cutout": -1},
    "random crops of an eighth": {"pad": -1},
    "no random crops": {"pad": 0},
    "drop-path 0.1": {"drop_path": 0.1},
    "auxiliary loss": {"auxiliary_weight": 0.4},
    "stem of three convolutions": {"stem": "tiny-imagenet"},
    "stem of full size": {"stem": "cifar"},
    "stem of full size and half size half the time": {"stem": "cifar", "half_size": 0.5},
    "24 channels": {"channels": 24},
    "average of the last 20 %": {"average": 0.2},
    "alternating flips": {"flip": "alternate"},
    "regularised by the passes": {"cutout": -2, "drop_path": -1.0},
}

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Job:
    data: str
    seconds: float
    seed: int
    layers: int
    variant: str


def settings_of(variant: str, quick: Mapping[str, Any], count: int, image_size: int) -> TrainSettings:
    """The quick preset's training, but for what a variant changes, of all images."""
    given = {**quick, "epochs": 1, "images": 0, **VARIANTS[variant]}
    if given["optimizer"] != "muon":
        del given["muon_learning_rate"], given["muon_weight_decay"]
    return TrainSettings(**given).resolved(count, image_size)


def accuracy(job: Job) -> float:
    """Of a variant's training, on the held-out images."""
    torch.set_num_threads(1)
    split, info = load_train(job.data)
    train, judges = parts(split)
    quick = preset_settings("quick", create("dnas", None, {}, DARTS), info, len(train))["train"]
    settings = settings_of(job.variant, quick, len(train), info.image_size)
    if not info.flip:  # which no variant changes
        settings = settings.model_copy(update={"flip": "off"})
    architecture = sample(DARTS, numpy_stream(job.seed, "recipe"), job.layers)
    return trained_for(job.seconds, architecture, settings, train, judges, info, job.seed).accuracy


@app.default
def main(
    *,
    data: str = "digits",
    seconds: float = 20.0,
    seeds: int = 4,
    layers: int = 6,
    variants: str = "",
    processes: int = os.cpu_count() or 1,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Compare the recipe with its variants.

    Parameters
    ----------
    data: A name or a folder.
    seconds: Of processor time, for every training.
    seeds: How many architectures.
    variants: Names with commas between them. [default: all]
    processes: Trainings at a time.
    out: A file that keeps what is known, so that an interrupted benchmark goes on.
    """
    names = [name.strip() for name in variants.split(",") if name.strip()] or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise SystemExit(f"--variants {unknown[0]} is none of: {', '.join(VARIANTS)}")
    names = [RECIPE, *(name for name in names if name != RECIPE)]
    jobs = [Job(data, seconds, seed, layers, name) for seed in range(seeds) for name in names]
    known: dict[str, float] = json.loads(out.read_text("utf-8")) if out is not None and out.exists() else {}
    missing = [job for job in jobs if _key(job) not in known]
    with ProcessPoolExecutor(processes) as pool:
        for job, found in zip(missing, pool.map(accuracy, missing), strict=True):
            known[_key(job)] = found
            if out is not None:
                out.write_text(json.dumps(known, indent=2), "utf-8")
    by = {name: {job.seed: known[_key(job)] for job in jobs if job.variant == name} for name in names}
    if as_json:
        print(json.dumps(by, indent=2))
        return
    Console().print(table(by, f"{Path(data).name}, {seconds:g} s, {seeds} architectures of {layers} layers"))


def _key(job: Job) -> str:
    return json.dumps(asdict(job))


def table(by: Mapping[str, Mapping[int, float]], title: str) -> Table:
    out = Table(title=title, title_justify="left")
    for name in ("variant", "accuracy", "difference from the recipe", "p"):
        out.add_column(name, justify="left" if name == "variant" else "right")
    for name, values in by.items():
        difference = paired(values, by[RECIPE])
        shown = ""
        if name != RECIPE and difference.mean is not None:
            shown = f"{difference.mean:+.4f}"
            if difference.low is not None and difference.high is not None:
                shown += f" ({difference.low:+.4f} to {difference.high:+.4f})"
        p = "" if name == RECIPE or difference.p is None else f"{difference.p:.3g}"
        out.add_row(name, f"{estimate(values.values()).mean:.4f}", shown, p)
    return out


if __name__ == "__main__":
    app()

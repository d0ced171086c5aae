"""A whole search on digits by `dnas.searching.search.Search`, with the engine and with the plain supernet inside.

    python benchmarks/search_end_to_end.py                      # time and memory of a short search
    python benchmarks/search_end_to_end.py --curve curve.json   # does float32 drift further than by rounding?

Both searches have the same seed, so the same initial weights, batches, augmentation and learning rates, and their
steps alternate in one process. The method is dnas without dropout on identities, which the public codes do not
have. What a search does besides (batches, augmentation, checks, metrics) is the same in both and is timed, too;
peak memory holds the data set, and scikit-learn, which it comes from.

The curve: in float32 the two differ by rounding, which training amplifies. Whether by no more than that is seen beside
plain searches whose images carry noise of one rounding error (1e-7 relative, new in every batch), see `curves`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import measure
import torch
from cyclopts import App, Parameter
from plain import PlainSupernet, copy_weights
from rich.console import Console
from rich.table import Table

from dnas.data.splits import load_train
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.pipeline.presets import paper_travel
from dnas.rng import torch_stream
from dnas.searching.search import Search
from dnas.searching.watch import epoch_metrics
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.training.batches import Batch

ENGINE, PLAIN = "engine", "plain"
NOISE = 1e-7  # relative, about the rounding of float32
ENDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the windows of a curve, in steps
FIRST_LOSS = 1e-5  # relative difference of the first step's loss that counts as equal

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Setting:
    """The search.

    Attributes:
        layers: Depth of the supernet.
        channels: Width of its first cells.
        batch: Images of a step.
        images: Training images, of which each half of the search has one half.
        epochs: Passes over them, the first of which moves weights only.
        partial: K; 1/K of the channels pass through the operations.
        seed: Of everything drawn.
    """

    layers: int = 6
    channels: int = 8
    batch: int = 64
    images: int = 512
    epochs: int = 3
    partial: int = 4
    seed: int = 0


class PlainSearch(Search):
    """A search that differs in nothing but its supernet, and on demand in noise on its images.

    Args:
        draw: Which noise; 0: none.
    """

    def __init__(self, *args: Any, draw: int = 0) -> None:
        engine = Search(*args)
        sizes = {"layers": engine.settings.layers, "channels": engine.settings.channels, "inputs": engine.info.channels}
        plain = PlainSupernet(
            engine.method.operations,
            classes=len(engine.info.classes),
            partial=engine.method.options.partial_channels,
            **sizes,
        )
        copy_weights(engine.supernet, plain)
        super().__init__(*args, plain)
        self.draw = draw

    def batch(self, step: int, draw: int) -> Batch:
        batch = super().batch(step, draw)
        if not self.draw:
            return batch
        generator = torch_stream(self.draw, "benchmark-noise", step, draw)
        factor = 1 + NOISE * torch.randn(batch.images.shape, generator=generator, dtype=torch.float64)
        return Batch((batch.images * factor).to(batch.images.dtype), batch.labels, draw)


def new_search(variant: str, setting: Setting, *, warmup: int = 1, draw: int = 0) -> Search:
    """At the start, with the learning rates of the quick preset."""
    split, info = load_train("digits")
    method = create("dnas", None, {"partial_channels": setting.partial, "skip_dropout": 0.0}, DARTS)
    settings = GradientSettings(
        layers=setting.layers,
        channels=setting.channels,
        batch_size=setting.batch,
        images=setting.images,
        epochs=setting.epochs,
        warmup_epochs=warmup,
        learning_rate=0.1,
        architecture_learning_rate=0.0,
    ).resolved(len(split), paper_travel(method), info.image_size)
    arguments = (method, settings, split, info, setting.seed, "cpu")
    return Search(*arguments) if variant == ENGINE else PlainSearch(*arguments, draw=draw)


def build(variant: str, threads: int, **setting: int) -> Callable[[], None]:
    """Both kinds of steps of one search, in a process of its own (`measure.peak_memory`)."""
    torch.set_num_threads(threads)
    search = new_search(variant, Setting(**setting), warmup=0)
    steps = iter(range(sys.maxsize))

    def step() -> None:
        search.step(next(steps) % (search.settings.epochs * search.settings.steps_per_epoch))

    return step


# --- time and memory ------------------------------------------------------------------------------------


def compare(setting: Setting, threads: int) -> dict[str, Any]:
    """Two whole searches, step by step in turns."""
    searches = {variant: new_search(variant, setting) for variant in (ENGINE, PLAIN)}
    settings = searches[ENGINE].settings
    losses: dict[str, list[float]] = {variant: [] for variant in searches}
    seconds: dict[str, list[float]] = {variant: [] for variant in searches}
    for step in range(settings.epochs * settings.steps_per_epoch):
        for variant in list(searches)[:: -1 if step % 2 else 1]:
            began = time.perf_counter()
            losses[variant].append(searches[variant].step(step))
            if (step + 1) % settings.steps_per_epoch == 0:
                epoch_metrics(searches[variant], step)
            seconds[variant].append(time.perf_counter() - began)
    rows = {}
    for variant in searches:
        memory = measure.peak_memory(build, variant=variant, threads=threads, **asdict(setting))
        rows[variant] = measure.figures(seconds[variant], memory, None) | {"losses": losses[variant]}
        rows[variant]["total_seconds"] = sum(seconds[variant])
    end = Progress(settings.epochs, settings.epochs, settings.warmup_epochs)
    found = [search.method.derive(search.mapping, end).layers for search in searches.values()]
    return {
        # Equal in its first step; how far rounding takes them apart later is what `--curve` is about.
        "equal": abs(losses[ENGINE][0] - losses[PLAIN][0]) <= FIRST_LOSS * abs(losses[PLAIN][0]),
        **measure.ratios(rows[ENGINE], rows[PLAIN]),
        "time_ratio": rows[ENGINE]["total_seconds"] / rows[PLAIN]["total_seconds"],
        "largest_loss_difference": max(abs(a - b) for a, b in zip(losses[ENGINE], losses[PLAIN], strict=True)),
        "same_architecture": found[0] == found[1],
        **rows,
    }


# --- loss curves ----------------------------------------------------------------------------------------


def curves(setting: Setting, steps: int, draws: int) -> dict[str, Any]:
    """Training losses of the engine, of the plain supernet, and of the plain one with noise on its images.

    For every window of steps: the largest distance of the engine's loss from the plain one's and those of the noisy
    searches; `ratio` divides the first by the largest of the others. Were the engine one more noisy search, it would
    be the furthest of draws + 1, with a ratio above 1, once in draws + 1 times. It counts as within the spread when
    its largest distance over the whole curve is at most twice the others'. The mean losses of a window show what
    distances cannot, once chance has driven all curves apart: whether the engine learns worse or better.
    """
    searches = {ENGINE: new_search(ENGINE, setting, warmup=0)}
    searches |= {name: new_search(PLAIN, setting, warmup=0, draw=i) for i, name in enumerate(_plain_names(draws))}
    losses: dict[str, list[float]] = {name: [] for name in searches}
    for step in range(steps):
        for name, search in searches.items():
            losses[name].append(search.step(step))
        if step + 1 in ENDS or (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: loss {losses[PLAIN][-1]:.4f}", flush=True)
    ends = [end for end in ENDS if end < steps] + [steps]
    windows = [_window(losses, first, last) for first, last in zip([0, *ends], ends, strict=False)]
    ratio = max(w["engine"] for w in windows) / max(max(w["noisy"]) for w in windows)
    return {"within": ratio <= 2, "ratio": ratio, "windows": windows, "losses": losses, "noise": NOISE}


def _window(losses: dict[str, list[float]], first: int, last: int) -> dict[str, Any]:
    parts = {name: curve[first:last] for name, curve in losses.items()}
    engine, *noisy = (
        max(abs(a - b) for a, b in zip(part, parts[PLAIN], strict=True))
        for name, part in parts.items()
        if name != PLAIN
    )
    means = {name: sum(part) / len(part) for name, part in parts.items()}
    ratio = engine / max(noisy) if max(noisy) else None
    return {"first": first, "last": last, "engine": engine, "noisy": noisy, "ratio": ratio, "means": means}


def _plain_names(draws: int) -> list[str]:
    return [PLAIN, *(f"noisy {i}" for i in range(1, draws + 1))]


def show_curves(result: dict[str, Any]) -> None:
    table = Table(title="Largest distance of the loss from the plain search's", title_justify="left")
    for head in ("steps", "engine", "noisy", "ratio", "mean loss: engine", "all plain"):
        table.add_column(head, justify="right", no_wrap=True)
    for w in result["windows"]:
        engine, *plain = (w["means"][name] for name in result["losses"])
        table.add_row(
            f"{w['first'] + 1}-{w['last']}",
            f"{w['engine']:.1e}",
            f"{min(w['noisy']):.1e} to {max(w['noisy']):.1e}",
            "" if w["ratio"] is None else f"{w['ratio']:.2f}",
            f"{engine:.4f}",
            f"{min(plain):.4f} to {max(plain):.4f}",
        )
    Console(width=100).print(table)
    verdict = "within" if result["within"] else "NOT within"
    print(f"ratio over the whole curve {result['ratio']:.2f}: the engine is {verdict} the spread")


def draw_curves(result: dict[str, Any], path: Path) -> None:
    """Two panels: the losses, and their distances from the plain search's. Needs the `bench` extra."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, sharex=True, figsize=(8, 7), layout="constrained")
    plain = result["losses"][PLAIN]
    for name, curve in sorted(result["losses"].items(), key=lambda item: item[0] in (ENGINE, PLAIN)):
        style = {"color": {ENGINE: "#D55E00", PLAIN: "#000000"}.get(name, "#56B4E9"), "linewidth": 1}
        label = "plain, noisy images" if name == "noisy 1" else None if name.startswith("noisy") else name
        top.plot(curve, label=label, **style)
        if name != PLAIN:
            bottom.semilogy([abs(a - b) or None for a, b in zip(curve, plain, strict=True)], label=label, **style)
    top.set_ylabel("training loss")
    bottom.set_ylabel("distance from plain")
    bottom.set_xlabel("step")
    top.legend()
    figure.savefig(path)


# --- the command ----------------------------------------------------------------------------------------


@app.default
def main(
    setting: Annotated[Setting, Parameter(name="*")] = Setting(),
    *,
    backend: Literal["auto", "torch"] = "auto",
    threads: int = os.cpu_count() or 1,
    curve: Path | None = None,
    steps: int = 200,
    draws: int = 4,
    json_line: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure a whole search, or with --curve compare loss curves.

    Args:
        backend: torch: the engine without native kernels.
        threads: Of both variants.
        curve: Compare loss curves instead; write them to this JSON file, and a picture beside it (.svg).
        steps: Of a curve; the learning rate's schedule is that of a search of so many steps.
        draws: Noisy plain searches beside a curve.
        json_line: Print everything as one JSON object in the last line.
    """
    os.environ["DNAS_BACKEND"] = backend  # read when the kernels are first used, here and in child processes
    torch.set_num_threads(threads)
    facts = measure.machine()
    measure.show_facts(facts)
    if curve is None:
        result = {"setting": asdict(setting), "machine": facts, **compare(setting, threads)}
        measure.show("A step of the search", {name: result[name] for name in (PLAIN, ENGINE)})
        measure.finish(result, json_line)
        sys.exit(0 if result["equal"] else 1)
    per_epoch = new_search(ENGINE, setting, warmup=0).settings.steps_per_epoch
    setting = Setting(**(asdict(setting) | {"epochs": -(-steps // per_epoch)}))
    result = {"setting": asdict(setting), "machine": facts, **curves(setting, steps, draws)}
    show_curves(result)
    curve.write_text(json.dumps(result, indent=1))
    try:
        draw_curves(result, curve.with_suffix(".svg"))
    except ImportError:
        print("no picture: pip install 'dnas[bench]' for matplotlib")
    measure.finish(result, json_line)
    sys.exit(0 if result["within"] else 1)


if __name__ == "__main__":
    app()

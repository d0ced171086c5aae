"""Page of a run, finished or not: its architecture, training, errors and cost.

If the test images are unchanged, they are classified again to show confused classes and the most confident errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnas.disk import read_json, read_toml
from dnas.drawing.registry import picture_of
from dnas.drawing.style import INK, NODE, SOFT, TAG_COLOURS, TINT
from dnas.drawing.svg import svg as draw_svg
from dnas.errors import InputError
from dnas.pages import charts
from dnas.pages.charts import Interval, Series
from dnas.pages.figure import ACCENT, PAGE_COLOURS
from dnas.pages.front import front
from dnas.pages.mistakes import mistakes_of
from dnas.pages.template import amount, both, href, kinds_of, legend, profile, render, safe, short_source, thirds
from dnas.runtime.names import (
    ARCHITECTURE_FILE,
    BASELINE_STAGE,
    CONFIG_FILE,
    DRAWING_FILE,
    EXPORT_FILE,
    LOG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    ORIGIN_FILE,
    PARAMETERS_FILE,
    RESULT_FILE,
    SEARCH_STAGE,
    STAGE_LABELS,
    TRAIN_STAGE,
)
from dnas.runtime.runfolder import read_metrics
from dnas.space.architecture import Architecture
from dnas.study import verdict
from dnas.units import size_text, time_text

if TYPE_CHECKING:
    from markupsafe import Markup


PANELS = 40  # layers whose scores are drawn
CURVE = 60  # epochs in a drawing of scores
# Colors of a drawing that follow the page; operations keep their own colors.
DRAWING_COLOURS = {
    **PAGE_COLOURS,
    TINT: "tint",
    NODE: "node",
    **{colour: f"tag-{i}" for i, colour in enumerate(TAG_COLOURS) if colour not in PAGE_COLOURS},
}


@dataclass(frozen=True)
class Run:
    """Content of a run folder; `result` and `architecture` are None if the run has not reached them."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None
    architecture: Architecture | None

    def stage(self, stage: str) -> list[dict[str, Any]]:
        return [line for line in self.metrics if line.get("stage") == stage]

    @property
    def searched(self) -> bool:
        return bool(self.config.get("search"))

    @property
    def name(self) -> str:
        if not self.searched:
            return "trained network"
        own = f"{self.config.get('method', '')} ({self.config.get('mapping', '')})"
        parts = self.config.get("with_parts")
        return f"{own} with {', '.join(parts)}" if parts else own


def read_run(path: Path) -> Run:
    """Read a run folder. Raises InputError that names the damaged file, if there is one."""
    return Run(
        path,
        read_toml(path / CONFIG_FILE),
        read_metrics(path / METRICS_FILE) if (path / METRICS_FILE).is_file() else [],
        read_json(path / RESULT_FILE) if (path / RESULT_FILE).is_file() else None,
        Architecture.load(path / ARCHITECTURE_FILE) if (path / ARCHITECTURE_FILE).is_file() else None,
    )


def run_page(path: Path, base: Path) -> str:
    """Return the page of a run. `base`: folder to which its links are relative."""
    run = read_run(path)
    result, config = run.result, run.config
    tested = result is not None and "test_accuracy" in result
    other = None
    if result is not None and "baseline" in result:
        other = Architecture.from_json(result["baseline"]["architecture"])
    data = str(config.get("data", {}).get("source", ""))
    return render(
        "run.html",
        title=f"{run.name} on {short_source(data)}",
        run=run,
        result=result,
        data=data,
        facts=_facts(run),
        accuracy=None if not tested else _spoken(result or {}),
        balance=None if result is None else verdict.of_classes(result),
        verdict=verdict.of_run(result) if result is not None and "baseline" in result else None,
        finals=None if result is None else verdict.of_finals(result),
        spaces=None if result is None else verdict.of_spaces(result),
        origin=verdict.of_origin({"origin": config.get("origin")}),
        noise=None if result is None else verdict.of_signal(result),
        other=_spoken(result["baseline"]) if result is not None and "baseline" in result else None,
        front=front(result, path, base),
        compared=_compared(run),
        drawing=None if run.architecture is None else _drawing(run.architecture, run),
        depth=None if run.architecture is None else _depth(run.architecture, other),
        curves=[*_search_curves(run), *_train_curves(run)],
        scores=_scores(run),
        mistakes=mistakes_of(run.path, run.config, run.result) if (path / MODEL_FILE).is_file() else None,
        exports=_exports(path),
        costs=_costs(run),
        settings=list(_settings(run)),
        state=_state(run),
        files=[(name, href(path / name, base)) for name in _FILES if (path / name).is_file()],
    )


_FILES = (
    ARCHITECTURE_FILE,
    DRAWING_FILE,
    PARAMETERS_FILE,
    MODEL_FILE,
    EXPORT_FILE,
    ORIGIN_FILE,
    RESULT_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    LOG_FILE,
)


def _spoken(row: Mapping[str, Any]) -> dict[str, Any]:
    """Format the figures of an accuracy for the page."""
    low, high = row["test_interval"]
    return {
        "right": round(row["test_accuracy"] * row["test_images"]),
        "images": row["test_images"],
        "percent": f"{100 * row['test_accuracy']:.1f}%",
        "interval": f"{100 * low:.1f}–{100 * high:.1f}%",
        "balanced": f"{100 * row['balanced_accuracy']:.1f}%" if "balanced_accuracy" in row else None,
        "params": row["params"],
        "macs": row["macs"],
    }


def _state(run: Run) -> str | None:
    """Return the sentence about an unfinished run, or None if the run is finished."""
    if run.result is not None:
        return None
    if not run.metrics:
        return "This run has not finished an epoch yet."
    last = run.metrics[-1]
    where = f"trial {last['trial']}" if "trial" in last else f"epoch {last.get('epoch')}"
    stage = str(last.get("stage"))
    return f"This run is not finished; its last log entry is from {STAGE_LABELS.get(stage, stage)}, {where}."


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """Return the key figures as (name, value, remark)."""
    result = run.result
    if result is None:
        return []
    facts = []
    if "test_accuracy" in result:
        low, high = result["test_interval"]
        interval = f"95% CI {100 * low:.1f}–{100 * high:.1f}%"
        facts.append(("test accuracy", f"{100 * result['test_accuracy']:.1f}%", interval))
        if "balanced_accuracy" in result:
            largest = f"{100 * result['majority_share']:.1f}% of the test images belong to the largest class"
            balanced = f"{100 * result['balanced_accuracy']:.1f}%"
            facts.append(("balanced accuracy", balanced, f"mean recall over classes; {largest}"))
        facts.append(("parameters", amount(result["params"]), f"{result['params']:,} trained weights"))
        facts.append(("MACs", amount(result["macs"]), "multiply-accumulates for one image"))
    if result.get("search_seconds"):
        facts.append(("search", time_text(result["search_seconds"]), "time to find the architecture"))
    if result.get("train_seconds"):
        facts.append(("training", time_text(result["train_seconds"]), "time to train the searched network"))
    return facts


def _compared(run: Run) -> Markup | None:
    if run.result is None or "baseline" not in run.result:
        return None
    rows = [
        Interval(name, row["test_accuracy"], row["test_interval"][0], row["test_interval"][1], strong=strong)
        for name, row, strong in ((run.name, run.result, True), ("random baseline", run.result["baseline"], False))
    ]
    return both(charts.intervals, "compared", "Test accuracy of both networks", rows, label="test accuracy, %")


def _drawing(architecture: Architecture, run: Run) -> dict[str, Any]:
    """Return the drawing of the network in both forms, and how to read it."""

    def drawn(_: str, narrow: bool = False) -> str:
        text = draw_svg(architecture, title=run.name, narrow=narrow)
        for colour, name in DRAWING_COLOURS.items():
            text = text.replace(f'"{colour}"', f'"var(--{name})"')
        return text

    picture = picture_of(architecture)
    return {
        "svg": both(drawn, "network"),
        "explanation": picture.explanation,
        "left_out": picture.left_out,
    }


def _depth(architecture: Architecture, other: Architecture | None) -> dict[str, Any]:
    """Return charts of the operations by layer, and the share of each kind in each third of the depth."""
    shown = [("searched", architecture)] + ([] if other is None else [("random baseline", other)])
    return {
        "charts": [
            (
                name if other is not None else "",
                both(
                    charts.shares_by_layer,
                    f"depth-{i}",
                    f"Operations by layer, {name}" if other is not None else "Operations by layer",
                    profile(each),
                    reductions=each.reductions,
                ),
            )
            for i, (name, each) in enumerate(shown)
        ],
        "thirds": thirds([profile(architecture)], kinds_of([profile(architecture)])),
        "legend": legend(profile(architecture) + ([] if other is None else profile(other))),
    }


# --- curves -------------------------------------------------------------------------------------------------


def _search_curves(run: Run) -> Iterator[dict[str, Any]]:
    epochs, trials = run.stage(SEARCH_STAGE), [line for line in run.stage(SEARCH_STAGE) if "trial" in line]
    if trials:
        series = _series(trials, {"accuracy": ("candidate", ACCENT, "-")}, "trial")
        yield from _curve(
            "trials", "Search: accuracy of each candidate", series, unit="%", over="trial",
            caption="Each candidate was trained briefly from scratch and scored on the validation set.",
        )  # fmt: skip
        return
    settings = run.config.get("search") or {}
    warmup = settings.get("warmup_epochs") or 0
    mark = (float(warmup), "architecture updates") if epochs and 0 < warmup < epochs[-1]["epoch"] else None
    ink, soft, accent = INK, SOFT, ACCENT
    names = {"loss": ("training", accent, "-"), "validation_loss": ("validation", soft, "--")}
    yield from _curve(
        "search-loss", "Search: loss", _series(epochs, names), mark=mark,
        caption="Loss of the supernet, which contains all candidates; lower is better. The validation loss updates the "
        "architecture parameters. It includes the penalty of the method, so it can be negative.",
    )  # fmt: skip
    names = {"supernet_accuracy": ("supernet", accent, "-"), "derived_accuracy": ("derived", ink, "--")}
    yield from _curve(
        "search-accuracy", "Search: accuracy with shared weights", _series(epochs, names), unit="%", mark=mark,
        caption="On the validation set, with the same weights: all operations mixed, and only those of the derived "
        "architecture. The gap is the loss from removing operations; the derived network is trained from scratch.",
    )  # fmt: skip
    yield from _curve(
        "entropy", "Search: entropy", _series(epochs, {"entropy": ("entropy", accent, "-")}), mark=mark,
        caption="Of the mixing weights. 1: all operations of an edge weigh the same. 0: one has all the weight.",
    )  # fmt: skip
    yield from _curve(
        "agreement", "Search: agreement of halves", _series(epochs, {"agreement": ("agreement", accent, "-")}),
        caption="Degree to which the even and the odd batches of the architecture updates, each half by itself, would "
        "have kept the same edges and operations; 0: no more than by chance, 1: all the same.",
    )  # fmt: skip
    yield from _curve(
        "margin", "Search: margin", _series(epochs, {"margin": ("margin", accent, "-")}),
        caption="How far the operations that one half would keep score above the others on the other half, in "
        "standard deviations of the noise between the halves; 0 by chance.",
    )  # fmt: skip
    yield from _curve(
        "saturation", "Search: saturation", _series(epochs, {"saturation": ("saturation", accent, "-")}), unit="%",
        caption="Share of the architecture parameters that have covered at least half of the distance that their steps "
        "allow. Their values depend on the number of steps rather than on the images.",
    )  # fmt: skip
    yield from _curve(
        "skips", "Search: skip connections", _series(epochs, {"skips": ("skips", accent, "-")}), whole=True, mark=mark,
        caption="Number of skip connections among the operations that would be kept. A search whose network consists "
        "mostly of skip connections has collapsed.",
    )  # fmt: skip


def _train_curves(run: Run) -> Iterator[dict[str, Any]]:
    series, accuracy = [], []
    for stage, name, colour, dashes in (
        (TRAIN_STAGE, "searched", ACCENT, "-"),
        (BASELINE_STAGE, "random", SOFT, "--"),
    ):
        series += _series(run.stage(stage), {"loss": (name, colour, dashes)})
        accuracy += _series(run.stage(stage), {"accuracy": (name, colour, dashes)})
    yield from _curve(
        "train-loss", "Training: loss", series,
        caption="Loss on the randomly augmented training images; lower is better.",
    )  # fmt: skip
    yield from _curve(
        "train-accuracy", "Training: accuracy on the training images", accuracy, unit="%",
        caption="Can be below the test accuracy, because augmentation makes the training images harder.",
    )  # fmt: skip


def _series(
    lines: Sequence[Mapping[str, Any]], names: Mapping[str, tuple[str, str, str]], over: str = "epoch"
) -> list[Series]:
    series = []
    for key, (name, colour, dashes) in names.items():
        points = [(line[over], line[key]) for line in lines if over in line and line.get(key) is not None]
        if points:
            epochs, values = zip(*points, strict=True)
            series.append(Series(name, epochs, values, colour, dashes))
    return series


def _curve(key: str, title: str, series: Sequence[Series], *, caption: str, **look: Any) -> Iterator[dict[str, Any]]:
    if series:
        yield {"title": title, "svg": safe(charts.lines(key, title, series, **look)), "caption": caption}


def _scores(run: Run) -> dict[str, Any] | None:
    """Return charts of the scores by which operations are ranked, one per layer, over the epochs."""
    lines = [line for line in run.stage(SEARCH_STAGE) if isinstance(line.get("scores"), dict) and line["scores"]]
    if not lines:
        return None
    step = -(-len(lines) // CURVE)
    lines = [line for i, line in enumerate(lines) if i % step == 0 or i == len(lines) - 1]
    ops = list(lines[0]["scores"])
    count = len(lines[0]["scores"][ops[0]])
    step = -(-count // PANELS)
    reductions = () if run.architecture is None else run.architecture.reductions
    panels = []
    for k in range(0, count, step):
        amounts = {op: [max(line["scores"][op][k], 0.0) for line in lines] for op in ops}
        halves = k in reductions
        name = f"Scores of layer {k}" + (", which halves the resolution" if halves else "")
        svg = charts.shares_over_time(f"scores-{k}", name, [line["epoch"] for line in lines], amounts)
        panels.append({"title": f"Layer {k}" + (" · ½" if halves else ""), "svg": safe(svg)})
    return {"panels": panels, "every": step, "layers": count, "legend": legend([lines[0]["scores"]])}


# --- cost and settings --------------------------------------------------------------------------------------


def _costs(run: Run) -> list[tuple[str, str, str]]:
    """Return the costs as (name, value, meaning)."""
    result = run.result
    if result is None:
        return []
    rows = []
    for key, name, meaning in (
        ("search_seconds", "search", "time to find the architecture"),
        ("train_seconds", "training", "time to train the searched network"),
    ):
        if result.get(key):
            rows.append((name, time_text(result[key]), meaning))
    if "baseline" in result:
        rows.append(("baseline", time_text(result["baseline"]["seconds"]), "time to train the random baseline"))
    if result.get("step_equivalents"):
        meaning = "compute of the search, in training steps (forward and backward pass on one batch)"
        rows.append(("step equivalents", f"{result['step_equivalents']:,.0f}", meaning))
    if result.get("architectures_evaluated"):
        rows.append(("architectures", f"{result['architectures_evaluated']:,}", "evaluated by the search"))
    if result.get("peak_memory_bytes"):
        rows.append(("memory", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB", "peak memory"))
    return rows


def _exports(path: Path) -> dict[str, Any] | None:
    """Return the measurements of the last `dnas export`."""
    if not (path / EXPORT_FILE).is_file():
        return None
    record = read_json(path / EXPORT_FILE)
    rows = []
    for row in record["exports"]:
        tested = "test_accuracy" in row
        rows.append(
            {
                "format": row["format"],
                "file": row["file"],
                "size": size_text(row["bytes"]),
                "accuracy": f"{100 * row['test_accuracy']:.1f}%" if tested else "–",
                "lost": f"{-100 * row['accuracy_lost']:+.2f}" if tested and not row["exact"] else "",
                "agreement": f"{100 * row['agreement']:.1f}%" if tested else "–",
                "latency": f"{1000 * row['latency_seconds']:.2f} ms" if tested else "–",
                "memory": size_text(row["peak_memory_bytes"]) if tested else "–",
            }
        )
    return {"rows": rows, "images": record["test_images"], "accuracy": f"{100 * record['test_accuracy']:.1f}%"}


def _settings(run: Run) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yield (section, [(name, value, meaning)]) of config.toml; the last section is the environment."""
    meanings = _meanings(run)
    general = [(k, _value(v), meanings.get(k, "")) for k, v in run.config.items() if not isinstance(v, dict)]
    yield "general", general
    for section, values in run.config.items():
        if isinstance(values, dict) and values:
            rows = [(k, _value(v), meanings.get(f"{section}.{k}", "")) for k, v in values.items()]
            yield section, rows


def _meanings(run: Run) -> dict[str, str]:
    """Return the descriptions of the settings, as far as this installation has the run's method; imports torch."""
    from dnas.methods.registry import get_method
    from dnas.pipeline.config import Config, sections

    handmade = str(run.config.get("handmade", ""))
    try:
        known, foreign = sections(get_method(str(run.config.get("method", ""))), handmade), False
    except InputError:
        known, foreign = sections(get_method(str(Config.model_fields["method"].default)), handmade), True
    return {
        f"{section}.{name}" if section else name: (field.description or "").replace("`", "")
        for section, cls in known.items()
        if not (foreign and section in ("search", "options"))
        for name, field in cls.model_fields.items()
    }


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value or "–"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)

"""The page of a run: what was found, how it was trained, what it confuses, what it cost; in whatever state the run is.

The test images are looked at again, where they are still the same: which classes are confused, and the worst mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnas.disk import read_json, read_toml
from dnas.drawing.style import INK, NODE, SOFT, TAG_COLOURS, TINT
from dnas.drawing.svg import svg as draw_svg
from dnas.errors import InputError
from dnas.pages import charts
from dnas.pages.charts import Interval, Series
from dnas.pages.figure import ACCENT, PAGE_COLOURS
from dnas.pages.front import front
from dnas.pages.mistakes import mistakes_of
from dnas.pages.template import amount, both, href, legend, profile, render, safe, short_source, thirds
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
# The colours of a drawing that belong to the page; an operation keeps its own.
DRAWING_COLOURS = {
    **PAGE_COLOURS,
    TINT: "tint",
    NODE: "node",
    **{colour: f"tag-{i}" for i, colour in enumerate(TAG_COLOURS) if colour not in PAGE_COLOURS},
}


@dataclass(frozen=True)
class Run:
    """What lies in a run folder; `result` and `architecture` are None where it has not come so far."""

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
    """Raises InputError naming the file that is damaged."""
    return Run(
        path,
        read_toml(path / CONFIG_FILE),
        read_metrics(path / METRICS_FILE) if (path / METRICS_FILE).is_file() else [],
        read_json(path / RESULT_FILE) if (path / RESULT_FILE).is_file() else None,
        Architecture.load(path / ARCHITECTURE_FILE) if (path / ARCHITECTURE_FILE).is_file() else None,
    )


def run_page(path: Path, base: Path) -> str:
    """The page of a run. `base`: the folder from which its links lead."""
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
    """An accuracy in words' parts."""
    low, high = row["test_interval"]
    return {
        "right": round(row["test_accuracy"] * row["test_images"]),
        "images": row["test_images"],
        "percent": f"{100 * row['test_accuracy']:.1f} %",
        "interval": f"{100 * low:.1f} – {100 * high:.1f} %",
        "balanced": f"{100 * row['balanced_accuracy']:.1f} %" if "balanced_accuracy" in row else None,
        "params": row["params"],
        "macs": row["macs"],
    }


def _state(run: Run) -> str | None:
    """Why the page is not whole, if it is not."""
    if run.result is not None:
        return None
    if not run.metrics:
        return "This run has not finished an epoch yet."
    last = run.metrics[-1]
    where = f"trial {last['trial']}" if "trial" in last else f"epoch {last.get('epoch')}"
    stage = str(last.get("stage"))
    return f"This run is not finished: the last line that it wrote is of {STAGE_LABELS.get(stage, stage)}, {where}."


def _facts(run: Run) -> list[tuple[str, str, str]]:
    """(what, how much, remark): the figures that come first."""
    result = run.result
    if result is None:
        return []
    facts = []
    if "test_accuracy" in result:
        low, high = result["test_interval"]
        interval = f"95 % interval {100 * low:.1f} – {100 * high:.1f} %"
        facts.append(("test accuracy", f"{100 * result['test_accuracy']:.1f} %", interval))
        if "balanced_accuracy" in result:
            largest = f"{100 * result['majority_share']:.1f} % of the test images are of the largest"
            balanced = f"{100 * result['balanced_accuracy']:.1f} %"
            facts.append(("balanced accuracy", balanced, f"mean recall of the classes; {largest}"))
        facts.append(("parameters", amount(result["params"]), f"{result['params']:,} numbers that were trained"))
        facts.append(("multiply-adds", amount(result["macs"]), "arithmetic for one picture"))
    if result.get("search_seconds"):
        facts.append(("search", time_text(result["search_seconds"]), "to find the architecture"))
    if result.get("train_seconds"):
        facts.append(("training", time_text(result["train_seconds"]), "of the network that was found"))
    return facts


def _compared(run: Run) -> Markup | None:
    if run.result is None or "baseline" not in run.result:
        return None
    rows = [
        Interval(name, row["test_accuracy"], row["test_interval"][0], row["test_interval"][1], strong=strong)
        for name, row, strong in ((run.name, run.result, True), ("random, same size", run.result["baseline"], False))
    ]
    return both(charts.intervals, "compared", "Test accuracy of both networks", rows, label="test accuracy, %")


def _drawing(architecture: Architecture, run: Run) -> Markup:
    def drawn(_: str, narrow: bool = False) -> str:
        text = draw_svg(architecture, title=run.name, narrow=narrow)
        for colour, name in DRAWING_COLOURS.items():
            text = text.replace(f'"{colour}"', f'"var(--{name})"')
        return text

    return both(drawn, "network")


def _depth(architecture: Architecture, other: Architecture | None) -> dict[str, Any]:
    """Which operations lie at which depth: a chart, and the shares by kind in the thirds of the depth."""
    shown = [("searched", architecture)] + ([] if other is None else [("random, same size", other)])
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
        "thirds": thirds([profile(architecture)]),
        "legend": legend(profile(architecture) + ([] if other is None else profile(other))),
    }


# --- curves -------------------------------------------------------------------------------------------------


def _search_curves(run: Run) -> Iterator[dict[str, Any]]:
    epochs, trials = run.stage(SEARCH_STAGE), [line for line in run.stage(SEARCH_STAGE) if "trial" in line]
    if trials:
        series = _series(trials, {"accuracy": ("candidate", ACCENT, "-")}, "trial")
        yield from _curve(
            "trials", "Search: accuracy of every candidate", series, unit="%", over="trial",
            caption="Each candidate was trained shortly from scratch and judged on images held back from training.",
        )  # fmt: skip
        return
    settings = run.config.get("search") or {}
    warmup = settings.get("warmup_epochs") or 0
    mark = (float(warmup), "architecture moves") if epochs and 0 < warmup < epochs[-1]["epoch"] else None
    ink, soft, accent = INK, SOFT, ACCENT
    names = {"loss": ("training", accent, "-"), "validation_loss": ("validation", soft, "--")}
    yield from _curve(
        "search-loss", "Search: loss", _series(epochs, names), mark=mark,
        caption="How wrong the supernet, which holds all candidates at once, still is; lower is better. The validation "
        "loss moves the architecture and includes the method's own penalty, so it can be negative.",
    )  # fmt: skip
    names = {"supernet_accuracy": ("supernet", accent, "-"), "derived_accuracy": ("derived", ink, "--")}
    yield from _curve(
        "search-accuracy", "Search: accuracy with shared weights", _series(epochs, names), unit="%", mark=mark,
        caption="On images held back from training: all operations mixed, and only those that would be kept, with the "
        "same weights. The gap is what is lost by taking operations away; the derived network is trained anew.",
    )  # fmt: skip
    yield from _curve(
        "entropy", "Search: how undecided it is", _series(epochs, {"entropy": ("entropy", accent, "-")}), mark=mark,
        caption="1: all operations of an edge weigh the same. 0: one has all the weight.",
    )  # fmt: skip
    yield from _curve(
        "agreement", "Search: agreement of its halves", _series(epochs, {"agreement": ("agreement", accent, "-")}),
        caption="How far the even and the odd batches of the architecture alone would have kept the same edges and "
        "operations; 0: no more than by chance, 1: all.",
    )  # fmt: skip
    yield from _curve(
        "margin", "Search: margin", _series(epochs, {"margin": ("margin", accent, "-")}),
        caption="How far what one half would keep stands above what it would not, as the other half sees it, in "
        "standard deviations of the noise between them; 0 by chance.",
    )  # fmt: skip
    yield from _curve(
        "saturation", "Search: saturation", _series(epochs, {"saturation": ("saturation", accent, "-")}), unit="%",
        caption="Share of the architecture parameters that have gone half as far as their steps can carry them, or "
        "further: the number of steps decides where those stand, and no longer the images.",
    )  # fmt: skip
    yield from _curve(
        "skips", "Search: skip connections", _series(epochs, {"skips": ("skips", accent, "-")}), whole=True, mark=mark,
        caption="How many of the operations that would be kept only pass their input on. A search that fills up with "
        "them has collapsed.",
    )  # fmt: skip


def _train_curves(run: Run) -> Iterator[dict[str, Any]]:
    series, accuracy = [], []
    for stage, name, colour, dashes in (
        (TRAIN_STAGE, "found", ACCENT, "-"),
        (BASELINE_STAGE, "random", SOFT, "--"),
    ):
        series += _series(run.stage(stage), {"loss": (name, colour, dashes)})
        accuracy += _series(run.stage(stage), {"accuracy": (name, colour, dashes)})
    yield from _curve(
        "train-loss", "Training: loss", series,
        caption="On the training images, which are varied at random while training; lower is better.",
    )  # fmt: skip
    yield from _curve(
        "train-accuracy", "Training: accuracy on the training images", accuracy, unit="%",
        caption="Below the test accuracy at times, as the training images are made harder.",
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
    """What the derivation ranks by, layer by layer, over the epochs."""
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
    """(what, how much, what that is)."""
    result = run.result
    if result is None:
        return []
    rows = []
    for key, name, meaning in (
        ("search_seconds", "search", "time until the architecture was found"),
        ("train_seconds", "training", "time to train the network that was found"),
    ):
        if result.get(key):
            rows.append((name, time_text(result[key]), meaning))
    if "baseline" in result:
        rows.append(("control", time_text(result["baseline"]["seconds"]), "time to train the random network"))
    if result.get("step_equivalents"):
        meaning = "what the search computed, in passes of one batch forward and backward"
        rows.append(("step equivalents", f"{result['step_equivalents']:,.0f}", meaning))
    if result.get("architectures_evaluated"):
        rows.append(("architectures", f"{result['architectures_evaluated']:,}", "judged one by one by the search"))
    if result.get("peak_memory_bytes"):
        rows.append(("memory", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB", "the most that was held at a time"))
    return rows


def _exports(path: Path) -> dict[str, Any] | None:
    """What `dnas export` measured of the files that it wrote last."""
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
                "accuracy": f"{100 * row['test_accuracy']:.1f} %" if tested else "–",
                "lost": f"{-100 * row['accuracy_lost']:+.2f}" if tested and not row["exact"] else "",
                "agreement": f"{100 * row['agreement']:.1f} %" if tested else "–",
                "latency": f"{1000 * row['latency_seconds']:.2f} ms" if tested else "–",
                "memory": size_text(row["peak_memory_bytes"]) if tested else "–",
            }
        )
    return {"rows": rows, "images": record["test_images"], "accuracy": f"{100 * record['test_accuracy']:.1f} %"}


def _settings(run: Run) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """(section, [(name, value, meaning)]) of config.toml; the last section is what the result depends on besides."""
    meanings = _meanings(run)
    general = [(k, _value(v), meanings.get(k, "")) for k, v in run.config.items() if not isinstance(v, dict)]
    yield "general", general
    for section, values in run.config.items():
        if isinstance(values, dict) and values:
            rows = [(k, _value(v), meanings.get(f"{section}.{k}", "")) for k, v in values.items()]
            yield section, rows


def _meanings(run: Run) -> dict[str, str]:
    """What settings mean, where this installation knows the run's method; that needs torch."""
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

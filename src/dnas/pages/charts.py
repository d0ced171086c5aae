"""Charts of a report, drawn by matplotlib as SVG that is embedded in a page and takes its colors from the page.

Page colors (`PAGE_COLOURS`) are written as `var(--name)`, so that a chart is dark if the page is; operations have the
same color everywhere. Text stays text, in the font of the page. Every chart has a title and a description for screen
readers. Lengths are in points; a page scales a chart to its column. Charts of the full page width also have a `narrow`
form for phones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dnas.drawing.style import INK, PAPER, RULE, SOFT
from dnas.pages.figure import ACCENT, FONT, folded, new_axes, new_figure, svg_of, text_width
from dnas.space.operations import colour_of, label_of, ordered
from dnas.study.names import SEARCHED, Kind

WIDTH, HEIGHT = 380, 230  # of a chart in one of two columns
WIDE = 600  # of a chart of the full page width
NARROW = 350  # of a chart on a phone
SMALL = (170, 104)  # of a small chart in a grid
ROW = 23  # height of a named row
LINE = 14  # height of a line in a name of several lines


@dataclass(frozen=True)
class Series:
    """Line of a chart: its values over epochs, color and dashes."""

    name: str
    epochs: Sequence[float]
    values: Sequence[float]
    colour: str = ACCENT
    dashes: str = "-"


@dataclass(frozen=True)
class Interval:
    """Named row of `intervals`: a mean, its interval if known, and single results. `strong` rows stand out."""

    name: str
    mean: float
    low: float | None = None
    high: float | None = None
    dots: Sequence[float] = ()
    strong: bool = True


@dataclass(frozen=True)
class Point:
    """Point of `scatter`, labeled with its number in the table."""

    label: str
    kind: Kind
    x: float
    y: float
    low: float | None = None
    high: float | None = None


# Shape for each kind of network, in matplotlib's notation and in words.
MARKERS: dict[Kind, str] = {"searched": "o", "random": "s", "shuffled": "D", "published": "^", "handmade": "P"}
SHAPES: dict[Kind, str] = {
    "searched": "circle",
    "random": "square",
    "shuffled": "diamond",
    "published": "triangle",
    "handmade": "cross",
}
# --- over epochs ----------------------------------------------------------------------------------------------


def lines(
    key: str,
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    mark: tuple[float, str] | None = None,
    whole: bool = False,
    over: str = "epoch",
) -> str:
    """Draw lines over epochs, each named at its end.

    Args:
        key: Unique name of the chart on its page.
        unit: "%" for fractions, which are drawn as percentages.
        mark: Epoch after which something changes, and a label for the change.
        whole: The values are counts.
        over: Unit of the horizontal axis.
    """
    scale = 100.0 if unit == "%" else 1.0
    with new_figure(WIDTH, HEIGHT) as figure:
        axes = new_axes(figure, left=44, right=84, top=20, bottom=38)
        for line in series:
            values = [scale * value for value in line.values]
            dot = "o" if len(values) == 1 else ""
            axes.plot(line.epochs, values, line.dashes, marker=dot, color=line.colour, linewidth=1.8, clip_on=False)
        epochs = [epoch for line in series for epoch in line.epochs]
        axes.set_xlabel(over)
        axes.set_xlim(min(epochs), max(max(epochs), min(epochs) + 1))
        _whole_ticks(axes.xaxis, 6, True)
        _whole_ticks(axes.yaxis, 5, whole)
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        axes.annotate(unit, (0, 1), (-30, 8), xycoords="axes fraction", textcoords="offset points", color=SOFT)
        if mark is not None:
            axes.axvline(mark[0], color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
            # The label extends toward the middle, where it has space.
            start, stop = axes.get_xlim()
            axes.annotate(
                mark[1], (mark[0], 1), (0, 5), xycoords=("data", "axes fraction"), textcoords="offset points",
                color=SOFT, fontsize=FONT - 1, ha="left" if mark[0] < (start + stop) / 2 else "right",
            )  # fmt: skip
        low, high = axes.get_ylim()
        ends = _spread([(scale * line.values[-1] - low) / (high - low) for line in series], 13 / (HEIGHT - 58))
        for line, end in zip(series, ends, strict=True):
            axes.annotate(
                line.name, (1, end), (7, 0), xycoords="axes fraction", textcoords="offset points", va="center",
                color=line.colour, fontsize=FONT,
            )  # fmt: skip
        told = "; ".join(
            f"{line.name}: from {_short(scale * line.values[0])}{unit} in {over} {line.epochs[0]:g} "
            f"to {_short(scale * line.values[-1])}{unit} in {over} {line.epochs[-1]:g}"
            for line in series
        )
        return svg_of(figure, key, title, f"{told}.")


def shares_over_time(key: str, title: str, epochs: Sequence[int], amounts: Mapping[str, Sequence[float]]) -> str:
    """Draw the share of each operation in each epoch as stacked areas, in a small chart without a legend."""
    totals = [sum(values) or 1.0 for values in zip(*amounts.values(), strict=True)]
    shares = {op: [v / total for v, total in zip(amounts[op], totals, strict=True)] for op in ordered(amounts)}
    with new_figure(*SMALL) as figure:
        axes = new_axes(figure, left=4, right=4, top=4, bottom=20)
        at = list(epochs) if len(epochs) > 1 else [epochs[0] - 0.5, epochs[0] + 0.5]
        stack = [values if len(epochs) > 1 else [*values, *values] for values in shares.values()]
        axes.stackplot(at, stack, colors=[colour_of(op, SOFT) for op in shares], edgecolor=PAPER, linewidth=0.5)
        axes.set(xlim=(at[0], at[-1]), ylim=(0, 1), yticks=[], xticks=[epochs[0], epochs[-1]][: len(set(epochs))])
        if len(epochs) > 1:
            first, last = axes.get_xticklabels()
            first.set_horizontalalignment("left")
            last.set_horizontalalignment("right")
        ranked = sorted(((values[-1], op) for op, values in shares.items()), reverse=True)
        told = ", ".join(f"{label_of(op)} {100 * share:.0f}%" for share, op in ranked)
        return svg_of(figure, key, title, f"In epoch {epochs[-1]}: {told}.")


# --- over depth -----------------------------------------------------------------------------------------------


def shares_by_layer(
    key: str,
    title: str,
    layers: Sequence[Mapping[str, float]],
    *,
    reductions: Sequence[int] = (),
    small: bool = False,
    narrow: bool = False,
) -> str:
    """Draw the share of each operation in each layer as stacked bars, from the first layer (left) to the last."""
    ops = ordered({op for layer in layers for op in layer})
    width, height = SMALL if small else (NARROW, 210) if narrow else (WIDE, 210)
    label = "layer, from the input to the classifier" + (" (½: halves the resolution)" if reductions else "")
    with new_figure(width, height) as figure:
        label = folded(label, width - 8)
        axes = new_axes(figure, left=4, right=4, top=4, bottom=20 if small else 28 + LINE * len(label.split("\n")))
        low = [0.0] * len(layers)
        edges = [k - 0.5 for k in range(len(layers) + 1)]
        for op in ops:
            shares = [layer.get(op, 0) / (sum(layer.values()) or 1) for layer in layers]
            high = [a + b for a, b in zip(low, shares, strict=True)]
            axes.stairs(high, edges, baseline=low, fill=True, facecolor=colour_of(op, SOFT), linewidth=0)
            low = high
        for edge in edges[1:-1]:
            axes.axvline(edge, color=PAPER, linewidth=0.8 if small else 1.5)
        axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(0, 1), yticks=[])
        _whole_ticks(axes.xaxis, 4 if small else 20, True)
        if not small:
            axes.set_xlabel(label)
            names = {int(k): f"{k:.0f}" for k in axes.get_xticks() if k in range(len(layers))}
            marked = {k: f"{k} ½" for k in reductions}
            step = (width - 8) / len(layers)
            for k in names.keys() - marked.keys():
                # Drop the labels that would touch the label of a reduction.
                if any(abs(k - r) * step < (text_width(names[k]) + text_width(marked[r])) / 2 + 4 for r in marked):
                    del names[k]
            names |= marked
            axes.set_xticks(sorted(names), [names[k] for k in sorted(names)])
        told = []
        for op in ops:
            thirds = [[layer for k, layer in enumerate(layers) if 3 * k // len(layers) == third] for third in range(3)]
            parts = [[t.get(op, 0) / (sum(t.values()) or 1) for t in third] for third in thirds]
            texts = [f"{100 * sum(part) / len(part):.0f}%" if part else "–" for part in parts]
            told.append(f"{label_of(op)} {' · '.join(texts)}")
        return svg_of(figure, key, title, f"Shares in the shallow, middle and deep third: {'; '.join(told)}.")


# --- of a study -----------------------------------------------------------------------------------------------


def intervals(
    key: str, title: str, rows: Sequence[Interval], *, label: str, zero: bool = False, narrow: bool = False
) -> str:
    """Draw one row per name, from the top: the mean as a bar, its interval as a line, single results as dots.

    Names are next to their rows, or above them in the narrow form.

    Args:
        label: Label of the axis. Values are fractions, drawn as percentages.
        zero: Draw a line at zero, to show which intervals contain it.
    """
    width = NARROW if narrow else WIDE
    with new_figure(width, width) as figure:
        names = [folded(row.name, width - 16 if narrow else 0.47 * width) for row in rows]
        room = max(text_width(line) for name in names for line in name.split("\n"))
        label = folded(label, width - 16 if narrow else width - room)
        lines = max(name.count("\n") + 1 for name in names)
        row_height = LINE * lines + ROW - 6 if narrow else max(ROW, LINE * lines + 6)
        below = 32 + LINE * (label.count("\n") + 1)
        figure.set_size_inches(width / 72, (row_height * len(rows) + 6 + below) / 72)
        axes = new_axes(figure, left=18 if narrow else room + 12, right=18 if narrow else 14, top=6, bottom=below)
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        for y, row in enumerate(rows):
            colour = ACCENT if row.strong else SOFT
            if row.low is not None and row.high is not None:
                axes.plot([100 * row.low, 100 * row.high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
            dots = [100 * dot for dot in row.dots]
            axes.plot(dots, [y] * len(dots), "o", color=colour, markersize=4, markerfacecolor=PAPER, markeredgewidth=1)
            axes.plot([100 * row.mean], [y], "|", color=colour, markersize=12, markeredgewidth=2.4)
        if narrow:
            # The line is low in the band of its row, below the name.
            low = (ROW - 6) / 2 / row_height
            axes.set(ylim=(len(rows) - 1 + low, low - 1), yticks=[])
            for y, name in enumerate(names):
                axes.annotate(
                    name, (0, y), (-10, ROW / 2 - 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                    color=INK, va="bottom",
                )  # fmt: skip
            _whole_ticks(axes.xaxis, 5, False)
        else:
            axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)))
            axes.set_yticklabels(names, color=INK)
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        axes.set_xlabel(label)
        told = "; ".join(
            f"{row.name}: {100 * row.mean:.2f}%"
            + ("" if row.low is None or row.high is None else f" ({100 * row.low:.2f} to {100 * row.high:.2f})")
            for row in rows
        )
        return svg_of(figure, key, title, f"{told}.")


def scatter(key: str, title: str, points: Sequence[Point], *, x_label: str, y_label: str, narrow: bool = False) -> str:
    """Draw points by kind, each with its number; y is a fraction, drawn in percent, with its interval if known."""
    with new_figure(NARROW if narrow else WIDE, 320) as figure:
        axes = new_axes(figure, left=48, right=16, top=8, bottom=46)
        for point in points:
            colour = ACCENT if point.kind == SEARCHED else SOFT
            if point.low is not None and point.high is not None:
                axes.plot([point.x, point.x], [100 * point.low, 100 * point.high], color=colour, linewidth=1)
            axes.plot(
                [point.x], [100 * point.y], MARKERS.get(point.kind, "X"), color=colour, markersize=9,
                markeredgecolor=PAPER, markeredgewidth=0.8,
            )  # fmt: skip
            axes.annotate(point.label, (point.x, 100 * point.y), (7, 3), textcoords="offset points", color=INK)
        axes.margins(0.08)
        _whole_ticks(axes.xaxis, 5 if narrow else 9, False)
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        told = "; ".join(f"number {p.label}, {p.kind}: {_short(p.x)} and {100 * p.y:.2f}%" for p in points)
        return svg_of(figure, key, title, f"{x_label} and {y_label}. {told}.")


# --- figures --------------------------------------------------------------------------------------------------


def _whole_ticks(axis: Any, count: int, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(count, integer=whole, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _spread(places: Sequence[float], apart: float) -> list[float]:
    """Move positions as little as needed to be at least `apart`, in the same order and within 0 … 1 if they fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [min(max(place, 0.0), 1.0) for place in places]
    for before, i in pairwise(order):
        moved[i] = max(moved[i], moved[before] + apart)
    top = 1.0
    for i in reversed(order):
        moved[i] = min(moved[i], top)
        top = moved[i] - apart
    return moved


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

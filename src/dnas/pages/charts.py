"""Charts of a report: matplotlib's, as SVG that lies inside a page and takes its colours from the page.

What is drawn in one of the page's colours (`PAGE_COLOURS`) is written as `var(--name)`, so a chart is dark where the
page is; an operation keeps its colour everywhere. Text stays text, in the page's font. Every chart has a title and a
description, which are what a screen reader says. Lengths are in points; a page scales a chart to its column. What has
the page's width comes in a second, `narrow` shape, of which a telephone shows all.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from dnas.drawing.style import INK, PAPER, RULE, SOFT, plain
from dnas.errors import InputError
from dnas.space.primitives import PRIMITIVES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ACCENT = "#4046B8"
PAGE_COLOURS = {INK: "ink", PAPER: "paper", SOFT: "soft", RULE: "rule", ACCENT: "accent"}
WIDTH, HEIGHT = 380, 230  # of a chart in a column of two
WIDE = 600  # of one that has the page's width
NARROW = 350  # of one that has a telephone's
SMALL = (170, 104)  # of one among many
ROW = 23  # of a named row
LINE = 14  # of a line of a name that takes several
LINES = 3  # of a name, at most
FONT = 11.0
FAMILY = "DejaVu Sans"
_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Series:
    """A line: its values over epochs, and its look."""

    name: str
    epochs: Sequence[float]
    values: Sequence[float]
    colour: str = ACCENT
    dashes: str = "-"


@dataclass(frozen=True)
class Interval:
    """A named row of `intervals`: a mean, its interval where known, and single results. `strong` rows stand out."""

    name: str
    mean: float
    low: float | None = None
    high: float | None = None
    dots: Sequence[float] = ()
    strong: bool = True


@dataclass(frozen=True)
class Point:
    """A point of `scatter`, with the number by which a table knows it."""

    label: str
    kind: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


MARKERS = {"searched": "o", "random": "s", "shuffled": "D", "published": "^", "handmade": "P"}

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
    """Lines over epochs, each named at its end.

    Args:
        key: Tells this chart from the others of its page.
        unit: "%" for shares of one, which are drawn as per cent.
        mark: An epoch after which something changes, and what.
        whole: The values are counts.
        over: What the horizontal axis counts.
    """
    scale = 100.0 if unit == "%" else 1.0
    with _figure(WIDTH, HEIGHT) as figure:
        axes = _axes(figure, left=38, right=84, top=20, bottom=38)
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
            # Towards the middle, where there is room for it.
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
        return _svg(figure, key, title, f"{told}.")


def shares_over_time(key: str, title: str, epochs: Sequence[int], amounts: Mapping[str, Sequence[float]]) -> str:
    """The share of each operation in every epoch, one on another. A small chart, without a legend."""
    totals = [sum(values) or 1.0 for values in zip(*amounts.values(), strict=True)]
    shares = {op: [v / total for v, total in zip(amounts[op], totals, strict=True)] for op in _ordered(amounts)}
    with _figure(*SMALL) as figure:
        axes = _axes(figure, left=4, right=4, top=4, bottom=20)
        at = list(epochs) if len(epochs) > 1 else [epochs[0] - 0.5, epochs[0] + 0.5]
        stack = [values if len(epochs) > 1 else [*values, *values] for values in shares.values()]
        axes.stackplot(at, stack, colors=[_colour(op) for op in shares], edgecolor=PAPER, linewidth=0.5)
        axes.set(xlim=(at[0], at[-1]), ylim=(0, 1), yticks=[], xticks=[epochs[0], epochs[-1]][: len(set(epochs))])
        if len(epochs) > 1:
            first, last = axes.get_xticklabels()
            first.set_horizontalalignment("left")
            last.set_horizontalalignment("right")
        ranked = sorted(((values[-1], op) for op, values in shares.items()), reverse=True)
        told = ", ".join(f"{op_name(op)} {100 * share:.0f} %" for share, op in ranked)
        return _svg(figure, key, title, f"In epoch {epochs[-1]}: {told}.")


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
    """The share of each operation in every layer, from the first (left) to the last, one on another."""
    ops = _ordered({op: 0 for layer in layers for op in layer})
    width, height = SMALL if small else (NARROW, 210) if narrow else (WIDE, 210)
    label = "layer, from the input to the classifier" + (" (½: halves the resolution)" if reductions else "")
    with _figure(width, height) as figure:
        label = folded(label, width - 8)
        axes = _axes(figure, left=4, right=4, top=4, bottom=20 if small else 28 + LINE * len(label.split("\n")))
        low = [0.0] * len(layers)
        edges = [k - 0.5 for k in range(len(layers) + 1)]
        for op in ops:
            shares = [layer.get(op, 0) / (sum(layer.values()) or 1) for layer in layers]
            high = [a + b for a, b in zip(low, shares, strict=True)]
            axes.stairs(high, edges, baseline=low, fill=True, facecolor=_colour(op), linewidth=0)
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
                # What would touch the name of a reduction gives way.
                if any(abs(k - r) * step < (_width(names[k]) + _width(marked[r])) / 2 + 4 for r in marked):
                    del names[k]
            names |= marked
            axes.set_xticks(sorted(names), [names[k] for k in sorted(names)])
        told = []
        for op in ops:
            thirds = [[layer for k, layer in enumerate(layers) if 3 * k // len(layers) == third] for third in range(3)]
            parts = [[t.get(op, 0) / (sum(t.values()) or 1) for t in third] for third in thirds]
            texts = [f"{100 * sum(part) / len(part):.0f} %" if part else "–" for part in parts]
            told.append(f"{op_name(op)} {' · '.join(texts)}")
        return _svg(figure, key, title, f"Shares in the shallow, middle and deep third: {'; '.join(told)}.")


# --- of a study -----------------------------------------------------------------------------------------------


def intervals(
    key: str, title: str, rows: Sequence[Interval], *, label: str, zero: bool = False, narrow: bool = False
) -> str:
    """A row for every name, from above: the mean as a bar, its interval as a line, single results as dots.

    Names stand beside their rows; above them where it is narrow.

    Args:
        label: Of the axis. Values are shares of one, drawn as per cent.
        zero: Draw a line at zero, which intervals may leave out or not.
    """
    width = NARROW if narrow else WIDE
    with _figure(width, width) as figure:
        names = [folded(row.name, width - 16 if narrow else 0.47 * width) for row in rows]
        room = max(_width(line) for name in names for line in name.split("\n"))
        label = folded(label, width - 16 if narrow else width - room)
        lines = max(name.count("\n") + 1 for name in names)
        row_height = LINE * lines + ROW - 6 if narrow else max(ROW, LINE * lines + 6)
        below = 32 + LINE * (label.count("\n") + 1)
        figure.set_size_inches(width / 72, (row_height * len(rows) + 6 + below) / 72)
        axes = _axes(figure, left=18 if narrow else room + 12, right=18 if narrow else 14, top=6, bottom=below)
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
            # A row's line lies low in its band, below the name.
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
            f"{row.name}: {100 * row.mean:.2f} %"
            + ("" if row.low is None or row.high is None else f" ({100 * row.low:.2f} to {100 * row.high:.2f})")
            for row in rows
        )
        return _svg(figure, key, title, f"{told}.")


def scatter(key: str, title: str, points: Sequence[Point], *, x_label: str, y_label: str, narrow: bool = False) -> str:
    """Points by kind, each with its number; y is a share of one, drawn as per cent, with its interval where known."""
    with _figure(NARROW if narrow else WIDE, 320) as figure:
        axes = _axes(figure, left=48, right=16, top=8, bottom=46)
        for point in points:
            colour = ACCENT if point.kind == "searched" else SOFT
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
        told = "; ".join(f"number {p.label}, {p.kind}: {_short(p.x)} and {100 * p.y:.2f} %" for p in points)
        return _svg(figure, key, title, f"{x_label} and {y_label}. {told}.")


# --- figures --------------------------------------------------------------------------------------------------


def op_name(op: str) -> str:
    """The short name of an operation."""
    return PRIMITIVES[op].label if op in PRIMITIVES else op


def _colour(op: str) -> str:
    return PRIMITIVES[op].colour if op in PRIMITIVES else SOFT


def _ordered(ops: Mapping[str, Any]) -> list[str]:
    """In the order in which all pictures list operations; unknown ones last."""
    return sorted(ops, key=lambda op: list(PRIMITIVES).index(op) if op in PRIMITIVES else len(PRIMITIVES))


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a report needs matplotlib, which is not there; pip install 'dnas[report]'") from None
    look: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "dnas",
        "text.parse_math": False,
        "font.family": FAMILY,
        "font.size": FONT,
        "axes.edgecolor": RULE,
        "axes.labelcolor": SOFT,
        "text.color": INK,
        "xtick.color": RULE,
        "ytick.color": RULE,
        "xtick.labelcolor": SOFT,
        "ytick.labelcolor": SOFT,
        "axes.unicode_minus": True,
        "axes.axisbelow": True,
    }
    # Fonts are the reader's, so what matplotlib's own lacks is no concern.
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield Figure(figsize=(width / 72, height / 72))


def _axes(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes with these margins in points, without a frame but for the line below."""
    width, height = (72 * side for side in figure.get_size_inches())
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=5)
    return axes


def _whole_ticks(axis: Any, count: int, whole: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(count, integer=whole, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _spread(places: Sequence[float], apart: float) -> list[float]:
    """The places, moved as little as needed to lie `apart` at least, in their order; within 0 … 1 where they fit."""
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


def folded(text: str, room: float, lines: int = LINES) -> str:
    """A text in printable lines, none of them wider than `room` points; cut only after the last line.

    Broken at spaces, and inside a word only where that alone is wider.
    """
    made = [""]
    for word in plain(text).split():
        whole = f"{made[-1]} {word}".strip()
        if _width(whole) <= room:
            made[-1] = whole
            continue
        if made[-1]:
            made.append("")
        for letter in word:
            if made[-1] and _width(made[-1] + letter) > room:
                made.append("")
            made[-1] += letter
    if len(made) > lines:
        last = made[lines - 1]
        while last and _width(f"{last}…") > room:
            last = last[:-1]
        made[lines - 1 :] = [f"{last}…"]
    return "\n".join(made)


@cache
def _width(text: str) -> float:
    """Points that a text takes at FONT, in a font that is among the wide ones."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # Letters as wide as high, which that font lacks.
    square = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    text = "".join(letter for letter in text if unicodedata.east_asian_width(letter) not in "WF")
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family=FAMILY, size=FONT), False)
    return float(width) + 1.25 * FONT * square


# --- SVG for a page -------------------------------------------------------------------------------------------


def _svg(figure: Figure, key: str, title: str, description: str) -> str:
    """The figure as an element of a page: named, without what belongs to a document, with ids of its own."""
    from matplotlib.text import Text

    for drawn in figure.findobj(Text):
        assert isinstance(drawn, Text)
        drawn.set_text("\n".join(plain(line) for line in drawn.get_text().split("\n")))
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    root = ET.fromstring(file.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", " ".join(v for e in root.iter() for k, v in e.attrib.items() if _refers(k, v))))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name, value in list(element.attrib.items()):
            if name == "id":
                del element.attrib[name]
                if value in used:
                    element.set("id", f"{key}-{value}")
            elif _refers(name, value):
                del element.attrib[name]
                element.set("href" if name == _HREF else name, value.replace("#", f"#{key}-"))
            elif name == "transform" and value.startswith("rotate(-0 "):
                del element.attrib[name]
            elif name in ("d", "x", "y"):
                element.set(name, re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value))
            elif name == "style":
                element.set(name, _page_colours(_without_font(value)))
    size = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {
        "viewBox": size,
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-desc",
        "class": "chart",
        "font-size": f"{FONT:g}",
        "stroke-linejoin": "round",
    }
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(tag, {"id": f"{key}-{tag}"})
        element.text = plain(text)
        root.insert(0, element)
    return re.sub(r">\s+<", "><", ET.tostring(root, encoding="unicode")).replace("<g />", "")


def _refers(name: str, value: str) -> bool:
    return name == _HREF or value.startswith("url(#")


def _without_font(style: str) -> str:
    """The page's font, in the size that was asked for."""
    style = re.sub(r"font:\s*(?:[a-z]+\s+)*([\d.]+px)[^;]*", r"font-size: \1", style)
    return re.sub(r"font-family:[^;]*;?\s*", "", style)


def _page_colours(style: str) -> str:
    for colour, name in PAGE_COLOURS.items():
        style = re.sub(re.escape(colour), f"var(--{name})", style, flags=re.IGNORECASE)
    return style

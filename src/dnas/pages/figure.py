"""Figures of a page: SVG by matplotlib in the colors and fonts of the page, with labels that fit."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from dnas.drawing.style import INK, PAPER, RULE, SOFT, plain
from dnas.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ACCENT = "#4046B8"
PAGE_COLOURS = {INK: "ink", PAPER: "paper", SOFT: "soft", RULE: "rule", ACCENT: "accent"}
LINES = 3  # of a name, at most
FONT = 11.0
FAMILY = "DejaVu Sans"
_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """Yield a matplotlib figure of a size in pixels, with the style of the reports."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a report requires matplotlib; install it with: pip install 'dnas[report]'") from None
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
    # The browser chooses the fonts, so glyphs that matplotlib's own font lacks do not matter.
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield Figure(figsize=(width / 72, height / 72))


def new_axes(figure: Figure, *, left: float, right: float, top: float, bottom: float) -> Axes:
    """Create axes with these margins in points and no frame except the bottom line."""
    width, height = (72 * side for side in figure.get_size_inches())
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=5)
    return axes


def folded(text: str, room: float, lines: int = LINES) -> str:
    """Wrap a text into printable lines of at most `room` points; only the last line is truncated.

    Lines break at spaces, and inside a word only if the word itself is too wide.
    """
    made = [""]
    for word in plain(text).split():
        whole = f"{made[-1]} {word}".strip()
        if text_width(whole) <= room:
            made[-1] = whole
            continue
        if made[-1]:
            made.append("")
        for letter in word:
            if made[-1] and text_width(made[-1] + letter) > room:
                made.append("")
            made[-1] += letter
    if len(made) > lines:
        last = made[lines - 1]
        while last and text_width(f"{last}…") > room:
            last = last[:-1]
        made[lines - 1 :] = [f"{last}…"]
    return "\n".join(made)


@cache
def text_width(text: str) -> float:
    """Return the width of a text in points at size FONT, in a rather wide font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    # Full-width characters, which that font lacks.
    square = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    text = "".join(letter for letter in text if unicodedata.east_asian_width(letter) not in "WF")
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(family=FAMILY, size=FONT), False)
    return float(width) + 1.25 * FONT * square


# --- SVG for a page -------------------------------------------------------------------------------------------


def svg_of(figure: Figure, key: str, title: str, description: str) -> str:
    """Return the figure as an SVG element of a page: with a title, without document metadata, with unique ids."""
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
    """Replace the font by that of the page, in the requested size."""
    style = re.sub(r"font:\s*(?:[a-z]+\s+)*([\d.]+px)[^;]*", r"font-size: \1", style)
    return re.sub(r"font-family:[^;]*;?\s*", "", style)


def _page_colours(style: str) -> str:
    for colour, name in PAGE_COLOURS.items():
        style = re.sub(re.escape(colour), f"var(--{name})", style, flags=re.IGNORECASE)
    return style

"""Pieces of an SVG: numbers, texts that fit, and texts as elements."""

from __future__ import annotations

from textwrap import wrap
from xml.sax.saxutils import escape

from dnas.drawing.style import GLYPH, INK


def number(value: float) -> str:
    """Return a length with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def text_at(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    fill: str = INK,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    """Return a text element, with its baseline at y; `anchor` is the part of the text at x."""
    style = f' font-size="{size}"' if size != 11 else ""
    style += ' font-weight="600"' if bold else ""
    style += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{number(x)}" y="{number(y)}" fill="{fill}"{style}>{escape(text)}</text>'


def text_width(text: str, size: float) -> float:
    """Return the width of a text in px, at most."""
    return GLYPH * size * len(text)


def lines_of(text: str, room: float, size: float) -> list[str]:
    """Wrap a text into at most three lines."""
    return wrap(text, int(room / (GLYPH * size)), max_lines=3, placeholder=" …")


def clip(text: str, room: float, size: float) -> str:
    """Shorten a text to the room in px."""
    fits = int(room / (GLYPH * size))
    return text if len(text) <= fits else f"{text[: fits - 1]}…"

"""Drawings as tests read them: elements and texts of an SVG, and lines of a terminal."""

import io
import xml.etree.ElementTree as ET

from rich.console import Console

from dnas.drawing.svg import svg
from dnas.drawing.terminal import terminal
from dnas.space.architecture import Architecture

SVG = "{http://www.w3.org/2000/svg}"
Box = tuple[float, float, float, float]


def document(architecture: Architecture, **words: str | bool) -> ET.Element:
    """The drawing, parsed, with a title and so on."""
    return ET.fromstring(svg(architecture, **words))


def bands(root: ET.Element) -> list[ET.Element]:
    """The group of each layer."""
    return [g for g in root.iter(f"{SVG}g") if "data-layer" in g.attrib]


def words_of(element: ET.Element) -> list[str]:
    """All texts, in their order."""
    return [text.text or "" for text in element.iter(f"{SVG}text")]


def box(text: ET.Element) -> Box:
    """Left, top, right and bottom of a text of the widest font, in px."""
    size = float(text.get("font-size", 11))
    wide = 0.6 * size * len(text.text or "")
    x, y = float(text.get("x", 0)), float(text.get("y", 0))
    x -= {"middle": wide / 2, "end": wide}.get(text.get("text-anchor", ""), 0)
    return (x, y - 0.78 * size, x + wide, y + 0.22 * size)


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def printed(architecture: Architecture, width: int, **console: bool) -> list[str]:
    """The lines of the text for a terminal."""
    # A console far wider than the text, so that what fits does so by itself and not because rich folds it.
    file = io.StringIO()
    Console(file=file, width=1000, **console).print(terminal(architecture, width=width))  # type: ignore[arg-type]
    return file.getvalue().splitlines()

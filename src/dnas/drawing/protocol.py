"""What a kind of layers must provide to be drawn: a `Picture`.

`svg` and `terminal` draw everything that is the same in all spaces: heading, legend, stages, numbers and tags of
layers, and tints of reductions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class Frame:
    """Dimensions in px that all bands of a drawing share.

    Attributes:
        margin: Space around the drawing.
        band: Height of a band.
        line: Distance from the top of a band to its middle line.
        words_x: Position at which the layer in words starts, or would start.
        stage_end: Position at which the words about a stage must end.
        width: Width of the drawing.
        narrow: True for the form for phones.
    """

    margin: int
    band: float
    line: float
    words_x: float
    stage_end: float
    width: float
    narrow: bool


@dataclass(frozen=True)
class Key:
    """Entry of the legend about shapes. Args of `draw`: the center of the shape, in px."""

    words: str
    draw: Callable[[float, float], str]


class Chip(NamedTuple):
    """The label of an operation on its color, in a text for a terminal."""

    op: str


Words = Sequence["Chip | str"]


class Picture(Protocol):
    """The layers of one architecture, in one of the two forms.

    Attributes:
        noun: The noun for a layer's content, such as "block".
        reading: How to read the drawing, in a line.
        explanation: How to read the drawing, for a page.
        left_out: What the narrow form lacks, as a clause, or "".
        key: How to read the text for a terminal.
        frame: The dimensions.
    """

    noun: str
    reading: str
    explanation: str
    left_out: str
    key: str
    frame: Frame

    @property
    def counts(self) -> str:
        """Return more about the architecture for screen readers, as sentences, or ""."""

    @property
    def headings(self) -> Sequence[str]:
        """Return the names of the columns in the text for a terminal."""

    def mark(self, op: str, x: float, y: float, width: float) -> str:
        """Return the mark of an operation for the legend, from x on; y is its middle line."""

    def shapes(self) -> list[Key]:
        """Return the shapes that occur."""

    def columns(self, y: float) -> list[str]:
        """Return the names of the columns of words, with their baseline at y."""

    def layer(self, k: int, y: float) -> list[str]:
        """Return the elements of layer k, whose band has its top at y."""

    def spelled(self, k: int) -> list[Words]:
        """Return layer k as text for a terminal, column by column."""

"""Style of a drawing: dimensions, colors, and labels of layers, operations and states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.primitives import ordered

# Geometry in px. 20 DARTS layers have about the shape of an A4 page, where 11 px are printed as 6 points.
MARGIN = 20
LAYER_COLUMN = 96  # layer number, tag, "reduction ½"
STATE_STEP = 60  # from one state of the cell to the next
STATE_WIDTH, STATE_HEIGHT = 26, 15
GAP = 22
GENE_COLUMN, GENE_SOURCE, GENE_ROW = 106, 69, 16  # the cell in words: one column per node, one row per input
BAND_PADDING = 4
STAGE_ROW = 24
LEGEND_ROW, LEGEND_LINE, LEGEND_GAP = 20, 26, 10
GLYPH = 0.6  # average width of a character relative to the font size, for a wide sans-serif font
PAPER, TINT, INK, SOFT, RULE = "#FFFFFF", "#E9EDF5", "#1B1F27", "#5A6270", "#CDD2DB"
NODE = "#C5CCD9"  # a node that is part of the output
# Only cells that recur have a filled tag; its colors differ clearly from those of the operations.
TAG_COLOURS = ("#1B1F27", "#6C4A9E", "#7A5C3E", "#3F6B6B")
THIRDS = ("shallow", "middle", "deep")


def gene_tags(architecture: Architecture) -> tuple[str, ...]:
    """Return a letter for each layer, by first appearance: layers have the same letter if their cells are equal."""
    tags: dict[Cell, str] = {}
    for cell in architecture.layers:
        tags.setdefault(cell, _letters(len(tags)))
    return tuple(tags[cell] for cell in architecture.layers)


def _letters(i: int) -> str:
    """Return A … Z, AA, AB, …, like columns of a spreadsheet."""
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def summary(architecture: Architecture) -> str:
    """Return one line with the number of distinct cells and their sequence."""
    tags = gene_tags(architecture)
    runs = [(tag, len(list(run))) for tag, run in groupby(tags)]
    order = " ".join(tag if n == 1 else f"{tag}×{n}" for tag, n in runs)
    layers, genes = len(tags), len(set(tags))
    place = "" if architecture.in_space else ", outside the search space"
    order = order if genes < layers else "every layer has its own"
    return f"{count(layers, 'layer')}, {count(genes, 'distinct cell')}{place}: {order}"


def count(n: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def describe_operations(cells: Iterable[Cell]) -> Counter[str]:
    """Count the operations of cells."""
    return Counter(op for cell in cells for node in cell.nodes for op, _ in node)


def state_name(state: int) -> str:
    """Return the name of a state in a drawing: i0 and i1 for inputs, n0 and so on for nodes."""
    return f"i{state}" if state < 2 else f"n{state - 2}"


def plain(text: str) -> str:
    """Return one line without the characters that XML forbids."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def in_order(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return counts of operations in the order of the legend, without zeros."""
    return [(op, counts[op]) for op in ordered(counts) if counts[op]]

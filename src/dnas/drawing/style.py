"""What a drawing looks like: measures, colors, and the words for layers, operations and states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.primitives import ordered

# Geometry in px. 20 DARTS layers come out near the shape of an A4 page, where 11 px print as 6 points.
MARGIN = 20
LAYER_COLUMN = 96  # layer number, tag, "reduction ½"
STATE_STEP = 60  # from one state of the cell to the next
STATE_WIDTH, STATE_HEIGHT = 26, 15
GAP = 22
GENE_COLUMN, GENE_SOURCE, GENE_ROW = 106, 69, 16  # the gene in words: a column a node, a row an input
BAND_PADDING = 4
STAGE_ROW = 24
LEGEND_ROW, LEGEND_LINE, LEGEND_GAP = 20, 26, 10
GLYPH = 0.6  # width of an average character over its size, of a wide sans-serif
PAPER, TINT, INK, SOFT, RULE = "#FFFFFF", "#E9EDF5", "#1B1F27", "#5A6270", "#CDD2DB"
NODE = "#C5CCD9"  # a node that is part of the output
# Only genes that recur have a filled tag; the tones lie far from those of the operations.
TAG_COLOURS = ("#1B1F27", "#6C4A9E", "#7A5C3E", "#3F6B6B")
THIRDS = ("shallow", "middle", "deep")


def gene_tags(architecture: Architecture) -> tuple[str, ...]:
    """A letter for every layer, by first appearance: layers with equal genes, and only they, share one."""
    tags: dict[Cell, str] = {}
    for cell in architecture.layers:
        tags.setdefault(cell, _letters(len(tags)))
    return tuple(tags[cell] for cell in architecture.layers)


def _letters(i: int) -> str:
    """A … Z, AA, AB, …, as a spreadsheet counts columns."""
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def summary(architecture: Architecture) -> str:
    """One line: how many genes differ, and in which order they follow one another."""
    tags = gene_tags(architecture)
    runs = [(tag, len(list(run))) for tag, run in groupby(tags)]
    order = " ".join(tag if n == 1 else f"{tag}×{n}" for tag, n in runs)
    layers, genes = len(tags), len(set(tags))
    place = "" if architecture.in_space else ", outside the search space"
    order = order if genes < layers else "every layer has its own"
    return f"{count(layers, 'layer')}, {count(genes, 'distinct gene')}{place}: {order}"


def count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def describe_operations(cells: Iterable[Cell]) -> Counter[str]:
    return Counter(op for cell in cells for node in cell.nodes for op, _ in node)


def state_name(state: int) -> str:
    return f"i{state}" if state < 2 else f"n{state - 2}"


def plain(text: str) -> str:
    """One line without the characters that XML forbids."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def in_order(counts: Counter[str]) -> list[tuple[str, int]]:
    return [(op, counts[op]) for op in ordered(counts) if counts[op]]

"""Style of all drawings: dimensions, colors, tags of layers, and counts of operations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import groupby

from dnas.space.architecture import Architecture
from dnas.space.operations import ordered
from dnas.space.protocol import LayerChoice

# Geometry in px. 20 DARTS layers have about the shape of an A4 page, where 11 px are printed as 6 points.
MARGIN = 20
LAYER_COLUMN = 96  # layer number, tag, "reduction ½"
NARROW_MARGIN, NARROW_LAYER_COLUMN = 6, 68  # on a phone
WIDE_WIDTH, NARROW_WIDTH = 640, 340  # at least
KEY_WIDTH = 26  # of a shape in the legend
GAP = 22
STAGE_ROW = 24
LEGEND_ROW, LEGEND_LINE, LEGEND_GAP = 20, 26, 10
GLYPH = 0.6  # average width of a character relative to the font size, for a wide sans-serif font
PAPER, TINT, INK, SOFT, RULE = "#FFFFFF", "#E9EDF5", "#1B1F27", "#5A6270", "#CDD2DB"
NODE = "#C5CCD9"  # a node that is part of the output
# Only layers that recur have a filled tag; its colors differ clearly from those of the operations.
TAG_COLOURS = ("#1B1F27", "#6C4A9E", "#7A5C3E", "#3F6B6B")
THIRDS = ("shallow", "middle", "deep")


def gene_tags(architecture: Architecture) -> tuple[str, ...]:
    """Return a letter for each layer, by first appearance: equal layers have the same letter."""
    tags: dict[LayerChoice, str] = {}
    for layer in architecture.layers:
        tags.setdefault(layer, _letters(len(tags)))
    return tuple(tags[layer] for layer in architecture.layers)


def _letters(i: int) -> str:
    """Return A … Z, AA, AB, …, like columns of a spreadsheet."""
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("A") + i % 26)


def summary(architecture: Architecture, noun: str) -> str:
    """Return one line with the number of distinct layers and their sequence. Args: noun: As in `Picture`."""
    tags = gene_tags(architecture)
    runs = [(tag, len(list(run))) for tag, run in groupby(tags)]
    order = " ".join(tag if n == 1 else f"{tag}×{n}" for tag, n in runs)
    layers, genes = len(tags), len(set(tags))
    place = "" if architecture.in_space else ", outside the search space"
    order = order if genes < layers else "every layer has its own"
    return f"{count(layers, 'layer')}, {count(genes, f'distinct {noun}')}{place}: {order}"


def count(n: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def describe_operations(layers: Iterable[LayerChoice]) -> Counter[str]:
    """Count the operations of layers."""
    return Counter(op for layer in layers for node in layer.nodes for op, _ in node)


def plain(text: str) -> str:
    """Return one line without the characters that XML forbids."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def in_order(counts: Counter[str]) -> list[tuple[str, int]]:
    """Return counts of operations in the order of the legend, without zeros."""
    return [(op, counts[op]) for op in ordered(counts) if counts[op]]

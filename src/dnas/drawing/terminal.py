"""Architectures as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.text import Text

from dnas.drawing.style import THIRDS, describe_operations, gene_tags, in_order, state_name, summary
from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.primitives import PRIMITIVES


def terminal(architecture: Architecture, *, width: int = 100) -> RenderableType:
    """Return the architecture as text: one line (or a few) for each layer, then the operations by depth.

    A line has the number of the layer, N or R (reduction), the letter of its cell, and for each node its operations
    with their inputs: i0 and i1 are the outputs of layers k-2 and k-1, n0, n1, … the nodes.
    """
    tags, cells = gene_tags(architecture), architecture.layers
    digits, letters = len(str(len(cells) - 1)), max(map(len, tags))
    genes = [[_node_text(node) for node in cell.nodes] for cell in cells]
    for cell, gene in zip(cells, genes, strict=True):
        if cell.concat != Cell(cell.nodes).concat:
            gene.append(Text("output " + " ".join(map(state_name, cell.concat))))
    names = [Text(state_name(2 + n), style="bold") for n in range(max(len(cell.nodes) for cell in cells))]
    column = max(text.cell_len for gene in genes for text in gene)

    def rows(label: str, texts: list[Text], style: str = "") -> list[Text]:
        for text in texts:
            text.pad_right(column - text.cell_len)
        lines = _wrapped(texts, width - len(label), gap="  ")
        heads = [label] + [" " * len(label)] * (len(lines) - 1)
        return [Text.assemble((head, style), line) for head, line in zip(heads, lines, strict=True)]

    lines = [Text(line) for line in wrap(summary(architecture), width)]
    lines += rows(" " * (digits + letters + 4), names)
    for k, gene in enumerate(genes):
        kind = "R" if k in architecture.reductions else "N"
        label = f"{k:>{digits}} {kind} {tags[k]:<{letters}} "
        lines += rows(label, gene, "bold" if kind == "R" else "")
    for line in lines:
        line.rstrip()
    thirds = [describe_operations(c for k, c in enumerate(cells) if 3 * k // len(cells) == t) for t in range(3)]
    items = [Text(f"{'·'.join(THIRDS)}:")]
    for op, _ in in_order(describe_operations(cells)):
        items.append(Text.assemble(_chip(op), " " + "·".join(str(third[op]) for third in thirds)))
    key = "N normal, R reduction; equal letters: equal cells; i0 and i1: outputs of layers k−2 and k−1"
    return Group(*lines, *_wrapped(items, width, gap="  "), *map(Text, wrap(key, width)))


def _wrapped(items: Sequence[Text], width: int, gap: str) -> list[Text]:
    """Wrap items in order into as few lines as possible; an item is only broken if it is wider than a line."""
    lines: list[list[Text]] = []
    used = 0
    for item in items:
        used += len(gap) + item.cell_len
        if not lines or used > width:
            lines.append([])
            used = item.cell_len
        lines[-1].append(item)
    return [Text(gap).join(line) for line in lines]


def _node_text(node: Sequence[tuple[str, int]]) -> Text:
    if not node:
        return Text("no input")
    return Text(" ").join(Text.assemble(_chip(op), f"←{state_name(source)}") for op, source in node)


def _chip(op: str) -> Text:
    """Return the label of an operation on its color, in black or white, whichever has more contrast."""
    colour = PRIMITIVES[op].colour
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 110
    return Text(PRIMITIVES[op].label, style=f"{'white' if dark else 'black'} on {colour}")

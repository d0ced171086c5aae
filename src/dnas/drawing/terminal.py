"""Architectures as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.console import Group, RenderableType
from rich.text import Text

from dnas.drawing.protocol import Chip, Words
from dnas.drawing.registry import picture_of
from dnas.drawing.style import SOFT, THIRDS, describe_operations, gene_tags, in_order, summary
from dnas.space.architecture import Architecture
from dnas.space.operations import colour_of, label_of


def terminal(architecture: Architecture, *, width: int = 100) -> RenderableType:
    """Return the architecture as text: one line (or a few) for each layer, then the operations by depth.

    A line has the number of the layer, N or R (reduction), the letter of its content, and the content in the words of
    its `Picture`: for each node its operations with their inputs, or its block.
    """
    picture = picture_of(architecture)
    tags, layers = gene_tags(architecture), architecture.layers
    digits, letters = len(str(len(layers) - 1)), max(map(len, tags))
    genes = [[_text(words) for words in picture.spelled(k)] for k in range(len(layers))]
    names = [Text(name, style="bold") for name in picture.headings]
    column = max(text.cell_len for gene in genes for text in gene)

    def rows(label: str, texts: list[Text], style: str = "") -> list[Text]:
        for text in texts:
            text.pad_right(column - text.cell_len)
        lines = _wrapped(texts, width - len(label), gap="  ")
        heads = [label] + [" " * len(label)] * (len(lines) - 1)
        return [Text.assemble((head, style), line) for head, line in zip(heads, lines, strict=True)]

    lines = [Text(line) for line in wrap(summary(architecture, picture.noun), width)]
    lines += rows(" " * (digits + letters + 4), names) if names else []
    for k, gene in enumerate(genes):
        kind = "R" if k in architecture.reductions else "N"
        label = f"{k:>{digits}} {kind} {tags[k]:<{letters}} "
        lines += rows(label, gene, "bold" if kind == "R" else "")
    for line in lines:
        line.rstrip()
    thirds = [describe_operations(c for k, c in enumerate(layers) if 3 * k // len(layers) == t) for t in range(3)]
    items = [Text(f"{'·'.join(THIRDS)}:")]
    for op, _ in in_order(describe_operations(layers)):
        items.append(Text.assemble(_chip(op), " " + "·".join(str(third[op]) for third in thirds)))
    return Group(*lines, *_wrapped(items, width, gap="  "), *map(Text, wrap(picture.key, width)))


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


def _text(words: Words) -> Text:
    return Text.assemble(*(_chip(part.op) if isinstance(part, Chip) else part for part in words))


def _chip(op: str) -> Text:
    """Return the label of an operation on its color, in black or white, whichever has more contrast."""
    colour = colour_of(op, SOFT)
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 110
    return Text(label_of(op), style=f"{'white' if dark else 'black'} on {colour}")

"""Drawing of cells, as in figure 5 of the DNAS paper: states on a line, and an arc for each edge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dnas.drawing.arcs import ARC_CORNER, Arc, arcs_of, line_style, ports_of
from dnas.drawing.marks import number, text_at
from dnas.drawing.protocol import Chip, Frame, Key, Words
from dnas.drawing.style import (
    GAP,
    INK,
    KEY_WIDTH,
    LAYER_COLUMN,
    MARGIN,
    NARROW_LAYER_COLUMN,
    NARROW_MARGIN,
    NARROW_WIDTH,
    NODE,
    PAPER,
    SOFT,
    TINT,
    WIDE_WIDTH,
)
from dnas.space.architecture import Architecture
from dnas.space.darts_cell import Cell
from dnas.space.operations import colour_of, label_of
from dnas.space.protocol import Slot

STATE_STEP, NARROW_STATE_STEP = 60, 47  # from one state of the cell to the next
STATE_WIDTH, STATE_HEIGHT = KEY_WIDTH, 15
GENE_COLUMN, GENE_SOURCE, GENE_ROW = 106, 69, 16  # the cell in words: one column per node, one row per input
BAND_PADDING = 4


class CellPicture:
    """Cells as arcs from left to right and, in the wide form, in words."""

    noun = "cell"
    reading = "Arcs run from left to right; the first input of a node is above, the second below."
    explanation = (
        "Each row is a layer, and the image enters at the top. A layer combines the outputs of the two layers before "
        "it by the operations on its edges: convolutions detect patterns, pooling takes averages or maxima, and a skip "
        "connection copies its input."
    )
    left_out = "the operations of each node are also named"
    key = "N normal, R reduction; equal letters: equal cells; i0 and i1: outputs of layers k−2 and k−1"

    def __init__(self, architecture: Architecture, narrow: bool) -> None:
        self._architecture = architecture
        cells = architecture.layers
        self._arcs = {cell: arcs_of(cell) for cell in cells}
        lifts = [(arc.side, arc.lift) for arcs in self._arcs.values() for arc in arcs]
        up, down = (max((lift for at, lift in lifts if at == side), default=0.0) for side in (-1, 1))
        self._rows = max(2, *(len(node) for cell in cells for node in cell.nodes))
        self._nodes = max(len(cell.nodes) for cell in cells)
        rows = 2 if narrow else self._rows
        drawn = up + down + STATE_HEIGHT
        band = round(max(drawn, rows * GENE_ROW) + 2 * BAND_PADDING)
        margin = NARROW_MARGIN if narrow else MARGIN
        self._step = NARROW_STATE_STEP if narrow else STATE_STEP
        self._first = margin + (NARROW_LAYER_COLUMN if narrow else LAYER_COLUMN) + STATE_WIDTH / 2
        words_x = self._x(1 + self._nodes) + STATE_WIDTH / 2 + (0 if narrow else GAP)
        end = words_x + (0 if narrow else GENE_COLUMN * self._nodes) + margin
        self.frame = Frame(
            margin=margin,
            band=band,
            line=(band - drawn) / 2 + up + STATE_HEIGHT / 2,
            words_x=words_x,
            stage_end=words_x,
            width=max(end, NARROW_WIDTH if narrow else WIDE_WIDTH),
            narrow=narrow,
        )

    def _x(self, state: int) -> float:
        return self._first + self._step * state

    @property
    def counts(self) -> str:
        return ""

    @property
    def headings(self) -> Sequence[str]:
        return [state_name(2 + n) for n in range(self._nodes)]

    def mark(self, op: str, x: float, y: float, width: float) -> str:
        return _line(f"M{number(x)} {number(y)}h{number(width)}", op, PAPER)

    def shapes(self) -> list[Key]:
        looks = {_look(cell, 2 + n) for cell in self._architecture.layers for n in range(len(cell.nodes))}
        meanings = {
            "output": ("n0", "node, part of the output"),
            "inner": ("n0", "not part of the output"),
            "dead": ("n0", "node without a signal"),
        }
        shapes = [("input", "i0", "output of layer k−2"), ("input", "i1", "of layer k−1")]
        shapes += [(look, *meaning) for look, meaning in meanings.items() if look in looks]
        return [Key(words, partial(_shape, look, label, under=PAPER)) for look, label, words in shapes]

    def columns(self, y: float) -> list[str]:
        if self.frame.narrow:
            return []
        x = self.frame.words_x
        return [text_at(x + GENE_COLUMN * n, y, name, fill=SOFT) for n, name in enumerate(self.headings)]

    def layer(self, k: int, y: float) -> list[str]:
        cell = self._architecture.layers[k]
        parts = self._drawn(k, cell, TINT if k in self._architecture.reductions else PAPER, y + self.frame.line)
        return parts if self.frame.narrow else parts + self._in_words(cell, y + self.frame.line)

    def spelled(self, k: int) -> list[Words]:
        cell = self._architecture.layers[k]
        columns = [_node_in_words(node) for node in cell.nodes]
        if cell.concat != Cell(cell.nodes).concat:
            columns.append(["output " + " ".join(map(state_name, cell.concat))])
        return columns

    def _drawn(self, k: int, cell: Cell, under: str, line: float) -> list[str]:
        """Draw a cell: its states on a line, an arc for each edge; parts without a signal are faint."""
        arcs: Sequence[Arc] = self._arcs[cell]
        ports = ports_of(arcs)
        parts = []
        # The ends of high arcs cross lower arcs, so they are drawn on top.
        for i, arc in sorted(enumerate(arcs), key=lambda pair: pair[1].lift):
            start, end = self._x(arc.source) + ports[i, "out"], self._x(arc.state) + ports[i, "in"]
            foot = line + arc.side * STATE_HEIGHT / 2
            peak, clockwise = foot + arc.side * arc.lift, int(arc.side < 0)
            bend = f"A{ARC_CORNER} {number(arc.lift)} 0 0 {clockwise}"
            path = f"M{number(start)} {number(foot)}{bend} {number(start + ARC_CORNER)} {number(peak)}"
            path += f"H{number(end - ARC_CORNER)}{bend} {number(end)} {number(foot)}"
            name = f"input {arc.source}" if arc.source < 2 else f"node {arc.source - 2}"
            words = f"layer {k} · node {arc.state - 2} ← {name} · {arc.op}"
            faint = "" if arc.live else ' opacity="0.35"'
            parts.append(
                f'<g class="edge"{faint}><title>{words}{"" if arc.live else " · no signal"}</title>'
                f"{_line(path, arc.op, under)}</g>"
            )
        for state in range(2 + len(cell.nodes)):
            parts.append(_shape(_look(cell, state), state_name(state), self._x(state), line, under))
        return parts

    def _in_words(self, cell: Cell, line: float) -> list[str]:
        """Draw the cell in words: one column per node, one row per input."""
        parts = []
        top = line - GENE_ROW * self._rows / 2
        for n, node in enumerate(cell.nodes):
            x = self.frame.words_x + GENE_COLUMN * n
            if not node:
                parts.append(text_at(x, top + 12, "no input", fill=SOFT))
            for slot, (op, source) in enumerate(node):
                base = top + GENE_ROW * slot + 12
                colour = colour_of(op, SOFT)
                parts += [
                    f'<rect x="{number(x)}" y="{number(base - 9)}" width="10" height="10" rx="2" fill="{colour}"/>',
                    text_at(x + 14, base, label_of(op)),
                    text_at(x + GENE_SOURCE, base, f"← {state_name(source)}", fill=SOFT),
                ]
        return parts


def state_name(state: int) -> str:
    """Return the name of a state in a drawing: i0 and i1 for inputs, n0 and so on for nodes."""
    return f"i{state}" if state < 2 else f"n{state - 2}"


def _node_in_words(node: Sequence[Slot]) -> Words:
    if not node:
        return ["no input"]
    words: list[Chip | str] = []
    for op, source in node:
        words += [*([" "] if words else []), Chip(op), f"←{state_name(source)}"]
    return words


def _line(path: str, op: str, under: str) -> str:
    """Draw the line of an operation on a casing, which separates it from the lines that it crosses.

    `none` has no output: it is drawn hollow.
    """
    width, dashes = line_style(op)
    dashes = f' stroke-dasharray="{dashes}"' if dashes else ""
    hollow = op == "none"
    casing = f'stroke="{SOFT if hollow else under}" stroke-width="{number(width + (1.6 if hollow else 2.4))}"'
    return (
        f'<path d="{path}" fill="none" {casing}{dashes if hollow else ""}/>'
        f'<path d="{path}" fill="none" stroke="{colour_of(op, SOFT)}" stroke-width="{number(width)}"{dashes}/>'
    )


def _look(cell: Cell, state: int) -> str:
    if state < 2:
        return "input"
    if state not in cell.live_states:
        return "dead"
    return "output" if state in cell.concat else "inner"


def _shape(look: str, label: str, x: float, y: float, under: str) -> str:
    """Draw a state: an input is a dark box, a node a pill, filled if it is part of the output, dashed if dead."""
    fill = {"input": INK, "output": NODE}.get(look, under)
    dashes = ' stroke-dasharray="3 3"' if look == "dead" else ""
    return (
        f'<rect x="{number(x - STATE_WIDTH / 2)}" y="{number(y - STATE_HEIGHT / 2)}" width="{STATE_WIDTH}" '
        f'height="{STATE_HEIGHT}" rx="{2 if look == "input" else 7.5}" fill="{fill}" stroke="{INK}"{dashes}/>'
    ) + text_at(x, y + 3.5, label, size=10, fill=PAPER if look == "input" else INK, anchor="middle")

"""Drawings of an architecture: an SVG of all layers as in figure 5 of the paper.

All layers are drawn, from the stem down to the classifier, so that readers see whether layers differ. Each operation
has one color and one style of line. Requires no torch, no font and no drawing package.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from xml.sax.saxutils import escape, quoteattr

from dnas.drawing.arcs import ARC_CORNER, Arc, arcs_of, line_style, ports_of
from dnas.drawing.style import (
    BAND_PADDING,
    GAP,
    GENE_COLUMN,
    GENE_ROW,
    GENE_SOURCE,
    GLYPH,
    INK,
    LAYER_COLUMN,
    LEGEND_GAP,
    LEGEND_LINE,
    LEGEND_ROW,
    MARGIN,
    NODE,
    PAPER,
    RULE,
    SOFT,
    STAGE_ROW,
    STATE_HEIGHT,
    STATE_STEP,
    STATE_WIDTH,
    TAG_COLOURS,
    TINT,
    count,
    describe_operations,
    gene_tags,
    in_order,
    plain,
    state_name,
    summary,
)
from dnas.space.architecture import Architecture
from dnas.space.cell import Cell
from dnas.space.primitives import PRIMITIVES

NARROW_MARGIN, NARROW_LAYER_COLUMN, NARROW_STATE_STEP = 6, 68, 47  # on a phone


# --- SVG --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """Dimensions shared by all bands of a drawing; a narrow one does not describe cells in words."""

    states: int
    rows: int
    up: float
    down: float
    narrow: bool = False

    @property
    def margin(self) -> int:
        return NARROW_MARGIN if self.narrow else MARGIN

    @property
    def line(self) -> float:
        """Distance from the top of a band to its line of states."""
        spare = self.band - self.up - self.down - STATE_HEIGHT
        return spare / 2 + self.up + STATE_HEIGHT / 2

    @property
    def band(self) -> float:
        drawn = self.up + self.down + STATE_HEIGHT
        rows = 2 if self.narrow else max(2, self.rows)
        return round(max(drawn, rows * GENE_ROW) + 2 * BAND_PADDING)

    @property
    def genes_x(self) -> float:
        """Position at which the cell in words starts, or would start."""
        return self.x(self.states - 1) + STATE_WIDTH / 2 + (0 if self.narrow else GAP)

    @property
    def width(self) -> float:
        if self.narrow:
            return max(self.genes_x + self.margin, 340)
        return max(self.genes_x + GENE_COLUMN * (self.states - 2) + MARGIN, 640)

    def x(self, state: int) -> float:
        column, step = (NARROW_LAYER_COLUMN, NARROW_STATE_STEP) if self.narrow else (LAYER_COLUMN, STATE_STEP)
        return self.margin + column + STATE_WIDTH / 2 + step * state


def svg(architecture: Architecture, *, title: str = "", subtitle: str = "", narrow: bool = False) -> str:
    """Return the architecture as a standalone SVG document: a legend, then a band for each layer, stage by stage.

    A band has the number of the layer, the letter of its cell (equal cells share one), the cell as arcs from left to
    right, and the cell in words. The first input of a node is an arc above the line, the second one below it.
    A narrow drawing, for phones, leaves out the words.
    """
    arcs = {cell: arcs_of(cell) for cell in architecture.layers}
    lifts = [(arc.side, arc.lift) for cell in arcs.values() for arc in cell]
    up, down = (max((lift for at, lift in lifts if at == side), default=0.0) for side in (-1, 1))
    rows = max(len(node) for cell in architecture.layers for node in cell.nodes)
    frame = Frame(2 + max(len(cell.nodes) for cell in architecture.layers), rows, up, down, narrow)

    heading = plain(title) or f"Architecture of {count(len(architecture), 'layer')}"
    head, y = _head(architecture, heading, plain(subtitle), frame)
    body: list[str] = []
    tags = gene_tags(architecture)
    recurring = [tag for tag, n in Counter(tags).items() if n > 1]
    starts = sorted({0, *architecture.reductions})
    for stage, start in enumerate(starts):
        end = [*starts, len(architecture)][stage + 1]
        halvings = sum(k <= start for k in architecture.reductions)
        body += _stage(stage + 1, range(start, end), halvings, frame, y)
        y += STAGE_ROW
        for k in range(start, end):
            body.append(f'<g data-layer="{k}">')
            body += _margin(k, k in architecture.reductions, tags[k], recurring, frame, y)
            cell = architecture.layers[k]
            body += _cell(k, cell, arcs[cell], k in architecture.reductions, frame, y)
            body += [*([] if narrow else _gene(cell, frame, y)), "</g>"]
            y += frame.band
    width, height = _n(frame.width), _n(y + frame.margin)
    counts = ", ".join(f"{PRIMITIVES[op].label} {n}" for op, n in in_order(describe_operations(architecture.layers)))
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label={quoteattr(heading)} '
        'font-family="system-ui, sans-serif" font-size="11" stroke-linecap="round">'
    )
    parts = [
        opening,
        f"<title>{escape(heading)}</title>",
        f"<desc>{escape(summary(architecture))}. Operations: {escape(counts)}.</desc>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    return "\n".join([*parts, *head, *body, "</svg>", ""])


def _line(path: str, op: str, under: str) -> str:
    """Draw the line of an operation on a casing, which separates it from the lines that it crosses.

    `none` has no output: it is drawn hollow.
    """
    width, dashes = line_style(op)
    dashes = f' stroke-dasharray="{dashes}"' if dashes else ""
    hollow = op == "none"
    casing = f'stroke="{SOFT if hollow else under}" stroke-width="{_n(width + (1.6 if hollow else 2.4))}"'
    return (
        f'<path d="{path}" fill="none" {casing}{dashes if hollow else ""}/>'
        f'<path d="{path}" fill="none" stroke="{PRIMITIVES[op].colour}" stroke-width="{_n(width)}"{dashes}/>'
    )


def _head(architecture: Architecture, heading: str, subtitle: str, frame: Frame) -> tuple[list[str], float]:
    """Return title, subtitle, number of distinct cells, legend of operations and shapes; and the end position."""
    margin = frame.margin
    room = frame.width - 2 * margin
    y = margin + 18.0
    parts = [_text(margin, y, _clip(heading, room, 20), size=20, bold=True)]
    for text, fill in ((subtitle, SOFT), (summary(architecture), INK)):
        y += 3 if text else 0
        for line in _lines(text, room, 12):
            y += 16
            parts.append(_text(margin, y, line, size=12, fill=fill))
    y += 10
    operations = in_order(describe_operations(architecture.layers))
    names = [f"{PRIMITIVES[op].label} · {n}" for op, n in operations]
    item = LEGEND_LINE + 6 + max(_text_width(name, 11) for name in names) + LEGEND_GAP
    across = int((room + LEGEND_GAP) // item)
    for i, (op, _) in enumerate(operations):
        x = margin + item * (i % across)
        y += LEGEND_ROW if i % across == 0 else 0
        parts.append(_line(f"M{_n(x)} {_n(y - 4)}h{LEGEND_LINE}", op, PAPER))
        parts.append(_text(x + LEGEND_LINE + 6, y, names[i]))
    y += LEGEND_ROW + 2
    x = float(margin)
    for look, label, words in _shapes(architecture):
        item = STATE_WIDTH + 6 + _text_width(words, 11)
        if x + item > frame.width - margin:
            x, y = float(margin), y + LEGEND_ROW
        parts.append(_shape(look, label, x + STATE_WIDTH / 2, y - 4, PAPER))
        parts.append(_text(x + STATE_WIDTH + 6, y, words, fill=SOFT))
        x += item + LEGEND_GAP
    y += LEGEND_ROW - 2
    reading = "Arcs run from left to right; the first input of a node is above, the second below."
    for line in _lines(reading, room, 11):
        parts.append(_text(margin, y, line, fill=SOFT))
        y += 15
    return parts, y - 7


def _shapes(architecture: Architecture) -> list[tuple[str, str, str]]:
    """Return the shapes that occur, with the label of an example and their meaning."""
    looks = {_look(cell, 2 + n) for cell in architecture.layers for n in range(len(cell.nodes))}
    meanings = {
        "output": ("n0", "node, part of the output"),
        "inner": ("n0", "not part of the output"),
        "dead": ("n0", "node without a signal"),
    }
    shapes = [("input", "i0", "output of layer k−2"), ("input", "i1", "of layer k−1")]
    return shapes + [(look, *meaning) for look, meaning in meanings.items() if look in looks]


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
        f'<rect x="{_n(x - STATE_WIDTH / 2)}" y="{_n(y - STATE_HEIGHT / 2)}" width="{STATE_WIDTH}" '
        f'height="{STATE_HEIGHT}" rx="{2 if look == "input" else 7.5}" fill="{fill}" stroke="{INK}"{dashes}/>'
    ) + _text(x, y + 3.5, label, size=10, fill=PAPER if look == "input" else INK, anchor="middle")


def _stage(stage: int, layers: range, halvings: int, frame: Frame, y: float) -> list[str]:
    """Draw the row above a stage: its layers, its resolution, and the names of the nodes above their columns."""
    extent = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}–{layers[-1]}"
    x = frame.margin + _text_width(f"Stage {stage}", 11) + 10
    resolution = ("1", "½", "¼", "⅛")[halvings] if halvings < 4 else f"1/{2**halvings}"
    size = f"{extent} · resolution {resolution} · width ×{2**halvings}"
    parts = [
        _text(frame.margin, y + 16, f"Stage {stage}", bold=True),
        _text(x, y + 16, _clip(size, frame.genes_x - x, 11), fill=SOFT),
        f'<path d="M{frame.margin} {_n(y + STAGE_ROW)}H{_n(frame.width - frame.margin)}" stroke="{SOFT}"/>',
    ]
    columns = range(0 if frame.narrow else frame.states - 2)
    return parts + [_text(frame.genes_x + GENE_COLUMN * n, y + 16, state_name(2 + n), fill=SOFT) for n in columns]


def _margin(k: int, reduces: bool, tag: str, recurring: list[str], frame: Frame, y: float) -> list[str]:
    """Draw the left of a band: background, layer number and tag of the cell; a reduction is tinted and labeled."""
    middle = y + frame.line - (7 if reduces else 0)
    right = frame.width - frame.margin
    parts = []
    if reduces:
        parts.append(
            f'<rect data-reduction="{k}" x="{frame.margin}" y="{_n(y)}" width="{_n(right - frame.margin)}" '
            f'height="{_n(frame.band)}" fill="{TINT}"/>'
        )
        # A funnel: the feature map leaves half as wide as it enters.
        parts.append(f'<path d="M{frame.margin + 6} {_n(middle + 12)}h12l-3 9h-6z" fill="{SOFT}"/>')
        name = "½" if frame.narrow else "reduction ½"
        parts.append(_text(frame.margin + 23, middle + 20.5, name, size=10, fill=SOFT))
    parts.append(f'<path d="M{frame.margin} {_n(y + frame.band)}H{_n(right)}" stroke="{RULE}"/>')
    again = tag in recurring
    fill = TAG_COLOURS[recurring.index(tag) % len(TAG_COLOURS)] if again else PAPER
    width = max(18, _text_width(tag, 11) + 8)
    parts += [
        _text(frame.margin + 30, middle + 4.5, str(k), size=13, bold=True, anchor="end"),
        f'<rect x="{frame.margin + 42}" y="{_n(middle - 8)}" width="{_n(width)}" height="16" rx="3" fill="{fill}" '
        f'stroke="{fill if again else SOFT}"/>',
        _text(frame.margin + 42 + width / 2, middle + 4, tag, fill=PAPER if again else INK, anchor="middle"),
    ]
    return parts


def _cell(k: int, cell: Cell, arcs: Sequence[Arc], reduces: bool, frame: Frame, y: float) -> list[str]:
    """Draw the cell of a layer: its states on a line, an arc for each edge; parts without a signal are faint."""
    under = TINT if reduces else PAPER
    line = y + frame.line
    ports = ports_of(arcs)
    parts = []
    # The ends of high arcs cross lower arcs, so they are drawn on top.
    for i, arc in sorted(enumerate(arcs), key=lambda pair: pair[1].lift):
        start, end = frame.x(arc.source) + ports[i, "out"], frame.x(arc.state) + ports[i, "in"]
        foot = line + arc.side * STATE_HEIGHT / 2
        peak, clockwise = foot + arc.side * arc.lift, int(arc.side < 0)
        bend = f"A{ARC_CORNER} {_n(arc.lift)} 0 0 {clockwise}"
        path = f"M{_n(start)} {_n(foot)}{bend} {_n(start + ARC_CORNER)} {_n(peak)}"
        path += f"H{_n(end - ARC_CORNER)}{bend} {_n(end)} {_n(foot)}"
        name = f"input {arc.source}" if arc.source < 2 else f"node {arc.source - 2}"
        words = f"layer {k} · node {arc.state - 2} ← {name} · {arc.op}"
        faint = "" if arc.live else ' opacity="0.35"'
        parts.append(
            f'<g class="edge"{faint}><title>{words}{"" if arc.live else " · no signal"}</title>'
            f"{_line(path, arc.op, under)}</g>"
        )
    for state in range(2 + len(cell.nodes)):
        parts.append(_shape(_look(cell, state), state_name(state), frame.x(state), line, under))
    return parts


def _gene(cell: Cell, frame: Frame, y: float) -> list[str]:
    """Draw the cell in words: one column per node, one row per input."""
    parts = []
    top = y + frame.line - GENE_ROW * max(2, frame.rows) / 2
    for n, node in enumerate(cell.nodes):
        x = frame.genes_x + GENE_COLUMN * n
        if not node:
            parts.append(_text(x, top + 12, "no input", fill=SOFT))
        for slot, (op, source) in enumerate(node):
            base = top + GENE_ROW * slot + 12
            colour = PRIMITIVES[op].colour
            parts += [
                f'<rect x="{_n(x)}" y="{_n(base - 9)}" width="10" height="10" rx="2" fill="{colour}"/>',
                _text(x + 14, base, PRIMITIVES[op].label),
                _text(x + GENE_SOURCE, base, f"← {state_name(source)}", fill=SOFT),
            ]
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 11,
    fill: str = INK,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    style = f' font-size="{size}"' if size != 11 else ""
    style += ' font-weight="600"' if bold else ""
    style += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" fill="{fill}"{style}>{escape(text)}</text>'


def _text_width(text: str, size: float) -> float:
    return GLYPH * size * len(text)


def _lines(text: str, room: float, size: float) -> list[str]:
    """Wrap a text into at most three lines."""
    return wrap(text, int(room / (GLYPH * size)), max_lines=3, placeholder=" …")


def _clip(text: str, room: float, size: float) -> str:
    fits = int(room / (GLYPH * size))
    return text if len(text) <= fits else f"{text[: fits - 1]}…"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def thumbnail(architecture: Architecture, *, title: str, width: int = 72, row: int = 4) -> str:
    """Return the architecture as an SVG of about 2 kB: a strip for each layer, from the stem down, colored by shares.

    Layers that halve the resolution have shorter strips. Operations have a fixed order, so that strips can be compared.
    """
    places: defaultdict[str, list[str]] = defaultdict(list)
    for k, cell in enumerate(architecture.layers):
        counts = in_order(describe_operations([cell]))
        room = width * (0.75 if k in architecture.reductions else 1)
        x, total = (width - room) / 2, sum(n for _, n in counts) or 1
        for op, n in counts:
            share = room * n / total
            places[op].append(f"M{_n(x)} {k * row}h{_n(share)}v{_n(row - 0.6)}h{_n(-share)}z")
            x += share
    words = escape(plain(title))
    bands = "".join(f'<path fill="{PRIMITIVES[op].colour}" d="{"".join(paths)}"/>' for op, paths in places.items())
    height = row * len(architecture)
    return (
        f'<svg class="thumbnail" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{words}</title>{bands}</svg>"
    )

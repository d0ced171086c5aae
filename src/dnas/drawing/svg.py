"""Drawings of an architecture: an SVG of all layers as in figure 5 of the paper.

All layers are drawn, from the stem down to the classifier, so that readers see whether layers differ. Each operation
has one color and one style of mark. Requires no torch, no font and no drawing package. The `Picture` of the kind of
layers draws what is inside a band; everything else is the same in all spaces.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from xml.sax.saxutils import escape, quoteattr

from dnas.drawing.marks import clip, lines_of, number, text_at, text_width
from dnas.drawing.protocol import Frame, Picture
from dnas.drawing.registry import picture_of
from dnas.drawing.style import (
    INK,
    KEY_WIDTH,
    LEGEND_GAP,
    LEGEND_LINE,
    LEGEND_ROW,
    PAPER,
    RULE,
    SOFT,
    STAGE_ROW,
    TAG_COLOURS,
    TINT,
    count,
    describe_operations,
    gene_tags,
    in_order,
    plain,
    summary,
)
from dnas.space.architecture import Architecture
from dnas.space.operations import colour_of, label_of


def svg(architecture: Architecture, *, title: str = "", subtitle: str = "", narrow: bool = False) -> str:
    """Return the architecture as a standalone SVG document: a legend, then a band for each layer, stage by stage.

    A band has the number of the layer, its letter (equal layers share one), the layer drawn by the `Picture` of its
    kind, and in words. A narrow drawing, for phones, may leave out the words. Raises InputError if there is no picture
    for the kind of layers.
    """
    picture = picture_of(architecture, narrow=narrow)
    frame = picture.frame
    heading = plain(title) or f"Architecture of {count(len(architecture), 'layer')}"
    head, y = _head(architecture, heading, plain(subtitle), picture)
    body: list[str] = []
    tags = gene_tags(architecture)
    recurring = [tag for tag, n in Counter(tags).items() if n > 1]
    starts = sorted({0, *architecture.reductions})
    for stage, start in enumerate(starts):
        end = [*starts, len(architecture)][stage + 1]
        halvings = sum(k <= start for k in architecture.reductions)
        resolution = ("1", "½", "¼", "⅛")[halvings] if halvings < 4 else f"1/{2**halvings}"
        shape = f"resolution {resolution} · width ×{2**halvings}"
        if architecture.layout is not None:
            widths = architecture.layout.widths[start:end]
            shape = f"{resolution} · {'–'.join(map(str, sorted({min(widths), max(widths)})))} channels"
        body += _stage(stage + 1, range(start, end), shape, picture, y)
        y += STAGE_ROW
        for k in range(start, end):
            body.append(f'<g data-layer="{k}">')
            body += _margin(k, k in architecture.reductions, tags[k], recurring, frame, y)
            body += [*picture.layer(k, y), "</g>"]
            y += frame.band
    width, height = number(frame.width), number(y + frame.margin)
    counts = ", ".join(f"{label_of(op)} {n}" for op, n in in_order(describe_operations(architecture.layers)))
    more = f" {picture.counts}" if picture.counts else ""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label={quoteattr(heading)} '
        'font-family="system-ui, sans-serif" font-size="11" stroke-linecap="round">'
    )
    parts = [
        opening,
        f"<title>{escape(heading)}</title>",
        f"<desc>{escape(summary(architecture, picture.noun))}. Operations: {escape(counts)}.{escape(more)}</desc>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
    ]
    return "\n".join([*parts, *head, *body, "</svg>", ""])


def _head(architecture: Architecture, heading: str, subtitle: str, picture: Picture) -> tuple[list[str], float]:
    """Return title, subtitle, number of distinct layers, legend of operations and shapes; and the end position."""
    frame, margin = picture.frame, picture.frame.margin
    room = frame.width - 2 * margin
    y = margin + 18.0
    parts = [text_at(margin, y, clip(heading, room, 20), size=20, bold=True)]
    for text, fill in ((subtitle, SOFT), (summary(architecture, picture.noun), INK)):
        y += 3 if text else 0
        for line in lines_of(text, room, 12):
            y += 16
            parts.append(text_at(margin, y, line, size=12, fill=fill))
    y += 10
    operations = in_order(describe_operations(architecture.layers))
    names = [f"{label_of(op)} · {n}" for op, n in operations]
    item = LEGEND_LINE + 6 + max(text_width(name, 11) for name in names) + LEGEND_GAP
    across = int((room + LEGEND_GAP) // item)
    for i, (op, _) in enumerate(operations):
        x = margin + item * (i % across)
        y += LEGEND_ROW if i % across == 0 else 0
        parts.append(picture.mark(op, x, y - 4, LEGEND_LINE))
        parts.append(text_at(x + LEGEND_LINE + 6, y, names[i]))
    y += LEGEND_ROW + 2
    x = float(margin)
    for key in picture.shapes():
        item = KEY_WIDTH + 6 + text_width(key.words, 11)
        if x + item > frame.width - margin:
            x, y = float(margin), y + LEGEND_ROW
        parts.append(key.draw(x + KEY_WIDTH / 2, y - 4))
        parts.append(text_at(x + KEY_WIDTH + 6, y, key.words, fill=SOFT))
        x += item + LEGEND_GAP
    y += LEGEND_ROW - 2
    for line in lines_of(picture.reading, room, 11):
        parts.append(text_at(margin, y, line, fill=SOFT))
        y += 15
    return parts, y - 7


def _stage(stage: int, layers: range, shape: str, picture: Picture, y: float) -> list[str]:
    """Draw the row above a stage: its layers, its resolution and width, and the names of the columns of words."""
    frame = picture.frame
    extent = f"layer {layers[0]}" if len(layers) == 1 else f"layers {layers[0]}–{layers[-1]}"
    x = frame.margin + text_width(f"Stage {stage}", 11) + 10
    size = f"{extent} · {shape}"
    parts = [
        text_at(frame.margin, y + 16, f"Stage {stage}", bold=True),
        text_at(x, y + 16, clip(size, frame.stage_end - x, 11), fill=SOFT),
        f'<path d="M{frame.margin} {number(y + STAGE_ROW)}H{number(frame.width - frame.margin)}" stroke="{SOFT}"/>',
    ]
    return parts + picture.columns(y + 16)


def _margin(k: int, reduces: bool, tag: str, recurring: list[str], frame: Frame, y: float) -> list[str]:
    """Draw the left of a band: background, layer number and tag; a reduction is tinted and labeled."""
    middle = y + frame.line - (7 if reduces else 0)
    right = frame.width - frame.margin
    parts = []
    if reduces:
        parts.append(
            f'<rect data-reduction="{k}" x="{frame.margin}" y="{number(y)}" width="{number(right - frame.margin)}" '
            f'height="{number(frame.band)}" fill="{TINT}"/>'
        )
        # A funnel: the feature map leaves half as wide as it enters.
        parts.append(f'<path d="M{frame.margin + 6} {number(middle + 12)}h12l-3 9h-6z" fill="{SOFT}"/>')
        name = "½" if frame.narrow else "reduction ½"
        parts.append(text_at(frame.margin + 23, middle + 20.5, name, size=10, fill=SOFT))
    parts.append(f'<path d="M{frame.margin} {number(y + frame.band)}H{number(right)}" stroke="{RULE}"/>')
    again = tag in recurring
    fill = TAG_COLOURS[recurring.index(tag) % len(TAG_COLOURS)] if again else PAPER
    width = max(18, text_width(tag, 11) + 8)
    parts += [
        text_at(frame.margin + 30, middle + 4.5, str(k), size=13, bold=True, anchor="end"),
        f'<rect x="{frame.margin + 42}" y="{number(middle - 8)}" width="{number(width)}" height="16" rx="3" '
        f'fill="{fill}" stroke="{fill if again else SOFT}"/>',
        text_at(frame.margin + 42 + width / 2, middle + 4, tag, fill=PAPER if again else INK, anchor="middle"),
    ]
    return parts


def thumbnail(architecture: Architecture, *, title: str, width: int = 72, row: int = 4) -> str:
    """Return the architecture as an SVG of about 2 kB: a strip for each layer, from the stem down, colored by shares.

    Layers that halve the resolution have shorter strips. Operations have a fixed order, so that strips can be compared.
    """
    places: defaultdict[str, list[str]] = defaultdict(list)
    for k, layer in enumerate(architecture.layers):
        counts = in_order(describe_operations([layer]))
        room = width * (0.75 if k in architecture.reductions else 1)
        x, total = (width - room) / 2, sum(n for _, n in counts) or 1
        for op, n in counts:
            share = room * n / total
            places[op].append(f"M{number(x)} {k * row}h{number(share)}v{number(row - 0.6)}h{number(-share)}z")
            x += share
    words = escape(plain(title))
    bands = "".join(f'<path fill="{colour_of(op, SOFT)}" d="{"".join(paths)}"/>' for op, paths in places.items())
    height = row * len(architecture)
    return (
        f'<svg class="thumbnail" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{words}</title>{bands}</svg>"
    )

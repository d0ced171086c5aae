"""Drawing of chains of blocks: a box per layer on a vertical line, and an arc for a shortcut around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dnas.drawing.arcs import line_style
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
    PAPER,
    RULE,
    SOFT,
    WIDE_WIDTH,
)
from dnas.space.architecture import Architecture
from dnas.space.blocks import SKIP
from dnas.space.network_plan import LayerPlan
from dnas.space.operations import colour_of, label_of
from dnas.space.plan import plan
from dnas.space.primitives import AvgPool, Branches, Conv, flat

COLUMN, NARROW_COLUMN = 176, 104  # of boxes: the width of the widest one
UNIT, NARROW_UNIT = 44, 26  # width of a box of the initial channels, if the widest one fits
THINNEST = 4
ROOM_OF_ARC = 16  # beside the widest box
BLOCK_COLUMN, SHORTCUT_COLUMN = 132, 110  # the layer in words
LEAST_BAND, ABOVE_BOX = 34, 11  # ABOVE_BOX: room for the ends of an arc, above a box and below it
TALLEST = 40
CHANNELS = 16  # any even number: drawings show channels relative to it
DASHES, DOTS = "3 2.5", "1.2 2.4"
# Instead of a shortcut: what is beside a block whose output is joined with it.
HALF, BRANCH = "half passes by", "two branches"


@dataclass(frozen=True)
class Drawn:
    """A layer as it is drawn.

    Attributes:
        kind: Its block, or `SKIP`.
        kernel: Side of its kernel; 0 for a skip.
        before, after: Its channels at the input and at the output, relative to the first layer.
        shortcut: "" (none), "identity", or the convolution in words, such as "1×1 convolution"; `HALF` or `BRANCH`.
    """

    kind: str
    kernel: int
    before: float
    after: float
    shortcut: str

    @property
    def words(self) -> str:
        """Return the layer in words, such as "mb ×6 · 5×5"."""
        return label_of(self.kind) if self.kind == SKIP else f"{label_of(self.kind)} · {side(self.kernel)}"


def drawn_layers(architecture: Architecture) -> list[Drawn]:
    """Return the layers of a chain: from its plan, so that a drawing shows the shortcuts that a network has."""
    initial = CHANNELS if architecture.layout is None else architecture.layout.stem
    planned = plan(architecture, channels=initial, classes=2)
    channels = [planned.stem.width, *(layer.outputs for layer in planned.layers)]
    return [
        Drawn(layer.kind, _kernel(each), before / initial, each.outputs / initial, _shortcut(each))
        for layer, each, before in zip(architecture.layers, planned.layers, channels[:-1], strict=True)
    ]


def _kernel(layer: LayerPlan) -> int:
    """Return the side of the largest kernel of a layer, which is that of its block."""
    chains = [edge.chain for edge in layer.edges[:1]]
    return max((max(part.kernel) for chain in chains for part in flat(chain) if isinstance(part, Conv)), default=0)


def _shortcut(layer: LayerPlan) -> str:
    """Return the chain around a block in words: the edges of a layer are its block and then the shortcut, if any."""
    for edge in layer.edges[:1]:
        if isinstance(edge.chain[0], Branches):
            return HALF if edge.chain[0].split else BRANCH
    for edge in layer.edges[1:]:
        convs = [part for part in edge.chain if isinstance(part, Conv)]
        kernel = side(convs[0].kernel[0]) if convs else ""
        if isinstance(edge.chain[0], AvgPool):
            return f"mean, then {kernel}"
        return f"{kernel} convolution" if convs else "identity"
    return ""


def side(kernel: int) -> str:
    """Return a kernel in words: 3×3."""
    return f"{kernel}×{kernel}"


class ChainPicture:
    """Blocks as boxes: as wide as their channels, as high as their kernel, with a color per kind; and in words."""

    noun = "block"
    reading = "Data runs from top to bottom; boxes are as wide as the channels and as high as the kernel."
    explanation = (
        "Each row is a layer, and the image enters at the top. A layer is one block of convolutions, which reads the "
        "output of the layer before it. An arc around a block is a shortcut: it adds the input of the block to its "
        "output. A dotted arc adds nothing: half of the channels passes by the block, or through a second branch, and "
        "then alternates with the output of the block. A skip passes its input on, so the network is one layer "
        "shallower there."
    )
    left_out = "the kinds of shortcuts are also named"
    key = "N normal, R reduction; equal letters: equal blocks; +: a shortcut adds the input"

    def __init__(self, architecture: Architecture, narrow: bool) -> None:
        self._layers = drawn_layers(architecture)
        self._kernels = Counter(layer.kernel for layer in self._layers if layer.kernel)
        column, unit = (NARROW_COLUMN, NARROW_UNIT) if narrow else (COLUMN, UNIT)
        self._unit = min(unit, column / max(layer.after for layer in self._layers))
        margin = NARROW_MARGIN if narrow else MARGIN
        left = margin + (NARROW_LAYER_COLUMN if narrow else LAYER_COLUMN)
        band = max(LEAST_BAND, max(map(self._height, self._kernels), default=0) + 2 * ABOVE_BOX)
        self._middle = left + column / 2
        words_x = left + column + ROOM_OF_ARC + (0 if narrow else GAP)
        end = words_x + BLOCK_COLUMN + (0 if narrow else SHORTCUT_COLUMN) + margin
        width = max(end, NARROW_WIDTH if narrow else WIDE_WIDTH)
        self.frame = Frame(
            margin=margin,
            band=band,
            line=band / 2,
            words_x=words_x,
            stage_end=width - margin if narrow else words_x,
            width=width,
            narrow=narrow,
        )

    @property
    def counts(self) -> str:
        if not self._kernels:
            return ""
        return f"Kernels: {', '.join(f'{side(kernel)} {n}' for kernel, n in sorted(self._kernels.items()))}."

    @property
    def headings(self) -> Sequence[str]:
        return ()

    def mark(self, op: str, x: float, y: float, width: float) -> str:
        if op == SKIP:
            return self._skip(f"M{number(x)} {number(y)}h{number(width)}")
        return _box(f"M{number(x)} {number(y - 5)}h{number(width)}v10h{number(-width)}z", colour_of(op, SOFT))

    def shapes(self) -> list[Key]:
        kernels = [
            Key(f"kernel {side(kernel)} · {n}", partial(self._kernel_key, kernel))
            for kernel, n in sorted(self._kernels.items())
        ]
        shortcuts = dict.fromkeys(layer.shortcut for layer in self._layers if layer.shortcut)
        words = {name: f"shortcut by a {name}" for name in shortcuts} | {
            "identity": "shortcut",
            HALF: "half of the channels passes by",
            BRANCH: "two branches",
        }
        return kernels + [Key(words[name], partial(self._arc_key, name)) for name in sorted(shortcuts, reverse=True)]

    def columns(self, y: float) -> list[str]:
        if self.frame.narrow:
            return []
        x = self.frame.words_x
        return [text_at(x, y, "block", fill=SOFT), text_at(x + BLOCK_COLUMN, y, "shortcut", fill=SOFT)]

    def layer(self, k: int, y: float) -> list[str]:
        layer, x, bottom = self._layers[k], self._middle, y + self.frame.band
        line = y + self.frame.line
        told = f"layer {k} · {layer.kind}"
        if layer.kind == SKIP:
            parts = [self._skip(f"M{number(x)} {number(y)}V{number(bottom)}")]
        else:
            told += f" · kernel {side(layer.kernel)} · shortcut: {layer.shortcut or 'none'}"
            half = self._height(layer.kernel) / 2
            above, below = self._half_width(layer.before), self._half_width(layer.after)
            path = (
                f"M{number(x - above)} {number(line - half)}H{number(x + above)}L{number(x + below)} "
                f"{number(line + half)}H{number(x - below)}z"
            )
            parts = [f'<path d="M{number(x)} {number(y)}V{number(bottom)}" stroke="{SOFT}"/>']
            if layer.shortcut:
                reach = max(above, below) + ROOM_OF_ARC / 2
                parts.append(_arc(x, y + 4, reach, self.frame.band - 8, layer.shortcut))
            parts.append(_box(path, colour_of(layer.kind, SOFT)))
        return [f'<g class="block"><title>{told}</title>', *parts, "</g>", *self._in_words(layer, line + 4)]

    def spelled(self, k: int) -> list[Words]:
        layer = self._layers[k]
        words: list[Chip | str] = [Chip(layer.kind)]
        if layer.kernel:
            words.append(f" {side(layer.kernel)}")
        if layer.shortcut:
            joined = layer.shortcut in (HALF, BRANCH)
            words.append(
                f", {layer.shortcut}" if joined else " +" if layer.shortcut == "identity" else f" + {layer.shortcut}"
            )
        return [words]

    def _in_words(self, layer: Drawn, y: float) -> list[str]:
        x = self.frame.words_x
        colour = colour_of(layer.kind, SOFT)
        parts = [
            f'<rect x="{number(x)}" y="{number(y - 9)}" width="10" height="10" rx="2" fill="{colour}"/>',
            text_at(x + 14, y, layer.words),
        ]
        if layer.kernel and not self.frame.narrow:
            parts.append(text_at(x + BLOCK_COLUMN, y, layer.shortcut or "none", fill=SOFT))
        return parts

    def _half_width(self, channels: float) -> float:
        return max(THINNEST, channels * self._unit) / 2

    @staticmethod
    def _height(kernel: int) -> float:
        return min(4 + 2 * kernel, TALLEST)

    @staticmethod
    def _skip(path: str) -> str:
        width, _ = line_style(SKIP)
        return f'<path d="{path}" fill="none" stroke="{colour_of(SKIP, SOFT)}" stroke-width="{number(width + 1)}"/>'

    def _kernel_key(self, kernel: int, x: float, y: float) -> str:
        half, width = min(self._height(kernel), LEAST_BAND / 2 + 1) / 2, KEY_WIDTH - 4
        path = f"M{number(x - width / 2)} {number(y - half)}h{width}v{number(2 * half)}h{-width}z"
        return _box(path, RULE)

    def _arc_key(self, shortcut: str, x: float, y: float) -> str:
        return _arc(x - KEY_WIDTH / 4, y - 7, KEY_WIDTH / 2, 14, shortcut)


def _box(path: str, colour: str) -> str:
    return f'<path d="{path}" fill="{colour}" stroke="{INK}" stroke-width="0.8" stroke-linejoin="round"/>'


def _arc(x: float, top: float, reach: float, height: float, shortcut: str) -> str:
    """Draw a shortcut from a line at x around the block to the dot at which it is added; a convolution is dashed.

    An arc to a circle is dotted: what passes there is not added, but joined.
    """
    joined = shortcut in (HALF, BRANCH)
    dashes = "" if shortcut == "identity" else f' stroke-dasharray="{DOTS if joined else DASHES}"'
    dot = f'fill="{PAPER}" stroke="{INK}"' if joined else f'fill="{INK}"'
    bend = 6
    path = (
        f"M{number(x)} {number(top)}h{number(reach - bend)}a{bend} {bend} 0 0 1 {bend} {bend}"
        f"v{number(height - 2 * bend)}a{bend} {bend} 0 0 1 {-bend} {bend}h{number(bend - reach)}"
    )
    line = f'<path class="shortcut" d="{path}" fill="none" stroke="{INK}" stroke-width="1.2"{dashes}/>'
    return f'{line}<circle cx="{number(x)}" cy="{number(top + height)}" r="2.2" {dot}/>'

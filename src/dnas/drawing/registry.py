"""The picture of each kind of layers."""

from __future__ import annotations

from collections.abc import Callable

from dnas.drawing.cells import CellPicture
from dnas.drawing.chains import ChainPicture
from dnas.drawing.protocol import Picture
from dnas.errors import InputError
from dnas.space.architecture import Architecture
from dnas.space.chain import Block
from dnas.space.darts_cell import Cell

PICTURES: dict[type, Callable[[Architecture, bool], Picture]] = {Cell: CellPicture, Block: ChainPicture}


def picture_of(architecture: Architecture, *, narrow: bool = False) -> Picture:
    """Return the picture of an architecture. Raises InputError if there is none for its kind of layers."""
    kind = type(architecture.layers[0])
    if kind not in PICTURES:
        raise InputError(f"layers of the {architecture.space!r} space ({kind.__name__}) cannot be drawn")
    return PICTURES[kind](architecture, narrow)

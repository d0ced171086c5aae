"""Architectures drawn from a space, their neighbors and mutations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnas.space.architecture import Architecture


def with_slot(architecture: Architecture, same: Sequence[int], n: int, s: int, slot: tuple[str, int]) -> Architecture:
    """With another slot in these layers, which have one gene."""
    from dnas.space.architecture import Architecture
    from dnas.space.cell import Cell

    nodes = [list(node) for node in architecture.layers[same[0]].nodes]
    nodes[n][s] = slot
    gene = Cell(tuple(tuple(node) for node in nodes))
    layers = tuple(gene if k in same else cell for k, cell in enumerate(architecture.layers))
    return Architecture(layers, architecture.reductions, architecture.space)

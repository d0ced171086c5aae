"""The latency of a planned network as a sum, of what its operations take on a machine and what is the same for all.

Times are whole nanoseconds, so that sums are exact: `FIXED`, for all but the edges of cells, and one for each operation
by its `key`. `pipeline/latency.py` measures them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dnas.space.architecture import Architecture
from dnas.space.cost import side_after
from dnas.space.plan import NetworkPlan
from dnas.space.primitives import chain_cost

FIXED = "fixed"


def key(primitive: str, channels: int, stride: int, side: int) -> str:
    """What the time of a primitive has as its name, which reads pictures of `side` pixels."""
    return f"{primitive} {channels} {stride} {side}"


def sides(network: NetworkPlan, image_size: int) -> Iterator[tuple[int, int]]:
    """Of each layer the pixels of a side: of its inputs, once they are preprocessed, and of its nodes."""
    _, before = chain_cost(network.stem.first, image_size)
    pixels = chain_cost(network.stem.second, before)[1] if network.stem.second else before
    for cell in network.cells:
        inner = side_after(cell, before, pixels)
        yield chain_cost(cell.preprocess[1], pixels)[1], inner
        before, pixels = pixels, inner


def operations(architecture: Architecture, network: NetworkPlan, image_size: int) -> Iterator[str]:
    """The key of every operation of a network, which is that of the architecture."""
    layers = zip(architecture.layers, network.cells, sides(network, image_size), strict=True)
    for k, (gene, cell, (outer, inner)) in enumerate(layers):
        for node in gene.nodes:
            for op, source in node:
                reduces = k in architecture.reductions and source < 2
                yield key(op, cell.channels, 2 if reduces else 1, outer if source < 2 else inner)


def nanoseconds(architecture: Architecture, network: NetworkPlan, image_size: int, times: Mapping[str, int]) -> int:
    """What a network takes for one image, by these times."""
    return times[FIXED] + sum(times[each] for each in operations(architecture, network, image_size))

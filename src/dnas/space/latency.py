"""Estimated latency of a planned network: the sum of the times of its operations on a machine and a fixed time.

Times are integer nanoseconds, so that sums are exact: `FIXED` for everything except the edges of layers, and one time
for each operation by its `key`. They are measured by `pipeline/latency.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dnas.space.architecture import Architecture
from dnas.space.cost import side_after
from dnas.space.network_plan import NetworkPlan
from dnas.space.primitives import chain_cost

FIXED = "fixed"


def key(primitive: str, channels: int, stride: int, side: int) -> str:
    """Return the key of the time of a primitive that reads feature maps of `side` × `side` pixels."""
    return f"{primitive} {channels} {stride} {side}"


def sides(network: NetworkPlan, image_size: int) -> Iterator[tuple[int, int]]:
    """Yield the side lengths of each layer in pixels: that of its preprocessed inputs, and that of its nodes."""
    _, before = chain_cost(network.stem.first, image_size)
    pixels = chain_cost(network.stem.second, before)[1] if network.stem.second else before
    for layer in network.layers:
        inner = side_after(layer, before, pixels)
        yield chain_cost(layer.preprocess[1], pixels)[1], inner
        before, pixels = pixels, inner


def operations(architecture: Architecture, network: NetworkPlan, image_size: int) -> Iterator[str]:
    """Yield the key of every operation of a network, which must be the network of the architecture."""
    layers = zip(architecture.layers, network.layers, sides(network, image_size), strict=True)
    for k, (gene, planned, (outer, inner)) in enumerate(layers):
        for node in gene.nodes:
            for op, source in node:
                reduces = k in architecture.reductions and source < 2
                yield key(op, planned.channels, 2 if reduces else 1, outer if source < 2 else inner)


def nanoseconds(architecture: Architecture, network: NetworkPlan, image_size: int, times: Mapping[str, int]) -> int:
    """Return the estimated latency of a network for one image, by these times."""
    return times[FIXED] + sum(times[each] for each in operations(architecture, network, image_size))

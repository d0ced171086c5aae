"""Nodes as sums of their edges, on native kernels (`join.c`)."""

from __future__ import annotations

from torch import Tensor

from dnas.kernels import native
from dnas.kernels.layout import Layer
from dnas.kernels.structures import Join

# --- the node -----------------------------------------------------------------------------------------------------


def run_join(layer: Layer, node: int, bypass: Tensor) -> Join:
    """Run the forward or backward pass of a node. Its edges come from the states 0 … node + 1."""
    layout, out = layer.layout, layer.out
    reduced, threads = 2 if layout.reduction else 0, native.threads(out.numel())
    join = Join(*out.shape[:3], node + 2, reduced, threads, *layer.entering[0].shape[1:3])
    _, join.node, join.node_pixel = layer.state(node + 2)
    join.bypass = bypass.data_ptr() + layout.edges[node] * bypass.element_size()
    for s in range(node + 2):
        _, join.states[s], join.state_pixel[s] = layer.state(s)
    return join

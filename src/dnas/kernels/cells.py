"""All cells of a supernet as one autograd function on native kernels.

It computes `supernet.SupernetCell`, cell by cell, with `source.c`, `join.c` and `preprocess.c`. One function for all
cells, because gradients can then be added in place, while autograd would copy, add and clear: the output of each layer
has one gradient buffer, to which the two layers that read it and its own nodes add.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dnas.kernels import limits, native
from dnas.kernels.draws import Draws
from dnas.kernels.join import run_join
from dnas.kernels.layout import CellLayout, Layer, SupernetLayout
from dnas.kernels.memory import lease
from dnas.kernels.preprocess import preprocess_backward, preprocess_forward
from dnas.kernels.source import source_backward, source_forward
from dnas.kernels.structures import available, call_kernel


def covers(supernet: SupernetLayout, stem: tuple[Tensor, Tensor], psi: Tensor, bypass: Tensor) -> bool:
    """Return True if these kernels can replace the cells of a supernet: dtypes, device, sizes and operations.

    All assumptions of the C code about the arguments of `run` are checked here; the rest is checked by the layouts.
    """
    before, previous = stem
    cells = supernet.cells
    if before.dtype not in native.REALS or not native.wanted() or not supernet.covered or not supernet.holds():
        return False
    if any(x.dtype != before.dtype or not x.is_cpu for x in (before, previous, psi, bypass)):
        return False
    if before.dim() != 4 or previous.dim() != 4:
        return False
    edges, operations = sum(map(len, cells[0].leaving)), cells[0].sources[0].operations
    if psi.shape != (len(cells), edges, operations) or bypass.shape != (len(cells), edges):
        return False
    entries = cells[0].preprocess
    batch, height, width, channels = before.shape
    if entries[0].halves:
        height, width = -(-height // 2), -(-width // 2)
    if channels != entries[0].inputs or previous.shape != (batch, height, width, entries[1].inputs):
        return False
    widest = max(channels, previous.shape[3], *(cell.channels * cell.nodes for cell in cells))
    if not 0 < math.prod(before.shape[:3]) * widest <= limits.NUMBERS:
        return False
    if not all(w.dtype == before.dtype and w.is_cpu for cell in cells for w in cell.weights):
        return False
    return available(native.REALS[before.dtype], frozenset(cell.width for cell in cells))


def run(
    supernet: SupernetLayout,
    stem: tuple[Tensor, Tensor],
    psi: Tensor,
    bypass: Tensor,
    draws: Draws | None,
    recompute: bool,
) -> Tensor:
    """Return the output [B, H, W, C] of the last cell of a supernet that these kernels cover.

    Args:
        stem: Both states [B, H, W, C] of the first cell, which may be one tensor.
        psi: [layers, edges, operations].
        bypass: [layers, edges].
        recompute: Keep nothing for the backward pass.
    """
    cells = supernet.cells
    # Edges grouped by the state that they leave.
    order = [e for leaving in cells[0].leaving for e in leaving]
    weights = [parameter for cell in cells for parameter in cell.weights]
    # Without a backward pass nothing is kept.
    keep = torch.is_grad_enabled() and not recompute
    before, previous = stem
    # As a single argument it has one gradient, to which both add.
    states = (None if before is previous else before), previous
    out: Tensor = _Cells.apply(cells, keep, draws, *states, psi[:, order], bypass, *weights)  # type: ignore[no-untyped-call]
    return out


class _Cells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layouts: list[CellLayout],
        keep: bool,
        draws: Draws | None,
        before: Tensor | None,
        previous: Tensor,
        psi: Tensor,
        bypass: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        psi, bypass = psi.contiguous(), bypass.contiguous()
        ctx.save_for_backward(psi, bypass, *weights)
        ctx.layers = []
        previous = previous.contiguous()
        before = previous if before is None else before.contiguous()
        for k, layout in enumerate(layouts):
            dropout = None if draws is None else draws.within(k)
            layer = _cell_forward(layout, before, previous, psi[k], bypass[k], dropout, keep)
            ctx.layers.append(layer)
            before, previous = previous, layer.out
        # A view: the saved layers must not reference the output, whose graph references them.
        return previous.view_as(previous)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        psi, bypass, *weights = ctx.saved_tensors
        _, _, _, needs_before, needs_previous, needs_psi, needs_bypass, *needs = ctx.needs_input_grad
        wanted = [w for w, need in zip(weights, needs, strict=True) if need]
        sizes = [w.numel() for w in wanted]
        parts = psi.new_zeros(sum(sizes)).split(sizes)
        grads = {id(w): part.view(w.shape) for w, part in zip(wanted, parts, strict=True)}
        grad_psi, grad_bypass = torch.zeros_like(psi), torch.zeros_like(bypass)

        layers: list[Layer] = ctx.layers
        if not layers:
            raise RuntimeError(
                "the gradients of the cells can only be computed once; retain_graph has no effect on them"
            )
        # One gradient per layer output, with -1 and -2 for the stem; missing ones have not been written to yet.
        first = -1 if layers[0].inputs[0] is layers[0].inputs[1] else -2
        needed = {-1: needs_previous, -2: needs_before}
        buffers = {len(layers) - 1: grad.clone(memory_format=torch.contiguous_format)}
        for k in range(len(layers) - 1, -1, -1):
            layer = layers.pop()
            own = buffers.pop(k)
            entering = _cell_backward(layer, psi[k], bypass[k], own, grads, grad_psi[k], grad_bypass[k])
            for n, at in enumerate((max(k - 2, first), k - 1)):
                if not needed.get(at, True):
                    preprocess_backward(layer, n, entering[n], None, False, grads)
                    continue
                present = at in buffers
                if not present:
                    buffers[at] = lease(layer.inputs[n].shape, grad.dtype)
                preprocess_backward(layer, n, entering[n], buffers[at], present, grads)
        return (
            None,
            None,
            None,
            buffers.get(-2),
            buffers.get(-1),
            grad_psi if needs_psi else None,
            grad_bypass if needs_bypass else None,
            *(grads.get(id(w)) for w in weights),
        )


def _cell_forward(
    layout: CellLayout,
    before: Tensor,
    previous: Tensor,
    psi: Tensor,
    bypass: Tensor,
    draws: Draws | None,
    keep: bool,
) -> Layer:
    (first, first_inverse), (second, second_inverse) = (
        preprocess_forward(layout, n, x) for n, x in enumerate((before, previous))
    )
    batch, height, width, channels = first.shape
    if layout.reduction:
        height, width = -(-height // 2), -(-width // 2)
    out = lease((batch, height, width, layout.nodes * channels), first.dtype)
    layer = Layer(layout, (before, previous), (first, second), (first_inverse, second_inverse), out, [])
    outs: list[Tensor] = []
    at = 0
    for s, leaving in enumerate(layout.leaving):
        mixed, kept = source_forward(layer, s, psi[at : at + len(leaving)], draws, keep)
        outs.append(mixed)
        layer.sources.append(kept)
        at += len(leaving)
        # Sources are processed in order, so node s - 1 is complete after state s.
        if s >= 1:
            join = run_join(layer, s - 1, bypass)
            for source, mixture in enumerate(outs):
                place = (s - 1 - layout.sources[source].first) * layout.active
                join.outs[source] = mixture.data_ptr() + place * out.element_size()
                join.out_pixel[source] = mixture.shape[3]
            call_kernel(layout.width, out, "join_forward", join, (s + 2) * out.numel() // layout.nodes)
    return layer


def _cell_backward(
    layer: Layer,
    psi: Tensor,
    bypass: Tensor,
    grad: Tensor,
    grads: dict[int, Tensor],
    grad_psi: Tensor,
    grad_bypass: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of both input states; those of weights and mixing weights are added in place."""
    layout, out = layer.layout, layer.out
    size = out.element_size()
    # The edges of the last node are the first to write bypassed channels, each source its own.
    entering = (lease(layer.entering[0].shape, out.dtype), lease(layer.entering[1].shape, out.dtype))
    # Gradients of nodes are views of the gradient of the layer, like the nodes in its output.
    back = [t.data_ptr() for t in entering]
    back += [grad.data_ptr() + n * layout.channels * size for n in range(layout.nodes)]
    # All edges into a node receive the same gradient.
    mixed = lease((*out.shape[:3], layout.nodes * layout.active), out.dtype)
    at = len(psi)
    for s in range(len(layout.leaving) - 1, -1, -1):
        if s >= 1:
            node = s - 1
            join = run_join(layer, node, bypass)
            join.node = back[s + 1]
            join.grad, join.grad_pixel = mixed.data_ptr() + node * layout.active * size, mixed.shape[3]
            for source in range(s + 1):
                join.states_gradient[source] = back[source]
            join.fresh = 2 if node == layout.nodes - 1 else 0
            join.bypass_gradient = grad_bypass.data_ptr() + layout.edges[node] * size
            call_kernel(layout.width, out, "join_backward", join, (3 * s + 4) * out.numel() // layout.nodes)
        end, at = at, at - len(layout.leaving[s])
        source_backward(layer, s, psi[at:end], mixed, entering, back[s], grads, grad_psi[at:end])
    return entering

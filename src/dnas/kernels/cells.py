"""All cells of a supernet as one autograd function on native kernels.

What it computes is `supernet.SupernetCell`, cell by cell; `source.c`, `join.c` and `preprocess.c` say how. One function
for all cells, because gradients can then be added in place where autograd would copy, add and clear: every layer's
output has one gradient buffer, which the two layers that read it and its own nodes add to.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dnas.kernels import native
from dnas.kernels.fold import fold_reduction
from dnas.modules import FactorizedReduceModule

if TYPE_CHECKING:
    from dnas.supernet import SkipDropout, SourceBlock, Supernet, SupernetCell

REALS = {torch.float32: "float", torch.float64: "double"}
MOST = 8  # separable candidates of an edge: the enum of source.c
NODES = 16  # states of a cell: the enum of join.c

number, pointer = ctypes.c_int, ctypes.c_void_p


class _Separable(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("kernel", "dilation", "stages", "column")),
        *((name, pointer * 2) for name in ("deep", "point", "kept", "moments", "deep_gradient", "point_gradient")),
        ("work", pointer),
    )


class _Source(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "targets", "stride", "threads", "count")),
        ("operations", number),
        ("pools", number * 2),
        *((name, number) for name in ("identity", "x_pixel", "grad_pixel", "x_gradient_pixel")),
        *((name, pointer) for name in ("x", "weights", "alive")),
        ("alive_scale", ctypes.c_double),
        *((name, pointer) for name in ("pool_moments", "out")),
        ("add", number),
        *((name, pointer) for name in ("grad", "x_gradient", "weights_gradient")),
        ("separables", ctypes.POINTER(_Separable)),
    )


class _Join(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "sources", "reduced", "threads")),
        *((name, number) for name in ("state_height", "state_width", "node_pixel", "grad_pixel")),
        *((name, number * NODES) for name in ("out_pixel", "state_pixel")),
        *((name, pointer * NODES) for name in ("outs", "states")),
        *((name, pointer) for name in ("bypass", "node", "grad")),
        ("states_gradient", pointer * NODES),
        ("bypass_gradient", pointer),
    )


class _Preprocess(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "grids", "inputs", "outputs", "threads")),
        *((name, number) for name in ("x_height", "x_width")),
        *((name, pointer) for name in ("x", "weight", "y", "inverse", "grad", "x_gradient")),
        ("add", number),
        ("weight_gradient", pointer),
    )


@cache
def _functions(real: str, channels: int, partial: int) -> dict[str, Any] | None:
    """The C functions for cells with this many channels an edge, or None where they cannot be had."""
    with ThreadPoolExecutor(3) as pool:  # three compilers at once: the first use waits for the slowest
        libraries = list(
            pool.map(
                lambda source, macros: native.library(source, REAL=real, **macros),
                ("source", "join", "preprocess"),
                ({"C": channels}, {"C": channels, "K": partial}, {}),
            )
        )
    if None in libraries:
        return None
    source, join, preprocess = libraries
    return {
        name: getattr(library, name)
        for library, names in (
            (source, ("source_forward", "source_backward")),
            (join, ("join_forward", "join_backward")),
            (preprocess, ("preprocess_forward", "preprocess_backward")),
        )
        for name in names
    }


def covers(supernet: Supernet, stem: Tensor) -> bool:
    """Whether these kernels can stand in for the supernet's cells: dtype, device, widths and operations."""
    if stem.dtype not in REALS or stem.device.type != "cpu" or len(stem) == 0:
        return False
    widths = {(cell.active, cell.partial) for cell in supernet.cells}
    if any(c & (c - 1) or c > 64 for c, _ in widths) or any(len(cell.leaving) > NODES for cell in supernet.cells):
        return False
    if not all(_covered(block) for cell in supernet.cells for block in cell.sources):
        return False
    return all(_functions(REALS[stem.dtype], *width) is not None for width in widths)


def _covered(block: SourceBlock) -> bool:
    stages = [_stages(chain) for chain in block.apart.values()]
    return len(stages) <= MOST and all(
        stage is None or (len(stage) <= 2 and all(deep.kernel_size[0] <= 7 for deep, _ in stage)) for stage in stages
    )


def _stages(chain: nn.Module) -> list[tuple[nn.Conv2d, nn.Conv2d]] | None:
    """The depthwise and pointwise convolutions of a separable candidate; None for a factorised reduction."""
    layers = list(chain.children())
    if isinstance(layers[0], FactorizedReduceModule):
        return None
    return list(zip(layers[1::4], layers[2::4], strict=True))  # type: ignore[arg-type]


def run(
    supernet: Supernet, stem: Tensor, psi: Tensor, bypass: Tensor, skip_dropout: SkipDropout | None, keep: bool
) -> Tensor:
    """The last cell's output [B, H, W, C] of a supernet that `covers`, from its stem's [B, H, W, C].

    Args:
        psi: [layers, edges, operations].
        bypass: [layers, edges].
        keep: Keep the depthwise convolutions' outputs for backward, or compute them again.
    """
    order = [e for leaving in supernet.cells[0].leaving for e in leaving]
    weights = [parameter for cell in supernet.cells for parameter in cell.parameters()]
    out: Tensor = _Cells.apply(supernet, skip_dropout, keep, stem, psi[:, order], bypass, *weights)  # type: ignore[no-untyped-call]
    return out


@dataclass
class _Layer:
    """What one cell computed, for its backward pass."""

    cell: SupernetCell
    inputs: tuple[Tensor, Tensor]
    states: tuple[Tensor, Tensor]
    inverses: tuple[Tensor, Tensor]
    out: Tensor
    sources: list[_Kept]


@dataclass
class _Kept:
    """What one source kept."""

    moments: Tensor  # [candidates, 2, 1 + c, M], float64
    pool_moments: Tensor  # [2, 2, c], float64
    features: list[list[Tensor | None]]  # of each candidate, of each stage
    alive: Tensor | None
    scale: float = 1.0


class _Cells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        supernet: Supernet,
        skip_dropout: SkipDropout | None,
        keep: bool,
        stem: Tensor,
        psi: Tensor,
        bypass: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(psi, bypass, *weights)
        stem, psi, bypass = stem.contiguous(), psi.contiguous(), bypass.contiguous()
        layers: list[_Layer] = []
        before = previous = stem
        for k, cell in enumerate(supernet.cells):
            layer = _cell_forward(cell, before, previous, psi[k], bypass[k], skip_dropout, keep)
            layers.append(layer)
            before, previous = previous, layer.out
        ctx.layers = layers
        # A copy of the reference, not of the numbers: the saved layers must not hold the output's own graph.
        return previous.view_as(previous)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        psi, bypass, *weights = ctx.saved_tensors
        psi, bypass = psi.contiguous(), bypass.contiguous()
        wanted = dict(zip(map(id, weights), ctx.needs_input_grad[6:], strict=True))
        flat = weights[0].new_zeros(sum(w.numel() for w in weights if wanted[id(w)]))
        views = iter(flat.split([w.numel() for w in weights if wanted[id(w)]]))
        grads = {id(w): next(views).view(w.shape) for w in weights if wanted[id(w)]}
        grad_psi, grad_bypass = torch.zeros_like(psi), torch.zeros_like(bypass)

        layers: list[_Layer] = ctx.layers
        # One gradient buffer for every layer's output; -1 is the stem's. What is not there yet was not written to.
        buffers: dict[int, Tensor] = {len(layers) - 1: grad.clone(memory_format=torch.contiguous_format)}
        for k in range(len(layers) - 1, -1, -1):
            layer = layers.pop()
            states = _cell_backward(layer, psi[k], bypass[k], buffers.pop(k), grads, grad_psi[k], grad_bypass[k])
            for n, at in ((0, max(k - 2, -1)), (1, k - 1)):
                if at == -1 and not ctx.needs_input_grad[3]:
                    _preprocess_backward(layer, n, states[n], None, False, grads)
                    continue
                present = at in buffers
                spread = isinstance(layer.cell.preprocess[n].chain[0], FactorizedReduceModule)
                if not present:
                    new = torch.zeros_like if spread else torch.empty_like
                    buffers[at] = new(layer.inputs[n])
                _preprocess_backward(layer, n, states[n], buffers[at], present or spread, grads)
        return (
            None,
            None,
            None,
            buffers.get(-1),
            grad_psi if ctx.needs_input_grad[4] else None,
            grad_bypass if ctx.needs_input_grad[5] else None,
            *(grads.get(id(w)) for w in weights),
        )


def _cell_forward(
    cell: SupernetCell,
    before: Tensor,
    previous: Tensor,
    psi: Tensor,
    bypass: Tensor,
    skip_dropout: SkipDropout | None,
    keep: bool,
) -> _Layer:
    (first, first_inverse), (second, second_inverse) = (
        _preprocess_forward(cell, n, x) for n, x in enumerate((before, previous))
    )
    batch, height, width, channels = first.shape
    if cell.reduction:
        height, width = -(-height // 2), -(-width // 2)
    nodes = cell.space.nodes
    out = first.new_empty(batch, height, width, nodes * channels)
    layer = _Layer(cell, (before, previous), (first, second), (first_inverse, second_inverse), out, [])
    states = _states(layer)
    outs: list[Tensor] = []
    at = 0
    for s, leaving in enumerate(cell.leaving):
        mixed, kept = _source_forward(cell, s, states[s], psi[at : at + len(leaving)], skip_dropout, keep)
        outs.append(mixed)
        layer.sources.append(kept)
        at += len(leaving)
        if s >= 1:
            join = _join(layer, s - 1, bypass)
            for source, mixture in enumerate(outs):
                place = _targets(cell, source).index(s - 1)
                join.outs[source] = mixture.data_ptr() + place * cell.active * out.element_size()
                join.out_pixel[source] = mixture.shape[3]
            _call(cell, out, "join_forward", join)
    return layer


def _cell_backward(
    layer: _Layer,
    psi: Tensor,
    bypass: Tensor,
    grad: Tensor,
    grads: dict[int, Tensor],
    grad_psi: Tensor,
    grad_bypass: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of both states that enter; those of weights and mixing weights are added in place."""
    cell, out = layer.cell, layer.out
    channels, size = layer.states[0].shape[3], out.element_size()
    states = _states(layer)
    nodes = [grad[..., n * channels : (n + 1) * channels] for n in range(cell.space.nodes)]
    back = [torch.zeros_like(layer.states[0]), torch.zeros_like(layer.states[1]), *nodes]
    # All edges into a node receive the same gradient.
    mixed = out.new_empty(*out.shape[:3], cell.space.nodes * cell.active)
    at = len(psi)
    for s in range(len(cell.leaving) - 1, -1, -1):
        if s >= 1:
            node = s - 1
            join = _join(layer, node, bypass)
            join.node = back[s + 1].data_ptr()
            join.grad = mixed.data_ptr() + node * cell.active * size
            join.grad_pixel = mixed.shape[3]
            for source in range(s + 1):
                join.states_gradient[source] = back[source].data_ptr()
            join.bypass_gradient = grad_bypass.data_ptr() + cell.space.node_edges[node][0] * size
            _call(cell, out, "join_backward", join)
        at -= len(cell.leaving[s])
        here = slice(at, at + len(cell.leaving[s]))
        _source_backward(layer, s, states[s], psi[here], mixed, back[s], grads, grad_psi[here])
    return back[0], back[1]


def _states(layer: _Layer) -> list[Tensor]:
    channels = layer.states[0].shape[3]
    nodes = (layer.out[..., n * channels : (n + 1) * channels] for n in range(layer.cell.space.nodes))
    return [*layer.states, *nodes]


def _targets(cell: SupernetCell, source: int) -> list[int]:
    return [cell.space.edges[e][0] for e in cell.leaving[source]]


def _call(cell: SupernetCell, like: Tensor, name: str, structure: ctypes.Structure) -> None:
    functions = _functions(REALS[like.dtype], cell.active, cell.partial)
    assert functions is not None
    if functions[name](ctypes.byref(structure)):
        raise MemoryError(f"no memory for {name}")


# --- the node -----------------------------------------------------------------------------------------------------


def _join(layer: _Layer, node: int, bypass: Tensor) -> _Join:
    """What forward and backward of a node share. Its edges come from the states 0 … node + 1."""
    cell, out = layer.cell, layer.out
    states = _states(layer)
    join = _Join(*out.shape[:3], node + 2, 2 if cell.reduction else 0, torch.get_num_threads())
    join.state_height, join.state_width = layer.states[0].shape[1:3]
    join.node, join.node_pixel = states[node + 2].data_ptr(), out.shape[3]
    join.bypass = bypass.data_ptr() + cell.space.node_edges[node][0] * bypass.element_size()
    for s in range(node + 2):
        join.states[s], join.state_pixel[s] = states[s].data_ptr(), states[s].stride(2)
    return join


# --- the source ---------------------------------------------------------------------------------------------------


def _candidates(block: SourceBlock) -> list[tuple[int, list[tuple[nn.Conv2d, nn.Conv2d]]]]:
    """(column in the mixing weights, stages) of every separable candidate."""
    stages = ((block.columns[name], _stages(chain)) for name, chain in block.apart.items())
    return [(column, stage) for column, stage in stages if stage is not None]


def _source(cell: SupernetCell, s: int, x: Tensor, psi: Tensor, kept: _Kept) -> _Source:
    """What forward and backward of a source share."""
    block: SourceBlock = cell.sources[s]  # type: ignore[assignment]
    batch, height, width, _ = x.shape
    stride = 2 if cell.reduction and s < 2 else 1
    source = _Source(batch, height, width, block.targets, stride, torch.get_num_threads())
    source.operations = psi.shape[1]
    source.pools[0] = block.columns.get("max_pool_3x3", -1)
    source.pools[1] = block.columns.get("avg_pool_3x3", -1)
    source.identity = -1 if block.identity is None else block.columns[block.identity]
    source.x, source.x_pixel = x.data_ptr(), x.stride(2)
    source.weights = psi.data_ptr()
    source.pool_moments = kept.pool_moments.data_ptr()
    if kept.alive is not None:
        source.alive, source.alive_scale = kept.alive.data_ptr(), kept.scale
    candidates = _candidates(block)
    source.count = len(candidates)
    separables = (_Separable * len(candidates))()
    for separable, (column, stages), features, moments in zip(
        separables, candidates, kept.features, kept.moments, strict=True
    ):
        deep = stages[0][0]
        separable.kernel, separable.dilation = deep.kernel_size[0], int(deep.dilation[0])
        separable.stages, separable.column = len(stages), column
        for n, (deep, point) in enumerate(stages):
            separable.deep[n], separable.point[n] = deep.weight.data_ptr(), point.weight.data_ptr()
            separable.moments[n] = moments[n].data_ptr()
            feature = features[n]
            separable.kept[n] = None if feature is None else feature.data_ptr()
    source.separables = separables
    return source


def _pictures(cell: SupernetCell, s: int, x: Tensor) -> tuple[int, ...]:
    """The shape of a convolution's output: rows of a whole number of vectors, see rows.h."""
    batch, height, width, _ = x.shape
    if cell.reduction and s < 2:
        height, width = -(-height // 2), -(-width // 2)
    lanes = 64 // x.element_size()
    row = width * len(cell.leaving[s]) * cell.active
    return batch, height, -(-row // lanes) * lanes


def _source_forward(
    cell: SupernetCell, s: int, x: Tensor, psi: Tensor, skip_dropout: SkipDropout | None, keep: bool
) -> tuple[Tensor, _Kept]:
    block: SourceBlock = cell.sources[s]  # type: ignore[assignment]
    wide, pictures = block.targets * block.channels, _pictures(cell, s, x)
    candidates = _candidates(block)
    exact = {"dtype": torch.float64}
    kept = _Kept(
        x.new_empty(len(candidates), 2, 1 + block.channels, wide, **exact),
        x.new_empty(2, 2, block.channels, **exact),
        [[x.new_empty(pictures) if keep else None for _ in stages] for _, stages in candidates],
        None,
    )
    if block.identity is not None and skip_dropout is not None:
        kept.alive, kept.scale = skip_dropout.alive((*x.shape[:3], wide)), skip_dropout.scale
    source = _source(cell, s, x, psi, kept)
    out = x.new_empty(pictures[0], pictures[1], -(-x.shape[2] // source.stride), wide)
    source.out = out.data_ptr()
    reduction = _reduction(block)
    if reduction is not None:
        column, reduce = reduction
        state = x[..., : block.channels]
        out = _reduced(block, state, reduce.even.weight, reduce.odd.weight, psi[:, column]).view(out.shape)
        source.out, source.add = out.data_ptr(), 1
    _call(cell, x, "source_forward", source)
    return out, kept


def _source_backward(
    layer: _Layer,
    s: int,
    x: Tensor,
    psi: Tensor,
    mixed: Tensor,
    back: Tensor,
    grads: dict[int, Tensor],
    grad_psi: Tensor,
) -> None:
    cell, kept = layer.cell, layer.sources.pop()
    block: SourceBlock = cell.sources[s]  # type: ignore[assignment]
    source = _source(cell, s, x, psi, kept)
    first = _targets(cell, s)[0] * cell.active
    source.grad, source.grad_pixel = mixed.data_ptr() + first * x.element_size(), mixed.shape[3]
    source.x_gradient, source.x_gradient_pixel = back.data_ptr(), back.stride(2)
    source.weights_gradient = grad_psi.data_ptr()
    work = []
    for separable, (_, stages) in zip(source.separables[: source.count], _candidates(block), strict=True):
        for n, (deep, point) in enumerate(stages):
            for name, weight in (("deep_gradient", deep.weight), ("point_gradient", point.weight)):
                gradient = grads.get(id(weight))
                getattr(separable, name)[n] = None if gradient is None else gradient.data_ptr()
        if len(stages) == 2:
            work.append(x.new_empty(_pictures(cell, s, x)))
            separable.work = work[-1].data_ptr()
    _call(cell, x, "source_backward", source)
    reduction = _reduction(block)
    if reduction is None:
        return
    # The factorised reduction is small and rare: torch's own operations do, run again with a graph.
    column, reduce = reduction
    weight = psi[:, column].detach().requires_grad_()
    even, odd = (grid.weight.detach().requires_grad_() for grid in (reduce.even, reduce.odd))
    state = x[..., : block.channels].detach().requires_grad_()
    with torch.enable_grad():
        out = _reduced(block, state, even, odd, weight)
    width = block.targets * block.channels
    wanted = torch.autograd.grad(
        out, (state, weight, even, odd), mixed[..., first : first + width].reshape(out.shape)
    )
    back[..., : block.channels] += wanted[0]
    grad_psi[:, column] += wanted[1]
    for grid, gradient in zip((reduce.even, reduce.odd), wanted[2:], strict=True):
        if id(grid.weight) in grads:
            grads[id(grid.weight)] += gradient


def _reduction(block: SourceBlock) -> tuple[int, FactorizedReduceModule] | None:
    for name, chain in block.apart.items():
        first = next(chain.children())
        if isinstance(first, FactorizedReduceModule):
            return block.columns[name], first
    return None


def _reduced(block: SourceBlock, x: Tensor, even: Tensor, odd: Tensor, weight: Tensor) -> Tensor:
    """A weighted factorised reduction of every target, [pixels, targets · c]."""
    pixels, matrix, bias = fold_reduction(x.relu(), even, odd, block.targets)
    common = (weight[:, None, None] * matrix).permute(2, 0, 1).reshape(pixels.shape[3], -1)
    return torch.addmm((weight[:, None] * bias).flatten(), pixels.flatten(0, 2), common)


# --- the preprocessing --------------------------------------------------------------------------------------------


def _preprocess(cell: SupernetCell, n: int, x: Tensor, y: Tensor, inverse: Tensor) -> tuple[_Preprocess, list[Tensor]]:
    """What forward and backward share, and tensors that must live as long."""
    first, second = cell.preprocess[n].chain[0], cell.preprocess[n].chain[1:]  # type: ignore[index]
    if isinstance(first, FactorizedReduceModule):
        even, odd = first.even.weight.flatten(1), first.odd.weight.flatten(1)
        weight = torch.zeros(len(even) + len(odd), 2 * even.shape[1], dtype=x.dtype)
        weight[: len(even), : even.shape[1]], weight[len(even) :, even.shape[1] :] = even, odd
        grids = 2
    else:
        weight, grids = second[0].weight.flatten(1), 1
    batch, height, width, outputs = y.shape
    structure = _Preprocess(batch, height, width, grids, x.shape[3], outputs, torch.get_num_threads(), *x.shape[1:3])
    structure.x, structure.weight, structure.y = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    structure.inverse = inverse.data_ptr()
    return structure, [weight]


def _preprocess_forward(cell: SupernetCell, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width, _ = x.shape
    if isinstance(cell.preprocess[n].chain[0], FactorizedReduceModule):  # type: ignore[index]
        height, width = -(-height // 2), -(-width // 2)
    y = x.new_empty(batch, height, width, cell.active * cell.partial)
    inverse = x.new_empty(y.shape[3], dtype=torch.float64)
    structure, alive = _preprocess(cell, n, x, y, inverse)
    _call(cell, x, "preprocess_forward", structure)
    del alive
    return y, inverse


def _preprocess_backward(
    layer: _Layer, n: int, grad: Tensor, to: Tensor | None, add: bool, grads: dict[int, Tensor]
) -> None:
    x, y = layer.inputs[n], layer.states[n]
    structure, alive = _preprocess(layer.cell, n, x, y, layer.inverses[n])
    structure.grad = grad.data_ptr()
    structure.x_gradient, structure.add = None if to is None else to.data_ptr(), add
    first, second = layer.cell.preprocess[n].chain[0], layer.cell.preprocess[n].chain[1:]  # type: ignore[index]
    if not isinstance(first, FactorizedReduceModule):
        gradient = grads.get(id(second[0].weight))
        structure.weight_gradient = None if gradient is None else gradient.data_ptr()
        _call(layer.cell, x, "preprocess_backward", structure)
        return
    both = torch.zeros_like(alive[0])
    if id(first.even.weight) in grads:
        structure.weight_gradient = both.data_ptr()
    _call(layer.cell, x, "preprocess_backward", structure)
    half, inputs = first.even.weight.shape[:2]
    if id(first.even.weight) in grads:
        grads[id(first.even.weight)] += both[:half, :inputs, None, None]
        grads[id(first.odd.weight)] += both[half:, inputs:, None, None]

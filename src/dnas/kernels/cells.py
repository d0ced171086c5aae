"""All cells of a supernet as one autograd function on native kernels.

What it computes is `supernet.SupernetCell`, cell by cell; `source.c`, `join.c` and `preprocess.c` say how. One function
for all cells, because gradients can then be added in place where autograd would copy, add and clear: every layer's
output has one gradient buffer, which the two layers that read it and its own nodes add to.
"""

from __future__ import annotations

import ctypes
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.kernels import limits, native
from dnas.kernels.depthwise import DepthwiseConv2d
from dnas.kernels.fold import fold_reduction
from dnas.kernels.memory import lease
from dnas.modules import FactorizedReduceModule

if TYPE_CHECKING:
    from dnas.supernet import Draws, Preprocess, SourceBlock, Supernet, SupernetCell

number, pointer = ctypes.c_int, ctypes.c_void_p


class _Separable(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("kernel", "dilation", "stages", "column")),
        *((name, pointer * limits.STAGES) for name in ("deep", "point", "kept", "moments")),
        *((name, pointer * limits.STAGES) for name in ("deep_gradient", "point_gradient")),
        ("work", pointer),
    )


class _Source(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "targets", "stride", "threads", "count")),
        ("operations", number),
        ("pools", number * 2),
        *((name, number) for name in ("identity", "x_pixel", "grad_pixel")),
        *((name, pointer) for name in ("x", "weights", "alive")),
        ("alive_scale", ctypes.c_double),
        *((name, pointer) for name in ("pool_moments", "pooled", "out")),
        ("add", number),
        *((name, pointer) for name in ("grad", "x_gradient")),
        ("fresh", number),
        ("weights_gradient", pointer),
        ("separables", ctypes.POINTER(_Separable)),
    )


class _Join(ctypes.Structure):
    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "sources", "reduced", "threads")),
        *((name, number) for name in ("state_height", "state_width", "fresh", "node_pixel", "grad_pixel")),
        *((name, number * limits.STATES) for name in ("out_pixel", "state_pixel")),
        *((name, pointer * limits.STATES) for name in ("outs", "states")),
        *((name, pointer) for name in ("bypass", "node", "grad")),
        ("states_gradient", pointer * limits.STATES),
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


_STRUCTURES = {"source": (_Source, _Separable), "join": (_Join,), "preprocess": (_Preprocess,)}
POOLS = ("max_pool_3x3", "avg_pool_3x3")  # in the order of limits.Pool


def _sources(channels: int, partial: int) -> dict[str, tuple[tuple[str, int], ...]]:
    """The C files for cells with this many channels an edge, and their macros."""
    return {"source": (("C", channels),), "join": (("C", channels), ("K", partial)), "preprocess": ()}


@cache
def _functions(real: str, channels: int, partial: int) -> dict[str, Any] | None:
    """The C functions of these files, or None where they cannot be had."""
    functions = {}
    for name, macros in _sources(channels, partial).items():
        library = native.library(name, *_STRUCTURES[name], REAL=real, **dict(macros))
        if library is None:
            return None
        for direction in ("forward", "backward"):
            functions[f"{name}_{direction}"] = getattr(library, f"{name}_{direction}")
    return functions


def covers(supernet: Supernet, stem: Tensor, psi: Tensor, bypass: Tensor) -> bool:
    """Return True if these kernels can stand in for the supernet's cells: dtypes, device, sizes and operations.

    All that C takes for granted of the arguments of `run` is looked at here; the rest is a layout's.
    """
    if stem.dtype not in native.REALS or not native.wanted() or (layouts := _layouts(supernet)) is None:
        return False
    if any(x.dtype != stem.dtype or not x.is_cpu for x in (psi, bypass)) or not stem.is_cpu or stem.dim() != 4:
        return False
    first = layouts[0]
    edges, operations = len(first.cell.space.edges), first.sources[0].source.operations
    if psi.shape != (len(layouts), edges, operations) or bypass.shape != (len(layouts), edges):
        return False
    channels = _entering(first.cell, 0)
    widest = max(channels, *(layout.channels * layout.cell.space.nodes for layout in layouts))
    if stem.shape[3] != channels or not 0 < math.prod(stem.shape[:3]) * widest <= limits.NUMBERS:
        return False
    if not all(w.dtype == stem.dtype and w.is_cpu for layout in layouts for w in layout.weights):
        return False
    widths = frozenset((layout.cell.active, layout.cell.partial) for layout in layouts)
    return _available(native.REALS[stem.dtype], widths)


@cache
def _available(real: str, widths: frozenset[tuple[int, int]]) -> bool:
    """Whether the functions of all these widths can be had."""
    files = {file for width in widths for file in _sources(*width).items()}
    with ThreadPoolExecutor() as pool:  # compilers side by side: the first use of a width takes seconds
        load = lambda name, macros: native.library(name, *_STRUCTURES[name], REAL=real, **dict(macros))  # noqa: E731
        list(pool.map(load, *zip(*sorted(files, reverse=True), strict=True)))
    return all(_functions(real, *width) is not None for width in widths)


# --- what of a cell does not change --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SourceLayout:
    """One source: its candidates, and its structures but for the addresses of a call."""

    wide: int  # targets · c
    first: int  # the first of its targets; the others follow
    stages: list[list[tuple[nn.Conv2d, nn.Conv2d]]]  # depthwise and pointwise, of every separable candidate
    reduction: tuple[int, FactorizedReduceModule] | None  # and its column
    source: _Source
    separables: ctypes.Array[_Separable]


@dataclass(frozen=True)
class _Layout:
    cell: SupernetCell
    channels: int
    edges: list[int]  # of each node the first
    sources: list[_SourceLayout]
    weights: list[nn.Parameter]
    shapes: list[torch.Size]
    owners: list[tuple[nn.Module, str]]

    def holds(self) -> bool:
        """Whether the cell's weights are still those, as large, and contiguous."""
        return all(
            owner._parameters[name] is weight and weight.shape == shape and weight.is_contiguous()
            for (owner, name), weight, shape in zip(self.owners, self.weights, self.shapes, strict=True)
        )


_known: WeakKeyDictionary[Supernet, list[_Layout] | None] = WeakKeyDictionary()


def _layouts(supernet: Supernet) -> list[_Layout] | None:
    """Those of all cells; None where the kernels do not cover one."""
    known = _known.get(supernet)
    if supernet not in _known or (known is not None and not all(layout.holds() for layout in known)):
        known = _known[supernet] = _new_layouts([cast("SupernetCell", cell) for cell in supernet.cells])
    return known


def _new_layouts(cells: list[SupernetCell]) -> list[_Layout] | None:
    layouts = []
    before = previous = _entering(cells[0], 0)
    for cell in cells:
        layout = _layout(cell)
        if layout is None or [_entering(cell, n) for n in range(2)] != [before, previous] or not layout.holds():
            return None
        layouts.append(layout)
        before, previous = previous, cell.space.nodes * layout.channels
    return layouts


def _layout(cell: SupernetCell) -> _Layout | None:
    narrow = cell.active <= limits.CHANNELS and not cell.active & (cell.active - 1) and cell.partial <= limits.GROUPS
    if not narrow or len(cell.leaving) > limits.STATES:
        return None
    sources = [_source_layout(cell, s) for s in range(len(cell.leaving))]
    covered = [source for source in sources if source is not None]
    channels = cell.active * cell.partial
    if len(covered) < len(sources) or any(_preprocessed(cell, n) != channels for n in range(2)):
        return None
    edges = [first for first, _ in cell.space.node_edges]
    owners = [(part, name, weight) for part in cell.modules() for name, weight in part._parameters.items()]
    found = [(part, name, weight) for part, name, weight in owners if weight is not None]
    return _Layout(
        cell,
        channels,
        edges,
        covered,
        [weight for *_, weight in found],
        [weight.shape for *_, weight in found],
        [(part, name) for part, name, _ in found],
    )


def _source_layout(cell: SupernetCell, s: int) -> _SourceLayout | None:
    block = cast("SourceBlock", cell.sources[s])
    if block.noise is not None:
        return None  # it is drawn by torch's generator
    reduction, columns = None, []
    stages: list[list[tuple[nn.Conv2d, nn.Conv2d]]] = []
    for name, chain in block.apart.items():
        layers: list[Any] = list(chain.children())
        if isinstance(layers[0], FactorizedReduceModule):
            if reduction is not None:
                return None
            reduction = (block.columns[name], layers[0])
            continue
        separable = _stages(layers, block)
        if separable is None:
            return None
        columns.append(block.columns[name])
        stages.append(separable)
    if len(stages) > limits.SEPARABLES or not block.pools.keys() <= {*POOLS} or block.stride not in (1, 2):
        return None
    targets = [cell.space.edges[e][0] for e in cell.leaving[s]]
    assert targets == list(range(targets[0], targets[0] + len(targets))) and len(targets) == block.targets
    source = _Source(targets=len(targets), stride=block.stride, count=len(stages), operations=len(block.columns))
    for k, name in enumerate(POOLS):
        source.pools[k] = block.columns.get(name, -1)
    source.identity = -1 if block.identity is None else block.columns[block.identity]
    separables = (_Separable * len(stages))(
        *(
            _Separable(stage[0][0].kernel_size[0], int(stage[0][0].dilation[0]), len(stage), column)
            for stage, column in zip(stages, columns, strict=True)
        )
    )
    return _SourceLayout(len(targets) * cell.active, targets[0], stages, reduction, source, separables)


def _stages(layers: list[Any], block: SourceBlock) -> list[tuple[nn.Conv2d, nn.Conv2d]] | None:
    """Depthwise and pointwise convolutions of a separable candidate; None where C has no room for it.

    C takes both stages for alike, but for the stride.
    """
    wide, alike = block.targets * block.channels, None
    stages: list[tuple[nn.Conv2d, nn.Conv2d]] = []
    while layers:
        match layers:
            case [nn.ReLU(), DepthwiseConv2d() as deep, nn.Conv2d() as point, nn.BatchNorm2d(), *layers]:
                pass
            case _:
                return None
        kernel, dilation, stride = deep.kernel_size, deep.dilation, 1 if stages else block.stride
        if not limits.depthwise(kernel, deep.stride, dilation) or deep.stride[0] != stride:
            return None
        if alike not in (None, (kernel, dilation)):
            return None
        if deep.weight.shape != (wide, 1, *kernel) or point.weight.shape != (wide, block.channels, 1, 1):
            return None
        alike = kernel, dilation
        stages.append((deep, point))
    return stages if 1 <= len(stages) <= limits.STAGES else None


# --- what a layer computed -----------------------------------------------------------------------------------------


@dataclass
class _Kept:
    """What one source keeps for its backward pass."""

    moments: Tensor  # float64: of every candidate [2, 1 + c, M], then of the pools [2, 2, c]
    features: Tensor | None  # of every stage of every candidate [B, H', pitch], then the pools [B, 3, H', pitch]
    alive: Tensor | None
    scale: float


@dataclass
class _Layer:
    """What one cell computed, for its backward pass."""

    layout: _Layout
    inputs: tuple[Tensor, Tensor]
    entering: tuple[Tensor, Tensor]  # its first two states
    inverses: tuple[Tensor, Tensor]
    out: Tensor
    sources: list[_Kept]

    def state(self, s: int) -> tuple[Tensor, int, int]:
        """The tensor that holds a state, the address of its first channel, and the numbers from pixel to pixel."""
        if s < 2:
            return self.entering[s], self.entering[s].data_ptr(), self.layout.channels
        return (
            self.out,
            self.out.data_ptr() + (s - 2) * self.layout.channels * self.out.element_size(),
            self.out.shape[3],
        )


def run(supernet: Supernet, stem: Tensor, psi: Tensor, bypass: Tensor, draws: Draws | None) -> Tensor:
    """The last cell's output [B, H, W, C] of a supernet that `covers`, from its stem's [B, H, W, C].

    Args:
        psi: [layers, edges, operations].
        bypass: [layers, edges].
    """
    layouts = _layouts(supernet)
    assert layouts is not None
    # Edges by the state that they leave.
    order = [e for leaving in layouts[0].cell.leaving for e in leaving]
    weights = [parameter for layout in layouts for parameter in layout.weights]
    # Without a pass back nothing need be kept.
    keep = torch.is_grad_enabled() and not supernet.recompute
    out: Tensor = _Cells.apply(layouts, keep, draws, stem, psi[:, order], bypass, *weights)  # type: ignore[no-untyped-call]
    return out


class _Cells(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layouts: list[_Layout],
        keep: bool,
        draws: Draws | None,
        stem: Tensor,
        psi: Tensor,
        bypass: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        psi, bypass = psi.contiguous(), bypass.contiguous()
        ctx.save_for_backward(psi, bypass, *weights)
        ctx.layers = []
        before = previous = stem.contiguous()
        for k, layout in enumerate(layouts):
            dropout = None if draws is None else draws.within(k)
            layer = _cell_forward(layout, before, previous, psi[k], bypass[k], dropout, keep)
            ctx.layers.append(layer)
            before, previous = previous, layer.out
        # A view: the saved layers must not hold the output, whose graph holds them.
        return previous.view_as(previous)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        psi, bypass, *weights = ctx.saved_tensors
        _, _, _, needs_stem, needs_psi, needs_bypass, *needs = ctx.needs_input_grad
        wanted = [w for w, need in zip(weights, needs, strict=True) if need]
        sizes = [w.numel() for w in wanted]
        parts = psi.new_zeros(sum(sizes)).split(sizes)
        grads = {id(w): part.view(w.shape) for w, part in zip(wanted, parts, strict=True)}
        grad_psi, grad_bypass = torch.zeros_like(psi), torch.zeros_like(bypass)

        layers: list[_Layer] = ctx.layers
        if not layers:
            raise RuntimeError("the cells' gradients can be taken once only; retain_graph has no effect on them")
        # One gradient for every layer's output, -1 being the stem's; what is not there was not written to yet.
        buffers = {len(layers) - 1: grad.clone(memory_format=torch.contiguous_format)}
        for k in range(len(layers) - 1, -1, -1):
            layer = layers.pop()
            own = buffers.pop(k)
            entering = _cell_backward(layer, psi[k], bypass[k], own, grads, grad_psi[k], grad_bypass[k])
            for n, at in enumerate((max(k - 2, -1), k - 1)):
                if at == -1 and not needs_stem:
                    _preprocess_backward(layer, n, entering[n], None, False, grads)
                    continue
                present = at in buffers
                if not present:
                    buffers[at] = lease(layer.inputs[n].shape, grad.dtype)
                _preprocess_backward(layer, n, entering[n], buffers[at], present, grads)
        return (
            None,
            None,
            None,
            buffers.get(-1),
            grad_psi if needs_psi else None,
            grad_bypass if needs_bypass else None,
            *(grads.get(id(w)) for w in weights),
        )


def _cell_forward(
    layout: _Layout,
    before: Tensor,
    previous: Tensor,
    psi: Tensor,
    bypass: Tensor,
    draws: Draws | None,
    keep: bool,
) -> _Layer:
    cell = layout.cell
    (first, first_inverse), (second, second_inverse) = (
        _preprocess_forward(cell, n, x) for n, x in enumerate((before, previous))
    )
    batch, height, width, channels = first.shape
    if cell.reduction:
        height, width = -(-height // 2), -(-width // 2)
    out = lease((batch, height, width, cell.space.nodes * channels), first.dtype)
    layer = _Layer(layout, (before, previous), (first, second), (first_inverse, second_inverse), out, [])
    outs: list[Tensor] = []
    at = 0
    for s, leaving in enumerate(cell.leaving):
        mixed, kept = _source_forward(layer, s, psi[at : at + len(leaving)], draws, keep)
        outs.append(mixed)
        layer.sources.append(kept)
        at += len(leaving)
        # Sources come in order, so node s - 1 is complete once state s has left.
        if s >= 1:
            join = _join(layer, s - 1, bypass)
            for source, mixture in enumerate(outs):
                place = (s - 1 - layout.sources[source].first) * cell.active
                join.outs[source] = mixture.data_ptr() + place * out.element_size()
                join.out_pixel[source] = mixture.shape[3]
            _call(cell, out, "join_forward", join, (s + 2) * out.numel() // cell.space.nodes)
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
    layout, out = layer.layout, layer.out
    cell, size = layout.cell, out.element_size()
    # Of these the last node's edges are the first to write bypassed channels, and each source its own.
    entering = (lease(layer.entering[0].shape, out.dtype), lease(layer.entering[1].shape, out.dtype))
    # Nodes' gradients lie in the layer's own, as the nodes lie in its output.
    back = [t.data_ptr() for t in entering]
    back += [grad.data_ptr() + n * layout.channels * size for n in range(cell.space.nodes)]
    # All edges into a node receive the same gradient.
    mixed = lease((*out.shape[:3], cell.space.nodes * cell.active), out.dtype)
    at = len(psi)
    for s in range(len(cell.leaving) - 1, -1, -1):
        if s >= 1:
            node = s - 1
            join = _join(layer, node, bypass)
            join.node = back[s + 1]
            join.grad, join.grad_pixel = mixed.data_ptr() + node * cell.active * size, mixed.shape[3]
            for source in range(s + 1):
                join.states_gradient[source] = back[source]
            join.fresh = 2 if node == cell.space.nodes - 1 else 0
            join.bypass_gradient = grad_bypass.data_ptr() + layout.edges[node] * size
            _call(cell, out, "join_backward", join, (3 * s + 4) * out.numel() // cell.space.nodes)
        end, at = at, at - len(cell.leaving[s])
        _source_backward(layer, s, psi[at:end], mixed, entering, back[s], grads, grad_psi[at:end])
    return entering


def _call(cell: SupernetCell, like: Tensor, name: str, structure: ctypes.Structure, numbers: int) -> None:
    """`numbers` are what goes in and out, for who counts them."""
    functions = _functions(native.REALS[like.dtype], cell.active, cell.partial)
    assert functions is not None
    native.count(name, numbers * like.element_size())
    if functions[name](ctypes.byref(structure)):
        raise MemoryError(f"no memory for {name}")


# --- the node -----------------------------------------------------------------------------------------------------


def _join(layer: _Layer, node: int, bypass: Tensor) -> _Join:
    """What forward and backward of a node share. Its edges come from the states 0 … node + 1."""
    layout, out = layer.layout, layer.out
    reduced, threads = 2 if layout.cell.reduction else 0, native.threads(out.numel())
    join = _Join(*out.shape[:3], node + 2, reduced, threads, *layer.entering[0].shape[1:3])
    _, join.node, join.node_pixel = layer.state(node + 2)
    join.bypass = bypass.data_ptr() + layout.edges[node] * bypass.element_size()
    for s in range(node + 2):
        _, join.states[s], join.state_pixel[s] = layer.state(s)
    return join


# --- the source ---------------------------------------------------------------------------------------------------


def _pictures(layer: _Layer, channels: int) -> int:
    """Numbers of a batch of pictures [B, H', pitch] with rows of a whole number of vectors, see rows.h."""
    batch, height, width = layer.out.shape[:3]
    lanes = limits.VECTOR // layer.out.element_size()
    return batch * height * -(-width * channels // lanes) * lanes


def _source(layer: _Layer, s: int, psi: Tensor, kept: _Kept) -> tuple[_Source, ctypes.Array[_Separable]]:
    """What forward and backward of a source share. The array must live as long as the structure."""
    layout, size = layer.layout.sources[s], layer.out.element_size()
    source = _Source.from_buffer_copy(layout.source)
    separables = type(layout.separables).from_buffer_copy(layout.separables)
    tensor, source.x, source.x_pixel = layer.state(s)
    source.batch, source.height, source.width = tensor.shape[:3]
    source.threads = native.threads(math.prod(layer.out.shape[:3]) * layout.wide)
    source.weights = psi.data_ptr()
    if kept.alive is not None:
        source.alive, source.alive_scale = kept.alive.data_ptr(), kept.scale
    moments, wide = kept.moments.data_ptr(), (1 + layer.layout.cell.active) * layout.wide * 8
    picture = _pictures(layer, layout.wide) * size
    feature = None if kept.features is None else kept.features.data_ptr()
    for separable, stages in zip(separables, layout.stages, strict=True):
        for n, (deep, point) in enumerate(stages):
            separable.deep[n], separable.point[n] = deep.weight.data_ptr(), point.weight.data_ptr()
            separable.moments[n] = moments
            moments += wide
            if feature is not None:
                separable.kept[n] = feature
                feature += picture
    source.pool_moments, source.pooled = moments, feature
    source.separables = separables
    return source, separables


def _source_forward(
    layer: _Layer,
    s: int,
    psi: Tensor,
    draws: Draws | None,
    keep: bool,
) -> tuple[Tensor, _Kept]:
    layout, cell, out = layer.layout.sources[s], layer.layout.cell, layer.out
    stages = sum(map(len, layout.stages))
    moments = torch.empty(stages * (1 + cell.active) * layout.wide + 4 * cell.active, dtype=torch.float64)
    features = None
    if keep:
        numbers = stages * _pictures(layer, layout.wide) + len(limits.Pool) * _pictures(layer, cell.active)
        features = lease((numbers,), out.dtype)
    kept = _Kept(moments, features, None, 1.0)
    shape = (*out.shape[:3], layout.wide)
    if draws is not None and layout.source.identity >= 0:
        kept.alive, kept.scale = draws.within(s).alive(shape), draws.scale
    source, separables = _source(layer, s, psi, kept)
    if layout.reduction is None:
        mixed = lease(shape, out.dtype)
    else:
        column, reduce = layout.reduction
        x = layer.entering[s][..., : cell.active]
        mixed = _reduced(x, reduce.even.weight, reduce.odd.weight, psi[:, column]).view(shape)
        source.add = 1
    source.out = mixed.data_ptr()
    _call(cell, out, "source_forward", source, mixed.numel() * (2 + (stages if features is not None else 0)))
    del separables
    return mixed, kept


def _source_backward(
    layer: _Layer,
    s: int,
    psi: Tensor,
    mixed: Tensor,
    entering: tuple[Tensor, Tensor],
    back: int,
    grads: dict[int, Tensor],
    grad_psi: Tensor,
) -> None:
    layout, cell, kept = layer.layout.sources[s], layer.layout.cell, layer.sources.pop()
    source, separables = _source(layer, s, psi, kept)
    first = layout.first * cell.active
    source.grad, source.grad_pixel = mixed.data_ptr() + first * mixed.element_size(), mixed.shape[3]
    source.x_gradient = back
    source.fresh = s < 2
    source.weights_gradient = grad_psi.data_ptr()
    twice = sum(len(stages) == 2 for stages in layout.stages)
    picture = _pictures(layer, layout.wide)
    work = lease((twice * picture,), mixed.dtype)
    address = work.data_ptr()
    for separable, stages in zip(separables, layout.stages, strict=True):
        for n, (deep, point) in enumerate(stages):
            if id(deep.weight) in grads:
                separable.deep_gradient[n] = grads[id(deep.weight)].data_ptr()
            if id(point.weight) in grads:
                separable.point_gradient[n] = grads[id(point.weight)].data_ptr()
        if len(stages) == 2:
            separable.work = address
            address += picture * work.element_size()
    _call(
        cell,
        mixed,
        "source_backward",
        source,
        picture * (3 + (source.count + twice if kept.features is not None else 0)),
    )
    if layout.reduction is None:
        return
    # The factorised reduction is small and rare: torch's own operations do, run again with a graph.
    column, reduce = layout.reduction
    used = (layer.entering[s][..., : cell.active], reduce.even.weight, reduce.odd.weight, psi[:, column])
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in used]
        out = _reduced(*leaves)
    wanted = torch.autograd.grad(out, leaves, mixed[..., first : first + layout.wide].reshape(out.shape))
    entering[s][..., : cell.active] += wanted[0]
    grad_psi[:, column] += wanted[3]
    for grid, gradient in zip((reduce.even, reduce.odd), wanted[1:3], strict=True):
        if id(grid.weight) in grads:
            grads[id(grid.weight)] += gradient


def _reduced(x: Tensor, even: Tensor, odd: Tensor, weight: Tensor) -> Tensor:
    """A weighted factorised reduction for every target, [pixels, targets · c]."""
    pixels, matrix, bias = fold_reduction(x.relu(), even, odd, len(weight))
    common = (weight[:, None, None] * matrix).permute(2, 0, 1).reshape(pixels.shape[3], -1)
    return torch.addmm((weight[:, None] * bias).flatten(), pixels.flatten(0, 2), common)


# --- the preprocessing --------------------------------------------------------------------------------------------


def _chain(cell: SupernetCell, n: int) -> tuple[FactorizedReduceModule | None, Tensor]:
    """The reduction of a preprocessing where it is one, and the (first) weight."""
    first, *rest = cast("Preprocess", cell.preprocess[n]).chain
    if isinstance(first, FactorizedReduceModule):
        return first, first.even.weight
    return None, cast(nn.Conv2d, rest[0]).weight


def _entering(cell: SupernetCell, n: int) -> int:
    """Channels of an input."""
    return int(_chain(cell, n)[1].shape[1])


def _preprocessed(cell: SupernetCell, n: int) -> int | None:
    """Channels that a preprocessing makes of an input; None where it is no 1×1 convolution, or two of one input."""
    reduce, weight = _chain(cell, n)
    weights = [weight] if reduce is None else [weight, reduce.odd.weight]
    alike = all(w.shape[1:] == (weight.shape[1], 1, 1) for w in weights)
    return sum(map(len, weights)) if alike else None


def _preprocess(cell: SupernetCell, n: int, x: Tensor, y: Tensor, inverse: Tensor) -> tuple[_Preprocess, Tensor]:
    """What forward and backward share, and the weight [outputs, grids · inputs], which must live as long."""
    reduce, weight = _chain(cell, n)
    if reduce is not None:
        even, odd = (grid.weight.detach().flatten(1) for grid in (reduce.even, reduce.odd))
        weight = torch.cat([F.pad(even, (0, even.shape[1])), F.pad(odd, (odd.shape[1], 0))])
    grids = 1 if reduce is None else 2
    structure = _Preprocess(*y.shape[:3], grids, x.shape[3], y.shape[3], native.threads(x.numel()), *x.shape[1:3])
    structure.x, structure.weight, structure.y = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    structure.inverse = inverse.data_ptr()
    return structure, weight


def _preprocess_forward(cell: SupernetCell, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width, _ = x.shape
    if _chain(cell, n)[0] is not None:
        height, width = -(-height // 2), -(-width // 2)
    y = lease((batch, height, width, cell.active * cell.partial), x.dtype)
    inverse = torch.empty(y.shape[3], dtype=torch.float64)
    structure, weight = _preprocess(cell, n, x, y, inverse)
    _call(cell, x, "preprocess_forward", structure, x.numel() + y.numel())
    del weight
    return y, inverse


def _preprocess_backward(
    layer: _Layer, n: int, grad: Tensor, to: Tensor | None, add: bool, grads: dict[int, Tensor]
) -> None:
    cell, x, y = layer.layout.cell, layer.inputs[n], layer.entering[n]
    structure, weight = _preprocess(cell, n, x, y, layer.inverses[n])
    reduce, original = _chain(cell, n)
    if to is not None and reduce is not None and not add:
        to.zero_()  # two grids do not meet every pixel
        add = True
    structure.grad, structure.add = grad.data_ptr(), add
    structure.x_gradient = None if to is None else to.data_ptr()
    gradient = None
    if id(original) in grads:
        gradient = grads[id(original)] if reduce is None else torch.zeros_like(weight)
        structure.weight_gradient = gradient.data_ptr()
    numbers = 2 * y.numel() + x.numel() * (1 if to is None else 2 + add)
    _call(cell, x, "preprocess_backward", structure, numbers)
    if reduce is not None and gradient is not None:
        half, inputs = reduce.even.weight.shape[:2]
        grads[id(reduce.even.weight)] += gradient[:half, :inputs, None, None]
        grads[id(reduce.odd.weight)] += gradient[half:, inputs:, None, None]

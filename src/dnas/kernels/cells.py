"""All cells of a supernet as one autograd function on native kernels.

What it computes is `supernet.SupernetCell`, cell by cell; `source.c`, `join.c` and `preprocess.c` say how. One function
for all cells, because gradients can then be added in place where autograd would copy, add and clear: every layer's
output has one gradient buffer, which the two layers that read it and its own nodes add to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dnas.kernels import limits, native
from dnas.kernels.depthwise import DepthwiseConv2d
from dnas.kernels.join import run_join
from dnas.kernels.layout import POOLS, Layer, Layout, SourceLayout
from dnas.kernels.memory import lease
from dnas.kernels.preprocess import preprocess_backward, preprocess_forward
from dnas.kernels.source import source_backward, source_forward
from dnas.kernels.structures import Separable, Source, available, call_kernel
from dnas.network.modules import FactorizedReduceModule

if TYPE_CHECKING:
    from dnas.kernels.draws import Draws
    from dnas.supernet.source_block import SourceBlock
    from dnas.supernet.supernet import Preprocess, Supernet, SupernetCell


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
    return available(native.REALS[stem.dtype], widths)


_known: WeakKeyDictionary[Supernet, list[Layout] | None] = WeakKeyDictionary()


def _layouts(supernet: Supernet) -> list[Layout] | None:
    """Those of all cells; None where the kernels do not cover one."""
    known = _known.get(supernet)
    if supernet not in _known or (known is not None and not all(layout.holds() for layout in known)):
        known = _known[supernet] = _new_layouts([cast("SupernetCell", cell) for cell in supernet.cells])
    return known


def _new_layouts(cells: list[SupernetCell]) -> list[Layout] | None:
    layouts = []
    before = previous = _entering(cells[0], 0)
    for cell in cells:
        layout = _layout(cell)
        if layout is None or [_entering(cell, n) for n in range(2)] != [before, previous] or not layout.holds():
            return None
        layouts.append(layout)
        before, previous = previous, cell.space.nodes * layout.channels
    return layouts


def _layout(cell: SupernetCell) -> Layout | None:
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
    return Layout(
        cell,
        channels,
        edges,
        covered,
        [weight for *_, weight in found],
        [weight.shape for *_, weight in found],
        [(part, name) for part, name, _ in found],
    )


def _source_layout(cell: SupernetCell, s: int) -> SourceLayout | None:
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
    source = Source(targets=len(targets), stride=block.stride, count=len(stages), operations=len(block.columns))
    for k, name in enumerate(POOLS):
        source.pools[k] = block.columns.get(name, -1)
    source.identity = -1 if block.identity is None else block.columns[block.identity]
    separables = (Separable * len(stages))(
        *(
            Separable(stage[0][0].kernel_size[0], int(stage[0][0].dilation[0]), len(stage), column)
            for stage, column in zip(stages, columns, strict=True)
        )
    )
    return SourceLayout(len(targets) * cell.active, targets[0], stages, reduction, source, separables)


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
        layouts: list[Layout],
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

        layers: list[Layer] = ctx.layers
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
            buffers.get(-1),
            grad_psi if needs_psi else None,
            grad_bypass if needs_bypass else None,
            *(grads.get(id(w)) for w in weights),
        )


def _cell_forward(
    layout: Layout,
    before: Tensor,
    previous: Tensor,
    psi: Tensor,
    bypass: Tensor,
    draws: Draws | None,
    keep: bool,
) -> Layer:
    cell = layout.cell
    (first, first_inverse), (second, second_inverse) = (
        preprocess_forward(cell, n, x) for n, x in enumerate((before, previous))
    )
    batch, height, width, channels = first.shape
    if cell.reduction:
        height, width = -(-height // 2), -(-width // 2)
    out = lease((batch, height, width, cell.space.nodes * channels), first.dtype)
    layer = Layer(layout, (before, previous), (first, second), (first_inverse, second_inverse), out, [])
    outs: list[Tensor] = []
    at = 0
    for s, leaving in enumerate(cell.leaving):
        mixed, kept = source_forward(layer, s, psi[at : at + len(leaving)], draws, keep)
        outs.append(mixed)
        layer.sources.append(kept)
        at += len(leaving)
        # Sources come in order, so node s - 1 is complete once state s has left.
        if s >= 1:
            join = run_join(layer, s - 1, bypass)
            for source, mixture in enumerate(outs):
                place = (s - 1 - layout.sources[source].first) * cell.active
                join.outs[source] = mixture.data_ptr() + place * out.element_size()
                join.out_pixel[source] = mixture.shape[3]
            call_kernel(cell, out, "join_forward", join, (s + 2) * out.numel() // cell.space.nodes)
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
            join = run_join(layer, node, bypass)
            join.node = back[s + 1]
            join.grad, join.grad_pixel = mixed.data_ptr() + node * cell.active * size, mixed.shape[3]
            for source in range(s + 1):
                join.states_gradient[source] = back[source]
            join.fresh = 2 if node == cell.space.nodes - 1 else 0
            join.bypass_gradient = grad_bypass.data_ptr() + layout.edges[node] * size
            call_kernel(cell, out, "join_backward", join, (3 * s + 4) * out.numel() // cell.space.nodes)
        end, at = at, at - len(cell.leaving[s])
        source_backward(layer, s, psi[at:end], mixed, entering, back[s], grads, grad_psi[at:end])
    return entering


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

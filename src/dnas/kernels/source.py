"""All operations that read one state of a cell, on native kernels (`source.c`)."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dnas.kernels import limits, native
from dnas.kernels.fold import fold_reduction
from dnas.kernels.layout import Kept, Layer
from dnas.kernels.memory import lease
from dnas.kernels.structures import Separable, Source, call_kernel

if TYPE_CHECKING:
    from dnas.kernels.draws import Draws


# --- the source ---------------------------------------------------------------------------------------------------


def _pictures(layer: Layer, channels: int) -> int:
    """Return the size of a batch of feature maps [B, H', pitch], with rows of a whole number of vectors (rows.h)."""
    batch, height, width = layer.out.shape[:3]
    lanes = limits.VECTOR // layer.out.element_size()
    return batch * height * -(-width * channels // lanes) * lanes


def _source(layer: Layer, s: int, psi: Tensor, kept: Kept) -> tuple[Source, ctypes.Array[Separable]]:
    """Return the structure for forward and backward of a source, and the array that must outlive it."""
    layout, size = layer.layout.sources[s], layer.out.element_size()
    plain, several = layout.structures
    source, separables = Source.from_buffer_copy(plain), type(several).from_buffer_copy(several)
    tensor, source.x, source.x_pixel = layer.state(s)
    source.batch, source.height, source.width = tensor.shape[:3]
    source.threads = native.threads(math.prod(layer.out.shape[:3]) * layout.wide)
    source.weights = psi.data_ptr()
    if kept.alive is not None:
        source.alive, source.alive_scale = kept.alive.data_ptr(), kept.scale
    moments, wide = kept.moments.data_ptr(), (1 + layer.layout.active) * layout.wide * 8
    picture = _pictures(layer, layout.wide) * size
    feature = None if kept.features is None else kept.features.data_ptr()
    for separable, each in zip(separables, layout.separables, strict=True):
        for n, stage in enumerate(each.stages):
            separable.deep[n], separable.point[n] = stage.deep.data_ptr(), stage.point.data_ptr()
            separable.moments[n] = moments
            moments += wide
            if feature is not None:
                separable.kept[n] = feature
                feature += picture
    source.pool_moments, source.pooled = moments, feature
    source.separables = separables
    return source, separables


def source_forward(
    layer: Layer,
    s: int,
    psi: Tensor,
    draws: Draws | None,
    keep: bool,
) -> tuple[Tensor, Kept]:
    """Compute all operations that read state s, and add them to their nodes. Returns data for the backward pass."""
    layout, cell, out = layer.layout.sources[s], layer.layout, layer.out
    stages = sum(len(each.stages) for each in layout.separables)
    moments = torch.empty(stages * (1 + cell.active) * layout.wide + 4 * cell.active, dtype=torch.float64)
    features = None
    if keep:
        numbers = stages * _pictures(layer, layout.wide) + len(limits.Pool) * _pictures(layer, cell.active)
        features = lease((numbers,), out.dtype)
    kept = Kept(moments, features, None, 1.0)
    shape = (*out.shape[:3], layout.wide)
    if draws is not None and layout.identity >= 0:
        kept.alive, kept.scale = draws.within(s).alive(shape), draws.scale
    source, separables = _source(layer, s, psi, kept)
    if not layout.reductions:
        mixed = lease(shape, out.dtype)
    else:
        ((column, even, odd),) = layout.reductions
        x = layer.entering[s][..., : cell.active]
        mixed = _reduced(x, even, odd, psi[:, column]).view(shape)
        source.add = 1
    source.out = mixed.data_ptr()
    call_kernel(
        cell.width, out, "source_forward", source, mixed.numel() * (2 + (stages if features is not None else 0))
    )
    del separables
    return mixed, kept


def source_backward(
    layer: Layer,
    s: int,
    psi: Tensor,
    mixed: Tensor,
    entering: tuple[Tensor, Tensor],
    back: int,
    grads: dict[int, Tensor],
    grad_psi: Tensor,
) -> None:
    """Compute the gradients of all operations that read state s: of weights, mixing weights psi and the state."""
    layout, cell, kept = layer.layout.sources[s], layer.layout, layer.sources.pop()
    source, separables = _source(layer, s, psi, kept)
    first = layout.first * cell.active
    source.grad, source.grad_pixel = mixed.data_ptr() + first * mixed.element_size(), mixed.shape[3]
    source.x_gradient = back
    source.fresh = s < 2
    source.weights_gradient = grad_psi.data_ptr()
    twice = sum(len(each.stages) == 2 for each in layout.separables)
    picture = _pictures(layer, layout.wide)
    work = lease((twice * picture,), mixed.dtype)
    address = work.data_ptr()
    for separable, each in zip(separables, layout.separables, strict=True):
        for n, stage in enumerate(each.stages):
            if id(stage.deep) in grads:
                separable.deep_gradient[n] = grads[id(stage.deep)].data_ptr()
            if id(stage.point) in grads:
                separable.point_gradient[n] = grads[id(stage.point)].data_ptr()
        if len(each.stages) == 2:
            separable.work = address
            address += picture * work.element_size()
    call_kernel(
        cell.width,
        mixed,
        "source_backward",
        source,
        picture * (3 + (source.count + twice if kept.features is not None else 0)),
    )
    if not layout.reductions:
        return
    # The factorized reduction is small and rare, so operations of torch suffice, repeated with a graph.
    ((column, even, odd),) = layout.reductions
    used = (layer.entering[s][..., : cell.active], even, odd, psi[:, column])
    with torch.enable_grad():
        leaves = [leaf.detach().requires_grad_() for leaf in used]
        out = _reduced(*leaves)
    wanted = torch.autograd.grad(out, leaves, mixed[..., first : first + layout.wide].reshape(out.shape))
    entering[s][..., : cell.active] += wanted[0]
    grad_psi[:, column] += wanted[3]
    for weight, gradient in zip((even, odd), wanted[1:3], strict=True):
        if id(weight) in grads:
            grads[id(weight)] += gradient


def _reduced(x: Tensor, even: Tensor, odd: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted factorized reduction for each target, [pixels, targets · c]."""
    pixels, matrix, bias = fold_reduction(x.relu(), even, odd, len(weight))
    common = (weight[:, None, None] * matrix).permute(2, 0, 1).reshape(pixels.shape[3], -1)
    return torch.addmm((weight[:, None] * bias).flatten(), pixels.flatten(0, 2), common)

"""What brings the outputs of earlier layers to a cell's width and size, on native kernels (`preprocess.c`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from dnas.kernels import native
from dnas.kernels.cells import _chain
from dnas.kernels.layout import Layer
from dnas.kernels.memory import lease
from dnas.kernels.structures import _Preprocess, call_kernel

if TYPE_CHECKING:
    from dnas.supernet.supernet import SupernetCell


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


def preprocess_forward(cell: SupernetCell, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width, _ = x.shape
    if _chain(cell, n)[0] is not None:
        height, width = -(-height // 2), -(-width // 2)
    y = lease((batch, height, width, cell.active * cell.partial), x.dtype)
    inverse = torch.empty(y.shape[3], dtype=torch.float64)
    structure, weight = _preprocess(cell, n, x, y, inverse)
    call_kernel(cell, x, "preprocess_forward", structure, x.numel() + y.numel())
    del weight
    return y, inverse


def preprocess_backward(
    layer: Layer, n: int, grad: Tensor, to: Tensor | None, add: bool, grads: dict[int, Tensor]
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
    call_kernel(cell, x, "preprocess_backward", structure, numbers)
    if reduce is not None and gradient is not None:
        half, inputs = reduce.even.weight.shape[:2]
        grads[id(reduce.even.weight)] += gradient[:half, :inputs, None, None]
        grads[id(reduce.odd.weight)] += gradient[half:, inputs:, None, None]

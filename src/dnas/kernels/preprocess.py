"""Preprocessing of the inputs of a cell to its width and size, on native kernels (`preprocess.c`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dnas.kernels import native
from dnas.kernels.layout import CellLayout, Layer
from dnas.kernels.memory import lease
from dnas.kernels.structures import Preprocess, call_kernel


def _preprocess(cell: CellLayout, n: int, x: Tensor, y: Tensor, inverse: Tensor) -> tuple[Preprocess, Tensor]:
    """Return the structure for forward and backward, and the weight [outputs, grids · inputs] that must outlive it."""
    weights = cell.preprocess[n].weights
    weight: Tensor = weights[0]
    if len(weights) == 2:
        even, odd = (grid.detach().flatten(1) for grid in weights)
        weight = torch.cat([F.pad(even, (0, even.shape[1])), F.pad(odd, (odd.shape[1], 0))])
    structure = Preprocess(*y.shape[:3], len(weights), x.shape[3], y.shape[3], native.threads(x.numel()), *x.shape[1:3])
    structure.x, structure.weight, structure.y = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    structure.inverse = inverse.data_ptr()
    return structure, weight


def preprocess_forward(cell: CellLayout, n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the preprocessing of input n [B, H, W, C] of a cell. Returns the output and the inverse deviations."""
    batch, height, width, _ = x.shape
    if len(cell.preprocess[n].weights) == 2:
        height, width = -(-height // 2), -(-width // 2)
    y = lease((batch, height, width, cell.active * cell.partial), x.dtype)
    inverse = torch.empty(y.shape[3], dtype=torch.float64)
    structure, weight = _preprocess(cell, n, x, y, inverse)
    call_kernel(cell.width, x, "preprocess_forward", structure, x.numel() + y.numel())
    del weight
    return y, inverse


def preprocess_backward(
    layer: Layer, n: int, grad: Tensor, to: Tensor | None, add: bool, grads: dict[int, Tensor]
) -> None:
    """Compute the gradients of the preprocessing of input n: of its weights, and of its input in `to`."""
    cell, x, y = layer.layout, layer.inputs[n], layer.entering[n]
    structure, weight = _preprocess(cell, n, x, y, layer.inverses[n])
    weights = cell.preprocess[n].weights
    if to is not None and len(weights) == 2 and not add:
        to.zero_()  # two grids do not cover every pixel
        add = True
    structure.grad, structure.add = grad.data_ptr(), add
    structure.x_gradient = None if to is None else to.data_ptr()
    gradient = None
    if id(weights[0]) in grads:
        gradient = grads[id(weights[0])] if len(weights) == 1 else torch.zeros_like(weight)
        structure.weight_gradient = gradient.data_ptr()
    numbers = 2 * y.numel() + x.numel() * (1 if to is None else 2 + add)
    call_kernel(cell.width, x, "preprocess_backward", structure, numbers)
    if len(weights) == 2 and gradient is not None:
        even, odd = weights
        half, inputs = even.shape[:2]
        grads[id(even)] += gradient[:half, :inputs, None, None]
        grads[id(odd)] += gradient[half:, inputs:, None, None]

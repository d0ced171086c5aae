"""Depthwise convolution with fast gradients, and the statistics of its output.

On a CPU, general routines of torch are slow in cases for which simpler ones are fast (48 images of 16 channels, 32×32
pixels, channels last, one core):

- The input gradient of a stride-1 convolution is a convolution with the flipped kernel: 5×5 dilated 6.0 → 0.46 ms.
- The weight gradient is fast for kernels up to 3 columns wide, of any height: 5×5 in strips 5.5 → 1.1 ms.
- A dilated convolution is a plain one on each of the grids of every `dilation`-th pixel: 3×3 2.6 → 1.1 ms.
- With the stride equal to the dilation only one of these grids is used: input gradient of 5×5 17 → 0.2 ms.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.kernels import limits, native
from dnas.kernels.precision import as_stored, exact, lowered

STRIP = 3  # kernel columns supported by the fast weight gradient of oneDNN


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation, len(weight))


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, wants_x: bool, wants_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    kernel = weight.shape[2]
    grad_x = grad_weight = None
    if wants_x and stride == 1:
        grad_x, wants_x = _convolve(grad, weight.flip(2, 3), 1, dilation), False
    if wants_weight and (library := _library(x, grad, weight, stride, dilation)) is not None:
        grad_weight, wants_weight = _native_weight_gradient(library, grad, x, kernel, stride, dilation), False
    elif wants_weight and x.device.type == "cpu" and 1 in (stride, dilation) and (dilation > 1 or kernel > STRIP):
        grad_weight, wants_weight = _weight_gradient(grad, x, weight, stride, dilation), False
    if wants_x or wants_weight:
        found = _general(grad, x, weight, stride, dilation, dilation * (kernel // 2), [wants_x, wants_weight, False])
        grad_x = found[0] if wants_x else grad_x
        grad_weight = found[1] if wants_weight else grad_weight
    return grad_x, grad_weight


def _library(x: Tensor, grad: Tensor, weight: Tensor, stride: int, dilation: int) -> ctypes.CDLL | None:
    """Return the native kernel if it covers these: 3 to 9 times as fast for dilated kernels, 1.3 to 2 times for 5×5."""
    if x.device.type != "cpu" or x.dtype != grad.dtype or x.dtype not in native.REALS:
        return None
    batch, channels, height, width = x.shape
    given = (batch, channels, -(-height // stride), -(-width // stride))
    if grad.shape != given or weight.shape[:2] != (channels, 1) or not limits.sized((x, grad)):
        return None
    if not limits.depthwise(weight.shape[2:], (stride,), (dilation,)):
        return None
    library = native.library("depthwise", REAL=native.REALS[x.dtype])
    if library is not None:
        library.depthwise_weight_gradient.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int] * 10
    return library


def _native_weight_gradient(
    library: ctypes.CDLL, grad: Tensor, x: Tensor, kernel: int, stride: int, dilation: int
) -> Tensor:
    x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    batch, channels, height, width = x.shape
    out = x.new_empty(channels, 1, kernel, kernel)
    sizes = (batch, height, width, channels, *grad.shape[2:], kernel, stride, dilation, native.threads(x.numel()))
    native.count("depthwise_weight_gradient", (x.numel() + grad.numel()) * x.element_size())
    if library.depthwise_weight_gradient(*(t.data_ptr() for t in (x, grad, out)), *sizes):
        raise MemoryError("out of memory in a weight gradient")
    return out


def _general(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, padding: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    arguments = (None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], len(weight))
    out: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(grad, x, weight, *arguments, wanted)
    return out


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Return the gradient of a wide or dilated kernel: in strips of columns, on grids of every `dilation`-th pixel."""
    kernel = weight.shape[2]
    below, right = -grad.shape[2] % dilation, -grad.shape[3] % dilation
    pad = dilation * (kernel // 2)
    x = _grids(F.pad(x, (pad, pad + right, pad, pad + below)), dilation)
    grad = _grids(F.pad(grad, (0, right, 0, below)) if right or below else grad, dilation)
    parts = []
    for first in range(0, kernel, STRIP):
        part = weight[..., first : first + STRIP]
        columns = x[..., first : first + (grad.shape[3] - 1) * stride + part.shape[3]]
        columns = columns.contiguous(memory_format=torch.channels_last)
        parts.append(_general(grad, columns, part, stride, 1, 0, [False, True, False])[1])
    return torch.cat(parts, 3)


def _grids(x: Tensor, step: int) -> Tensor:
    """Split into grids of every `step`-th pixel: [B, C, H, W] → [step² · B, C, H / step, W / step]."""
    if step == 1:
        return x
    batch, channels, height, width = x.shape
    split = x.permute(0, 2, 3, 1).reshape(batch, height // step, step, width // step, step, channels)
    grids = split.permute(2, 4, 0, 1, 3, 5).reshape(-1, height // step, width // step, channels)
    return grids.permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.steps = (stride, dilation)
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        return *_gradients(grad, x, weight, *ctx.steps, *ctx.needs_input_grad[:2]), None, None


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolve each channel with its own odd kernel, padded so that stride 1 keeps the size.

    x [B, C, H, W], weight [C, 1, k, k] → [B, C, H', W'].
    """
    if stride == dilation > 1:
        x, stride, dilation = x[:, :, ::stride, ::stride], 1, 1
    x, weight = lowered(x, weight)
    out: Tensor = _Depthwise.apply(x, weight, stride, dilation)  # type: ignore[no-untyped-call]
    return out


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one input per group and a square odd kernel, computed by `depthwise`."""

    def forward(self, input: Tensor) -> Tensor:
        return depthwise(input, self.weight, int(self.stride[0]), int(self.dilation[0]))


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
        h = _convolve(x.permute(0, 3, 1, 2), weight, stride, dilation).permute(0, 2, 3, 1).contiguous()
        pixels = exact(h.view(-1, h.shape[3]))
        ctx.save_for_backward(x, weight, h)
        ctx.steps = (stride, dilation)
        return h, pixels.mean(0), pixels.t() @ pixels / len(pixels)

    @staticmethod
    def backward(
        ctx: Any, grad_h: Tensor, grad_mean: Tensor, grad_gram: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, h = ctx.saved_tensors
        pixels = exact(h.view(-1, h.shape[3]))
        # gram = hᵀh / N, so its gradient reaches h through both factors.
        back = torch.addmm(exact(grad_h.reshape(pixels.shape)), pixels, (grad_gram + grad_gram.t()) / len(pixels))
        grad = back.add_(grad_mean / len(pixels)).view(h.shape).permute(0, 3, 1, 2).to(h.dtype)
        grad_x, grad_weight = _gradients(grad, x.permute(0, 3, 1, 2), weight, *ctx.steps, *ctx.needs_input_grad[:2])
        return None if grad_x is None else grad_x.permute(0, 2, 3, 1), grad_weight, None, None


def depthwise_statistics(x: Tensor, weight: Tensor, stride: int, dilation: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return h = depthwise(x), its mean over pixels and its uncentered second moments, for a fold (`supernet.fold`).

    x [B, H, W, C], weight [C, 1, k, k] → h [B, H', W', C], mean [C], gram [C, C].
    """
    if stride == dilation > 1:
        x, stride, dilation = x[:, ::stride, ::stride], 1, 1
    x, weight = lowered(x, weight)
    with as_stored(x):
        out: tuple[Tensor, Tensor, Tensor] = _Statistics.apply(x, weight, stride, dilation)  # type: ignore[no-untyped-call]
    return out

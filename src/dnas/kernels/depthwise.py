"""Depthwise convolution whose gradients are computed the fast way.

The input gradient of a stride-1 depthwise convolution is a forward convolution with the flipped kernel. torch
computes it by a general routine that is 2 to 13 times as slow on a CPU (96 images of 16 channels, 28×28 pixels,
channels last, two cores: 5×5 dilated 4.7 → 0.38 ms, 5×5 0.65 → 0.36, 3×3 dilated 2.5 → 0.2).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        flips = wants_x and ctx.stride == 1
        grad_x = _convolve(grad, weight.flip(2, 3), 1, ctx.dilation) if flips else None
        padding = ctx.dilation * (weight.shape[2] // 2)
        general, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            [ctx.stride] * 2,
            [padding] * 2,
            [ctx.dilation] * 2,
            False,
            [0, 0],
            len(weight),
            [wants_x and not flips, wants_weight, False],
        )
        return grad_x if flips else general, grad_weight, None, None


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation, len(weight))


def depthwise(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    """Each channel by its own odd kernel, padded so that stride 1 keeps the size.

    x [B, C, H, W], weight [C, 1, k, k] → [B, C, H', W'].
    """
    out: Tensor = _Depthwise.apply(x, weight, stride, dilation)  # type: ignore[no-untyped-call]
    return out


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one input a group and a square odd kernel, by `depthwise`."""

    def forward(self, input: Tensor) -> Tensor:
        return depthwise(input, self.weight, int(self.stride[0]), int(self.dilation[0]))

"""Sums of many terms that store no term, for mixtures of operations and edges.

Written as single functions because autograd would store every product and every partial sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dnas.kernels.precision import as_stored, lowered


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bias: Tensor, *pairs: Tensor) -> Tensor:
        ctx.save_for_backward(*pairs)
        features, matrices = pairs[::2], pairs[1::2]
        out = torch.addmm(bias, features[0], matrices[0])
        for feature, matrix in zip(features[1:], matrices[1:], strict=True):
            out.addmm_(feature, matrix)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grads: list[Tensor | None] = [grad.sum(0) if needs[0] else None]
        for i in range(0, len(pairs), 2):
            grads.append(grad @ pairs[i + 1].t() if needs[1 + i] else None)
            grads.append(pairs[i].t() @ grad if needs[2 + i] else None)
        return tuple(grads)


def mixed_product(features: Sequence[Tensor], matrices: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Return Σ_i features[i] @ matrices[i] + bias, accumulated in place.

    features [pixels, n_i], matrices [n_i, outputs], bias [outputs] → [pixels, outputs].
    """
    bias, *pairs = lowered(bias, *(tensor for pair in zip(features, matrices, strict=True) for tensor in pair))
    with as_stored(bias):
        out: Tensor = _Product.apply(bias, *pairs)  # type: ignore[no-untyped-call]
    return out


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, *terms: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *terms)
        out = terms[0] * weights[0]
        for weight, term in zip(weights[1:], terms[1:], strict=True):
            out.addcmul_(term, weight)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, *terms = ctx.saved_tensors
        needs = ctx.needs_input_grad
        flat = grad.reshape(-1)
        # A dot product, since (grad * term).sum() would write and read the product.
        inner = torch.stack([torch.dot(flat, term.reshape(-1)) for term in terms]) if needs[0] else None
        wanted = [i for i, need in enumerate(needs[1:]) if need]
        scaled = iter(torch._foreach_mul([grad] * len(wanted), [weights[i] for i in wanted]) if wanted else ())
        return inner, *(next(scaled) if need else None for need in needs[1:])


def weighted_sum(weights: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """Return Σ_i weights[i] · terms[i] for weights [n] and n contiguous tensors of one shape."""
    out: Tensor = _WeightedSum.apply(weights, *lowered(*terms))  # type: ignore[no-untyped-call]
    return out


class _ChannelMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, (0, 1, 2), correction=0)
        ctx.save_for_backward(x, mean)
        return variance, mean

    @staticmethod
    def backward(ctx: Any, grad_variance: Tensor, grad_mean: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[3]
        slope = grad_variance * (2 / count)
        return torch.addcmul(grad_mean / count - slope * mean, x, slope)  # the formula of autograd needs five passes


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return variance and mean [C] of x [B, H, W, C]."""
    out: tuple[Tensor, Tensor] = _ChannelMoments.apply(x)  # type: ignore[no-untyped-call]
    return out

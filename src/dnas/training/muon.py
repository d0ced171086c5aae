"""Muon (Jordan et al. 2024): the step of a matrix is its gradient momentum with all singular values set to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic a·x + b·x³ + c·x⁵, whose five-fold iteration maps singular values to about 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7
WIDE = 2  # columns per row from which Gram matrices are iterated


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximate U·Vᵀ of matrices U·S·Vᵀ: [N, rows, columns] → the same shape, by Newton–Schulz iterations.

    An iteration multiplies a matrix X from the left by the polynomial Q = a + b·G + c·G² of its Gram matrix G = X·Xᵀ.
    In a wide matrix, products of the Gram matrices are cheaper than those with X, so only the product of all Q is
    applied, and G becomes Q·G·Q: 3.2 → 1.1 ms for 128 × 1152 (one core), with an error of 1e-5.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + EPSILON)
    wide = x.shape[2] >= WIDE * x.shape[1]
    gram = x @ x.mT
    product = None
    for k in range(ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        if wide:
            product = factor if product is None else factor @ product
        else:
            x = factor @ x
        if k < ITERATIONS - 1:
            gram = factor @ gram @ factor if wide else x @ x.mT
    out: Tensor = x if product is None else product @ x
    return out.mT if tall else out


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions: [out, in, height, width] is treated as a matrix [out, in · height · width].

    A step multiplies the weights by 1 - rate · weight_decay, and adds -rate · √max(1, out / in) · U·Vᵀ with Nesterov
    momentum, as in torch.optim.Muon with `adjust_lr_fn="original"`, which only supports two dimensions and updates one
    matrix at a time. Here matrices of the same shape are updated together: 48 → 12 ms per step for the 132 matrices of
    a network of six layers (one core), which is a tenth of the time of its step.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("weight_decay", 0.0)  # which checkpoints of earlier versions do not have

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        assert closure is None
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            for p in moving:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            if not moving:
                continue
            momenta = [self.state[p]["momentum_buffer"] for p in moving]
            grads = [p.grad for p in moving]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, grads)
            ahead = torch._foreach_add(grads, momenta, alpha=group["momentum"])
            torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            shapes: dict[tuple[int, int], list[int]] = {}
            for k, p in enumerate(moving):
                shapes.setdefault((p.shape[0], p[0].numel()), []).append(k)
            for (outputs, inputs), members in shapes.items():
                steps = orthogonalised(torch.stack([ahead[k].reshape(outputs, inputs) for k in members]))
                rate = group["lr"] * max(1.0, outputs / inputs) ** 0.5
                for k, step in zip(members, steps, strict=True):
                    moving[k].add_(step.view_as(moving[k]), alpha=-rate)

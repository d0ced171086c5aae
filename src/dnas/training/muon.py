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


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximate U·Vᵀ of matrices U·S·Vᵀ: [N, rows, columns] → the same shape, by Newton–Schulz iterations."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + EPSILON)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    out: Tensor = x.mT if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """Muon for the weights of convolutions: [out, in, height, width] is treated as a matrix [out, in · height · width].

    A step is -rate · √max(1, out / in) · U·Vᵀ with Nesterov momentum, as in torch.optim.Muon with
    `adjust_lr_fn="original"`, which only supports two dimensions and updates one matrix at a time. Here matrices of the
    same shape are updated together: 48 → 12 ms per step for the 132 matrices of a network of six layers (one core),
    which is a tenth of the time of its step.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

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
            shapes: dict[tuple[int, int], list[int]] = {}
            for k, p in enumerate(moving):
                shapes.setdefault((p.shape[0], p[0].numel()), []).append(k)
            for (outputs, inputs), members in shapes.items():
                steps = orthogonalised(torch.stack([ahead[k].reshape(outputs, inputs) for k in members]))
                rate = group["lr"] * max(1.0, outputs / inputs) ** 0.5
                for k, step in zip(members, steps, strict=True):
                    moving[k].add_(step.view_as(moving[k]), alpha=-rate)

"""Nothing that is not finite reaches the weights: checks before an optimiser moves, and where it first went wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dnas.errors import Diverged


def require_finite(value: Tensor, what: str, stage: str, step: int, where: Callable[[], str]) -> float:
    """The value as a number. Raises Diverged unless it is finite, naming step, stage and place."""
    number = float(value.detach())
    if number - number != 0.0:
        raise Diverged(
            f"{what} is {number} in {stage}, step {step + 1}, first in {where()}; the step was not taken: "
            "lower the learning rate and start anew, or look at the images"
        )
    return number


def first_bad_layer(network: nn.Module, images: Tensor, run: Callable[[], Any]) -> str:
    """The name of the first layer whose output is not finite when `run` is called, in order of computation."""
    if not torch.isfinite(images).all():
        return "the input images"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(f"layer {name}")

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss"


def first_bad_gradient(network: nn.Module, grads: Sequence[Tensor | None]) -> str:
    """The parameter nearest to the loss whose gradient is not finite: a backward pass comes from there."""
    for (name, _), grad in reversed(list(zip(network.named_parameters(), grads, strict=True))):
        if grad is not None and not torch.isfinite(grad).all():
            return f"the gradient of {name}"
    return "the gradient's norm"


def clip(grads: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients in place so that their norm, already known, is at most `limit`."""
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(list(grads), factor)

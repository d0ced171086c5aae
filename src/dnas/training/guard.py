"""Keep non-finite values from the weights: checks before an optimizer step, and the search for their origin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dnas.errors import Diverged


def require_finite(value: Tensor, what: str, stage: str, step: int, where: Callable[[], str]) -> float:
    """Return the value as a number. Raises Diverged with step, stage and layer if it is not finite."""
    number = float(value.detach())
    if number - number != 0.0:
        raise Diverged(
            f"{what} is {number} at step {step + 1} of {stage} (first seen in {where()}), weights not updated; "
            "start a new run with a lower learning rate, or check the images"
        )
    return number


def first_bad_layer(network: nn.Module, images: Tensor, run: Callable[[], Any]) -> str:
    """Return the name of the first layer, in order of computation, with a non-finite output when `run` is called."""
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
    """Return the parameter with a non-finite gradient that is nearest to the loss, where the backward pass starts."""
    for (name, _), grad in reversed(list(zip(network.named_parameters(), grads, strict=True))):
        if grad is not None and not torch.isfinite(grad).all():
            return f"the gradient of {name}"
    return "the gradient norm"


def clip(grads: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients in place so that their norm, which is already known, is at most `limit`."""
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(list(grads), factor)

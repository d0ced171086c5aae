"""Optimizer step on a loss: checked for non-finite values, clipped, with the learning rates of the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dnas.runtime.checkpoint import Checkpoint, pack_optimizer, restore_module, unpack_optimizer
from dnas.runtime.session import Captured
from dnas.training.guard import clip, first_bad_gradient, require_finite
from dnas.training.updates import apply


@dataclass(frozen=True)
class Step:
    """Result of a step.

    Attributes:
        norm: Norm of the gradients before clipping.
    """

    loss: float
    norm: float


class Descent:
    """A module, and the optimizers that update it.

    Args:
        name: Name of the module in checkpoints.
        optimizers: By their names in checkpoints. No parameter has two; parameters without one are fixed.
        stage, loss, norm: Names of the stage, the loss and the norm of its gradients in messages.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        optimizers: Mapping[str, torch.optim.Optimizer],
        stage: str,
        *,
        loss: str = "the loss",
        norm: str = "the gradient norm",
    ) -> None:
        self.name, self.module, self.optimizers = name, module, dict(optimizers)
        self.stage, self.loss, self.norm = stage, loss, norm
        self.parameters = list(module.parameters())
        self._moved = {
            name: [p for group in optimizer.param_groups for p in group["params"]]
            for name, optimizer in self.optimizers.items()
        }
        moved = [p for parameters in self._moved.values() for p in parameters]
        assert len(set(moved)) == len(moved), "no parameter has two optimizers"

    def step(
        self,
        step: int,
        loss: Tensor,
        grads: Sequence[Tensor | None],
        where: Callable[[], str],
        *,
        rates: Mapping[str, float] | None = None,
        clip_norm: float | None = None,
        parts: Mapping[nn.Parameter, Sequence[bool]] | None = None,
    ) -> Step:
        """Update the parameters by the gradients of a loss.

        Args:
            step: 0-based.
            grads: One per parameter, scaled in place; a parameter whose gradient is None is not updated.
            where: Finds the layer in which the loss first became non-finite.
            rates: Learning rates of this step, by optimizer; others keep theirs.
            clip_norm: Maximum norm of all gradients together.
            parts: See `updates.apply`.

        Raises:
            Diverged: The loss or a gradient is not finite. Nothing was updated.
        """
        value = require_finite(loss, self.loss, self.stage, step, where)
        reached = [g for g in grads if g is not None]
        norm = torch.nn.utils.get_total_norm(reached)
        length = require_finite(norm, self.norm, self.stage, step, partial(first_bad_gradient, self.module, grads))
        if clip_norm is not None:
            clip(reached, clip_norm, norm)
        for name, rate in (rates or {}).items():
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate
        self.move(grads, parts)
        return Step(value, length)

    def move(self, grads: Sequence[Tensor | None], parts: Mapping[nn.Parameter, Sequence[bool]] | None = None) -> None:
        """Update the parameters by gradients without checking them."""
        assert self.optimizers, f"no optimizer updates the {self.name}"
        along = dict(zip(self.parameters, grads, strict=True))
        for name, optimizer in self.optimizers.items():
            moved = self._moved[name]
            apply(optimizer, moved, [along[p] for p in moved], parts)

    def capture(self) -> Captured:
        """Return the state of the module and the optimizers, for a checkpoint."""
        tensors = {f"{self.name}.{k}": v for k, v in self.module.state_dict().items()}
        state = {}
        for name, optimizer in self.optimizers.items():
            packed, state[name] = pack_optimizer(name, optimizer)
            tensors |= packed
        return tensors, state

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises RunError if it is of another module or optimizer."""
        restore_module(checkpoint, self.name, self.module)
        for name, optimizer in self.optimizers.items():
            unpack_optimizer(name, optimizer, checkpoint.tensors, checkpoint.state["loop"][name])

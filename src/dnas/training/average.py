"""Average of the weights of a network over the last steps of a training, and the batch-norm statistics that match it.

While the learning rate decays, the weights oscillate around the point that they approach; their mean is closer to it
(Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization").
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnas.runtime.checkpoint import Checkpoint

NAME = "average"  # of the tensors of the mean in checkpoints


class WeightMean:
    """Uniform running mean of the parameters of a module over steps."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = dict(module.named_parameters())
        self.means: list[Tensor] = []

    @torch.no_grad()
    def add(self, before: int) -> None:
        """Add the current parameters to the mean of the `before` earlier ones."""
        now = [parameter.detach() for parameter in self.parameters.values()]
        if before == 0:
            self.means = [each.clone() for each in now]
        else:
            torch._foreach_lerp_(self.means, now, 1 / (before + 1))

    @torch.no_grad()
    def take(self) -> None:
        """Set the parameters of the module to the mean."""
        torch._foreach_copy_(list(self.parameters.values()), self.means)

    def capture(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint: empty before the first averaged step."""
        return {f"{NAME}.{name}": mean for name, mean in zip(self.parameters, self.means, strict=False)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint, for the same module."""
        held = checkpoint.part(NAME)
        # In the layout of the parameters, since kernels for another layout may round differently.
        self.means = [torch.empty_like(p).copy_(held[name]) for name, p in self.parameters.items() if held]


@torch.no_grad()
def renew_statistics(network: nn.Module, batches: Iterable[Tensor], device: str) -> None:
    """Set the running statistics of all batch norms to their mean over batches, with the current weights.

    Each batch is normalized by its own statistics, as in training. The network stays in training mode.

    Args:
        batches: Inputs of the network, of nearly equal batch size.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    network.train()
    running = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    momenta = [norm.momentum for norm in norms for _ in range(2) if norm.momentum is not None]
    assert len(momenta) == len(running), "a batch norm without momentum already keeps a cumulative mean"
    means = [torch.zeros_like(buffer) for buffer in running]
    for count, images in enumerate(batches, 1):
        # Starting from zero, a batch norm ends at the statistics of the batch times the momentum, with any kernel.
        torch._foreach_zero_(running)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            network(images)
        torch._foreach_lerp_(means, torch._foreach_div(running, momenta), 1 / count)
    torch._foreach_copy_(running, means)

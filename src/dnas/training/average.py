"""The mean of a network's weights over the last steps of a training, and the batch-norm statistics that belong to it.

While the learning rate falls, the weights go to and fro around what they come closer to; their mean lies nearer to it
(Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization").
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnas.runtime.checkpoint import Checkpoint

NAME = "average"  # of the mean's tensors in checkpoints


class WeightMean:
    """The uniform mean of a module's parameters over steps, one after the other."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = dict(module.named_parameters())
        self.means: list[Tensor] = []

    @torch.no_grad()
    def add(self, before: int) -> None:
        """Take in the parameters as they are now, after so many others."""
        now = [parameter.detach() for parameter in self.parameters.values()]
        if before == 0:
            self.means = [each.clone() for each in now]
        else:
            torch._foreach_lerp_(self.means, now, 1 / (before + 1))

    @torch.no_grad()
    def take(self) -> None:
        """Give the module the mean."""
        torch._foreach_copy_(list(self.parameters.values()), self.means)

    def capture(self) -> dict[str, Tensor]:
        """What it has so far, for a checkpoint: nothing before the first step that counts."""
        return {f"{NAME}.{name}": mean for name, mean in zip(self.parameters, self.means, strict=False)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Be as when the checkpoint was captured, for the same module."""
        held = checkpoint.part(NAME)
        # In the layout of the parameters, whose kernels may round in another way than those for another layout.
        self.means = [torch.empty_like(p).copy_(held[name]) for name, p in self.parameters.items() if held]


@torch.no_grad()
def renew_statistics(network: nn.Module, batches: Iterable[Tensor], device: str) -> None:
    """Set the running statistics of all batch norms to their mean over batches, as they are with the weights of now.

    Each batch is normalised by its own statistics, as in training. The network stays in training mode.

    Args:
        batches: Inputs of the network, of nearly equal numbers of images.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    network.train()
    running = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    momenta = [norm.momentum for norm in norms for _ in range(2) if norm.momentum is not None]
    assert len(momenta) == len(running), "a batch norm without a momentum keeps a mean of its own"
    means = [torch.zeros_like(buffer) for buffer in running]
    for count, images in enumerate(batches, 1):
        # From zero a batch norm gets to the momentum's share of the batch's own statistics, by whatever kernel.
        torch._foreach_zero_(running)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            network(images)
        torch._foreach_lerp_(means, torch._foreach_div(running, momenta), 1 / count)
    torch._foreach_copy_(running, means)

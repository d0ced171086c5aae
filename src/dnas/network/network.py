"""The network of an architecture: images [B, C, H, W] → logits [B, classes].

A stem, layers, global pooling, a linear classifier, an auxiliary head in training, and drop path, as in the evaluation
network of DARTS (Liu et al. 2019).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dnas.kernels import discrete
from dnas.network.modules import AuxiliaryPool, LayerChain, build_chain, construct, watched
from dnas.network.program import program as native_program
from dnas.rng import torch_stream
from dnas.settings import CHANNELS, CIFAR_STEM
from dnas.space.architecture import Architecture
from dnas.space.network_plan import AUXILIARY_FEATURES, LayerPlan, NetworkPlan
from dnas.space.plan import plan


class NetworkLayer(nn.Module):
    """One layer: two inputs, preprocessed or not, and states that sum their edges; the output concatenates states."""

    def __init__(self, layer: LayerPlan) -> None:
        super().__init__()
        self.preprocess = nn.ModuleList(build_chain(chain) for chain in layer.preprocess)
        self.operations = nn.ModuleList(build_chain(edge.chain) for edge in layer.edges)
        self.ends = [(edge.source, edge.target) for edge in layer.edges]
        self.droppable = [edge.droppable for edge in layer.edges]
        self.spare = [chain.spare for chain in cast("list[LayerChain]", list(self.operations))]
        self.concat = layer.concat
        self.parts = [part for part in self.modules() if part is not self]
        self.program = native_program(self.preprocess, self.operations, self.ends, self.droppable, self.concat)

    def forward(self, before: Tensor, previous: Tensor, paths: Tensor | None, rectified: bool = False) -> Tensor:
        """States [B, C, H, W], `rectified` or not, and factors of paths [edges, B] → [B, concat · C, H', W']."""
        if self.program is not None and _native(self, before) and not watched(self.parts):
            out = discrete.run(self.program, before, previous, paths)
            if out is not None:
                return out
        states: dict[int, Tensor] = {
            0: self.preprocess[0](before, rectified),
            1: self.preprocess[1](previous, rectified),
        }
        rectified_states: dict[int, Tensor] = {}
        owned: set[int] = set()  # states whose tensor has no other user
        for e, (operation, (source, target)) in enumerate(zip(self.operations, self.ends, strict=True)):
            if operation.rectifies:
                if source not in rectified_states:
                    rectified_states[source] = F.relu(states[source])
                y = operation(rectified_states[source], rectified=True)
            else:
                y = operation(states[source])
            factor = paths[e, :, None, None, None] if paths is not None and self.droppable[e] else None
            # In place if only this sum uses the tensor: no backward pass of a norm or pool needs its output.
            if factor is not None:
                y = y.mul_(factor) if self.spare[e] else y * factor
            if target in states:
                states[target] = states[target].add_(y) if target in owned else states[target] + y
                owned.add(target)
            else:
                states[target] = y
                if self.spare[e] or factor is not None:
                    owned.add(target)
        return torch.cat([states[s] for s in self.concat], 1) if len(self.concat) > 1 else states[self.concat[0]]


def _native(module: nn.Module, x: Tensor) -> bool:
    """Return True if native kernels compute layers of input x, which they do in training."""
    return module.training and torch.is_grad_enabled() and discrete.available(x)


class AuxiliaryHead(nn.Module):
    """A second classifier inside the network, for training only."""

    def __init__(self, network: NetworkPlan) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.ReLU(), AuxiliaryPool(), build_chain(network.auxiliary))
        self.classifier = nn.Linear(AUXILIARY_FEATURES, network.classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


class Network(nn.Module):
    """A planned network with weights.

    `network(images)` returns logits [B, classes]. With an auxiliary head and in training mode it returns
    (logits, auxiliary logits). `paths` are the factors from `drop_path`.
    """

    def __init__(self, network: NetworkPlan, auxiliary: bool, final_norm: bool = False) -> None:
        super().__init__()
        self.stem = build_chain(network.stem.first)
        self.stem_second = build_chain(network.stem.second) if network.stem.second else None
        # The name is that of their weights in model.safetensors and in checkpoints: "cells.0.preprocess…".
        self.cells = nn.ModuleList(NetworkLayer(layer) for layer in network.layers)
        self.auxiliary = AuxiliaryHead(network) if auxiliary else None
        self.auxiliary_after = network.auxiliary_after
        self.rectifies = network.rectifies
        self.head = build_chain(network.head) if network.head else None
        # Without parameters: an architecture keeps its size, and the classifier can scale.
        self.final_norm = nn.BatchNorm2d(network.features, affine=False) if final_norm else None
        self.classifier = nn.Linear(network.features, network.classes)
        self.max_edges = max(1, max(len(layer.edges) for layer in network.layers))

    def forward(self, images: Tensor, paths: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        before = self.stem(images)
        previous = before if self.stem_second is None else self.stem_second(before)
        auxiliary_logits = None
        # If all readers of a layer, and the auxiliary head, start with a ReLU, they share it, unless native kernels
        # compute it on the fly.
        shared = self.rectifies and not _native(self, before)
        if shared:
            before, previous = (F.relu(before),) * 2 if before is previous else (F.relu(before), F.relu(previous))
        for k, layer in enumerate(self.cells):
            out = layer(before, previous, None if paths is None else paths[k], rectified=shared)
            before, previous = previous, F.relu_(out) if shared and k < len(self.cells) - 1 else out
            if k == self.auxiliary_after and self.auxiliary is not None and self.training:
                auxiliary_logits = self.auxiliary(previous)
        if self.head is not None:
            previous = self.head(previous)
        if self.final_norm is not None:
            previous = self.final_norm(previous)
        # The mean over pixels; in this form its gradient has channels last, like everything else.
        logits: Tensor = self.classifier(previous.permute(0, 2, 3, 1).flatten(1, 2).mean(1))
        return logits if auxiliary_logits is None else (logits, auxiliary_logits)


def build(
    architecture: Architecture,
    channels: int = CHANNELS,
    num_classes: int = 10,
    *,
    inputs: int = 3,
    stem: str = CIFAR_STEM,
    auxiliary: bool = False,
    final_norm: bool = False,
    seed: int = 0,
) -> Network:
    """Build a randomly initialized network from an architecture.

    Args:
        channels: Initial number of channels.
        num_classes: Number of classes.
        inputs: Number of image channels.
        stem: "cifar" for images up to 64 pixels, "tiny-imagenet" for 64, "imagenet" for 224.
        auxiliary: Add the auxiliary head, which is only used in training mode.
        final_norm: Normalize the output of the last layer. Nodes are sums, and pooling has no norm, so that without
            this the logits of some architectures start too far from 0 for any learning rate.
        seed: Seed of the weights; the global random state is neither read nor changed.

    Raises:
        InputError: A width or class count that cannot be built.
    """
    layout = plan(architecture, channels=channels, classes=num_classes, inputs=inputs, stem=stem)
    network = construct(lambda: Network(layout, auxiliary, final_norm), torch_stream(seed, "init"))
    assert isinstance(network, Network)
    return network


def drop_path(network: Network, batch: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw factors [layers, edges, batch] of drop path: 0 with `probability`, else 1 / (1 - probability).

    One draw for a whole step instead of one per path. The mean of the output of each path is preserved.
    """
    keep = 1.0 - probability
    shape = (len(network.cells), network.max_edges, batch)
    return torch.empty(shape).bernoulli_(keep, generator=generator).div_(keep)


def params(network: nn.Module) -> int:
    """Return the number of parameters of a `network` without its auxiliary head, as in the literature."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary."))


def macs(network: nn.Module, image: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of convolutions and linear layers of a `network` for one `image` (C, H, W)."""
    parameter = next(network.parameters())
    mode = network.training
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, *image, dtype=parameter.dtype, device=parameter.device))
    finally:
        network.train(mode)
    return int(counter.get_total_flops()) // 2

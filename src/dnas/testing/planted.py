"""Searches with a known answer: supernets and accuracies with planted architectures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.data.splits import DataInfo, Split
from dnas.kernels.draws import Draws
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.protocol import SearchSpace, reduction_layers
from dnas.supernet.mapping import SHARED
from dnas.supernet.relaxation import MixingWeights, path

LAYERS = 3
CLASSES = 4
SIDE = 8


# --- a planted optimum ------------------------------------------------------------------------------------------


def pictures(count: int) -> tuple[Split, DataInfo]:
    """Return grayscale images whose upper half encodes the label, and whose lower half encodes the difficulty.

    The brightness of the lower half increases from 0 to 1 over the images of each class. See `PlantedSupernet`.
    """
    label = torch.arange(count) % CLASSES
    rank = torch.arange(count) // CLASSES
    images = torch.empty(count, 1, SIDE, SIDE, dtype=torch.uint8)
    images[:, :, : SIDE // 2] = (255 * label // (CLASSES - 1)).to(torch.uint8)[:, None, None, None]
    images[:, :, SIDE // 2 :] = (255 * (rank + 0.5) / (rank.max() + 1)).to(torch.uint8)[:, None, None, None]
    return Split(images, label), DataInfo("digits", tuple(map(str, range(CLASSES))), 1, SIDE, (0.0,), (1.0,), False)


def plant(mapping: str, seed: int, space: SearchSpace = DARTS) -> Architecture:
    """Return a uniformly random architecture as the target of a search."""
    return sampling.sample(space, numpy_stream(seed, "planted"), LAYERS, shared=mapping == SHARED)


def slots(architecture: Architecture) -> set[tuple[int, int, str, int]]:
    """Return (layer, node, operation, input) of all operations of an architecture."""
    return {
        (k, n, operation, source)
        for k, layer in enumerate(architecture.layers)
        for n, node in enumerate(layer.nodes)
        for operation, source in node
    }


def agreement(architecture: Architecture, planted: Architecture, *, inputs_only: bool = False) -> float:
    """Return the share of planted slots that an architecture has; `inputs_only`: regardless of operations."""
    one, two = slots(architecture), slots(planted)
    if inputs_only:
        one, two = ({(k, n, "", source) for k, n, _, source in each} for each in (one, two))
    return len(one & two) / len(two)


def agreement_by_chance(mapping: str, space: SearchSpace = DARTS, *, inputs_only: bool = False) -> tuple[float, float]:
    """Return mean and standard deviation of the agreement of a fixed architecture with a uniform planted one.

    In node n the number of common inputs is hypergeometric, and each has the same operation with probability 1 / O.
    Nodes are independent, and so are layers unless they are shared.
    """
    same, kept = 1 if inputs_only else 1 / len(space.primitives), space.inputs_per_node
    mean = variance = 0.0
    for n in range(space.nodes):
        inputs = n + 2
        common = kept * kept / inputs
        spread = common * (1 - kept / inputs) * (inputs - kept) / (inputs - 1)
        mean += common * same
        variance += common * same * (1 - same) + same * same * spread
    slots_of_a_layer = space.nodes * kept
    reductions = len(reduction_layers(LAYERS))
    copies = (reductions, LAYERS - reductions) if mapping == SHARED else (1,) * LAYERS
    share = sum(n * n for n in copies) / LAYERS**2
    return mean / slots_of_a_layer, math.sqrt(variance * share) / slots_of_a_layer


class PlantedSupernet(nn.Module):
    """A replacement for a supernet, which scores mixing weights by their agreement with a planted architecture.

    The agreement a is the mean over all nodes of the share of psi that lies on planted (edge, operation) pairs; as a
    share it does not grow with the scale of psi. On an image with label y and difficulty d (`pictures`), the logit of y
    is GAIN · (a - d) and those of the others are 0, plus a learned bias: the cross-entropy falls with a, and the
    accuracy of an architecture is the share of images that are easier than a.

    Inactive operations have no weight and get no gradient, as in a supernet.

    Args:
        planted: The best architecture.
        operations: Candidate operations of an edge, as in a supernet.
    """

    GAIN = 8.0

    def __init__(self, planted: Architecture, operations: Sequence[str], space: SearchSpace = DARTS) -> None:
        super().__init__()
        self.register_buffer("planted", path(planted, operations, space).operations, False)
        node = torch.tensor([n for n, _ in space.edges])
        self.register_buffer("nodes", F.one_hot(node, space.nodes).float(), False)  # [E, N]
        self.bias = nn.Parameter(torch.zeros(CLASSES))
        self.planted: Tensor
        self.nodes: Tensor

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        """Return logits [B, classes] for images [B, 1, H, W] of `pictures` under mixing weights."""
        psi = mixing.psi
        # Not `abs`, which has no gradient at 0, where sparse methods have most of their weights.
        psi = torch.where(psi < 0, -psi, psi)
        if mixing.active is not None:
            psi = psi * mixing.active.to(psi.device)
        on_planted, all_of_it = ((part.sum(-1) @ self.nodes).flatten() for part in (psi * self.planted, psi))
        agreement = (on_planted / all_of_it.clamp_min(1e-12)).mean()
        label = (images[:, 0, 0, 0] * (CLASSES - 1)).round().long()
        difficulty = images[:, 0, -1, 0]
        return self.GAIN * (agreement - difficulty)[:, None] * F.one_hot(label, CLASSES) + self.bias

    def parts(self, active: Tensor) -> dict[nn.Parameter, list[bool]]:
        """Return the partly executed weights, as a supernet does: none, since operations have no weights here."""
        return {}

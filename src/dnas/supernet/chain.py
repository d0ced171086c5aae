"""The supernet of a chain: every layer has all blocks, and its output is their mixture.

    layer k = Σ_e Σ_o psi[k,e,o] B_eo(x)

With partial channels, only the first 1/K of the channels pass through the blocks, and the others bypass them, as in
PC-DARTS (§3.1): the largest of four pixels where the layer halves the resolution, twice each where it doubles
the width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnas.kernels.draws import Draws
from dnas.network.modules import SEARCH, SEARCH_STEM, LayerChain, build_chain
from dnas.settings import CIFAR_STEM
from dnas.space.blocks import BLOCKS, SKIP
from dnas.space.chain import ChainSpace
from dnas.space.network_plan import check_width
from dnas.space.primitives import Identity
from dnas.space.protocol import reduction_layers
from dnas.supernet.protocol import Owned, WeightSharing
from dnas.supernet.relaxation import MixingWeights


class SupernetLayer(nn.Module):
    """All blocks of one layer: x [B, inputs, H, W] → [B, outputs, H', W']."""

    def __init__(
        self, space: ChainSpace, operations: tuple[str, ...], inputs: int, outputs: int, partial: int, reduction: bool
    ) -> None:
        super().__init__()
        self.partial, self.active, self.outputs, self.reduction = partial, inputs // partial, outputs, reduction
        self.blocks = nn.ModuleDict()
        self.shortcuts = nn.ModuleDict()
        self.skip = -1
        self.places: dict[str, tuple[int, int]] = {}
        stride, same = 2 if reduction else 1, inputs == outputs and not reduction
        self.identity = same
        self.residuals: set[str] = set()  # blocks to which their input is added
        for e, kernel in enumerate(space.kernels):
            for o, name in enumerate(operations):
                if name == SKIP:
                    self.skip = o
                elif name in BLOCKS:
                    key = f"{name}_{kernel}"
                    self.places[key] = (e, o)
                    widths = (self.active, outputs // partial)
                    self.blocks[key] = build_chain(BLOCKS[name].chain(*widths, kernel, stride), SEARCH)
                    around = BLOCKS[name].around(*widths, stride)
                    if around == (Identity(),):
                        self.residuals.add(key)
                    elif around:
                        self.shortcuts[key] = build_chain(around, SEARCH)

    def forward(
        self, x: Tensor, psi: Tensor, bypass: Tensor, draws: Draws | None = None, executed: Tensor | None = None
    ) -> Tensor:
        """`psi` [E, O], `bypass` [E]: mixing weights of this layer; without `executed` [E, O] all blocks run."""
        chosen = None if executed is None else executed.tolist()
        part = x if self.partial == 1 else x[:, : self.active].contiguous(memory_format=torch.channels_last)
        total: Tensor | None = None
        around: Tensor | None = None  # sum of the weights of the blocks around which their input passes
        for key, (e, o) in self.places.items():
            if chosen is not None and not chosen[e][o]:
                continue
            y = self.blocks[key](part)
            if key in self.shortcuts:
                y = y + self.shortcuts[key](part)
            elif key in self.residuals:
                around = psi[e, o] if around is None else around + psi[e, o]
            total = psi[e, o] * y if total is None else torch.addcmul(total, psi[e, o], y)
        if around is not None:
            assert total is not None
            total = torch.addcmul(total, around, part)
        if self.skip >= 0 and self.identity and (chosen is None or any(row[self.skip] for row in chosen)):
            # Closed except on the first edge, so the sum has its weight.
            passed = part if draws is None or not draws.probability else part * _alive(draws, part)
            weight = psi[:, self.skip].sum()
            total = weight * passed if total is None else torch.addcmul(total, weight, passed)
        if total is None:
            side = [-(-s // 2) if self.reduction else s for s in x.shape[2:]]
            total = x.new_zeros(len(x), self.outputs // self.partial, *side)
        if self.partial == 1:
            return total
        rest = x[:, self.active :]
        if self.reduction:
            rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
        rest = bypass.sum() * rest.repeat(1, self.outputs * self.partial // (x.shape[1] * self.partial), 1, 1)
        groups = rest.reshape(len(rest), self.partial - 1, -1, *rest.shape[2:])
        # Shuffled, so that the blocks of the next layer get other channels.
        joined = torch.cat([total[:, None], groups], 1).transpose(1, 2).flatten(1, 2)
        return joined.contiguous(memory_format=torch.channels_last)

    def owned(self) -> Iterator[tuple[nn.Parameter, int, int]]:
        """Yield each weight of a block with its edge and the column of its operation."""
        for key, (e, o) in self.places.items():
            for group in (self.blocks, self.shortcuts):
                if key in group:
                    for weight in cast(LayerChain, group[key]).parameters():
                        yield weight, e, o


class ChainSupernet(WeightSharing):
    """The whole weight-sharing network of a chain. Batch norms are as in `Supernet`.

    Args:
        operations: Candidates per edge: `space.primitives`, or these with "none" in front, which adds nothing.
        layers, channels, classes, inputs, partial, stem, recompute: As in `Supernet`.

    Raises:
        InputError: Invalid depth, width or K.
    """

    def __init__(
        self,
        space: ChainSpace,
        operations: tuple[str, ...],
        *,
        layers: int,
        channels: int,
        classes: int,
        inputs: int = 3,
        partial: int = 4,
        stem: str = CIFAR_STEM,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        check_width(channels, partial)
        reductions = reduction_layers(layers)
        self.stem = build_chain(space.stem(stem, inputs, channels).first, SEARCH_STEM)
        self.layers = nn.ModuleList()
        previous = width = channels
        for k in range(layers):
            width *= 2 if k in reductions else 1
            self.layers.append(SupernetLayer(space, operations, previous, width, partial, k in reductions))
            previous = width
        self.head = build_chain(space.head(previous), SEARCH_STEM)
        self.classifier = nn.Linear(space.features(previous), classes)

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        psi = mixing.psi
        for k, layer in enumerate(self.layers):
            dropout = None if draws is None else draws.within(k)
            active = None if mixing.active is None else mixing.active[k]
            arguments = (x, psi[k], mixing.bypass[k], dropout, active)
            x = checkpoint(layer, *arguments, use_reentrant=False) if self.recompute else layer(*arguments)
        logits: Tensor = self.classifier(self.head(x).mean((2, 3)))
        return logits

    def owned(self) -> Iterator[Owned]:
        for k, layer in enumerate(self.layers):
            for weight, edge, operation in cast(SupernetLayer, layer).owned():
                yield Owned(weight, k, [edge], operation)


def _alive(draws: Draws, x: Tensor) -> Tensor:
    """Return factors [B, C, H, W] of the dropout of a skip."""
    return draws.factors(x.permute(0, 2, 3, 1), 1)[:, :, :, 0].permute(0, 3, 1, 2)

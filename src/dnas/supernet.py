"""The weight-sharing network: images [B, C, H, W] and mixing weights → logits [B, classes].

It knows weights and no method. Every edge of every layer holds all candidate operations; with partial
channels only the first C/K channels of a state pass through them and the rest go by (PC-DARTS, §3.1):

    node n of layer k = Σ over its edges e of  shuffle([ edges[k,e] Σ_o operations[k,e,o] O_o(x[:C/K]) ,
                                                         bypass[k,e] x[C/K:] ])

The mathematics is per edge (`tests/reference.py` writes it so); the work is done per *source state*. A
cell has 14 edges but 5 sources with 4, 4, 3, 2, 1 targets: the operations that leave one source run side
by side as grouped convolutions over targets · C/K channels, and what has no weights (pools, identity) runs
once for all targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.modules import SEARCH, SEARCH_STEM, build_chain, construct
from dnas.ops import PRIMITIVES, Identity, ReLU
from dnas.plan import STEMS, preprocess
from dnas.relaxation import MixingWeights
from dnas.space import Space, reduction_layers
from dnas.streams import torch_stream


@dataclass(frozen=True)
class SkipDropout:
    """Drops the output of identities element-wise during search, so that they win less easily (P-DARTS, §3.2.2)."""

    probability: float
    generator: torch.Generator

    def mask(self, like: Tensor, targets: int) -> Tensor:
        """Factors [B, targets, c, H, W] for an identity with output `like` [B, c, H, W]."""
        shape = (like.shape[0], targets, *like.shape[1:])
        keep = 1.0 - self.probability
        mask = torch.empty(shape, dtype=like.dtype).bernoulli_(keep, generator=self.generator)
        return mask.div_(keep).to(like.device)


class SourceBlock(nn.Module):
    """All operations on all edges that leave one state: x [B, c, H, W] → [B, targets, c, H', W']."""

    def __init__(self, channels: int, targets: int, stride: int, operations: tuple[str, ...]) -> None:
        super().__init__()
        self.targets = targets
        self.stride = stride
        self.alike = nn.ModuleDict()  # no weights: the same for every target
        self.apart = nn.ModuleDict()  # weights of its own for every target
        self.columns = {name: o for o, name in enumerate(operations)}
        self.identity: str | None = None
        for name in operations:
            chain = PRIMITIVES[name].search_chain(channels, stride)
            if chain == (Identity(),):
                self.identity = name
            if name == "none":
                continue  # x · 0: it takes its share of a softmax and adds nothing here
            if any(hasattr(layer, "inputs") for layer in chain):
                # The leading ReLU is done once for all; a factorised reduction has its own.
                rest = chain[1:] if chain[0] == ReLU() else chain
                self.apart[name] = build_chain(rest, SEARCH, groups=targets)
            else:
                self.alike[name] = build_chain(chain, SEARCH)

    def forward(self, x: Tensor, weights: Tensor, skip_dropout: SkipDropout | None) -> Tensor:
        """`weights` [targets, O] multiply the operations."""
        # Target-major channels: copy t of the source occupies channels t·c … (t+1)·c.
        copies = x.relu().repeat(1, self.targets, 1, 1)
        out: Tensor | None = None
        for name, operation in self.apart.items():
            y = operation(copies).unflatten(1, (self.targets, -1))
            y = y * weights[:, self.columns[name], None, None, None]
            out = y if out is None else out + y
        assert out is not None
        shared = []
        columns = []
        for name, operation in self.alike.items():
            y = operation(x)
            if name == self.identity and skip_dropout is not None:
                masked = skip_dropout.mask(y, self.targets) * y[:, None]
                out = out + masked * weights[:, self.columns[name], None, None, None]
            else:
                shared.append(y)
                columns.append(self.columns[name])
        if shared:
            out = out + torch.einsum("tu,ubchw->btchw", weights[:, columns], torch.stack(shared))
        return out


class SupernetCell(nn.Module):
    """One layer: states in, the concatenation of its nodes out."""

    def __init__(
        self,
        space: Space,
        operations: tuple[str, ...],
        before: int,
        previous: int,
        width: int,
        partial: int,
        reduction: bool,
        shrunk: bool,
    ) -> None:
        super().__init__()
        self.space = space
        self.partial = partial
        self.active = width // partial
        self.reduction = reduction
        self.preprocess = nn.ModuleList(
            build_chain(chain, SEARCH) for chain in preprocess(before, previous, width, shrunk)
        )
        # Edges that leave state s, in node order.
        self.leaving = [[e for e, (_, source) in enumerate(space.edges) if source == s] for s in range(space.nodes + 1)]
        self.sources = nn.ModuleList(
            SourceBlock(self.active, len(edges), 2 if reduction and s < 2 else 1, operations)
            for s, edges in enumerate(self.leaving)
        )

    def forward(
        self,
        before: Tensor,
        previous: Tensor,
        operations: Tensor,
        edges: Tensor,
        bypass: Tensor,
        skip_dropout: SkipDropout | None,
    ) -> Tensor:
        """`operations` [E, O], `edges` [E] and `bypass` [E] are this layer's mixing weights."""
        psi = edges[:, None] * operations
        states = [self.preprocess[0](before), self.preprocess[1](previous)]
        active: list[Tensor | None] = [None] * self.space.nodes
        passed: list[Tensor | None] = [None] * self.space.nodes
        for s, (block, leaving) in enumerate(zip(self.sources, self.leaving, strict=True)):
            x = states[s]
            out = block(x[:, : self.active], psi[leaving], skip_dropout)
            rest = x[:, self.active :]
            if block.stride == 2 and self.partial > 1:
                rest = F.max_pool2d(rest, 2, 2, ceil_mode=True)
            for t, e in enumerate(leaving):
                node = self.space.edges[e][0]
                active[node] = _plus(active[node], out[:, t])
                if self.partial > 1:
                    passed[node] = _plus(passed[node], bypass[e] * rest)
            # Sources come in order, so once state s = node s - 2 + 1 has left, node s - 1 is complete.
            if s >= 1:
                states.append(self._join(active[s - 1], passed[s - 1]))
        return torch.cat(states[2:], 1)

    def _join(self, active: Tensor | None, passed: Tensor | None) -> Tensor:
        """Both kinds of channels of a node, shuffled so that the next node's operations see others (PC-DARTS)."""
        assert active is not None
        if passed is None:
            return active
        joined = torch.cat([active, passed], 1)
        # One shuffle a node: it permutes channels, so it commutes with the sum over edges.
        batch, _, height, width = joined.shape
        return joined.view(batch, self.partial, -1, height, width).transpose(1, 2).flatten(1, 2)


class Supernet(nn.Module):
    """The whole weight-sharing network.

    Batch norms use the statistics of the batch, in training and in validation: a supernet's running
    statistics belong to mixing weights that have moved on. They learn no scale, except in the stem (DARTS).

    Args:
        space: The cell space.
        operations: Candidates of an edge; `space.primitives`, or these with "none" in front.
        layers: Depth L, at least 3.
        channels: Width C of the first cells.
        classes: Size of the output.
        inputs: Channels of an image.
        partial: K; 1/K of the channels pass through the operations. K divides C, and C/K is even.

    Raises:
        InputError: Depth, width or K that do not fit.
    """

    def __init__(
        self,
        space: Space,
        operations: tuple[str, ...],
        *,
        layers: int,
        channels: int,
        classes: int,
        inputs: int = 3,
        partial: int = 4,
    ) -> None:
        super().__init__()
        check_width(channels, partial)
        reductions = reduction_layers(layers)
        self.layers = layers
        self.stem = build_chain(STEMS["cifar"](inputs, channels).first, SEARCH_STEM)
        self.cells = nn.ModuleList()
        before = previous = 3 * channels
        width, shrunk = channels, False
        for k in range(layers):
            reduction = k in reductions
            width *= 2 if reduction else 1
            self.cells.append(SupernetCell(space, operations, before, previous, width, partial, reduction, shrunk))
            before, previous, shrunk = previous, space.nodes * width, reduction
        self.classifier = nn.Linear(previous, classes)

    def forward(self, images: Tensor, mixing: MixingWeights, skip_dropout: SkipDropout | None = None) -> Tensor:
        before = previous = self.stem(images)
        for k, cell in enumerate(self.cells):
            weights = (mixing.operations[k], mixing.edges[k], mixing.bypass[k])
            before, previous = previous, cell(before, previous, *weights, skip_dropout)
        logits: Tensor = self.classifier(previous.mean((2, 3)))
        return logits


def check_width(channels: int, partial: int) -> None:
    """Raises InputError unless K divides C and C/K is even, naming widths that would do."""
    if partial < 1:
        raise InputError(f"partial_channels is {partial}; K must be at least 1")
    if channels < 2 or channels % (2 * partial):
        step = 2 * partial
        near = sorted({max(step, channels // step * step), (channels // step + 1) * step})
        raise InputError(
            f"--channels {channels} does not go with partial_channels={partial}: 1/{partial} of the channels must be "
            f"an even number; try {' or '.join(map(str, near))}"
        )


def build_supernet(
    space: Space,
    operations: tuple[str, ...],
    *,
    layers: int,
    channels: int,
    classes: int,
    inputs: int = 3,
    partial: int = 4,
    seed: int = 0,
) -> Supernet:
    """A supernet with fresh weights from the run's seed."""
    supernet = construct(
        lambda: Supernet(
            space,
            operations,
            layers=layers,
            channels=channels,
            classes=classes,
            inputs=inputs,
            partial=partial,
        ),
        torch_stream(seed, "init"),
    )
    assert isinstance(supernet, Supernet)
    return supernet


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term

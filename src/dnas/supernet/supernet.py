"""The weight-sharing network: images [B, C, H, W] and mixing weights → logits [B, classes].

It does not depend on methods. Every edge of every layer has all candidate operations. With partial channels, only the
first C/K channels of a state pass through them and the others bypass them (PC-DARTS, §3.1):

    node n of layer k = Σ over its edges e of  shuffle([ edges[k,e] Σ_o operations[k,e,o] O_o(x[:C/K]) ,
                                                         bypass[k,e] x[C/K:] ])

The definition is per edge (implemented literally in `benchmarks/plain.py`). The computation is per *source state*,
with channels last. A cell has 14 edges but 5 sources with 4, 4, 3, 2 and 1 targets. The operations that leave one
source run side by side over targets · C/K channels, operations without weights (pooling, identity) run once for all
targets, and the mixture of all of them is one accumulating matrix product (`SourceBlock`).

Internally, tensors are [B, H, W, C].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnas.kernels import cells, discrete
from dnas.kernels.draws import Draws
from dnas.kernels.fold import odd_grid
from dnas.kernels.layout import CellLayout, PreprocessLayout, SupernetLayout
from dnas.kernels.limits import EPSILON
from dnas.kernels.mixture import weighted_sum
from dnas.network.modules import SEARCH, SEARCH_STEM, FactorizedReduceModule, build_chain, watched
from dnas.settings import CIFAR_STEM
from dnas.space.darts_plan import STEMS, preprocess
from dnas.space.network_plan import check_width
from dnas.space.primitives import Chain
from dnas.space.protocol import SearchSpace, reduction_layers
from dnas.supernet.protocol import Owned, WeightSharing
from dnas.supernet.relaxation import MixingWeights
from dnas.supernet.sampled import Executed, run_sampled
from dnas.supernet.source_block import SourceBlock


class Preprocess(nn.Module):
    """Preprocessing of an input [B, H, W, C'] of a layer to its width and, after a reduction, to its resolution."""

    def __init__(self, chain: Chain) -> None:
        super().__init__()
        self.chain = build_chain(chain, SEARCH)

    def forward(self, x: Tensor) -> Tensor:
        first = self.chain[0]
        relu = x.relu()
        y: Tensor
        if isinstance(first, FactorizedReduceModule):
            even = F.linear(relu[:, ::2, ::2], first.even.weight.flatten(1))
            odd = F.linear(odd_grid(relu), first.odd.weight.flatten(1))
            y = torch.cat([even, odd], 3)
        else:
            y = F.linear(relu, self.chain[1].weight.flatten(1))  # type: ignore[operator]
        normed = F.batch_norm(y.permute(0, 3, 1, 2), None, None, training=True, eps=EPSILON)
        return normed.permute(0, 2, 3, 1)

    def layout(self) -> PreprocessLayout:
        """Return the layout for the native kernels."""
        first, *rest = self.chain
        if isinstance(first, FactorizedReduceModule):
            return PreprocessLayout((first.even.weight, first.odd.weight))
        return PreprocessLayout((cast(nn.Conv2d, rest[0]).weight,))


class SupernetCell(nn.Module):
    """One layer, from two input states to the concatenation of its nodes."""

    def __init__(
        self,
        space: SearchSpace,
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
        self.preprocess = nn.ModuleList(Preprocess(chain) for chain in preprocess(before, previous, width, shrunk))
        # Edges that leave state s, in node order.
        self.leaving = [[e for e, (_, source) in enumerate(space.edges) if source == s] for s in range(space.nodes + 1)]
        self.sources = nn.ModuleList(
            SourceBlock(self.active, len(edges), 2 if reduction and s < 2 else 1, operations)
            for s, edges in enumerate(self.leaving)
        )
        self.parts = [part for part in self.modules() if part is not self]

    def forward(
        self,
        before: Tensor,
        previous: Tensor,
        psi: Tensor,
        bypass: Tensor,
        draws: Draws | None = None,
        executed: Tensor | None = None,
    ) -> Tensor:
        """`psi` [E, O], `bypass` [E]: this layer's mixing weights; without `executed` [E, O] all operations run."""
        choices = None if executed is None else executed.tolist()
        if executed is not None:
            sampled = self._sampled((before, previous), psi, draws, executed)
            if sampled is not None:
                return sampled
            psi = psi * executed.to(psi.device)
        states = [self.preprocess[0](before), self.preprocess[1](previous)]
        by_edge = psi.unbind()
        active: list[Tensor | None] = [None] * self.space.nodes
        passed: list[list[Tensor]] = [[] for _ in range(self.space.nodes)]
        for s, (block, leaving) in enumerate(zip(self.sources, self.leaving, strict=True)):
            x = states[s]
            dropout = None if draws is None else draws.within(s)
            chosen = None if choices is None else [choices[e] for e in leaving]
            # Unbound in one operation: the gradient of each slice would be a separate tensor, zero-filled and added.
            first_channels, rest = x.split([self.active, x.shape[3] - self.active], 3)
            # A list as an index would be copied to the device in every step, which synchronizes with it.
            weights = torch.stack([by_edge[e] for e in leaving])
            outs = block(first_channels.contiguous(), weights, dropout, chosen)
            rest = self._bypass(rest, 2 if self.reduction and s < 2 else 1)
            for e, mixed in zip(leaving, outs, strict=True):
                node = self.space.edges[e][0]
                so_far = active[node]
                active[node] = mixed if so_far is None else so_far if mixed is None else so_far + mixed
                passed[node].append(rest)
            # Sources are processed in order, so node s - 1 is complete after state s.
            if s >= 1:
                first, last = self.space.node_edges[s - 1]
                states.append(self._join(active[s - 1], bypass[first:last], passed[s - 1]))
        return torch.cat(states[2:], 3)

    def _sampled(
        self, inputs: tuple[Tensor, Tensor], psi: Tensor, draws: Draws | None, executed: Tensor
    ) -> Tensor | None:
        """Return the output of only the `executed` operations by native kernels; None if these do not cover them."""
        dropped = draws is not None and draws.probability > 0
        if self.partial > 1 or dropped or not discrete.available(inputs[0]) or watched(self.parts):
            return None
        operations, chosen = [], []
        for e, o in executed.nonzero().tolist():
            node, source = self.space.edges[e]
            found = cast(SourceBlock, self.sources[source]).operation(o, self.leaving[source].index(e))
            if found is not None:
                operations.append(Executed(source, node, *found))
                chosen.append(psi[e, o])
        if not chosen:
            return None
        chains = [cast(Preprocess, each).chain for each in self.preprocess]
        return run_sampled(chains, self.space.nodes, operations, inputs, torch.stack(chosen))

    def layout(self) -> CellLayout:
        """Return the layout for the native kernels."""
        firsts = [[self.space.edges[e][0] for e in leaving] for leaving in self.leaving]
        assert all(nodes == list(range(nodes[0], nodes[0] + len(nodes))) for nodes in firsts), firsts
        before, previous = (cast(Preprocess, each).layout() for each in self.preprocess)
        return CellLayout(
            active=self.active,
            partial=self.partial,
            nodes=self.space.nodes,
            reduction=self.reduction,
            leaving=self.leaving,
            edges=[first for first, _ in self.space.node_edges],
            sources=[
                cast(SourceBlock, block).layout(nodes[0]) for block, nodes in zip(self.sources, firsts, strict=True)
            ],
            preprocess=(before, previous),
            weights=list(self.parameters()),
        )

    def _bypass(self, rest: Tensor, stride: int) -> Tensor:
        """Return the channels that bypass the operations, at the resolution of the output of the operations."""
        if stride == 2 and self.partial > 1:
            rest = F.max_pool2d(rest.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)
        return rest.contiguous()

    def _join(self, active: Tensor | None, weights: Tensor, passed: list[Tensor]) -> Tensor:
        """Join both kinds of channels of a node, shuffled so that the operations of the next node get other channels
        (PC-DARTS §3.1)."""
        if active is None:
            active = passed[0].new_zeros(*passed[0].shape[:3], self.active)
        if self.partial == 1:
            return active
        rest = weighted_sum(weights, passed)
        by_group = rest.view(*rest.shape[:3], self.partial - 1, self.active)
        # One shuffle per node is enough: it permutes channels, so it commutes with the sum over edges.
        return torch.cat([active[..., None], by_group.transpose(3, 4)], 4).flatten(3)


class Supernet(WeightSharing):
    """The whole weight-sharing network.

    Batch norms use the statistics of the batch, in training and in validation: running statistics of a supernet would
    belong to outdated mixing weights. They have no learned scale, except in the stem (DARTS).

    Args:
        space: The search space.
        operations: Candidates per edge: `space.primitives`, or these with "none" in front.
        layers: Depth L, at least 3.
        channels: Initial channels C.
        classes: Number of outputs.
        inputs: Channels of an image.
        partial: K; 1/K of the channels pass through the operations. K must divide C, and C/K must be even.
        stem: A key of `STEMS`.
        recompute: Use activation checkpointing for the operations of a layer: less memory, more time.

    Raises:
        InputError: Invalid depth, width or K.
    """

    def __init__(
        self,
        space: SearchSpace,
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
        head = STEMS[stem](inputs, channels)
        self.stem = build_chain(head.first, SEARCH_STEM)
        self.stem_second = build_chain(head.second, SEARCH_STEM) if head.second else None
        self.cells = nn.ModuleList()
        before, previous, width, shrunk = head.width, head.width, channels, bool(head.second)
        for k in range(layers):
            reduction = k in reductions
            width *= 2 if reduction else 1
            self.cells.append(SupernetCell(space, operations, before, previous, width, partial, reduction, shrunk))
            before, previous, shrunk = previous, space.nodes * width, reduction
        self.classifier = nn.Linear(previous, classes)

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        head = self.stem(images)
        before = previous = _channels_last(head)
        if self.stem_second is not None:
            previous = _channels_last(self.stem_second(head))
        psi = mixing.psi
        if mixing.active is None and cells.covers(layout := self.layout(), (before, previous), psi, mixing.bypass):
            last = cells.run(layout, (before, previous), psi, mixing.bypass, draws, self.recompute)
        else:
            for k, cell in enumerate(self.cells):
                dropout = None if draws is None else draws.within(k)
                active = None if mixing.active is None else mixing.active[k]
                arguments = (before, previous, psi[k], mixing.bypass[k], dropout, active)
                out = checkpoint(cell, *arguments, use_reentrant=False) if self.recompute else cell(*arguments)
                before, previous = previous, out
            last = previous
        logits: Tensor = self.classifier(last.mean((1, 2)))
        return logits

    def layout(self) -> SupernetLayout:
        """Return the layout of the cells for the native kernels; rebuilt if a weight has been replaced."""
        known = _known.get(self)
        if known is None or any(owner._parameters[name] is not weight for owner, name, weight in known[1]):
            owners = [(part, name, w) for part in self.cells.modules() for name, w in part._parameters.items()]
            known = _known[self] = SupernetLayout([cast(SupernetCell, cell).layout() for cell in self.cells]), owners
        return known[0]

    def owned(self) -> Iterator[Owned]:
        """Yield every weight of an operation."""
        for layer, cell in enumerate(self.cells):
            assert isinstance(cell, SupernetCell)
            for block, leaving in zip(cell.sources, cell.leaving, strict=True):
                for weight, targets, operation in cast(SourceBlock, block).owned():
                    yield Owned(weight, layer, leaving[targets.start : targets.stop], operation)


def _channels_last(x: Tensor) -> Tensor:
    """Permute [B, C, H, W] to [B, H, W, C]."""
    return x.permute(0, 2, 3, 1).contiguous()


# Stored outside the module, so that a copy of the module gets its own layout; with the weights of the layout and the
# modules that own them.
_known: WeakKeyDictionary[Supernet, tuple[SupernetLayout, list[tuple[nn.Module, str, nn.Parameter | None]]]] = (
    WeakKeyDictionary()
)

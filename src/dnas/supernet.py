"""The weight-sharing network: images [B, C, H, W] and mixing weights → logits [B, classes].

It knows weights and no method. Every edge of every layer holds all candidate operations; with partial
channels only the first C/K channels of a state pass through them and the rest go by (PC-DARTS, §3.1):

    node n of layer k = Σ over its edges e of  shuffle([ edges[k,e] Σ_o operations[k,e,o] O_o(x[:C/K]) ,
                                                         bypass[k,e] x[C/K:] ])

The mathematics is per edge (`benchmarks/plain.py` writes it so); the work is done per *source state*, with
channels last. A cell has 14 edges but 5 sources with 4, 4, 3, 2, 1 targets: the operations that leave one source
run side by side over targets · C/K channels, what has no weights (pools, identity) runs once for all targets,
and the mixture of all of them is one accumulating matrix product (`SourceBlock`).

Inside, tensors are [B, H, W, C].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnas.errors import InputError, SettingError
from dnas.kernels import cells, channel_moments, depthwise_statistics, mixed_product, weighted_sum
from dnas.kernels.fold import fold, fold_reduction, odd_grid, side_by_side
from dnas.kernels.limits import EPSILON
from dnas.modules import SEARCH, SEARCH_STEM, FactorizedReduceModule, build_chain, construct
from dnas.ops import PRIMITIVES, AvgPool, Chain, Identity, MaxPool, Noise, Zero
from dnas.plan import STEMS, preprocess
from dnas.relaxation import MixingWeights
from dnas.space import Space, reduction_layers
from dnas.streams import numpy_stream, torch_stream


@dataclass(frozen=True)
class Draws:
    """What a supernet draws in one pass, a function of seed and counters, so that it can be drawn again.

    With a `probability` it drops the output of identities element-wise, so that they win less easily (P-DARTS, §3.2.2);
    the operation `noise` draws its output.
    """

    probability: float
    seed: int
    counters: tuple[int, ...]

    def within(self, part: int) -> Draws:
        """That of a layer within a step, or of a source within a layer."""
        return Draws(self.probability, self.seed, (*self.counters, part))

    @property
    def scale(self) -> float:
        """What is left is multiplied by it, so that the mean stays."""
        return 1.0 / (1.0 - self.probability)

    def alive(self, shape: tuple[int, ...]) -> Tensor:
        """Random 0 (with `probability`, to 1/65536) and 1, uint8.

        Four draws a random word: a twentieth of the time of `Tensor.bernoulli_`, which took half of a native step.
        """
        count = math.prod(shape)
        words = numpy_stream(self.seed, "skip-dropout", *self.counters).bit_generator.random_raw(-(-count // 4))
        alive = words.view(np.uint16)[:count] >= round(self.probability * 65536)
        return torch.from_numpy(alive.view(np.uint8)).view(shape)

    def factors(self, like: Tensor, targets: int) -> Tensor:
        """Factors [B, H, W, targets, c] for an identity with output `like` [B, H, W, c]."""
        shape = (*like.shape[:3], targets, like.shape[3])
        return self.alive(shape).to(like.device, like.dtype).mul_(self.scale)

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal noise of a shape."""
        return torch.randn(like.shape, generator=torch_stream(self.seed, "noise", *self.counters)).to(like)


class _Source:
    """A state x [B, H, W, c] as operations read it; what several targets read alike is computed once, at first use."""

    def __init__(self, x: Tensor, pools: nn.ModuleDict, targets: int, draws: Draws | None) -> None:
        self.x, self.pools, self.targets = x, pools, targets
        self.draws = draws or Draws(0.0, 0, ())
        self._pooled: dict[str, Tensor] = {}

    @cached_property
    def relu(self) -> Tensor:
        return self.x.relu()

    @cached_property
    def planes(self) -> Tensor:
        return self.x.permute(0, 3, 1, 2)

    @cached_property
    def masked(self) -> Tensor:
        """[B, H, W, targets, c]: what skip-dropout leaves of it for each target."""
        return self.draws.factors(self.x, self.targets) * self.x[:, :, :, None]

    def noise(self, height: int, width: int) -> Tensor:
        """[B, height, width, targets, c] in the place of what an operation makes of it."""
        return self.draws.noise(self.x.new_empty(len(self.x), height, width, self.targets, self.x.shape[3]))

    def pooled(self, name: str) -> Tensor:
        if name not in self._pooled:
            self._pooled[name] = self.pools[name](self.planes).permute(0, 2, 3, 1)
        return self._pooled[name]


class SourceBlock(nn.Module):
    """All operations on all edges that leave one state: x [B, H, W, c] → [B, H', W', c] for each target.

    Every candidate is a linear map of some features, followed by a batch norm without scale: of a depthwise
    convolution's output for the separable ones, of a pool (which DARTS' search gives a batch norm, too), of strided
    pixels for a factorised reduction. With the mean and the second moments of the features that batch norm is known
    beforehand (`fold`), so mixing weight, batch norm and linear map are one matrix, and the mixture of all operations
    one accumulating product.
    """

    def __init__(self, channels: int, targets: int, stride: int, operations: tuple[str, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.targets = targets
        self.stride = stride
        self.columns = {name: o for o, name in enumerate(operations)}
        self.apart = nn.ModuleDict()  # weights of its own for every target
        self.pools = nn.ModuleDict()  # no weights: the same for every target
        self.identity: str | None = None
        self.noise: str | None = None
        for name in operations:
            chain = PRIMITIVES[name].chain(channels, stride)
            if chain == (Identity(),):
                self.identity = name
            elif isinstance(chain[0], Noise):
                self.noise = name
            elif isinstance(chain[0], AvgPool | MaxPool):
                self.pools[name] = build_chain(chain)
            elif not isinstance(chain[0], Zero):  # x · 0 takes its share of a softmax and adds nothing here
                self.apart[name] = build_chain(chain, SEARCH, groups=targets)

    def forward(
        self, x: Tensor, weights: Tensor, draws: Draws | None, active: list[list[bool]] | None
    ) -> list[Tensor | None]:
        """What each target gets, [B, H', W', c].

        `weights` [targets, O] multiply the operations. Of these only the `active` [targets, O] are executed, target by
        target; a target that has none gets None.
        """
        source = _Source(x, self.pools, self.targets, draws)
        if active is None:
            return list(self._mixed(source, weights, set(self.columns), None).unbind(3))
        names = [{name for name, o in self.columns.items() if row[o]} for row in active]
        return [
            self._mixed(source, weights[t : t + 1], names[t], t)[:, :, :, 0] if names[t] else None
            for t in range(self.targets)
        ]

    def _mixed(self, source: _Source, weights: Tensor, names: set[str], target: int | None) -> Tensor:
        """[B, H', W', n, c]: these operations for all n targets side by side, or for one target alone."""
        x = source.x
        targets = self.targets if target is None else 1
        mixture = Mixture(targets, self.channels)
        # Target-major channels: copy t of the source occupies channels t·c … (t+1)·c.
        copies = source.relu.repeat(1, 1, 1, targets) if target is None else None
        for name, chain in self.apart.items():
            if name not in names:
                continue
            weight = weights[:, self.columns[name]]
            first = next(chain.children())
            if isinstance(first, FactorizedReduceModule):
                even, odd = (self._of(grid.weight, target) for grid in (first.even, first.odd))
                mixture.add_common(*fold_reduction(source.relu, even, odd, targets), weight)
            else:
                self._separable(chain, source.relu if copies is None else copies, weight, mixture, target)
        for name in self.pools:
            if name in names:
                mixture.add_pool(source.pooled(name), weights[:, self.columns[name]])
        identity = self.identity if self.identity in names else None
        if identity is not None and not source.draws.probability:
            mixture.add_shared(x, weights[:, self.columns[identity], None].expand(-1, self.channels))
        height, width = (-(-side // self.stride) for side in x.shape[1:3])
        shape = (len(x), height, width, targets, self.channels)
        mixed = mixture.mix().view(shape) if mixture.features else x.new_zeros(shape)
        if self.noise in names:
            noise = source.noise(height, width)
            noise = noise if target is None else noise[:, :, :, target : target + 1]
            mixed = torch.addcmul(mixed, noise, weights[:, self.columns[self.noise], None])
        if identity is None or not source.draws.probability:
            return mixed
        # Each target drops other elements, so the identity leaves the common product.
        masked = source.masked if target is None else source.masked[:, :, :, target : target + 1]
        return torch.addcmul(mixed, masked, weights[:, self.columns[identity], None])

    def _separable(self, chain: nn.Module, u: Tensor, weight: Tensor, mixture: Mixture, target: int | None) -> None:
        """Stages of ReLU, depthwise, pointwise, batch norm, for all of the mixture's targets side by side."""
        layers = iter(chain.children())
        stages = list(zip(layers, layers, layers, layers, strict=True))
        shape = (mixture.targets, self.channels)
        for n, (_, deep, point, _) in enumerate(stages):
            assert isinstance(deep, nn.Conv2d) and isinstance(point, nn.Conv2d)
            kernels, maps = (self._of(conv.weight, target) for conv in (deep, point))
            h, mean, gram = depthwise_statistics(u, kernels, int(deep.stride[0]), int(deep.dilation[0]))
            blocks = gram.view(*shape, *shape).diagonal(0, 0, 2).permute(2, 0, 1)
            matrix, bias = fold(maps.reshape(*shape, self.channels), mean.view(shape), blocks)
            if n == len(stages) - 1:
                mixture.add(h, matrix, bias, weight)
            else:
                u = torch.addmm(bias.flatten(), h.flatten(0, 2), side_by_side(matrix)).view(h.shape).relu_()

    def _of(self, weight: Tensor, target: int | None) -> Tensor:
        """A target's part of a weight [targets · n, …]."""
        return weight if target is None else weight.chunk(self.targets)[target]

    def parts(self, active: list[list[bool]]) -> Iterator[tuple[nn.Parameter, list[bool]]]:
        """Of each weight, which targets' parts are executed."""
        for name, chain in self.apart.items():
            executed = [row[self.columns[name]] for row in active]
            for weight in chain.parameters():
                yield weight, executed


class Mixture:
    """Collects features with their matrices, and mixes them in one accumulating product.

    What is added comes with the mixing weights [targets] of its operation.
    """

    def __init__(self, targets: int, channels: int) -> None:
        self.targets, self.channels = targets, channels
        self.features: list[Tensor] = []
        self.matrices: list[Tensor] = []
        self.biases: list[Tensor] = []

    def add(self, h: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor) -> None:
        """Features [B, H, W, targets · c] of each target's own: `matrix` [targets, c, c], `bias` [targets, c]."""
        self._append(h, side_by_side(weight[:, None, None] * matrix))
        self.biases.append(weight[:, None] * bias)

    def add_common(self, h: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor) -> None:
        """Features [B, H, W, i] that all targets share: `matrix` [targets, c, i], `bias` [targets, c]."""
        self._append(h, (weight[:, None, None] * matrix).permute(2, 0, 1).flatten(1))
        self.biases.append(weight[:, None] * bias)

    def add_pool(self, h: Tensor, weight: Tensor) -> None:
        """Features [B, H, W, c] with a batch norm of their own, the same for all targets."""
        variance, mean = channel_moments(h)
        scale = (variance + EPSILON).rsqrt() * weight[:, None]
        self.add_shared(h, scale)
        self.biases.append(-scale * mean)

    def add_shared(self, h: Tensor, scale: Tensor) -> None:
        """Features [B, H, W, c] that every target takes by channel: `scale` [targets, c]."""
        self._append(h, torch.diag_embed(scale).permute(1, 0, 2).reshape(self.channels, -1))

    def _append(self, h: Tensor, matrix: Tensor) -> None:
        self.features.append(h.flatten(0, 2))
        self.matrices.append(matrix)

    def mix(self) -> Tensor:
        """[pixels, targets · c]."""
        bias = (
            torch.stack(self.biases).sum(0) if self.biases else self.features[0].new_zeros(self.targets, self.channels)
        )
        return mixed_product(self.features, self.matrices, bias.flatten())


class Preprocess(nn.Module):
    """Brings a layer's input [B, H, W, C'] to its width, and after a reduction to its resolution."""

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
        self.preprocess = nn.ModuleList(Preprocess(chain) for chain in preprocess(before, previous, width, shrunk))
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
        psi: Tensor,
        bypass: Tensor,
        draws: Draws | None = None,
        executed: Tensor | None = None,
    ) -> Tensor:
        """`psi` [E, O], `bypass` [E]: this layer's mixing weights; without `executed` [E, O] all operations run."""
        choices = None if executed is None else executed.tolist()
        if executed is not None:
            psi = psi * executed.to(psi.device)
        states = [self.preprocess[0](before), self.preprocess[1](previous)]
        active: list[Tensor | None] = [None] * self.space.nodes
        passed: list[list[Tensor]] = [[] for _ in range(self.space.nodes)]
        for s, (block, leaving) in enumerate(zip(self.sources, self.leaving, strict=True)):
            x = states[s]
            dropout = None if draws is None else draws.within(s)
            chosen = None if choices is None else [choices[e] for e in leaving]
            # Taken apart as a whole: a slice's gradient would be a tensor of its own, filled with zeros and added.
            first_channels, rest = x.split([self.active, x.shape[3] - self.active], 3)
            outs = block(first_channels.contiguous(), psi[leaving], dropout, chosen)
            rest = self._bypass(rest, 2 if self.reduction and s < 2 else 1)
            for e, mixed in zip(leaving, outs, strict=True):
                node = self.space.edges[e][0]
                so_far = active[node]
                active[node] = mixed if so_far is None else so_far if mixed is None else so_far + mixed
                passed[node].append(rest)
            # Sources come in order, so node s - 1 is complete once state s has left.
            if s >= 1:
                first, last = self.space.node_edges[s - 1]
                states.append(self._join(active[s - 1], bypass[first:last], passed[s - 1]))
        return torch.cat(states[2:], 3)

    def parts(self, active: list[list[bool]]) -> Iterator[tuple[nn.Parameter, list[bool]]]:
        """Of each weight of an operation, on which edges its parts are executed, for `active` [E, O]."""
        for block, leaving in zip(self.sources, self.leaving, strict=True):
            assert isinstance(block, SourceBlock)
            yield from block.parts([active[e] for e in leaving])

    def _bypass(self, rest: Tensor, stride: int) -> Tensor:
        """The channels that pass by the operations, at the resolution of the operations' output."""
        if stride == 2 and self.partial > 1:
            rest = F.max_pool2d(rest.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)
        return rest.contiguous()

    def _join(self, active: Tensor | None, weights: Tensor, passed: list[Tensor]) -> Tensor:
        """Both kinds of channels of a node, shuffled so that the next node's operations see others (PC-DARTS §3.1)."""
        if active is None:
            active = passed[0].new_zeros(*passed[0].shape[:3], self.active)
        if self.partial == 1:
            return active
        rest = weighted_sum(weights, passed)
        by_group = rest.view(*rest.shape[:3], self.partial - 1, self.active)
        # One shuffle a node: it permutes channels, so it commutes with the sum over edges.
        return torch.cat([active[..., None], by_group.transpose(3, 4)], 4).flatten(3)


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
        recompute: Compute a layer's operations again in the backward pass: less memory, more time.

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
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        check_width(channels, partial)
        reductions = reduction_layers(layers)
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

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        before = previous = self.stem(images).permute(0, 2, 3, 1).contiguous()
        psi = mixing.psi
        if mixing.active is None and cells.covers(self, previous, psi, mixing.bypass):
            last = cells.run(self, previous, psi, mixing.bypass, draws)
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

    def parts(self, active: Tensor) -> dict[nn.Parameter, list[bool]]:
        """The weights of which only a part is executed, where only the `active` [L, E, O] operations are.

        A weight holds equal parts side by side along its first dimension, one for each edge that leaves a state; of
        each part, whether it is executed.
        """
        found: dict[nn.Parameter, list[bool]] = {}
        for cell, row in zip(self.cells, active.tolist(), strict=True):
            assert isinstance(cell, SupernetCell)
            found.update(cell.parts(row))
        return {weight: executed for weight, executed in found.items() if any(executed) and not all(executed)}


def check_width(channels: int, partial: int) -> None:
    """Raises InputError unless K divides C and C/K is even, naming widths that would do."""
    if partial < 1:
        raise InputError(f"partial_channels is {partial}; K must be at least 1")
    if channels < 2 or channels % (2 * partial):
        step = 2 * partial
        near = sorted({max(step, channels // step * step), (channels // step + 1) * step})
        raise SettingError(
            "search.channels",
            "--channels",
            f" {channels} cannot be used with partial_channels={partial}, which requires a multiple of {step}; try "
            f"{' or '.join(map(str, near))}",
        )


def build_supernet(space: Space, operations: tuple[str, ...], *, seed: int = 0, **shape: Any) -> Supernet:
    """A supernet with fresh weights from the run's seed; `shape` are the arguments of `Supernet`."""
    supernet = construct(lambda: Supernet(space, operations, **shape), torch_stream(seed, "init"))
    assert isinstance(supernet, Supernet)
    return supernet

"""The weight-sharing network: images [B, C, H, W] and mixing weights → logits [B, classes].

It knows weights and no method. Every edge of every layer holds all candidate operations; with partial
channels only the first C/K channels of a state pass through them and the rest go by (PC-DARTS, §3.1):

    node n of layer k = Σ over its edges e of  shuffle([ edges[k,e] Σ_o operations[k,e,o] O_o(x[:C/K]) ,
                                                         bypass[k,e] x[C/K:] ])

The mathematics is per edge (`tests/reference.py` writes it so); the work is done per *source state*, with
channels last. A cell has 14 edges but 5 sources with 4, 4, 3, 2, 1 targets: the operations that leave one source
run side by side over targets · C/K channels, what has no weights (pools, identity) runs once for all targets,
and the mixture of all of them is one accumulating matrix product (`SourceBlock`).

Inside, tensors are [B, H, W, C].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.errors import InputError
from dnas.kernels import cells, depthwise_statistics, mixed_product, weighted_sum
from dnas.kernels.fold import EPSILON, fold, fold_reduction, odd_grid, side_by_side
from dnas.modules import SEARCH, SEARCH_STEM, FactorizedReduceModule, build_chain, construct
from dnas.ops import PRIMITIVES, AvgPool, Chain, Identity, MaxPool, Zero
from dnas.plan import STEMS, preprocess
from dnas.relaxation import MixingWeights
from dnas.space import Space, reduction_layers
from dnas.streams import torch_stream


@dataclass(frozen=True)
class SkipDropout:
    """Drops the output of identities element-wise during search, so that they win less easily (P-DARTS, §3.2.2)."""

    probability: float
    generator: np.random.Generator

    @property
    def scale(self) -> float:
        """What is left is multiplied by it, so that the mean stays."""
        return 1.0 / (1.0 - self.probability)

    def alive(self, shape: tuple[int, ...]) -> Tensor:
        """Random 0 (with `probability`, to 1/65536) and 1, uint8.

        Four draws a random word: a twentieth of the time of `Tensor.bernoulli_`, which took half of a native step.
        """
        count = math.prod(shape)
        words = self.generator.bit_generator.random_raw(-(-count // 4))
        alive = words.view(np.uint16)[:count] >= round(self.probability * 65536)
        return torch.from_numpy(alive.view(np.uint8)).view(shape)

    def factors(self, like: Tensor, targets: int) -> Tensor:
        """Factors [B, H, W, targets, c] for an identity with output `like` [B, H, W, c]."""
        shape = (*like.shape[:3], targets, like.shape[3])
        return self.alive(shape).to(like.device, like.dtype).mul_(self.scale)


class SourceBlock(nn.Module):
    """All operations on all edges that leave one state: x [B, H, W, c] → [B, H', W', targets, c].

    Every candidate is a linear map of some features, followed by a batch norm without scale: of a depthwise
    convolution's output for the separable ones, of a pool (which DARTS' search gives a batch norm, too), of strided
    pixels for a factorised reduction. With the
    mean and the second moments of the features that batch norm is known beforehand (`fold`), so mixing weight,
    batch norm and linear map are one matrix, and the mixture of all operations one accumulating product.
    """

    def __init__(self, channels: int, targets: int, stride: int, operations: tuple[str, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.targets = targets
        self.columns = {name: o for o, name in enumerate(operations)}
        self.apart = nn.ModuleDict()  # weights of its own for every target
        self.pools = nn.ModuleDict()  # no weights: the same for every target
        self.identity: str | None = None
        for name in operations:
            chain = PRIMITIVES[name].chain(channels, stride)
            if chain == (Identity(),):
                self.identity = name
            elif isinstance(chain[0], AvgPool | MaxPool):
                self.pools[name] = build_chain(chain)
            elif not isinstance(chain[0], Zero):  # x · 0 takes its share of a softmax and adds nothing here
                self.apart[name] = build_chain(chain, SEARCH, groups=targets)

    def forward(self, x: Tensor, weights: Tensor, skip_dropout: SkipDropout | None) -> Tensor:
        """`weights` [targets, O] multiply the operations."""
        relu = x.relu()
        # Target-major channels: copy t of the source occupies channels t·c … (t+1)·c.
        copies = relu.repeat(1, 1, 1, self.targets)
        mixture = Mixture(self.targets, self.channels)
        for name, chain in self.apart.items():
            weight = weights[:, self.columns[name]]
            first = next(chain.children())
            if isinstance(first, FactorizedReduceModule):
                self._factorized(first, relu, weight, mixture)
            else:
                self._separable(chain, copies, weight, mixture)
        planes = x.permute(0, 3, 1, 2)
        for name, pool in self.pools.items():
            mixture.add_pool(pool(planes).permute(0, 2, 3, 1), weights[:, self.columns[name]])
        size = mixture.size
        if self.identity is None:
            return mixture.mix().view(*size, self.targets, self.channels)
        weight = weights[:, self.columns[self.identity]]
        if skip_dropout is None:
            mixture.add_shared(x, weight[:, None].expand(-1, self.channels))
            return mixture.mix().view(*size, self.targets, self.channels)
        # Each target drops other elements, so the identity leaves the common product.
        masked = skip_dropout.factors(x, self.targets) * x[:, :, :, None]
        return torch.addcmul(mixture.mix().view(*size, self.targets, self.channels), masked, weight[:, None])

    def _separable(self, chain: nn.Module, u: Tensor, weight: Tensor, mixture: Mixture) -> None:
        """Stages of ReLU, depthwise, pointwise, batch norm, for all targets side by side."""
        layers = iter(chain.children())
        stages = list(zip(layers, layers, layers, layers, strict=True))
        for n, (_, deep, point, _) in enumerate(stages):
            assert isinstance(deep, nn.Conv2d) and isinstance(point, nn.Conv2d)
            h, mean, gram = depthwise_statistics(u, deep.weight, int(deep.stride[0]), int(deep.dilation[0]))
            shape = (self.targets, self.channels)
            blocks = gram.view(*shape, *shape).diagonal(0, 0, 2).permute(2, 0, 1)
            matrix, bias = fold(point.weight.view(*shape, self.channels), mean.view(shape), blocks)
            if n == len(stages) - 1:
                mixture.add(h, matrix, bias, weight)
            else:
                u = torch.addmm(bias.flatten(), h.flatten(0, 2), side_by_side(matrix)).view(h.shape).relu_()

    def _factorized(self, reduce: FactorizedReduceModule, relu: Tensor, weight: Tensor, mixture: Mixture) -> None:
        """Both strided grids are features that all targets share; each target maps them with its own weights."""
        pixels, matrix, bias = fold_reduction(relu, reduce.even.weight, reduce.odd.weight, self.targets)
        mixture.add_common(pixels, matrix, bias, weight)


class Mixture:
    """Collects features with their matrices, and mixes them in one accumulating product."""

    def __init__(self, targets: int, channels: int) -> None:
        self.targets, self.channels = targets, channels
        self.features: list[Tensor] = []
        self.matrices: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.size: torch.Size = torch.Size()

    def add(self, h: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor) -> None:
        """Features [B, H, W, targets · c] of each target's own: `matrix` [targets, c, c], `bias` [targets, c]."""
        self._append(h, side_by_side(weight[:, None, None] * matrix), weight[:, None] * bias)

    def add_common(self, h: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor) -> None:
        """Features [B, H, W, n] of all targets: `matrix` [targets, c, n], `bias` [targets, c]."""
        flat = (weight[:, None, None] * matrix).permute(2, 0, 1).reshape(h.shape[3], -1)
        self._append(h, flat, weight[:, None] * bias)

    def add_pool(self, h: Tensor, weight: Tensor) -> None:
        """Features [B, H, W, c] with a batch norm of their own, the same for all targets."""
        variance, mean = torch.var_mean(h, (0, 1, 2), correction=0)
        scale = (variance + EPSILON).rsqrt() * weight[:, None]
        self.add_shared(h, scale)
        self.biases.append(-scale * mean)

    def add_shared(self, h: Tensor, scale: Tensor) -> None:
        """Features [B, H, W, c] that every target takes by channel: `scale` [targets, c]."""
        self._append(h, torch.diag_embed(scale).permute(1, 0, 2).reshape(self.channels, -1), None)

    def _append(self, h: Tensor, matrix: Tensor, bias: Tensor | None) -> None:
        self.size = h.shape[:3]
        self.features.append(h.flatten(0, 2))
        self.matrices.append(matrix)
        if bias is not None:
            self.biases.append(bias)

    def mix(self) -> Tensor:
        """[pixels, targets · c]."""
        return mixed_product(self.features, self.matrices, torch.stack(self.biases).sum(0).flatten())


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
        operations: Tensor,
        edges: Tensor,
        bypass: Tensor,
        skip_dropout: SkipDropout | None,
    ) -> Tensor:
        """`operations` [E, O], `edges` [E] and `bypass` [E] are this layer's mixing weights."""
        psi = edges[:, None] * operations
        states = [self.preprocess[0](before), self.preprocess[1](previous)]
        active: list[Tensor | None] = [None] * self.space.nodes
        passed: list[list[Tensor]] = [[] for _ in range(self.space.nodes)]
        for s, (block, leaving) in enumerate(zip(self.sources, self.leaving, strict=True)):
            x = states[s]
            out = block(x[..., : self.active].contiguous(), psi[leaving], skip_dropout)
            rest = self._bypass(x, 2 if self.reduction and s < 2 else 1)
            for t, e in enumerate(leaving):
                node = self.space.edges[e][0]
                so_far = active[node]
                active[node] = out[..., t, :] if so_far is None else so_far + out[..., t, :]
                passed[node].append(rest)
            # Sources come in order, so node s - 1 is complete once state s has left.
            if s >= 1:
                first, last = self.space.node_edges[s - 1]
                states.append(self._join(active[s - 1], bypass[first:last], passed[s - 1]))
        return torch.cat(states[2:], 3)

    def _bypass(self, x: Tensor, stride: int) -> Tensor:
        """The channels that pass by the operations, at the resolution of the operations' output."""
        rest = x[..., self.active :]
        if stride == 2 and self.partial > 1:
            rest = F.max_pool2d(rest.permute(0, 3, 1, 2), 2, 2, ceil_mode=True).permute(0, 2, 3, 1)
        return rest.contiguous()

    def _join(self, active: Tensor | None, weights: Tensor, passed: list[Tensor]) -> Tensor:
        """Both kinds of channels of a node, shuffled so that the next node's operations see others (PC-DARTS §3.1)."""
        assert active is not None
        if self.partial == 1:
            return active
        joined = torch.cat([active, weighted_sum(weights, passed)], 3)
        # One shuffle a node: it permutes channels, so it commutes with the sum over edges.
        return joined.view(*joined.shape[:3], self.partial, self.active).transpose(3, 4).flatten(3)


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
        self.keep = True
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

    def forward(self, images: Tensor, mixing: MixingWeights, skip_dropout: SkipDropout | None = None) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        before = previous = self.stem(images).permute(0, 2, 3, 1).contiguous()
        if cells.covers(self, previous):
            last = cells.run(self, previous, mixing.psi, mixing.bypass, skip_dropout, self.keep)
            return self.classifier(last.mean((1, 2)))
        for k, cell in enumerate(self.cells):
            weights = (mixing.operations[k], mixing.edges[k], mixing.bypass[k])
            before, previous = previous, cell(before, previous, *weights, skip_dropout)
        logits: Tensor = self.classifier(previous.mean((1, 2)))
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


def build_supernet(space: Space, operations: tuple[str, ...], *, seed: int = 0, **shape: int) -> Supernet:
    """A supernet with fresh weights from the run's seed; `shape` are the arguments of `Supernet`."""
    supernet = construct(lambda: Supernet(space, operations, **shape), torch_stream(seed, "init"))
    assert isinstance(supernet, Supernet)
    return supernet

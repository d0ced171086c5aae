"""All candidate operations that read one state of a cell, computed together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from dnas.kernels.depthwise import DepthwiseConv2d, depthwise_statistics
from dnas.kernels.draws import Draws
from dnas.kernels.fold import fold, fold_reduction, side_by_side
from dnas.kernels.layout import SeparableLayout, SourceLayout, StageLayout
from dnas.kernels.limits import EPSILON
from dnas.kernels.mixture import channel_moments, mixed_product
from dnas.network.modules import SEARCH, FactorizedReduceModule, LayerChain, NoiseModule, build_chain
from dnas.space.primitives import (
    PRIMITIVES,
    AvgPool,
    FactorizedReduce,
    Identity,
    MaxPool,
    Noise,
    Zero,
    is_separable,
)


class _Source:
    """A state x [B, H, W, c] as read by the operations. Features shared by several targets are computed once."""

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
        """State after skip-dropout for each target, [B, H, W, targets, c]."""
        return self.draws.factors(self.x, self.targets) * self.x[:, :, :, None]

    def noise(self, height: int, width: int) -> Tensor:
        """Return noise [B, height, width, targets, c] that replaces the output of an operation."""
        return self.draws.noise(self.x.new_empty(len(self.x), height, width, self.targets, self.x.shape[3]))

    def through(self, chain: LayerChain) -> Tensor:
        """Return the output [B, H', W', c] of a chain of layers."""
        if not chain.rectifies:
            return chain(self.planes).permute(0, 2, 3, 1)  # type: ignore[no-any-return]
        return chain(self.relu.permute(0, 3, 1, 2), rectified=True).permute(0, 2, 3, 1)  # type: ignore[no-any-return]

    def pooled(self, name: str) -> Tensor:
        if name not in self._pooled:
            self._pooled[name] = self.pools[name](self.planes).permute(0, 2, 3, 1)
        return self._pooled[name]


class SourceBlock(nn.Module):
    """All operations on all edges that leave one state: x [B, H, W, c] → [B, H', W', c] for each target.

    Every candidate is a linear map of features, followed by a batch norm without scale. The features are the output of
    a depthwise convolution for separable operations, of a pooling (also followed by a batch norm in the search of
    DARTS), or strided pixels for a factorized reduction. The mean and the second moments of the features determine the
    batch norm in advance (`fold`), so mixing weight, batch norm and linear map form one matrix, and the mixture of all
    operations is one accumulating product. Candidates of another form are executed one by one and added to it.
    """

    def __init__(self, channels: int, targets: int, stride: int, operations: tuple[str, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.targets = targets
        self.stride = stride
        self.columns = {name: o for o, name in enumerate(operations)}
        self.apart = nn.ModuleDict()  # separate weights for every target
        self.pools = nn.ModuleDict()  # no weights: the same for every target
        self.others = nn.ModuleDict()  # executed as built, one copy for every target
        self.identity: str | None = None
        self.noise: str | None = None
        for name in operations:
            chain = PRIMITIVES[name].chain(channels, stride)
            match chain:
                case (Identity(),) if self.identity is None:
                    self.identity = name
                case (Noise(),) if self.noise is None:
                    self.noise = name
                case (AvgPool() | MaxPool(),):
                    self.pools[name] = build_chain(chain)
                case (Zero(),):
                    pass  # x · 0 takes part in a softmax but adds nothing here
                case (FactorizedReduce(),):
                    self.apart[name] = build_chain(chain, SEARCH, groups=targets)
                case _ if is_separable(chain, channels):
                    self.apart[name] = build_chain(chain, SEARCH, groups=targets)
                case _:
                    self.others[name] = nn.ModuleList(build_chain(chain, SEARCH) for _ in range(targets))

    def forward(
        self, x: Tensor, weights: Tensor, draws: Draws | None, active: list[list[bool]] | None
    ) -> list[Tensor | None]:
        """Return the input of each target, [B, H', W', c].

        `weights` [targets, O] multiply the operations. Only the `active` [targets, O] operations are executed, target
        by target. The result is None for a target without active operations.
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
        """Return the mixture [B, H', W', n, c] of these operations for all n targets, or for one target."""
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
        for name, copies_of in self.others.items():
            if name in names:
                chains = cast("list[LayerChain]", list(copies_of.children()))
                each = [source.through(chain) for chain in (chains if target is None else [chains[target]])]
                mixed = torch.addcmul(mixed, torch.stack(each, 3), weights[:, self.columns[name], None])
        if identity is None or not source.draws.probability:
            return mixed
        # Each target drops different elements, so the identity cannot be part of the common product.
        masked = source.masked if target is None else source.masked[:, :, :, target : target + 1]
        return torch.addcmul(mixed, masked, weights[:, self.columns[identity], None])

    def _separable(self, chain: nn.Module, u: Tensor, weight: Tensor, mixture: Mixture, target: int | None) -> None:
        """Add stages of ReLU, depthwise and pointwise convolution and batch norm for all targets of the mixture."""
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
        """Return the part of a weight [targets · n, …] that belongs to a target."""
        return weight if target is None else weight.chunk(self.targets)[target]

    def operation(self, column: int, target: int) -> tuple[list[nn.Module], tuple[int, int]] | None:
        """Return the modules of an operation on the edge to a target, and which of their equal shares belongs to it.

        None for an operation that adds nothing.
        """
        name = list(self.columns)[column]
        if name in self.apart:
            return list(self.apart[name].children()), (target, self.targets)
        if name in self.pools:
            return list(self.pools[name].children()), (0, 1)
        if name in self.others:
            return list(list(self.others[name].children())[target].children()), (0, 1)
        if name == self.identity:
            return [nn.Identity()], (0, 1)
        return ([NoiseModule(self.stride)], (0, 1)) if name == self.noise else None

    def layout(self, first: int) -> SourceLayout:
        """Return the layout for the native kernels; the targets are the nodes starting at `first`."""
        reductions, separables = [], []
        others = [*self.others, *([] if self.noise is None else [self.noise])]  # noise requires the generator of torch
        for name, chain in self.apart.items():
            column = self.columns[name]
            match list(chain.children()):
                case [FactorizedReduceModule() as reduce, *_]:
                    reductions.append((column, reduce.even.weight, reduce.odd.weight))
                case layers if (stages := _stages(layers)) is not None:
                    separables.append(SeparableLayout(column, stages))
                case _:
                    others.append(name)
        return SourceLayout(
            channels=self.channels,
            first=first,
            targets=self.targets,
            stride=self.stride,
            operations=len(self.columns),
            separables=separables,
            reductions=reductions,
            pools={name: self.columns[name] for name in self.pools},
            identity=-1 if self.identity is None else self.columns[self.identity],
            others=tuple(others),
        )

    def owned(self) -> Iterator[tuple[nn.Parameter, range, int]]:
        """Yield each weight, the targets of its equal parts, and the column of its operation."""
        for name, chain in self.apart.items():
            for weight in chain.parameters():
                yield weight, range(self.targets), self.columns[name]
        for name, chains in self.others.items():
            for target, chain in enumerate(chains.children()):
                for weight in chain.parameters():
                    yield weight, range(target, target + 1), self.columns[name]


def _stages(layers: list[nn.Module]) -> list[StageLayout] | None:
    """Return the stages of a separable candidate, or None for other candidates."""
    stages = []
    while layers:
        match layers:
            case [nn.ReLU(), DepthwiseConv2d() as deep, nn.Conv2d() as point, nn.BatchNorm2d(), *layers]:
                steps = (deep.kernel_size, deep.stride, tuple(map(int, deep.dilation)))
                stages.append(StageLayout(*steps, deep.weight, point.weight))
            case _:
                return None
    return stages


class Mixture:
    """Features with their matrices, mixed in one accumulating product.

    All features are added with the mixing weights [targets] of their operation.
    """

    def __init__(self, targets: int, channels: int) -> None:
        self.targets, self.channels = targets, channels
        self.features: list[Tensor] = []
        self.matrices: list[Tensor] = []
        self.biases: list[Tensor] = []

    def add(self, h: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor) -> None:
        """Add separate features per target [B, H, W, targets · c]: `matrix` [targets, c, c], `bias` [targets, c]."""
        self._append(h, side_by_side(weight[:, None, None] * matrix))
        self.biases.append(weight[:, None] * bias)

    def add_common(self, h: Tensor, matrix: Tensor, bias: Tensor, weight: Tensor) -> None:
        """Add features [B, H, W, i] shared by all targets: `matrix` [targets, c, i], `bias` [targets, c]."""
        self._append(h, (weight[:, None, None] * matrix).permute(2, 0, 1).flatten(1))
        self.biases.append(weight[:, None] * bias)

    def add_pool(self, h: Tensor, weight: Tensor) -> None:
        """Add features [B, H, W, c] followed by a batch norm, the same for all targets."""
        variance, mean = channel_moments(h)
        scale = (variance + EPSILON).rsqrt() * weight[:, None]
        self.add_shared(h, scale)
        self.biases.append(-scale * mean)

    def add_shared(self, h: Tensor, scale: Tensor) -> None:
        """Add features [B, H, W, c] scaled by channel for every target: `scale` [targets, c]."""
        self._append(h, torch.diag_embed(scale).permute(1, 0, 2).reshape(self.channels, -1))

    def _append(self, h: Tensor, matrix: Tensor) -> None:
        self.features.append(h.flatten(0, 2))
        self.matrices.append(matrix)

    def mix(self) -> Tensor:
        """Return the mixture, [pixels, targets · c]."""
        bias = (
            torch.stack(self.biases).sum(0) if self.biases else self.features[0].new_zeros(self.targets, self.channels)
        )
        return mixed_product(self.features, self.matrices, bias.flatten())

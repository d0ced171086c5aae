"""The plain supernet that the engine is measured against: one module an operation and edge, [B, C, H, W].

It stands for the public search networks: `model_search.py` and `operations.py` of DARTS (Liu et al. 2019) and of
PC-DARTS (Xu et al. 2020), written anew and matched to them as follows.

As there:
- One mixed operation an edge, Σ w · op(x) by Python's `sum` over a `ModuleList`, each operation a `Sequential` with
  its own ReLU (`inplace=False`), depthwise and pointwise convolutions and batch norm without scale.
- A batch norm after either pool; `none` is x · 0; a stride-2 skip is a factorised reduction.
- Partial channels: the first C/K pass through the operations; the rest is max-pooled in a reduction, concatenated,
  and the channels of every edge are shuffled. Then the edge weight multiplies the whole edge.
- Nodes by `sum` over their edges; preprocessing, stem, pooling and classifier as there.

Other than there:
- Any K, and with K = 1 no concatenation and no shuffle, as in DARTS.
- Mixing weights come from outside and differ by layer. The bypassed channels may have edge weights of their own;
  where those are the edge weights, the edge is multiplied once, as in the public code.
- Batch norms keep no running statistics, which a search never reads: less work than in the public code.
- Odd sizes are padded as in `dnas`; at even sizes, which are all that the public code can do, nothing changes.

So it does what a competent user of these codes runs, and slightly less.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.supernet.relaxation import MixingWeights
from dnas.supernet.supernet import Supernet


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0) if self.stride == 1 else x[:, :, :: self.stride, :: self.stride].mul(0.0)


class FactorizedReduce(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.norm = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        height, width = x.shape[2:]
        shifted = F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
        return self.norm(torch.cat([self.even(x), self.odd(shifted[:, :, 1:, 1:])], 1))


def relu_conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), batch_norm(outputs))


def separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        batch_norm(channels),
    ]


def operation(name: str, channels: int, stride: int) -> nn.Module:
    match name:
        case "none":
            return Zero(stride)
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, 1), batch_norm(channels))
        case "avg_pool_3x3":
            return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), batch_norm(channels))
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "sep_conv_3x3" | "sep_conv_5x5":
            kernel = int(name[-1])
            return nn.Sequential(*separable(channels, kernel, stride), *separable(channels, kernel, 1))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return nn.Sequential(*separable(channels, int(name[-1]), stride, 2))
    raise ValueError(f"no plain operation for {name!r}")


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, channels, height, width)


class MixedOperation(nn.Module):
    """One edge."""

    def __init__(self, names: tuple[str, ...], channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.active, self.partial, self.stride = channels // partial, partial, stride
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.operations = nn.ModuleList(operation(name, self.active, stride) for name in names)

    def forward(self, x: Tensor, weights: Tensor, edge: Tensor, bypass: Tensor | None) -> Tensor:
        """`weights` [O]; `bypass` None: the edge weight multiplies the bypassed channels, too."""
        if self.partial == 1:
            return edge * self._mixed(x, weights)
        mixed, rest = self._mixed(x[:, : self.active], weights), x[:, self.active :]
        if self.stride == 2:
            rest = self.pool(rest)
        if bypass is None:
            return edge * channel_shuffle(torch.cat([mixed, rest], 1), self.partial)
        return channel_shuffle(torch.cat([edge * mixed, bypass * rest], 1), self.partial)

    def _mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self.operations, strict=True))


class Cell(nn.Module):
    def __init__(
        self,
        names: tuple[str, ...],
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        shrunk: bool,
        partial: int,
        nodes: int,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.preprocess0 = FactorizedReduce(before, channels) if shrunk else relu_conv_norm(before, channels)
        self.preprocess1 = relu_conv_norm(previous, channels)
        self.edges = nn.ModuleList(
            MixedOperation(names, channels, 2 if reduction and source < 2 else 1, partial)
            for node in range(nodes)
            for source in range(2 + node)
        )

    def forward(
        self, before: Tensor, previous: Tensor, operations: Tensor, edges: Tensor, bypass: Tensor | None
    ) -> Tensor:
        states = [self.preprocess0(before), self.preprocess1(previous)]
        first = 0
        for _ in range(self.nodes):
            node = sum(
                self.edges[e](x, operations[e], edges[e], None if bypass is None else bypass[e])
                for e, x in enumerate(states, first)
            )
            first += len(states)
            states.append(node)
        return torch.cat(states[2:], 1)


def stem_convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, track_running_stats=False)]


def stem_layers(name: str, inputs: int, channels: int) -> tuple[nn.Sequential, nn.Sequential]:
    """What makes the first cell's first input, and what makes its second input of that, which may be nothing."""
    if name in ("cifar", "halving"):
        return nn.Sequential(*stem_convolution(inputs, 3 * channels, 2 if name == "halving" else 1)), nn.Sequential()
    stride, half = (2 if name == "imagenet" else 1), channels // 2
    one = [*stem_convolution(inputs, half, stride), nn.ReLU(), *stem_convolution(half, channels, stride)]
    return nn.Sequential(*one), nn.Sequential(nn.ReLU(), *stem_convolution(channels, channels, 2))


class PlainSupernet(nn.Module):
    """Called as `dnas.supernet.supernet.Supernet` is: images [B, C, H, W] and mixing weights → logits [B, classes]."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        layers: int,
        channels: int,
        classes: int,
        inputs: int = 3,
        partial: int = 4,
        nodes: int = 4,
        stem: str = "cifar",
    ) -> None:
        super().__init__()
        self.names = names
        self.stem, self.stem_second = stem_layers(stem, inputs, channels)
        shrunk = len(self.stem_second) > 0
        before = previous = channels if shrunk else 3 * channels
        self.cells = nn.ModuleList()
        for k in range(layers):
            reduction = k in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            self.cells.append(Cell(names, before, previous, channels, reduction, shrunk, partial, nodes))
            before, previous, shrunk = previous, nodes * channels, reduction
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(previous, classes)

    def forward(self, images: Tensor, mixing: MixingWeights, draws: None = None) -> Tensor:
        assert draws is None, "the plain supernet has no dropout after its identities"
        before = self.stem(images)
        previous = self.stem_second(before)
        same = mixing.bypass.data_ptr() == mixing.edges.data_ptr()
        for k, cell in enumerate(self.cells):
            bypass = None if same else mixing.bypass[k]
            before, previous = previous, cell(before, previous, mixing.operations[k], mixing.edges[k], bypass)
        return self.classifier(self.pool(previous).flatten(1))


# --- the same weights in both ---------------------------------------------------------------------------


def weight_pairs(engine: Supernet, plain: PlainSupernet) -> Iterator[tuple[nn.Parameter, slice, nn.Parameter]]:
    """For every weight of the plain supernet: which slice of which tensor of the engine it is."""
    everything = slice(None)
    modules = [(engine.stem, plain.stem), (engine.classifier, plain.classifier)]
    if engine.stem_second is not None:
        modules.append((engine.stem_second, plain.stem_second))
    for fast_cell, slow_cell in zip(engine.cells, plain.cells, strict=True):
        modules += zip(fast_cell.preprocess, (slow_cell.preprocess0, slow_cell.preprocess1), strict=True)
    for fast, slow in modules:
        for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
            yield a, everything, b
    for fast_cell, slow_cell in zip(engine.cells, plain.cells, strict=True):
        for block, leaving in zip(fast_cell.sources, fast_cell.leaving, strict=True):
            for name, fast in block.apart.items():
                for t, e in enumerate(leaving):
                    slow = slow_cell.edges[e].operations[plain.names.index(name)]
                    for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
                        yield a, slice(t * b.shape[0], (t + 1) * b.shape[0]), b


def copy_weights(engine: Supernet, plain: PlainSupernet) -> None:
    """Give the plain supernet the engine's weights, all of them."""
    with torch.no_grad():
        copied = 0
        for fast, where, slow in weight_pairs(engine, plain):
            slow.copy_(fast[where])
            copied += slow.numel()
    assert copied == sum(p.numel() for p in engine.parameters()) == sum(p.numel() for p in plain.parameters())

"""The slow, obvious oracles: written from the papers' formulas, one module an edge and operation.

Shares no code with `dnas.supernet`; `copy_weights` maps a supernet's batched weights onto the edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


class Reduce(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.norm = batch_norm(outputs)

    def forward(self, x):
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def separable(c: int, kernel: int, stride: int, dilation: int) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False),
        nn.Conv2d(c, c, 1, bias=False),
        batch_norm(c),
    ]


def operation(name: str, c: int, stride: int) -> nn.Module:
    match name:
        case "none":
            return Zero(stride)
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, 1), batch_norm(c))
        case "avg_pool_3x3":
            return nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), batch_norm(c))
        case "skip_connect":
            return nn.Identity() if stride == 1 else Reduce(c, c)
        case "sep_conv_3x3" | "sep_conv_5x5":
            k = int(name[-1])
            return nn.Sequential(*separable(c, k, stride, 1), *separable(c, k, 1, 1))
        case "dil_conv_3x3" | "dil_conv_5x5":
            return nn.Sequential(*separable(c, int(name[-1]), stride, 2))
    raise ValueError(name)


def shuffle(x, groups: int):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Edge(nn.Module):
    """One edge of PC-DARTS: all operations on the first 1/K of the channels, the rest bypassed."""

    def __init__(self, names, channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.active, self.partial, self.stride = channels // partial, partial, stride
        self.operations = nn.ModuleList(operation(name, self.active, stride) for name in names)

    def forward(self, x, op_weights, edge_weight, bypass_weight):
        first, rest = x[:, : self.active], x[:, self.active :]
        y = sum(w * op(first) for w, op in zip(op_weights, self.operations, strict=True))
        if self.stride == 2:
            rest = F.max_pool2d(rest, 2, 2) if rest.shape[1] else rest[:, :, ::2, ::2]
        return shuffle(torch.cat([edge_weight * y, bypass_weight * rest], 1), self.partial)


class Cell(nn.Module):
    def __init__(self, names, before, previous, channels, reduction, shrunk, partial) -> None:
        super().__init__()
        relu_conv = lambda i: nn.Sequential(nn.ReLU(), nn.Conv2d(i, channels, 1, bias=False), batch_norm(channels))
        self.pre0 = Reduce(before, channels) if shrunk else relu_conv(before)
        self.pre1 = relu_conv(previous)
        self.edges = nn.ModuleList(
            Edge(names, channels, 2 if reduction and source < 2 else 1, partial)
            for node in range(4)
            for source in range(node + 2)
        )

    def forward(self, before, previous, operations, edges, bypass):
        states = [self.pre0(before), self.pre1(previous)]
        e = 0
        for node in range(4):
            total = 0
            for source in range(node + 2):
                total = total + self.edges[e](states[source], operations[e], edges[e], bypass[e])
                e += 1
            states.append(total)
        return torch.cat(states[2:], 1)


class PlainSupernet(nn.Module):
    def __init__(self, names, layers, channels, classes, inputs=3, partial=4) -> None:
        super().__init__()
        self.names, self.layers = names, layers
        self.stem = nn.Sequential(
            nn.Conv2d(inputs, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
        )
        before = previous = 3 * channels
        shrunk, self.cells = False, nn.ModuleList()
        for k in range(layers):
            reduction = k in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            self.cells.append(Cell(names, before, previous, channels, reduction, shrunk, partial))
            before, previous, shrunk = previous, 4 * channels, reduction
        self.classifier = nn.Linear(previous, classes)

    def forward(self, images, operations, edges, bypass):
        before = previous = self.stem(images)
        for k, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous, operations[k], edges[k], bypass[k])
        return self.classifier(previous.mean((2, 3)))


def weight_pairs(supernet, plain: PlainSupernet):
    """For every weight (tensor of the supernet, slice, tensor of the plain one): the slice of the first is the last."""
    pairs = []
    everything = slice(None)
    for fast, slow in ((supernet.stem, plain.stem), (supernet.classifier, plain.classifier)):
        pairs += [(a, everything, b) for a, b in zip(fast.parameters(), slow.parameters(), strict=True)]
    for fast_cell, slow_cell in zip(supernet.cells, plain.cells, strict=True):
        for fast, slow in zip(fast_cell.preprocess, (slow_cell.pre0, slow_cell.pre1), strict=True):
            pairs += [(a, everything, b) for a, b in zip(fast.parameters(), slow.parameters(), strict=True)]
        for block, leaving in zip(fast_cell.sources, fast_cell.leaving, strict=True):
            for name, module in block.apart.items():
                for t, e in enumerate(leaving):
                    slow = slow_cell.edges[e].operations[plain.names.index(name)]
                    for a, b in zip(module.parameters(), slow.parameters(), strict=True):
                        pairs.append((a, slice(t * b.shape[0], (t + 1) * b.shape[0]), b))
    return pairs


def copy_weights(supernet, plain: PlainSupernet) -> None:
    with torch.no_grad():
        for fast, where, slow in weight_pairs(supernet, plain):
            slow.copy_(fast[where])

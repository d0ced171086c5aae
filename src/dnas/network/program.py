"""Convert the modules of a cell of fixed operations to the program of native kernels (`kernels/discrete.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from dnas.kernels import limits
from dnas.kernels.depthwise import DepthwiseConv2d
from dnas.kernels.discrete_layout import INPUTS, Convolution, Program, Term
from dnas.kernels.limits import Kind
from dnas.network.modules import FactorizedReduceModule, ZeroModule


def program(
    preprocess: Iterable[nn.Module],
    operations: Iterable[nn.Module],
    ends: Sequence[tuple[int, int]],
    droppable: Sequence[bool],
    concat: Sequence[int],
) -> Program | None:
    """Return the program of a cell, or None if the kernels lack an operation. `ends` are (source, target) of edges."""
    out = Program()
    states: dict[int, int] = {}
    chains = [list(operation.children()) for operation in operations]
    for state, chain in enumerate(preprocess):
        found = add_preprocess(out, chain, state)
        if found is None:
            return None
        states[state] = found
    for node in sorted({target for _, target in ends}):
        terms = []
        for edge, (source, target) in enumerate(ends):
            if target == node:
                term = add_chain(out, chains[edge], states[source], edge if droppable[edge] else None)
                if term is None:
                    return None
                terms.append(term)
        states[node] = out.picture()
        for term in terms:
            term.node = states[node]
            if term.kind == Kind.CONVOLUTION:
                last = out.convolution_of(term.source)
                last.target, last.edge = states[node], term.edge
        out.terms += terms
    out.concat = [states[state] for state in concat]
    return out if min(concat) >= INPUTS else None


def add_preprocess(out: Program, chain: nn.Module, state: int) -> int | None:
    """Add the preprocessing of an input to the program, and return the picture of the state; None if not covered."""
    found = add_chain(out, list(chain.children()), state, None)
    if found is None or not out.convolutions or out.convolutions[-1].output != found.source:
        return None
    return found.source


def add_chain(
    out: Program, layers: Sequence[nn.Module], source: int, edge: int | None, share: tuple[int, int] = (0, 1)
) -> Term | None:
    """Add the convolutions of a chain to the program, and return the rest: a term of the target node.

    `share` is that of `Convolution`. None if the kernels lack a layer.
    """
    match layers:
        case [nn.Identity()]:
            return Term(Kind.IDENTITY, -1, source, 1, edge)
        case [nn.MaxPool2d(kernel_size=3, padding=1, dilation=1, ceil_mode=False, stride=1 | 2 as stride)]:
            return Term(Kind.MAXIMUM, -1, source, stride, edge)
        case [nn.AvgPool2d(kernel_size=3, padding=1, count_include_pad=False, ceil_mode=False, stride=1 | 2 as stride)]:
            return Term(Kind.AVERAGE, -1, source, stride, edge)
        case [ZeroModule() as zero]:
            return Term(Kind.NOTHING, -1, source, zero.stride, edge)
    deep: nn.Conv2d | None
    points: tuple[nn.Conv2d, ...]
    while layers:
        match layers:
            case [FactorizedReduceModule() as reduce, *layers]:
                deep, points, norm = None, (reduce.even, reduce.odd), reduce.norm
            case [nn.ReLU(), DepthwiseConv2d() as deep, nn.Conv2d() as point, nn.BatchNorm2d() as norm, *layers]:
                points = (point,)
            case [nn.ReLU(), nn.Conv2d() as point, nn.BatchNorm2d() as norm, *layers]:
                deep, points = None, (point,)
            case _:
                return None
        if not _covered(deep, points, norm, share[1]):
            return None
        picture = out.picture()
        learned = norm if norm.affine else None
        out.convolutions.append(Convolution(source, picture, picture, deep, points, learned, share=share))
        source = picture
    return Term(Kind.CONVOLUTION, -1, source, 1, edge)


def _covered(deep: nn.Conv2d | None, points: Sequence[nn.Conv2d], norm: nn.BatchNorm2d, shares: int) -> bool:
    plain = all(p.kernel_size == p.stride == p.dilation == (1, 1) and p.groups == shares for p in points)
    plain = plain and all(p.padding == (0, 0) and p.bias is None for p in points)
    learned = norm.affine and norm.track_running_stats and norm.momentum is not None
    bare = not norm.affine and not norm.track_running_stats and norm.eps == limits.EPSILON
    fits = norm.num_features == sum(p.out_channels for p in points)
    return plain and (learned or bare) and fits and (deep is None or _deep_covered(deep))


def _deep_covered(deep: nn.Conv2d) -> bool:
    pad = int(deep.dilation[0]) * (int(deep.kernel_size[0]) // 2)
    alone = deep.groups == deep.in_channels == deep.out_channels and deep.bias is None and deep.padding_mode == "zeros"
    return (
        alone
        and deep.padding == (pad, pad)
        and pad <= limits.PAD
        and limits.depthwise(deep.kernel_size, deep.stride, deep.dilation)
    )

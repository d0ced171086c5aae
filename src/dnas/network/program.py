"""Convert the modules of a discrete cell to the program of native kernels (`kernels/discrete.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from dnas.kernels import limits
from dnas.kernels.depthwise import DepthwiseConv2d
from dnas.kernels.discrete import INPUTS, Convolution, Program, Term
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
    chains = [_layers(operation) for operation in operations]
    for state, chain in enumerate(preprocess):
        found = _add_chain(out, _layers(chain), state, None)
        if found is None or not out.convolutions or out.convolutions[-1].output != found.source:
            return None
        states[state] = found.source
    for node in sorted({target for _, target in ends}):
        terms = []
        for edge, (source, target) in enumerate(ends):
            if target == node:
                term = _add_chain(out, chains[edge], states[source], edge if droppable[edge] else None)
                if term is None:
                    return None
                terms.append(term)
        states[node] = out.picture()
        for term in terms:
            term.node = states[node]
            if term.kind == Kind.CONVOLUTION:
                last = next(c for c in out.convolutions if c.output == term.source)
                last.target, last.edge = states[node], term.edge
        out.terms += terms
    out.concat = [states[state] for state in concat]
    return out if min(concat) >= INPUTS else None


def _layers(chain: nn.Module) -> list[nn.Module]:
    return list(chain.children())


def _add_chain(out: Program, layers: list[nn.Module], source: int, edge: int | None) -> Term | None:
    """Add the convolutions of a chain to the program, and return the rest: a term of the target node."""
    match layers:
        case [nn.Identity()]:
            return Term(Kind.IDENTITY, -1, source, 1, edge)
        case [nn.MaxPool2d(kernel_size=3, padding=1, dilation=1, ceil_mode=False, stride=1 | 2 as stride)]:
            return Term(Kind.MAXIMUM, -1, source, stride, edge)
        case [nn.AvgPool2d(kernel_size=3, padding=1, count_include_pad=False, ceil_mode=False, stride=1 | 2 as stride)]:
            return Term(Kind.AVERAGE, -1, source, stride, edge)
        case [ZeroModule() as zero]:
            return Term(Kind.NOTHING, -1, source, zero.stride, edge)
    while layers:
        match layers:
            case [FactorizedReduceModule() as reduce, *layers]:
                made = Convolution(source, -1, -1, None, (reduce.even, reduce.odd), reduce.norm)
            case [nn.ReLU(), DepthwiseConv2d() as deep, nn.Conv2d() as point, nn.BatchNorm2d() as norm, *layers]:
                made = Convolution(source, -1, -1, deep, (point,), norm)
            case [nn.ReLU(), nn.Conv2d() as point, nn.BatchNorm2d() as norm, *layers]:
                made = Convolution(source, -1, -1, None, (point,), norm)
            case _:
                return None
        if not _covered(made):
            return None
        made.output = made.target = source = out.picture()
        out.convolutions.append(made)
    return Term(Kind.CONVOLUTION, -1, source, 1, edge)


def _covered(convolution: Convolution) -> bool:
    deep, norm, points = convolution.deep, convolution.norm, convolution.points
    plain = all(p.kernel_size == p.stride == p.dilation == (1, 1) and p.groups == 1 for p in points)
    plain = plain and all(p.padding == (0, 0) and p.bias is None for p in points)
    tracked = norm.affine and norm.track_running_stats and norm.momentum is not None
    fits = norm.num_features == sum(p.out_channels for p in points)
    return plain and tracked and fits and (deep is None or _deep_covered(deep))


def _deep_covered(deep: nn.Conv2d) -> bool:
    pad = int(deep.dilation[0]) * (int(deep.kernel_size[0]) // 2)
    alone = deep.groups == deep.in_channels == deep.out_channels and deep.bias is None and deep.padding_mode == "zeros"
    return (
        alone
        and deep.padding == (pad, pad)
        and pad <= limits.PAD
        and limits.depthwise(deep.kernel_size, deep.stride, deep.dilation)
    )

"""A layer of a supernet that executes few operations, as one function on native kernels (`kernels/discrete.c`).

The executed operations are those of a discrete network, so the same kernels compute them. They differ in three points:
their weights are parts of those of the supernet, their batch norms have no parameters, and each has a mixing weight.
The program is made in every step, because the operations are others in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from dnas.kernels import discrete
from dnas.kernels.discrete_layout import INPUTS, Convolution, Program, Term
from dnas.kernels.limits import Kind
from dnas.network.program import add_chain, add_preprocess


@dataclass(frozen=True)
class Executed:
    """An executed operation, from a state to a node; `share` is that of `Convolution`."""

    source: int
    node: int
    modules: Sequence[nn.Module]
    share: tuple[int, int]


def run_sampled(
    preprocess: Iterable[nn.Module],
    nodes: int,
    operations: Sequence[Executed],
    inputs: tuple[Tensor, Tensor],
    weights: Tensor,
) -> Tensor | None:
    """Return the output [B, H, W, nodes · C] of a layer; None if the kernels do not cover it.

    Args:
        preprocess: Preprocessing of both inputs.
        nodes: Number of nodes.
        operations: The executed operations.
        inputs: [B, H, W, C'] and [B, H', W', C''].
        weights: Mixing weights of the operations.
    """
    made = program(preprocess, nodes, operations)
    before, previous = (x.permute(0, 3, 1, 2) for x in inputs)
    out = None if made is None else discrete.run(made, before, previous, None, weights)
    return None if out is None else out.permute(0, 2, 3, 1)


def program(preprocess: Iterable[nn.Module], nodes: int, operations: Sequence[Executed]) -> Program | None:
    """Return the program of a layer, with the operations as its edges.

    None if the kernels lack an operation, or if a node has none.
    Preprocessing whose result is not read is left out, so that its weights get no gradient.
    """
    out = Program()
    states: dict[int, int] = {}
    read = {operation.source for operation in operations}
    for state, chain in enumerate(preprocess):
        if state in read:
            picture = add_preprocess(out, chain, state)
            if picture is None:
                return None
            states[state] = picture
    for node in range(nodes):
        entering = [edge for edge, operation in enumerate(operations) if operation.node == node]
        terms = [_add_operation(out, operations[edge], states, edge) for edge in entering]
        covered = [term for term in terms if term is not None]
        if not covered or len(covered) < len(terms):
            return None
        states[INPUTS + node] = picture = out.picture()
        for term in covered:
            term.node = picture
            if term.kind == Kind.CONVOLUTION:
                out.convolution_of(term.source).target = picture
        out.terms += covered
        out.concat.append(picture)
    return out


def _add_operation(out: Program, operation: Executed, states: dict[int, int], edge: int) -> Term | None:
    """Add an operation to the program, and return the term of its node, whose number is still missing."""
    term = add_chain(out, operation.modules, states[operation.source], edge, operation.share)
    if term is None or term.kind == Kind.IDENTITY:
        return term
    if term.kind != Kind.CONVOLUTION:
        # A pool is a node that only this operation reads, with a batch norm, as in the search of DARTS.
        term.edge, term.node = None, out.picture()
        out.terms.append(term)
        normed = out.picture()
        out.convolutions.append(Convolution(term.node, normed, normed, None, (), None))
        term = Term(Kind.CONVOLUTION, -1, normed, 1, None)
    # The mixing weight is the scale of the batch norm.
    term.edge, out.convolution_of(term.source).edge = None, edge
    return term

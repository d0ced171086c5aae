"""Parsing of genotypes as printed in papers, without evaluating them as code."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from dnas.errors import InputError, shown
from dnas.space.cell import MAX_NODES, is_int
from dnas.space.protocol import Slot

# The depth of networks for CIFAR since NASNet, at which genotypes are published.
PAPER_LAYERS = 20


def nodes_of_genotype(genes: Any, which: str) -> tuple[tuple[Slot, ...], ...]:
    """Return the nodes of one cell of a genotype. Raises InputError if it is malformed."""
    if not isinstance(genes, Sequence) or not genes or isinstance(genes, str):
        raise InputError(f"{which} must be a list of (operation, input) pairs")
    if len(genes) > 4 * MAX_NODES:
        raise InputError(f"{which} has {len(genes)} pairs, but a cell has at most {MAX_NODES} nodes")
    for gene in genes:
        good = isinstance(gene, Sequence) and len(gene) == len(genes[0]) and len(gene) in (2, 3)
        if not (good and isinstance(gene[0], str) and all(is_int(i) for i in gene[1:])):
            raise InputError(f"{which}: expected an (operation, input) pair, got {shown(gene)}")
    if len(genes[0]) == 2:
        if len(genes) % 2:
            raise InputError(f"{which} has {len(genes)} pairs, but each node has two")
        return tuple(((genes[i][0], genes[i][1]), (genes[i + 1][0], genes[i + 1][1])) for i in range(0, len(genes), 2))
    targets = [to for _, to, _ in genes]
    if not 2 <= min(targets) <= max(targets) < 2 + MAX_NODES:
        raise InputError(f"{which}: to-states must be between 2 and {1 + MAX_NODES}")
    # Nodes without a triple are kept as empty nodes, so that state numbers keep their meaning.
    return tuple(
        tuple((op, source) for op, to, source in genes if to == state) for state in range(2, max(*targets, 5) + 1)
    )


def literal(node: ast.expr) -> Any:
    """Return the value of a literal in a genotype, in which ranges are allowed. Raises InputError or ValueError."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in node.args]
        if not bounds or not all(is_int(b) and 0 <= b <= 2 + MAX_NODES for b in bounds):
            raise InputError("a range in a genotype must be a range of states, e.g. range(2, 6)")
        return range(*bounds)
    return ast.literal_eval(node)

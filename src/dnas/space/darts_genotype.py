"""Genotypes, as printed in papers: pairs of cells, which are read without evaluating them as code."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from dnas.errors import InputError, shown
from dnas.space.darts_cell import MAX_NODES, Cell
from dnas.space.protocol import Slot
from dnas.space.reading import integers, is_int


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


def pair_of_genotype(
    normal: Sequence[Sequence[Any]],
    reduce: Sequence[Sequence[Any]],
    normal_concat: Iterable[int] | None = None,
    reduce_concat: Iterable[int] | None = None,
) -> tuple[Cell, Cell]:
    """Return the normal cell and the reduction cell of a genotype; see `Architecture.from_darts`."""
    return (
        Cell(nodes_of_genotype(normal, "normal"), tuple(normal_concat or ())),
        Cell(nodes_of_genotype(reduce, "reduce"), tuple(reduce_concat or ())),
    )


def genotype_of(normal: object, reduction: object) -> dict[str, Any]:
    """Return the genotype of a pair of cells, as in `Architecture.to_darts`. Raises InputError for other layers."""
    if not isinstance(normal, Cell) or not isinstance(reduction, Cell):
        raise InputError("the layers are not cells, so this architecture has no genotype; save it as JSON")
    genotype: dict[str, Any] = {}
    for kind, cell in (("normal", normal), ("reduce", reduction)):
        triples = any(len(node) != 2 for node in cell.nodes)
        genotype[kind] = [
            [op, 2 + n, source] if triples else [op, source] for n, node in enumerate(cell.nodes) for op, source in node
        ]
        genotype[f"{kind}_concat"] = list(cell.concat)
    return genotype


def parsed_genotype(text: str) -> tuple[Cell, Cell]:
    """Return the cells of the text of a genotype; see `architecture.parse_genotype`."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args):
            raise InputError("a genotype must be written as Genotype(normal=[…], normal_concat=…, reduce=[…], …)")
        values = {keyword.arg: literal(keyword.value) for keyword in call.keywords}
    except InputError:
        raise
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"cannot parse the genotype: {' '.join(str(error).split())}") from None
    missing = {"normal", "reduce"} - set(values)
    if missing or set(values) - {"normal", "normal_concat", "reduce", "reduce_concat"}:
        raise InputError("a genotype can only have normal, normal_concat, reduce and reduce_concat")
    for key in ("normal_concat", "reduce_concat"):
        if key in values:
            concat = values[key]
            values[key] = integers(list(concat) if isinstance(concat, tuple | range) else concat, key)
    return pair_of_genotype(
        values["normal"], values["reduce"], values.get("normal_concat"), values.get("reduce_concat")
    )


def literal(node: ast.expr) -> Any:
    """Return the value of a literal in a genotype, in which ranges are allowed. Raises InputError or ValueError."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in node.args]
        if not bounds or not all(is_int(b) and 0 <= b <= 2 + MAX_NODES for b in bounds):
            raise InputError("a range in a genotype must be a range of states, e.g. range(2, 6)")
        return range(*bounds)
    return ast.literal_eval(node)

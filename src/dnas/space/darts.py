"""Spaces of cells: each node of a cell sums operations on earlier states (Liu et al., DARTS, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dnas.space.darts_cell import MAX_NODES, Cell, buildable, cell_from_json, cell_to_json
from dnas.space.darts_plan import STEMS, cell_plan
from dnas.space.network_plan import LayerPlan, Stem
from dnas.space.primitives import DARTS_PRIMITIVES, PRIMITIVES, Chain, chain_cost
from dnas.space.protocol import SearchSpace, Slot


@dataclass(frozen=True)
class Space(SearchSpace):
    """A space of cells. States 0 and 1 are the outputs of the two previous layers, state 2 + n is node n."""

    @property
    def thins(self) -> bool:
        return True

    @property
    def timed(self) -> bool:
        return True

    def invalid(self) -> str | None:
        if not 1 <= self.nodes <= MAX_NODES:
            return f"a cell must have 1 to {MAX_NODES} nodes, got {self.nodes}"
        if self.inputs_per_node not in (1, 2):
            reason = "as the first node has two possible inputs"
            return f"inputs_per_node must be 1 or 2, {reason}, got {self.inputs_per_node}"
        return None

    def knows(self, operation: str) -> bool:
        return operation in PRIMITIVES

    def edges_of(self, node: int) -> int:
        return node + 2

    def layer(self, nodes: Sequence[Sequence[Slot]]) -> Cell:
        return Cell(tuple(tuple(node) for node in nodes))

    def buildable(self, layer: Cell) -> str | None:
        return buildable(layer)

    def layer_to_json(self, layer: Cell) -> dict[str, Any]:
        return cell_to_json(layer)

    def layer_from_json(self, value: Any, k: int) -> Cell:
        return cell_from_json(value, k)

    def layer_objection(self, layer: Cell, reduction: bool) -> str | None:
        left_out = len(layer.concat) != len(layer.nodes)
        text = f"concat {list(layer.concat)} leaves out a node; the {self.name!r} space requires all nodes"
        return self.objection(layer.nodes, reduction) or (text if left_out else None)

    def stem(self, name: str, inputs: int, channels: int) -> Stem:
        return STEMS[name](inputs, channels)

    def layer_plan(
        self, layer: Cell, before: int, previous: int, width: int, reduction: bool, shrunk: bool
    ) -> LayerPlan:
        return cell_plan(layer, before, previous, width, reduction, shrunk)

    def operation_chains(
        self, operation: str, edge: int, plan: LayerPlan, previous: int, reduction: bool
    ) -> tuple[Chain, ...]:
        return (PRIMITIVES[operation].chain(plan.channels, 2 if reduction and self.edges[edge][1] < 2 else 1),)

    def operation_params(self, operation: str) -> int:
        return chain_cost(PRIMITIVES[operation].chain(16, 1), 1)[0].params


DARTS = Space("darts", nodes=4, inputs_per_node=2, primitives=DARTS_PRIMITIVES)


def _pairs(text: str) -> tuple[tuple[str, ...], ...]:
    """Parse the primitives of each edge from labels: s skip, m and a pools, 3 and 5 separable, d and D dilated."""
    names = dict(zip("mas35dD", DARTS.primitives, strict=True))
    return tuple(tuple(sorted((names[c] for c in pair), key=DARTS.primitives.index)) for pair in text.split())


# Four spaces in which differentiable search is known to end in skip connections or worse (Zela et al., ICLR 2020, §3;
# the pairs of S1 are from the authors' code). Methods cannot change the candidates of these spaces.
S1 = replace(
    DARTS,
    name="s1",
    none=False,
    per_edge=(
        _pairs("sd sD sD s3 sd ms s3 s3 sd s3 ms sd dD dD"),
        _pairs("ma md ma ma sD ma m3 sd sD ma ma sD sD sD"),
    ),
)
S2 = replace(DARTS, name="s2", none=False, primitives=("skip_connect", "sep_conv_3x3"))
S3 = replace(S2, name="s3", none=True)
S4 = replace(DARTS, name="s4", none=False, primitives=("noise", "sep_conv_3x3"))

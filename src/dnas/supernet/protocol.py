"""What a search needs from a weight-sharing network of any space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from dnas.kernels.draws import Draws
from dnas.supernet.relaxation import MixingWeights


@dataclass(frozen=True)
class Owned:
    """A weight of an operation.

    Attributes:
        edges: The edges of the equal parts of the weight along its first dimension, in order.
        operation: The column of the operation.
    """

    weight: nn.Parameter
    layer: int
    edges: list[int]
    operation: int


class WeightSharing(nn.Module, ABC):
    """Base class of supernets: images [B, C, H, W] and mixing weights → logits [B, classes]."""

    @abstractmethod
    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        """Return the logits. Operations that the mixing weights leave out are not executed."""

    @abstractmethod
    def owned(self) -> Iterator[Owned]:
        """Yield every weight of an operation."""

    def parts(self, active: Tensor) -> dict[nn.Parameter, list[bool]]:
        """Return the weights that are only partly executed if only the `active` [L, E, O] operations are.

        A weight consists of equal parts along its first dimension, one for each of its edges. For each part, the value
        is True if it is executed.
        """
        rows = active.tolist()
        found = {each.weight: [rows[each.layer][e][each.operation] for e in each.edges] for each in self.owned()}
        return {weight: executed for weight, executed in found.items() if any(executed) and not all(executed)}

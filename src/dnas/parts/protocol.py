"""What a part can give: hooks into the search of any gradient method, each of which does nothing by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from dnas.methods.protocol import GradientMethod, MethodOptions, Progress
from dnas.settings import GradientSettings


class PartOptions(MethodOptions):
    """A part's own options, set by `--option PART.NAME=VALUE` or under `[with_options.PART]` in a file."""


class SearchView(Protocol):
    """What a part may use of the search that it takes part in.

    Attributes:
        method: A `GradientMethod`, with its options.
        settings: Its `GradientSettings`, resolved.
        mapping: A `Mapping` with its architecture parameters.
        architecture: These parameters.
        seed: The run's.
    """

    method: Any
    settings: Any
    mapping: Any
    architecture: list[nn.Parameter]
    seed: int

    def progress(self, step: int, draw: int = 0) -> Progress:
        """Where a step stands."""

    def training_slopes(self, step: int) -> Sequence[Tensor]:
        """The gradients of the training loss in the architecture parameters, on the images of the weight step."""


class Part:
    """What is added to a search. It has options and no state.

    Attributes:
        name, title, paper: For people.
        Options: Its own options.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    Options: ClassVar[type[PartOptions]] = PartOptions

    def __init__(self, options: PartOptions) -> None:
        self.options = options

    def check(self, method: GradientMethod, settings: GradientSettings) -> None:
        """Raises InputError where it could not act."""

    def passes(self, settings: GradientSettings) -> float:
        """What it adds to the cost of a step in which the architecture moves, in passes forward and backward."""
        return 0.0

    def penalty(self, search: SearchView, progress: Progress) -> Tensor | None:
        """What the architecture step adds to its loss, beside the method's own penalty."""
        return None

    def offsets(self, search: SearchView, step: int) -> Sequence[Tensor] | None:
        """What is added to the architecture parameters for the weight step, which leaves them as they were."""
        return None

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        """What an epoch's line of metrics.jsonl says of it; keys begin with the part's name."""
        return {}

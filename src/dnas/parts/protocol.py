"""The interface of parts: hooks into the search of any differentiable method, which do nothing by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, MethodOptions, Progress
from dnas.settings import GradientSettings
from dnas.space.architecture import Architecture
from dnas.supernet.protocol import Owned
from dnas.supernet.relaxation import MixingWeights


def require_top_edges(part: str, method: GradientMethod) -> None:
    """Raise InputError if a method has another derivation, which would have no effect with the part."""
    derivation = getattr(method.options, "derivation", "top-2")
    if derivation != "top-2":
        raise InputError(
            f"--option derivation={derivation} cannot be used with --with {part}, which replaces the derivation"
        )


class PartOptions(MethodOptions):
    """Options of a part, set by `--option PART.NAME=VALUE` or under `[with_options.PART]` in a file."""


class ClosingsView(Protocol):
    """The closed operations, as parts see them.

    Attributes:
        closed: [L, E, O] of bool on the CPU.
    """

    closed: Tensor

    def ranking(self, progress: Progress) -> Tensor:
        """Return the scores of the method, [L, E, O] on the CPU, as without closings; -∞ for closed operations."""


class SearchView(Protocol):
    """The interface of a search for its parts.

    Attributes:
        method: A `GradientMethod`, with its options.
        settings: Its resolved `GradientSettings`.
        mapping: A `Mapping` with its architecture parameters.
        architecture: These parameters.
        weights: Weights of the supernet.
        seed: Seed of the run.
        states: State of each part (`Part.begin`), by its name.
    """

    method: Any
    settings: Any
    mapping: Any
    architecture: list[nn.Parameter]
    weights: list[nn.Parameter]
    seed: int
    states: dict[str, dict[str, Tensor]]

    @property
    def closings(self) -> ClosingsView:
        """Return the operations closed by parts (`Part.closing`)."""

    def progress(self, step: int, draw: int = 0) -> Progress:
        """Return the position of a step in the search."""

    def training_slopes(self, step: int) -> Sequence[Tensor]:
        """Return the gradients of the training loss in the architecture parameters, on the images of that step."""

    def training_gradients(self, step: int, bump: Tensor) -> Sequence[Tensor | None]:
        """Return the gradients in the weights, with `bump` [L, E, O] added to the mixing weights of the operations."""

    def owned(self) -> Iterable[Owned]:
        """Return the weights that belong to operations."""

    def mixing(self, progress: Progress) -> MixingWeights:
        """Return the mixing weights of the method, in the form for the supernet."""

    def judge(self, what: Architecture | MixingWeights, images: int | None = None) -> tuple[float, float]:
        """Return accuracy and cross-entropy of the supernet on so many validation images."""


class Part:
    """Base class of parts, which are added to a search. A part has options; its state is kept by the search (`begin`).

    Attributes:
        name, title, paper: Texts for people.
        Options: Class of its options.
        updates: The supported values of `search.update`.
        compares: Whether `compare` is called, for which the architecture step also computes gradients of the weights.
        derives: Whether `derive` replaces that of the method.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    Options: ClassVar[type[PartOptions]] = PartOptions
    updates: ClassVar[tuple[str, ...]] = ("first-order", "second-order", "single-level")
    compares: ClassVar[bool] = False
    derives: ClassVar[bool] = False

    def __init__(self, options: PartOptions) -> None:
        self.options = options

    def check(self, method: GradientMethod, settings: GradientSettings) -> None:
        """Raise InputError if the part would have no effect, for another reason than `updates`."""

    def begin(self, search: SearchView) -> dict[str, Tensor]:
        """Return the state of the part, which is saved in checkpoints: tensors that its hooks change in place."""
        return {}

    def passes(self, settings: GradientSettings) -> float:
        """Return the cost that it adds to a step with an architecture update, in forward and backward passes."""
        return 0.0

    def penalty(self, search: SearchView, progress: Progress) -> Tensor | None:
        """Return a term for the loss of the architecture step, in addition to the penalty of the method, or None."""
        return None

    def offsets(self, search: SearchView, step: int) -> Sequence[Tensor] | None:
        """Return offsets of the architecture parameters during the weight step, or None."""
        return None

    def wants_slopes(self, search: SearchView, step: int) -> bool:
        """Return True if `weight_gradients` needs the gradient in the mixing weights."""
        return False

    def weight_gradients(self, search: SearchView, step: int, slopes: Tensor) -> Sequence[Tensor | None] | None:
        """Return terms for the gradients of the weights, or None. Only called after `wants_slopes` returned True.

        `slopes` [L, E, O] is the gradient of the training loss in the mixing weights of the operations.
        """
        return None

    def compare(
        self, search: SearchView, training: Sequence[Tensor | None], validation: Sequence[Tensor | None]
    ) -> None:
        """Process the gradients of the weights on training and validation images after each step.

        A gradient is None for weights that it does not reach.
        """

    def resting(self, search: SearchView) -> Tensor | None:
        """Return the operations with frozen weights, [L, E, O] of bool on the CPU, or None."""
        return None

    def closing(self, search: SearchView, step: int) -> Tensor | None:
        """Return the operations to close permanently before this step, [L, E, O] of bool on the CPU, or None.

        Closed operations have weight 0, are not part of the relaxation, and cannot be derived. Each node must keep as
        many edges as it has inputs, and each edge that is not closed as a whole an operation that can be derived.
        """
        return None

    def skip_dropout(self, search: SearchView, progress: Progress) -> float:
        """Return the dropout probability for the output of the identity in this step, in addition to the method's."""
        return 0.0

    def judged_images(self, method: GradientMethod, layers: int, validation: int) -> float:
        """Return how many images its derivation needs, if there are `validation` of them."""
        return 0.0

    def measures(self, search: SearchView, progress: Progress) -> Sequence[MixingWeights]:
        """Return the mixing weights to measure, one by one, after the last step."""
        return []

    def measure(self, search: SearchView, mixing: MixingWeights) -> float:
        """Return the result of one of these measurements."""
        raise NotImplementedError

    def derive(self, search: SearchView, progress: Progress, measured: Sequence[float]) -> Architecture:
        """Return the architecture that follows from all measurements."""
        raise NotImplementedError

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        """Return its values for the line of an epoch in metrics.jsonl; keys start with the name of the part."""
        return {}

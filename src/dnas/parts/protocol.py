"""What a part can give: hooks into the search of any gradient method, each of which does nothing by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from dnas.errors import InputError
from dnas.methods.protocol import GradientMethod, MethodOptions, Progress
from dnas.settings import GradientSettings
from dnas.space.architecture import Architecture
from dnas.supernet.relaxation import MixingWeights
from dnas.supernet.supernet import Owned


def require_top_edges(part: str, method: GradientMethod) -> None:
    """Raises InputError where a method has been told to derive otherwise, which the part would leave without effect."""
    derivation = getattr(method.options, "derivation", "top-2")
    if derivation != "top-2":
        raise InputError(f"--option derivation={derivation} cannot be used with --with {part}, which derives")


class PartOptions(MethodOptions):
    """A part's own options, set by `--option PART.NAME=VALUE` or under `[with_options.PART]` in a file."""


class ClosingsView(Protocol):
    """What a part may know of the operations that are closed.

    Attributes:
        closed: [L, E, O] of bool on the CPU.
    """

    closed: Tensor

    def ranking(self, progress: Progress) -> Tensor:
        """[L, E, O] on the CPU: what the method ranks by, as if nothing were closed; -∞ where it is."""


class SearchView(Protocol):
    """What a part may use of the search that it takes part in.

    Attributes:
        method: A `GradientMethod`, with its options.
        settings: Its `GradientSettings`, resolved.
        mapping: A `Mapping` with its architecture parameters.
        architecture: These parameters.
        weights: Of the supernet.
        seed: The run's.
        states: What each part began with (`Part.begin`), by its name.
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
        """What parts have closed (`Part.closing`)."""

    def progress(self, step: int, draw: int = 0) -> Progress:
        """Where a step stands."""

    def training_slopes(self, step: int) -> Sequence[Tensor]:
        """The gradients of the training loss in the architecture parameters, on the images of the weight step."""

    def training_gradients(self, step: int, bump: Tensor) -> Sequence[Tensor | None]:
        """Those in the weights, where `bump` [L, E, O] is added to the mixing weights of the operations."""

    def owned(self) -> Iterable[Owned]:
        """The weights that belong to operations."""

    def mixing(self, progress: Progress) -> MixingWeights:
        """The method's mixing weights, as the supernet takes them."""

    def judge(self, what: Architecture | MixingWeights, images: int | None = None) -> tuple[float, float]:
        """Accuracy and cross-entropy of the supernet on so many validation images."""


class Part:
    """What is added to a search. It has options, and its state is with the search (`begin`).

    Attributes:
        name, title, paper: For people.
        Options: Its own options.
        updates: Under which `search.update` it can act.
        compares: Whether `compare` is to be called, for which the architecture step computes the weights' gradients.
        derives: Whether `derive` stands in place of the method's.
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
        """Raises InputError where it could not act, for another reason than `updates`."""

    def begin(self, search: SearchView) -> dict[str, Tensor]:
        """What it keeps from step to step, in checkpoints: tensors that its hooks change in place."""
        return {}

    def passes(self, settings: GradientSettings) -> float:
        """What it adds to the cost of a step in which the architecture moves, in passes forward and backward."""
        return 0.0

    def penalty(self, search: SearchView, progress: Progress) -> Tensor | None:
        """What the architecture step adds to its loss, beside the method's own penalty."""
        return None

    def offsets(self, search: SearchView, step: int) -> Sequence[Tensor] | None:
        """What is added to the architecture parameters for the weight step, which leaves them as they were."""
        return None

    def wants_slopes(self, search: SearchView, step: int) -> bool:
        """Whether `weight_gradients` is to be called with the gradient in the mixing weights."""
        return False

    def weight_gradients(self, search: SearchView, step: int, slopes: Tensor) -> Sequence[Tensor | None] | None:
        """What is added to the gradients of the weights, where it wants `slopes` [L, E, O]: the gradient of the
        training loss in the mixing weights of the operations."""
        return None

    def compare(
        self, search: SearchView, training: Sequence[Tensor | None], validation: Sequence[Tensor | None]
    ) -> None:
        """Called after each step with the weights' gradients of its training and of its validation images; None where
        they do not reach."""

    def resting(self, search: SearchView) -> Tensor | None:
        """[L, E, O] of bool on the CPU: operations whose weights rest."""
        return None

    def closing(self, search: SearchView, step: int) -> Tensor | None:
        """[L, E, O] of bool on the CPU: operations that are closed before this step, for good: their weight is 0, the
        relaxation does not see them, and they cannot be derived. Each node must keep as many edges as it has inputs,
        and each edge that is not closed as a whole an operation that can be derived."""
        return None

    def skip_dropout(self, search: SearchView, progress: Progress) -> float:
        """The probability with which the identity's output is dropped in this step, besides the method's."""
        return 0.0

    def judged_images(self, method: GradientMethod, layers: int, validation: int) -> float:
        """How many images run through the supernet for its derivation, where there are `validation` of them."""
        return 0.0

    def measures(self, search: SearchView, progress: Progress) -> Sequence[MixingWeights]:
        """The mixing weights that the supernet is to be measured with, one by one, after the last step."""
        return []

    def measure(self, search: SearchView, mixing: MixingWeights) -> float:
        """One of these measurements."""
        raise NotImplementedError

    def derive(self, search: SearchView, progress: Progress, measured: Sequence[float]) -> Architecture:
        """The architecture that follows from all of them."""
        raise NotImplementedError

    def metrics(self, search: SearchView, progress: Progress) -> dict[str, float]:
        """What an epoch's line of metrics.jsonl says of it; keys begin with the part's name."""
        return {}

"""The interface of methods by kind, and the information that they receive."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from dnas.errors import InputError, RunError, SettingError
from dnas.kernels.draws import Draws
from dnas.rng import numpy_stream, torch_stream
from dnas.settings import GradientSettings, SearchSettings, SupernetSettings, TrialSettings
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.limits import Feasible
from dnas.space.protocol import PAPER_LAYERS, SearchSpace, reduction_layers
from dnas.supernet import derive
from dnas.supernet.mapping import FULL, MAPPINGS, SHARED, Mapping, Nothing, mapping_class
from dnas.supernet.relaxation import MixingWeights, path
from dnas.training.batches import Batch

# --- options ------------------------------------------------------------------------------------------------


class MethodOptions(BaseModel):
    """Options of a method, set by `--option NAME=VALUE` or under `[options]` in a configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class SupernetOptions(MethodOptions):
    """Options of all methods with a supernet."""

    partial_channels: int = Field(
        1, ge=1, description="K: 1/K of the channels pass through the operations (PC-DARTS §3.1)"
    )


class GradientOptions(SupernetOptions):
    """Options of all methods that relax the architecture.

    If `none` can take part in the relaxation, a method adds the option `with_none`.
    """

    initial_scale: float = Field(1e-3, ge=0, description="standard deviation of the initial architecture parameters")


# --- what methods receive -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """The current position of a search, for schedules, draws and costs of a method.

    Attributes:
        epoch, epochs: This epoch, from 0, and the number of epochs including the warm-up.
        warmup_epochs: Number of first epochs, which only update weights.
        step: This step, from 0, over all epochs.
        draw: 0 for the training batch of a step, 1 for its validation batch.
        seed: Seed of the run.
        channels, image_size: Initial channels and side of the images in pixels, on which costs of operations depend.
    """

    epoch: int = 0
    epochs: int = 1
    warmup_epochs: int = 0
    step: int = 0
    draw: int = 0
    seed: int = 0
    channels: int = 16
    image_size: int = 32

    @property
    def share(self) -> float:
        """Share of a schedule that has passed: 0 in the warm-up and the first epoch after it, 1 in the last epoch.

        A schedule that is a function of this share reaches its end value for any number of epochs.
        """
        steps = self.epochs - self.warmup_epochs - 1
        return 1.0 if steps <= 0 else min(1.0, max(0.0, (self.epoch - self.warmup_epochs) / steps))

    def between(self, start: float, end: float) -> float:
        """Return the value of a linear schedule: `start` until the first epoch after the warm-up, `end` in the last."""
        return (1 - self.share) * start + self.share * end

    def generator(self, *counters: int) -> torch.Generator:
        """Return the generator for the draws of a relaxation in this step; equal for equal arguments."""
        return torch_stream(self.seed, "relaxation", self.step, self.draw, *counters)


@dataclass(frozen=True)
class Candidate:
    """An architecture to evaluate, on a share of the validation images."""

    architecture: Architecture
    share: float = 1.0


@dataclass(frozen=True)
class Trial:
    """An evaluated candidate.

    Attributes:
        score: Validation accuracy, 0 to 1; None if its training failed.
        share: Share of the validation images.
    """

    architecture: Architecture
    score: float | None
    share: float = 1.0


# --- the search as methods see it -----------------------------------------------------------------------------


class SearchState(Protocol):
    """The interface of a search for a method, in `after_epoch`.

    Attributes:
        mapping: The mapping of the method, with its architecture parameters.
        weights: Weights of the supernet.
        memory: Data that the method keeps from epoch to epoch, saved in checkpoints as JSON.
    """

    mapping: Any
    weights: list[nn.Parameter]
    memory: dict[str, Any]

    def batch(self, step: int, draw: int) -> Batch:
        """Return the images of a step: draw 0 from the training half, draw 1 from the validation half."""

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        """Return logits [B, classes] of normalized images under any mixing weights; counted in the search cost."""

    def accuracy(self, what: Architecture | MixingWeights, images: int | None = None, first: int = 0) -> float:
        """Return the accuracy of the supernet on validation images, for one architecture or mixing weights."""

    def follow(self, loss: Tensor) -> None:
        """Update the parameters of the method by the gradient of its own loss."""


# --- the protocols --------------------------------------------------------------------------------------------


class Method:
    """Base class of all methods.

    Attributes:
        name, title, paper: Texts for people.
        kind: "gradient", "sampling" or "trials".
        mappings: Names of the supported mappings.
        Options: Class of its options.
        Settings: Class of the settings of its search.
        quick: Settings of the quick preset for this method, {"search": …, "options": …}, if they are not those for all
            methods, e.g. the number of architectures to evaluate.
        paper_options: Values of its options in the paper preset, if the default is not the published value.
        feasible: The architectures within the limits of a run, or None without limits. Set by the run.
        answers: The same for each value of a limit with several; the last is `feasible`. Set by the run.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    kind: ClassVar[str]
    mappings: ClassVar[tuple[str, ...]]
    default_mapping: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    Settings: ClassVar[type[SearchSettings]] = SearchSettings
    quick: ClassVar[Dict[str, Dict[str, Any]]] = {}
    paper_options: ClassVar[Dict[str, Any]] = {}
    feasible: Feasible | None = None
    answers: tuple[Feasible, ...] = ()

    def __init__(self, options: MethodOptions, mapping: str, space: SearchSpace) -> None:
        if mapping not in self.mappings:
            mapping_class(mapping)
            raise SettingError(
                "mapping",
                "--mapping",
                f" {mapping} cannot be used with method {self.name}; choose from {', '.join(self.mappings)}",
            )
        self.options = options
        self.mapping_name = mapping
        self.space = space

    def uniform(self, rng: np.random.Generator, layers: int) -> Architecture:
        """Draw a uniform architecture of the space: layer by layer, or one pair for all if they are shared."""
        return self._drawn(lambda: sampling.sample(self.space, rng, layers, shared=self.mapping_name == SHARED))

    def mutant(self, rng: np.random.Generator, architecture: Architecture, most: int = 1) -> Architecture:
        """Return the architecture with up to `most` mutated slots; see `sampling.mutate`."""
        shared = self.mapping_name == SHARED
        return self._drawn(lambda: sampling.mutate(self.space, rng, architecture, shared=shared, most=most))

    def _drawn(self, draw: Callable[[], Architecture]) -> Architecture:
        return draw() if self.feasible is None else self.feasible.drawn(draw)

    def within(self, architecture: Architecture) -> Architecture:
        """Return the architecture, or the nearest one within the limits. Used for all evaluated and final results."""
        return architecture if self.feasible is None else self.feasible.within(architecture)

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """Return the settings of the paper for a data set, {"search": …, "train": …}, that differ from DARTS."""
        return {}

    def of_pair(
        self, data: str, everywhere: Dict[str, Any] | None = None, proxy: Dict[str, Any] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return `paper_settings` for a paper that searches a pair of layers and trains it stacked to `PAPER_LAYERS`.

        Args:
            everywhere: Settings of the search under any mapping.
            proxy: Settings only for shared layers; over the whole network, `whole_network` has the others.
        """
        if self.mapping_name == SHARED:
            return {"search": {**(everywhere or {}), **(proxy or {})}, "train": {"layers": PAPER_LAYERS}}
        whole = whole_network(data)
        return {**whole, "search": {**whole["search"], **(everywhere or {})}}

    def origin(self) -> dict[str, Any]:
        """Return the origin of an architecture for its file."""
        return {"method": self.name, "mapping": self.mapping_name}

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """Return the next candidates to evaluate. All of them are evaluated before the next call.

        An empty list ends the selection, and `choose` receives the history. This must be a pure function of its
        arguments, so that a search can be resumed from its history.
        """
        return []

    def choose(self, history: Sequence[Trial]) -> Architecture:
        """Return the best candidate of those evaluated on the largest share; see `best`."""
        return best(history, self.name).architecture


def best(history: Sequence[Trial], name: str) -> Trial:
    """Return the first trial with the best score on the largest share of images. Raises RunError if all failed."""
    scored = [trial for trial in history if trial.score is not None]
    if not scored:
        raise RunError(f"{name}: none of the {len(history)} candidates could be evaluated; see log.txt")
    largest = max(trial.share for trial in scored)
    return max((trial for trial in scored if trial.share == largest), key=lambda trial: trial.score or 0.0)


class SupernetMethod(Method):
    """A method whose candidates share the weights of one supernet.

    In each step the search calls `mixing` and updates the weights. After each epoch it calls `after_epoch`. At the end
    it evaluates the candidates of `finalists` and then those of `propose` on the supernet and takes the result of
    `choose`, or else that of `derive`.
    """

    kind = "sampling"
    mappings: ClassVar[tuple[str, ...]] = (SHARED, FULL)
    Options: ClassVar[type[MethodOptions]] = SupernetOptions
    Settings: ClassVar[type[SearchSettings]] = SupernetSettings
    options: SupernetOptions

    def __init__(self, options: SupernetOptions, mapping: str, space: SearchSpace) -> None:
        super().__init__(options, mapping, space)
        self.operations: tuple[str, ...] = space.primitives

    @property
    def allowed(self) -> Tensor | None:
        """Return [2, E, O] of bool: the candidates per edge in normal and reduction layers; None if all have all."""
        if not self.space.per_edge:
            return None
        edges = range(len(self.space.edges))
        choices = [[self.space.choices(kind, e) for e in edges] for kind in (False, True)]
        return torch.tensor([[[name in edge for name in self.operations] for edge in kind] for kind in choices])

    def mapping(self, layers: int, seed: int) -> Any:
        """Return what the method learns, without the weights of the supernet; a `Mapping` for gradient methods."""
        return Nothing(layers)

    def mixing(self, mapping: Any, progress: Progress) -> MixingWeights:
        """Return the mixing weights of this step; draws come from `progress.generator`."""
        raise NotImplementedError

    def uniform_path(self, mapping: Any, progress: Progress) -> MixingWeights:
        """Return the mixing weights of a new uniform architecture; no other operation is executed."""
        rng = numpy_stream(progress.seed, "path", progress.step, progress.draw)
        # Weights are shared, so training any architecture is useful, even one beyond the limits.
        architecture = sampling.sample(self.space, rng, mapping.layers, shared=self.mapping_name == SHARED)
        return path(architecture, self.operations, self.space)

    def optimizer(self, mapping: Any, settings: Any) -> torch.optim.Optimizer | None:
        """Return the optimizer of the method's parameters, or None if it has none."""
        return None

    def skip_dropout(self, progress: Progress) -> float:
        """Return the dropout probability for the output of the identity in this step."""
        return 0.0

    def after_epoch(self, search: SearchState, progress: Progress) -> Architecture | None:
        """Do the work of the method after each epoch. Returning an architecture ends the search with it.

        `search.accuracy(architecture)` evaluates on the supernet, `search.follow(loss)` updates the parameters of the
        method by a loss, and `search.memory` is a dict that is saved in checkpoints as JSON.
        """
        return None

    def finalists(self, mapping: Any, progress: Progress) -> list[Candidate]:
        """Return the candidates to evaluate after all steps, from the learned parameters, before `propose` is called.

        This must be a pure function of the parameters and the seed, so that a search can be resumed meanwhile.
        """
        return []

    def judged_images(self, validation: int) -> tuple[float, float]:
        """Return how many images run through the supernet in each `after_epoch`, and in all evaluations at the end, if
        there are `validation` of them. Only used to estimate the time of a search."""
        return 0.0, 0.0

    def derive(self, mapping: Any, progress: Progress) -> Architecture | None:
        """Return the architecture that the parameters represent, or None if they represent none."""
        return None


class GradientMethod(SupernetMethod):
    """A method that relaxes the architecture and updates it by gradients.

    Subclasses set the class attributes and `mixing`, differentiable in the architecture parameters, and override other
    methods as needed. If mixing weights are drawn, or the derivation ranks by other values, `scores` returns these.
    """

    kind = "gradient"
    mappings = tuple(MAPPINGS)
    Options: ClassVar[type[MethodOptions]] = GradientOptions
    Settings: ClassVar[type[SearchSettings]] = GradientSettings
    options: GradientOptions

    def __init__(self, options: GradientOptions, mapping: str, space: SearchSpace) -> None:
        with_none = getattr(options, "with_none", False)
        if space.none is not None and "with_none" in type(options).model_fields:
            if "with_none" in options.model_fields_set and with_none != space.none:
                raise InputError(f"--option with_none={with_none} cannot be used with --space {space.name}")
            options = options.model_copy(update={"with_none": space.none})
        super().__init__(options, mapping, space)
        if with_none if space.none is None else space.none:
            self.operations = ("none", *space.primitives)

    def mapping(self, layers: int, seed: int) -> Mapping:
        """Return new architecture parameters."""
        return self.new_mapping(layers, seed)

    def new_mapping(self, layers: int, seed: int, **details: Any) -> Mapping:
        """Return the mapping with this method's mapping name, for its operations; `details` are further arguments."""
        return mapping_class(self.mapping_name)(
            layers,
            len(self.space.edges),
            len(self.operations),
            **{"scale": self.options.initial_scale, "seed": seed, "allowed": self.allowed, **details},
        )

    def optimizer(self, mapping: Mapping, settings: GradientSettings) -> torch.optim.Optimizer:
        """Return Adam with L2 decay, as in DARTS (A.1)."""
        return torch.optim.Adam(
            mapping.parameters(),
            settings.architecture_learning_rate,
            (settings.architecture_beta1, settings.architecture_beta2),
            weight_decay=settings.architecture_weight_decay,
        )

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """Return the term that the architecture step adds to the cross-entropy, or None."""
        return None

    def project(self, mapping: Mapping) -> None:
        """Project the parameters back to their domain after each of their steps, without gradient."""

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """Return scores [L, E, O], without draws, that rank operations and edges; psi unless overridden."""
        return self.mixing(mapping, progress).psi

    def derive(self, mapping: Mapping, progress: Progress) -> Architecture:
        """Return the derived architecture: by default the top edges by `scores`, without closed operations."""
        with torch.no_grad():
            scores = self.scores(mapping, progress)
        if mapping.closed is not None:
            scores = scores.cpu().masked_fill(mapping.closed, -math.inf)
        return self.top_edges(scores)

    def top_edges(self, scores: Tensor) -> Architecture:
        """Return the architecture with the best scores [L, E, O], within the limits (`derive.top_edges`)."""
        return derive.top_edges(scores, self.operations, self.space, self.origin(), self.feasible)

    def sampled(self, mapping: Mapping, progress: Progress, generator: torch.Generator) -> Architecture:
        """Sample an architecture: like the top edges, but each operation is kept with probability by its score."""
        with torch.no_grad():
            scores = self.scores(mapping, progress).cpu()
        gumbel = -torch.empty_like(scores).exponential_(generator=generator).log()
        if self.mapping_name == SHARED:
            reductions = reduction_layers(len(scores))
            gumbel = gumbel[[reductions[0] if k in reductions else 0 for k in range(len(scores))]]
        return self.top_edges(scores * gumbel.exp())


class TrialMethod(Method):
    """A method that proposes architectures, each of which is trained briefly from scratch.

    Attributes:
        budget: Largest number of candidates, `search.trials`, set by the search before the first call; None if unset.
    """

    kind = "trials"
    mappings: ClassVar[tuple[str, ...]] = (SHARED, FULL)
    default_mapping = SHARED
    Settings: ClassVar[type[SearchSettings]] = TrialSettings
    budget: int | None = None

    def at_most(self, size: int, parts: int) -> int:
        """Return `size`, but at most one `parts`-th of all trials, so that a short search also has several rounds."""
        return size if self.budget is None else min(size, math.ceil(self.budget / parts))


def whole_network(data: str) -> dict[str, dict[str, Any]]:
    """Return settings of a search over the whole network, as deep as the trained network, for `paper_settings`.

    As in Xu & He 2022: 16 channels (§4.2), and for CIFAR-100 14 blocks and batch 96 (§4.3). Other settings are those of
    DARTS, with the warm-up of PC-DARTS (A9, A14, A15). With 50 channels, 14 layers are closest to their 4.60 M
    parameters (A10).
    """
    if data == "cifar100":
        return {"search": {"layers": 14, "batch_size": 96}, "train": {"channels": 50}}
    return {"search": {"layers": PAPER_LAYERS}}

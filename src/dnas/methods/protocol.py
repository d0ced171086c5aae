"""What a method must give, by kind, and what it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

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
from dnas.space.darts import Space, reduction_layers
from dnas.space.genotype import PAPER_LAYERS
from dnas.space.limits import Feasible
from dnas.supernet import derive
from dnas.supernet.mapping import FULL, MAPPINGS, SHARED, Mapping, Nothing, mapping_class
from dnas.supernet.relaxation import MixingWeights, path
from dnas.training.batches import Batch

# --- options ------------------------------------------------------------------------------------------------


class MethodOptions(BaseModel):
    """A method's own options, set by `--option NAME=VALUE` or under `[options]` in a configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class SupernetOptions(MethodOptions):
    """Options of every method with a supernet."""

    partial_channels: int = Field(
        1, ge=1, description="K: 1/K of the channels pass through the operations (PC-DARTS §3.1)"
    )


class GradientOptions(SupernetOptions):
    """Options of every method that relaxes the architecture.

    Where `none` can take part in the relaxation, a method adds the option `with_none`.
    """

    initial_scale: float = Field(1e-3, ge=0, description="standard deviation of the initial architecture parameters")


# --- what methods are told ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """Where a search stands, for what a method schedules, draws and counts.

    Attributes:
        epoch, epochs: This epoch, from 0, and how many there are, warm-up included.
        warmup_epochs: The first epochs, in which only weights move.
        step: This step, from 0, over all epochs.
        draw: 0 for the weights' batch of a step, 1 for the architecture's.
        seed: The run's.
        channels, image_size: Width of the first cells and pixels of a side, where the cost of operations matters.
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
        """How much of a schedule has passed: 0 in the warm-up and the first epoch after it, 1 in the last epoch.

        A schedule that is a function of this reaches its end value whatever the number of epochs.
        """
        steps = self.epochs - self.warmup_epochs - 1
        return 1.0 if steps <= 0 else min(1.0, max(0.0, (self.epoch - self.warmup_epochs) / steps))

    def between(self, start: float, end: float) -> float:
        """A linear schedule: `start` until the first epoch after the warm-up, `end` in the last."""
        return (1 - self.share) * start + self.share * end

    def generator(self, *counters: int) -> torch.Generator:
        """For what a relaxation draws in this step; equal for equal arguments."""
        return torch_stream(self.seed, "relaxation", self.step, self.draw, *counters)


@dataclass(frozen=True)
class Candidate:
    """An architecture to be judged, on a share of the validation images."""

    architecture: Architecture
    share: float = 1.0


@dataclass(frozen=True)
class Trial:
    """A candidate that was judged.

    Attributes:
        score: Validation accuracy, 0 to 1; None where it could not be had (its training failed).
        share: Of the validation images.
    """

    architecture: Architecture
    score: float | None
    share: float = 1.0


# --- what a method sees of a search ---------------------------------------------------------------------------


class SearchState(Protocol):
    """What a method may use of the search that runs it, in `after_epoch`.

    Attributes:
        mapping: The method's, with its architecture parameters.
        weights: Of the supernet.
        memory: What the method keeps from epoch to epoch, in checkpoints as JSON.
    """

    mapping: Any
    weights: list[nn.Parameter]
    memory: dict[str, Any]

    def batch(self, step: int, draw: int) -> Batch:
        """The images of a step: draw 0 from the training half, draw 1 from the validation half."""

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        """Logits [B, classes] of normalized images under any mixing weights; counted in the cost."""

    def accuracy(self, what: Architecture | MixingWeights, images: int | None = None, first: int = 0) -> float:
        """The supernet's accuracy on validation images: of one architecture, or of mixing weights."""

    def follow(self, loss: Tensor) -> None:
        """Move the method's own parameters down a loss that it made itself."""


# --- the protocols --------------------------------------------------------------------------------------------


class Method:
    """What all methods have.

    Attributes:
        name, title, paper: For people.
        kind: "gradient", "sampling" or "trials".
        mappings: The names of the mappings that it works under.
        Options: Its own options.
        Settings: What its search reads.
        quick: What the quick preset sets for this method, {"search": …, "options": …}, where it is not what it sets
            for all, e.g. how many architectures are judged.
        paper_options: What the paper preset sets of the method's own options, where the default is not the published.
        feasible: The architectures that keep to the limits of a run; None: there are no limits. Set by the run.
        answers: The same of each value, where a limit has several; the last is `feasible`. Set by the run.
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

    def __init__(self, options: MethodOptions, mapping: str, space: Space) -> None:
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
        """A uniform architecture of the space: layer by layer, or one pair of cells where cells are shared."""
        return self._drawn(lambda: sampling.sample(self.space, rng, layers, shared=self.mapping_name == SHARED))

    def mutant(self, rng: np.random.Generator, architecture: Architecture, most: int = 1) -> Architecture:
        """The architecture with one slot mutated, or up to `most`: see `sampling.mutate`."""
        shared = self.mapping_name == SHARED
        return self._drawn(lambda: sampling.mutate(self.space, rng, architecture, shared=shared, most=most))

    def _drawn(self, draw: Callable[[], Architecture]) -> Architecture:
        return draw() if self.feasible is None else self.feasible.drawn(draw)

    def within(self, architecture: Architecture) -> Architecture:
        """The architecture, or what is nearest to it within the limits: what is judged or found is brought there."""
        return architecture if self.feasible is None else self.feasible.within(architecture)

    def paper_settings(self, data: str) -> dict[str, dict[str, Any]]:
        """What the method's paper sets for a data set, {"search": …, "train": …}, where it is not DARTS' default."""
        return {}

    def of_cells(
        self, data: str, everywhere: Dict[str, Any] | None = None, proxy: Dict[str, Any] | None = None
    ) -> dict[str, dict[str, Any]]:
        """`paper_settings` of a paper that searches a pair of cells and trains them stacked to `PAPER_LAYERS`.

        Args:
            everywhere: What it sets for the search under any mapping.
            proxy: What only where cells are shared; over the whole network `whole_network` says the rest.
        """
        if self.mapping_name == SHARED:
            return {"search": {**(everywhere or {}), **(proxy or {})}, "train": {"layers": PAPER_LAYERS}}
        whole = whole_network(data)
        return {**whole, "search": {**whole["search"], **(everywhere or {})}}

    def origin(self) -> dict[str, Any]:
        """What an architecture file says of where it came from."""
        return {"method": self.name, "mapping": self.mapping_name}

    def propose(self, history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        """What is to be judged before the next call; nothing ends the choosing, and `choose` takes the history.

        A pure function of its arguments, so that a search can be resumed from its history.
        """
        return []

    def choose(self, history: Sequence[Trial]) -> Architecture:
        """The best of those judged on the largest share; see `best`."""
        return best(history, self.name).architecture


def best(history: Sequence[Trial], name: str) -> Trial:
    """The first of those with the best score on the largest share of images. Raises RunError if every trial failed."""
    scored = [trial for trial in history if trial.score is not None]
    if not scored:
        raise RunError(f"{name}: none of {len(history)} candidates could be judged; see log.txt")
    largest = max(trial.share for trial in scored)
    return max((trial for trial in scored if trial.share == largest), key=lambda trial: trial.score or 0.0)


class SupernetMethod(Method):
    """A method whose candidates share the weights of one supernet.

    In each step the search asks for `mixing` and moves the weights. After each epoch it calls `after_epoch`. At the
    end it judges `finalists` and then what `propose` gives on the supernet and takes what they `choose`, or else what
    `derive` gives.
    """

    kind = "sampling"
    mappings: ClassVar[tuple[str, ...]] = (SHARED, FULL)
    Options: ClassVar[type[MethodOptions]] = SupernetOptions
    Settings: ClassVar[type[SearchSettings]] = SupernetSettings
    options: SupernetOptions

    def __init__(self, options: SupernetOptions, mapping: str, space: Space) -> None:
        super().__init__(options, mapping, space)
        self.operations: tuple[str, ...] = space.primitives

    @property
    def allowed(self) -> Tensor | None:
        """[2, E, O] of bool: the candidates of each edge in normal layers and reductions; None where all have all."""
        if not self.space.per_edge:
            return None
        edges = range(len(self.space.edges))
        choices = [[self.space.choices(kind, e) for e in edges] for kind in (False, True)]
        return torch.tensor([[[name in edge for name in self.operations] for edge in kind] for kind in choices])

    def mapping(self, layers: int, seed: int) -> Any:
        """What the method learns, besides the supernet's weights; a `Mapping` for gradient methods."""
        return Nothing(layers)

    def mixing(self, mapping: Any, progress: Progress) -> MixingWeights:
        """The mixing weights of this step; draws come from `progress.generator`."""
        raise NotImplementedError

    def uniform_path(self, mapping: Any, progress: Progress) -> MixingWeights:
        """Those of a uniform architecture, another one in every draw; nothing else is executed."""
        rng = numpy_stream(progress.seed, "path", progress.step, progress.draw)
        # Weights are shared, so those of all architectures are of use, whatever the limits.
        architecture = sampling.sample(self.space, rng, mapping.layers, shared=self.mapping_name == SHARED)
        return path(architecture, self.operations, self.space)

    def optimizer(self, mapping: Any, settings: Any) -> torch.optim.Optimizer | None:
        """What moves the method's parameters; None if nothing does."""
        return None

    def skip_dropout(self, progress: Progress) -> float:
        """The probability with which the identity's output is dropped in this step."""
        return 0.0

    def after_epoch(self, search: SearchState, progress: Progress) -> Architecture | None:
        """Called after each epoch. An architecture ends the search with it.

        `search.accuracy(architecture)` judges on the supernet, `search.follow(loss)` moves the method's parameters
        down a loss, `search.memory` is a dict that is kept in checkpoints as JSON.
        """
        return None

    def finalists(self, mapping: Any, progress: Progress) -> list[Candidate]:
        """What is to be judged at the end of all steps, from what was learnt, before `propose` is asked.

        A pure function of the parameters and the seed, so that a search can be resumed while they are judged.
        """
        return []

    def judged_images(self, validation: int) -> tuple[float, float]:
        """How many images run through the supernet in each `after_epoch`, and in all judging at the end, where there
        are `validation` of them: for an estimate of the search's time, and for nothing else."""
        return 0.0, 0.0

    def derive(self, mapping: Any, progress: Progress) -> Architecture | None:
        """The architecture that the parameters stand for; None where they stand for none."""
        return None


class GradientMethod(SupernetMethod):
    """A method that relaxes the architecture and follows gradients.

    Subclasses set the class attributes and `mixing`, differentiable in the architecture parameters, and override the
    rest at need. Where mixing weights are drawn, or are not what the derivation ranks by, `scores` says what is.

    Attributes:
        keeps: What the automatic rate of the architecture keeps of the paper's search. "travel": how far a parameter
            can go, if values matter (a bound, Gumbel noise); "walk": how far noise moves it, if only their order does.
    """

    kind = "gradient"
    keeps: ClassVar[Literal["travel", "walk"]] = "travel"
    mappings = tuple(MAPPINGS)
    Options: ClassVar[type[MethodOptions]] = GradientOptions
    Settings: ClassVar[type[SearchSettings]] = GradientSettings
    options: GradientOptions

    def __init__(self, options: GradientOptions, mapping: str, space: Space) -> None:
        with_none = getattr(options, "with_none", False)
        if space.none is not None and "with_none" in type(options).model_fields:
            if "with_none" in options.model_fields_set and with_none != space.none:
                raise InputError(f"--option with_none={with_none} does not go with --space {space.name}")
            options = options.model_copy(update={"with_none": space.none})
        super().__init__(options, mapping, space)
        if with_none if space.none is None else space.none:
            self.operations = ("none", *space.primitives)

    def mapping(self, layers: int, seed: int) -> Mapping:
        """Fresh architecture parameters."""
        return self.new_mapping(layers, seed)

    def new_mapping(self, layers: int, seed: int, **details: Any) -> Mapping:
        """The mapping of this method's name, over its operations; `details` are the mapping's own arguments."""
        return mapping_class(self.mapping_name)(
            layers,
            len(self.space.edges),
            len(self.operations),
            **{"scale": self.options.initial_scale, "seed": seed, "allowed": self.allowed, **details},
        )

    def optimizer(self, mapping: Mapping, settings: GradientSettings) -> torch.optim.Optimizer:
        """Adam with its L2 decay, as DARTS (A.1)."""
        return torch.optim.Adam(
            mapping.parameters(),
            settings.architecture_learning_rate,
            (settings.architecture_beta1, settings.architecture_beta2),
            weight_decay=settings.architecture_weight_decay,
        )

    def penalty(self, mapping: Mapping, progress: Progress) -> Tensor | None:
        """What the architecture step adds to the cross-entropy."""
        return None

    def project(self, mapping: Mapping) -> None:
        """Bring the parameters back to where they must lie, after each of their steps; without gradient."""

    def scores(self, mapping: Mapping, progress: Progress) -> Tensor:
        """[L, E, O], free of draws: what operations and edges are ranked by; psi unless overridden."""
        return self.mixing(mapping, progress).psi

    def derive(self, mapping: Mapping, progress: Progress) -> Architecture:
        """By default the top edges by `scores`, of what is not closed."""
        with torch.no_grad():
            scores = self.scores(mapping, progress)
        if mapping.closed is not None:
            scores = scores.cpu().masked_fill(mapping.closed, -math.inf)
        return self.top_edges(scores)

    def top_edges(self, scores: Tensor) -> Architecture:
        """The architecture of these scores [L, E, O], within the limits (`derive.top_edges`)."""
        return derive.top_edges(scores, self.operations, self.space, self.origin(), self.feasible)

    def sampled(self, mapping: Mapping, progress: Progress, generator: torch.Generator) -> Architecture:
        """One drawn from what was learnt: as the top edges, but each operation is kept in proportion to its score."""
        with torch.no_grad():
            scores = self.scores(mapping, progress).cpu()
        gumbel = -torch.empty_like(scores).exponential_(generator=generator).log()
        if self.mapping_name == SHARED:
            reductions = reduction_layers(len(scores))
            gumbel = gumbel[[reductions[0] if k in reductions else 0 for k in range(len(scores))]]
        return self.top_edges(scores * gumbel.exp())


class TrialMethod(Method):
    """A method that proposes architectures, each of which is trained from scratch, shortly.

    Attributes:
        budget: How many candidates are trained at most: `search.trials`, set by the search before it asks; None where
            nobody said.
    """

    kind = "trials"
    mappings: ClassVar[tuple[str, ...]] = (SHARED, FULL)
    default_mapping = SHARED
    Settings: ClassVar[type[SearchSettings]] = TrialSettings
    budget: int | None = None

    def at_most(self, size: int, parts: int) -> int:
        """This many, but no more than one of so many parts of all trials, so that a short search has rounds too."""
        return size if self.budget is None else min(size, math.ceil(self.budget / parts))


PATIENCE = 50  # known architectures in a row, before there seem to be no others


def unseen(
    architectures: Iterable[Architecture],
    history: Sequence[Trial],
    key: Callable[[Architecture], Hashable] = lambda architecture: architecture,
) -> Iterator[Architecture]:
    """Those that differ by their key from each other and from every trial, failed ones included.

    After `PATIENCE` known ones in a row it ends, since a small space, or limits, may leave no others.
    """
    seen, in_a_row = {key(trial.architecture) for trial in history}, 0
    for architecture in architectures:
        if (known := key(architecture)) not in seen:
            seen.add(known)
            in_a_row = 0
            yield architecture
        elif (in_a_row := in_a_row + 1) == PATIENCE:
            return


def whole_network(data: str) -> dict[str, dict[str, Any]]:
    """Settings of a search over the whole network, for `paper_settings`: as deep as the network that is trained.

    Those of Xu & He 2022: 16 channels (§4.2), and for CIFAR-100 14 blocks and batch 96 (§4.3); the rest follows DARTS,
    with PC-DARTS' warm-up (A9, A14, A15). 50 channels bring 14 layers nearest to their 4.60 M parameters (A10).
    """
    if data == "cifar100":
        return {"search": {"layers": 14, "batch_size": 96}, "train": {"channels": 50}}
    return {"search": {"layers": PAPER_LAYERS}}

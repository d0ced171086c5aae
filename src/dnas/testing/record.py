"""Record a small search step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dnas.errors import Diverged
from dnas.methods.protocol import (
    Candidate,
    GradientMethod,
    Method,
    SupernetMethod,
    Trial,
    TrialMethod,
)
from dnas.methods.registry import create
from dnas.parts.protocol import Part
from dnas.parts.registry import check
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Captured, Session
from dnas.searching.judging import Found
from dnas.searching.loop import search_supernet
from dnas.searching.trials import search_by_trials
from dnas.settings import SupernetSettings, TrialSettings
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.darts import DARTS
from dnas.space.limits import Feasible
from dnas.space.protocol import SearchSpace, reduction_layers
from dnas.supernet.mapping import SHARED
from dnas.testing.planted import LAYERS, SIDE, PlantedSupernet, agreement, pictures

Options = Mapping[str, Any]
Acts = Mapping[str, tuple[Options, Any]]
# Sizes of the searches. Other settings from the paper of a method (single-level, weights first, …) are kept.
_EVERYWHERE = {
    "layers": LAYERS,
    "channels": 8,
    "pad": 0,
    "train_share": 0.5,
    "learning_rate": 0.05,
    "warmup_epochs": 1,
    "architecture_learning_rate": 0.1,
    "watch_images": 0,
}
SMALL = {**_EVERYWHERE, "epochs": 3, "batch_size": 8, "images": 32, "trials": 12}
LONG = {**_EVERYWHERE, "epochs": 8, "batch_size": 32, "images": 256, "trials": 64}
# With real networks: two epochs of two steps, or two trials of two steps.
REAL = {**_EVERYWHERE, "epochs": 2, "batch_size": 5, "images": 20, "trials": 2}


# --- a search, and all that can be seen of it -------------------------------------------------------------------


class Recorder(Session):
    """A session in memory: the lines of metrics.jsonl, and a checkpoint after every step.

    Args:
        start: The checkpoint to resume from.
    """

    def __init__(self, start: Checkpoint | None = None) -> None:
        super().__init__(None, {})
        self.metrics: list[str] = []
        self.checkpoints: list[Checkpoint] = []
        if start is not None:
            copy = replace(start, tensors=_copied(start.tensors), state=json.loads(json.dumps(start.state)))
            self.metrics, self.completed, self._pending = copy.state["metrics"], copy.state["completed"], copy
            self.checkpoints.append(start)

    def metric(self, **values: Any) -> None:
        self.metrics.append(json.dumps(values, allow_nan=False))

    def step_done(self, step: int, shown: Mapping[str, float], capture: Any) -> None:
        self._checkpoint(step, capture())

    def complete(self, result: Mapping[str, Any], captured: Captured = ({}, {}), step: int = 0) -> None:
        super().complete(result, captured, step)
        self._checkpoint(step, captured)

    def _checkpoint(self, step: int, captured: Captured) -> None:
        tensors, loop = captured
        state = {"stage": self._stage, "step": step, "completed": self.completed, "metrics": self.metrics, "loop": loop}
        try:
            read = json.loads(json.dumps(state, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"search.memory must be JSON, since it goes into checkpoints: {error}") from None
        assert read == state, "search.memory must be plain JSON: keys are texts, and a tuple would come back as a list"
        self.checkpoints.append(Checkpoint(len(self.checkpoints), _copied(tensors), read))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Record:
    """A completed search.

    Attributes:
        candidates: All candidates that the method proposed, in order.
    """

    method: Method
    found: Found
    session: Recorder
    candidates: list[Candidate]

    def parts(self) -> dict[str, Any]:
        """Return all observable results of the search, for bit-for-bit comparison."""
        last = self.session.checkpoints[-1]
        return {
            "architecture": self.found.architecture.dumps(),
            "parameters": bits(self.found.parameters),
            "cost": self.found.cost,
            "metrics": self.session.metrics,
            "tensors of the last checkpoint": bits(last.tensors),
            "state of the last checkpoint": last.state,
        }

    def differences(self, other: Record) -> str:
        """Return the names of the results that differ; empty if all are identical."""
        one, two = self.parts(), other.parts()
        return ", ".join(part for part in one if one[part] != two[part])


def bits(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, list[int], bytes]]:
    """Return types, shapes and bytes of tensors, to compare them bit for bit."""
    return {
        name: (str(tensor.dtype), list(tensor.shape), tensor.contiguous().numpy().tobytes())
        for name, tensor in tensors.items()
    }


def search(
    name: str,
    mapping: str | None = None,
    options: Options | None = None,
    *,
    seed: int = 0,
    size: Mapping[str, Any] = SMALL,
    planted: Architecture | None = None,
    start: Checkpoint | None = None,
    failing: int = 0,
    with_parts: Sequence[Part] = (),
    space: SearchSpace = DARTS,
    feasible: Feasible | None = None,
) -> Record:
    """Search as `dnas search` does, without a run folder.

    Args:
        size: Settings; those that do not apply to the kind of the method are ignored.
        planted: The target architecture, for a `PlantedSupernet` or for trials without training. Without it, the
            networks are real.
        start: A checkpoint of the same search to resume from.
        failing: One in this many planted trials fails as if its training had diverged.
        with_parts: Parts to add to a gradient-based method.
        space: The search space.
        feasible: The architectures within limits.
    """
    method, values = tested_method(name, mapping, options, size, space)
    method.feasible = feasible
    split, info = pictures(values["images"])
    settings = method.Settings(**values).resolved(len(split), 1.0, SIDE)
    candidates: list[Candidate] = []
    propose = method.propose

    def watched(history: Sequence[Trial], layers: int, seed: int) -> list[Candidate]:
        proposed = propose(history, layers, seed)
        candidates.extend(proposed)
        return proposed

    method.propose = watched  # type: ignore[method-assign]
    session = Recorder(start)
    evaluations = 0

    def evaluate(architecture: Architecture, planted: Architecture) -> float:
        nonlocal evaluations
        evaluations += 1
        if failing and evaluations % failing == 0:
            raise Diverged("as planned")
        return agreement(architecture, planted)

    if isinstance(method, SupernetMethod) and isinstance(settings, SupernetSettings):
        supernet = None if planted is None else PlantedSupernet(planted, method.operations, method.space)
        check(with_parts, method, settings)
        found = search_supernet(
            method, settings, split, info, seed=seed, session=session, supernet=supernet, with_parts=with_parts
        )
    else:
        assert isinstance(method, TrialMethod) and isinstance(settings, TrialSettings)
        judge = None if planted is None else partial(evaluate, planted=planted)
        found = search_by_trials(method, settings, split, info, seed=seed, session=session, evaluate=judge)
    return Record(method, found, session, candidates)


def tested_method(
    name: str, mapping: str | None, options: Options | None, size: Mapping[str, Any], space: SearchSpace = DARTS
) -> tuple[Method, dict[str, Any]]:
    """Return a method and the settings of its search: those of its paper, in this size, with the `search.` options."""
    options = options or {}
    own = {key: value for key, value in options.items() if not key.startswith("search.")}
    method = create(name, mapping, own, space)
    fields = method.Settings.model_fields
    values = {
        **method.paper_settings("digits").get("search", {}),
        **{key: value for key, value in size.items() if key in fields},
        **{key.removeprefix("search."): value for key, value in options.items() if key not in own},
    }
    return method, values


def objection(architecture: Architecture, method: Method, *, final: bool = True) -> str | None:
    """Return a problem of an architecture, or None. Candidates that are not `final` may have nodes without inputs."""
    if len(architecture) != LAYERS:
        return f"has {len(architecture)} layers where {LAYERS} were searched"
    if architecture.reductions != reduction_layers(LAYERS):
        return f"reduces at {architecture.reductions}, not at {reduction_layers(LAYERS)}"
    if method.mapping_name == SHARED and layer_pair(architecture) is None:
        return "has layers of one kind that differ, under --mapping shared"
    for k, layer in enumerate(architecture.layers):
        problem = method.space.objection(layer.nodes, k in architecture.reductions)
        if final and problem is not None:
            return f"lies outside the space: layer {k}, {problem}"
    if final and not architecture.in_space:
        return f"says space {architecture.space!r} where it should say {method.space.name!r}"
    return None


def random_mapping(method: SupernetMethod, scale: float, seed: int) -> Any:
    """Return the mapping of a method with normally distributed parameters, projected to their domain."""
    mapping = method.mapping(LAYERS, 0)
    generator = torch_stream(seed, "test-parameters")
    with torch.no_grad():
        for parameter in mapping.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        if isinstance(method, GradientMethod):
            method.project(mapping)
    return mapping

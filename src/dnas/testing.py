"""The contract of a method, as checks that run on every registered one, those of other packages too.

    from dnas import testing

    def test_cooling_meets_the_contract():
        testing.check_method("cooling")

A check is one clause. It raises AssertionError with a sentence that says what is to be changed in the method; errors of
the method itself come through as they are. The searches here have 3 layers and some 32 pictures, and where it is not
the supernet that matters, a `PlantedSupernet` stands for it, or in trials a planted accuracy.

Most checks take

- `name`: of the method, as in `dnas methods`;
- `mapping`: one that it claims; its default unless given;
- `options`: those that keep its search small, e.g. `{"population": 4}` where it judges a thousand architectures by
  default, and settings by the name `search.NAME`.
"""

from __future__ import annotations

import json
import math
import random
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from dnas import pipeline
from dnas.architecture import Architecture, cell_pair
from dnas.checkpoint import Checkpoint
from dnas.config import preset_settings
from dnas.data import DataInfo, Split, load_test
from dnas.errors import Diverged, InputError, Interrupted, RunError
from dnas.judging import FORWARD, Found
from dnas.mapping import MAPPINGS, SHARED
from dnas.methods import (
    Candidate,
    GradientMethod,
    Method,
    MethodOptions,
    Progress,
    SupernetMethod,
    Trial,
    TrialMethod,
    create,
    get_method,
)
from dnas.network import Network
from dnas.progress import Silent
from dnas.relaxation import MixingWeights, path
from dnas.session import Captured, Session
from dnas.settings import SupernetSettings, TrainSettings, TrialSettings
from dnas.space import DARTS, Space, reduction_layers
from dnas.streams import numpy_stream, torch_stream
from dnas.supernet import Draws, Supernet
from dnas.supernet_search import search_supernet
from dnas.trials import search_by_trials

Options = Mapping[str, Any]
Acts = Mapping[str, tuple[Options, Any]]

LAYERS = 3
CLASSES = 4
SIDE = 8

# Names that a method's paper may have settings for, with their training images and pixels of a side.
_DATA_SETS = (("digits", 1_437, 8), ("cifar10", 50_000, 32), ("cifar100", 50_000, 32), ("tiny-imagenet", 100_000, 64))

# Sizes of the searches. What a method's paper says of how it searches (single-level, weights first, …) stays.
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
# With real networks: two epochs of two steps, or two trials of as many.
REAL = {**_EVERYWHERE, "epochs": 2, "batch_size": 5, "images": 20, "trials": 2}


# --- a planted optimum ------------------------------------------------------------------------------------------


def pictures(count: int) -> tuple[Split, DataInfo]:
    """Grey pictures that tell their label by their upper half, and by their lower half how difficult they are.

    The brightness of the lower half goes from 0 to 1 over the pictures of each class. See `PlantedSupernet`.
    """
    label = torch.arange(count) % CLASSES
    rank = torch.arange(count) // CLASSES
    images = torch.empty(count, 1, SIDE, SIDE, dtype=torch.uint8)
    images[:, :, : SIDE // 2] = (255 * label // (CLASSES - 1)).to(torch.uint8)[:, None, None, None]
    images[:, :, SIDE // 2 :] = (255 * (rank + 0.5) / (rank.max() + 1)).to(torch.uint8)[:, None, None, None]
    return Split(images, label), DataInfo("digits", tuple(map(str, range(CLASSES))), 1, SIDE, (0.0,), (1.0,), False)


def plant(mapping: str, seed: int) -> Architecture:
    """A uniform architecture that is to be found."""
    return DARTS.sample(numpy_stream(seed, "planted"), LAYERS, shared=mapping == SHARED)


def slots(architecture: Architecture) -> set[tuple[int, int, str, int]]:
    """(layer, node, operation, input) of all that an architecture has."""
    return {
        (k, n, operation, source)
        for k, cell in enumerate(architecture.layers)
        for n, node in enumerate(cell.nodes)
        for operation, source in node
    }


def agreement(architecture: Architecture, planted: Architecture, *, inputs_only: bool = False) -> float:
    """The share of the planted slots that an architecture has; `inputs_only`: whatever their operations."""
    one, two = slots(architecture), slots(planted)
    if inputs_only:
        one, two = ({(k, n, "", source) for k, n, _, source in each} for each in (one, two))
    return len(one & two) / len(two)


def agreement_by_chance(mapping: str, space: Space = DARTS, *, inputs_only: bool = False) -> tuple[float, float]:
    """Mean and standard deviation of the agreement of any one architecture with a uniform planted one.

    In node n the inputs that both have are hypergeometric, and each of them has the same operation with probability
    1 / O. Nodes are independent, and layers as far as they do not share a cell.
    """
    same, kept = 1 if inputs_only else 1 / len(space.primitives), space.inputs_per_node
    mean = variance = 0.0
    for n in range(space.nodes):
        inputs = n + 2
        common = kept * kept / inputs
        spread = common * (1 - kept / inputs) * (inputs - kept) / (inputs - 1)
        mean += common * same
        variance += common * same * (1 - same) + same * same * spread
    slots_of_a_cell = space.nodes * kept
    reductions = len(reduction_layers(LAYERS))
    copies = (reductions, LAYERS - reductions) if mapping == SHARED else (1,) * LAYERS
    share = sum(n * n for n in copies) / LAYERS**2
    return mean / slots_of_a_cell, math.sqrt(variance * share) / slots_of_a_cell


class PlantedSupernet(nn.Module):
    """Is called as a supernet, and is the better the more its mixing weights agree with a planted architecture.

    The agreement a is the mean over all nodes of the share of psi that lies on planted (edge, operation) pairs; as a
    share it does not grow with the scale of psi. On a picture of label y and difficulty d (`pictures`), the logit of y
    is GAIN · (a - d) and those of the others are 0, plus a bias that is learnt: the cross-entropy falls with a, and the
    accuracy of an architecture is the share of pictures that are easier than a.

    Operations that are not active have no weight and get no gradient, as in a supernet.

    Args:
        planted: The best architecture there is.
        operations: Candidates of an edge, as of a supernet.
    """

    GAIN = 8.0

    def __init__(self, planted: Architecture, operations: Sequence[str], space: Space = DARTS) -> None:
        super().__init__()
        self.register_buffer("planted", path(planted, operations, space).operations, False)
        node = torch.tensor([n for n, _ in space.edges])
        self.register_buffer("nodes", F.one_hot(node, space.nodes).float(), False)  # [E, N]
        self.bias = nn.Parameter(torch.zeros(CLASSES))
        self.planted: Tensor
        self.nodes: Tensor

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        """Images [B, 1, H, W] of `pictures`, mixing weights → logits [B, classes]."""
        psi = mixing.psi
        # Not `abs`: at 0, where sparse methods have most of their weights, it has no gradient.
        psi = torch.where(psi < 0, -psi, psi)
        if mixing.active is not None:
            psi = psi * mixing.active.to(psi.device)
        on_planted, all_of_it = ((part.sum(-1) @ self.nodes).flatten() for part in (psi * self.planted, psi))
        agreement = (on_planted / all_of_it.clamp_min(1e-12)).mean()
        label = (images[:, 0, 0, 0] * (CLASSES - 1)).round().long()
        difficulty = images[:, 0, -1, 0]
        return self.GAIN * (agreement - difficulty)[:, None] * F.one_hot(label, CLASSES) + self.bias

    def parts(self, active: Tensor) -> dict[nn.Parameter, list[bool]]:
        """As of a supernet, the weights of which only a part is executed: none, as no operation has weights here."""
        return {}


# --- a search, and all that can be seen of it -------------------------------------------------------------------


class Recorder(Session):
    """A session in memory: the lines of metrics.jsonl, and a checkpoint after every step.

    Args:
        start: The checkpoint to go on from.
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

    def complete(self, result: Mapping[str, Any]) -> None:
        super().complete(result)
        self._checkpoint(0, ({}, {}))

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
    """A search that was run to its end.

    Attributes:
        candidates: All that the method proposed, in order.
    """

    method: Method
    found: Found
    session: Recorder
    candidates: list[Candidate]

    def parts(self) -> dict[str, Any]:
        """All that can be seen of the search, to the bit."""
        last = self.session.checkpoints[-1]
        return {
            "architecture": self.found.architecture.dumps(),
            "parameters": _bits(self.found.parameters),
            "cost": self.found.cost,
            "metrics": self.session.metrics,
            "tensors of the last checkpoint": _bits(last.tensors),
            "state of the last checkpoint": last.state,
        }

    def differences(self, other: Record) -> str:
        """The names of the parts that are not the same; empty where all are."""
        one, two = self.parts(), other.parts()
        return ", ".join(part for part in one if one[part] != two[part])


def _bits(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, list[int], bytes]]:
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
) -> Record:
    """Search as `dnas search` does, without a run folder.

    Args:
        size: Settings; those that the method's kind does not have are left out.
        planted: What is to be found, by a `PlantedSupernet` or by trials of which nothing is trained. Without it, the
            networks are real.
        start: A checkpoint of the same search, to go on from.
        failing: Every so many planted trials, one fails as if its training had diverged.
    """
    method, values = _method(name, mapping, options, size)
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
        found = search_supernet(method, settings, split, info, seed=seed, session=session, supernet=supernet)
    else:
        assert isinstance(method, TrialMethod) and isinstance(settings, TrialSettings)
        judge = None if planted is None else partial(evaluate, planted=planted)
        found = search_by_trials(method, settings, split, info, seed=seed, session=session, evaluate=judge)
    return Record(method, found, session, candidates)


def _method(
    name: str, mapping: str | None, options: Options | None, size: Mapping[str, Any]
) -> tuple[Method, dict[str, Any]]:
    """A method, and what its search is told: its paper's way, in this size, with the `search.` among the options."""
    options = options or {}
    own = {key: value for key, value in options.items() if not key.startswith("search.")}
    method = create(name, mapping, own, DARTS)
    fields = method.Settings.model_fields
    values = {
        **method.paper_settings("digits").get("search", {}),
        **{key: value for key, value in size.items() if key in fields},
        **{key.removeprefix("search."): value for key, value in options.items() if key not in own},
    }
    return method, values


def _objection(architecture: Architecture, method: Method, *, final: bool = True) -> str | None:
    """What is wrong with an architecture, or None. Candidates that are not `final` may leave nodes without inputs."""
    if len(architecture) != LAYERS:
        return f"has {len(architecture)} layers where {LAYERS} were searched"
    if architecture.reductions != reduction_layers(LAYERS):
        return f"reduces at {architecture.reductions}, not at {reduction_layers(LAYERS)}"
    if method.mapping_name == SHARED and cell_pair(architecture) is None:
        return "has layers of one kind that differ, under --mapping shared"
    for k, cell in enumerate(architecture.layers):
        problem = method.space.objection(cell.nodes)
        if final and problem is not None:
            return f"lies outside the space: layer {k}, {problem}"
    if final and not architecture.in_space:
        return f"says space {architecture.space!r} where it should say {method.space.name!r}"
    return None


# --- clauses on a method as a whole -----------------------------------------------------------------------------


def check_declaration(name: str) -> None:
    """What a method says of itself is complete and true, and its paper's settings are settings."""
    method = get_method(name)
    kinds = (GradientMethod, SupernetMethod, TrialMethod)
    kind = next((cls.kind for cls in kinds if issubclass(method, cls)), None)
    assert vars(method).get("name") == name, f"{method.__name__}.name must be {name!r}, the name it is registered by"
    for attribute in ("title", "paper"):
        text = getattr(method, attribute, None)
        assert text and isinstance(text, str), f"{method.__name__}.{attribute} must be a text for `dnas methods`"
    assert kind is not None, f"{method.__name__} must derive from {', '.join(cls.__name__ for cls in kinds)}"
    assert method.kind == kind, f"{method.__name__}.kind must stay {kind!r}, which its base class says"
    assert method.mappings and set(method.mappings) <= set(MAPPINGS), (
        f"{method.__name__}.mappings must be some of {', '.join(MAPPINGS)}"
    )
    assert getattr(method, "default_mapping", None) in method.mappings, (
        f"{method.__name__}.default_mapping must be one of its mappings, {', '.join(method.mappings)}"
    )
    assert issubclass(method.Options, MethodOptions), f"{method.__name__}.Options must derive from MethodOptions"
    for option, field in method.Options.model_fields.items():
        assert not field.is_required(), f"option {option} of {name} needs a default: a method works without options"
        assert field.description, f"option {option} of {name} needs a description"
    for mapping in method.mappings:
        for source, count, pixels in _DATA_SETS:
            info = DataInfo(source, ("0", "1"), 3, pixels, (0.5,) * 3, (0.5,) * 3, True)
            for preset in ("quick", "paper"):
                preset_values = preset_settings(preset, create(name, mapping, {}, DARTS), info, count)
                try:
                    method.Settings(**preset_values["search"]).resolved(count, 1.0, pixels)
                    TrainSettings(**preset_values["train"]).resolved(count, pixels)
                except ValueError as error:
                    raise AssertionError(
                        f"paper_settings({source!r}) of {name} under --mapping {mapping} do not hold: {error}"
                    ) from error


def check_mappings(name: str) -> None:
    """A mapping that the method does not claim is refused, by name."""
    method = get_method(name)
    for mapping in {*MAPPINGS, "no-such-mapping"} - set(method.mappings):
        try:
            create(name, mapping, {}, DARTS)
        except InputError as error:
            assert mapping in str(error), f"{name} refuses --mapping {mapping} without naming it: {error}"
        else:
            raise AssertionError(f"{name} does not claim --mapping {mapping} but takes it; call super().__init__ first")


def check_options(name: str, options: Options | None = None, acts: Acts | None = None) -> None:
    """Options that are not known or of a wrong type are refused by name, and each option acts.

    Args:
        acts: For each option of the method: options around it, and a value with which the search is another one than
            without. Those of dnas' own classes need no line.
    """
    method = get_method(name)
    _refused(name, "no_such_option", 1)
    for option, field in method.Options.model_fields.items():
        values: tuple[Any, ...] = ("no such value", 0.5, 7, True, None, [], {}, math.nan, math.inf)
        wrong = [value for value in values if not _fits(value, field.annotation)]
        for value in [*wrong, *_out_of_bounds(field.metadata)]:
            _refused(name, option, value)
    acts = {**_inherited_acts(method.Options), **(acts or {})}
    missing, unknown = set(method.Options.model_fields) - set(acts), set(acts) - set(method.Options.model_fields)
    assert not missing, (
        f"say for {', '.join(sorted(missing))} of {name} with which value it acts: acts={{NAME: ({{}}, VALUE)}}"
    )
    assert not unknown, f"{name} has no option {', '.join(sorted(unknown))}, which acts names"
    for option, (around, value) in acts.items():
        check_option_acts(name, option, value, {**(options or {}), **around})


def check_option_acts(name: str, option: str, value: Any, options: Options | None = None) -> None:
    """With another value of an option something of the search is another, and its schedules still reach their ends."""
    method = get_method(name)
    without = dict(options or {})
    default = without.get(option, method.Options.model_fields[option].default)
    assert value != default, f"acts of {name} must name another value of {option} than {default!r}, which is in force"
    check_schedules(name, None, {**without, option: value})
    for size, planted in ((SMALL, plant(method.default_mapping, 0)), (REAL, None)):
        one, two = (
            search(name, None, given, size=size, planted=planted) for given in (without, {**without, option: value})
        )
        if one.differences(two):
            return
    raise AssertionError(
        f"option {option}={value!r} of {name} changes nothing of a search with {without}; use the option, refuse it in "
        "__init__ where it could not act, or name other options around it"
    )


def _refused(name: str, option: str, value: Any) -> None:
    try:
        create(name, None, {option: value}, DARTS)
    except InputError as error:
        assert re.search(rf"--option {option}\b", str(error)), (
            f"{name} refuses {option}={value!r} without naming --option {option}: {error}"
        )
    else:
        raise AssertionError(
            f"{name} takes {option}={value!r}; leave the model_config of MethodOptions as it is (strict, nothing "
            "extra, no infinities) and give the option its type and bounds"
        )


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type, told without pydantic."""
    origin = get_origin(annotation)
    if origin is Literal:
        return any(value == known and type(value) is type(known) for known in get_args(annotation))
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(annotation))
    if annotation is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (origin or annotation)


def _out_of_bounds(metadata: Sequence[Any]) -> list[float]:
    """Just outside the bounds of a pydantic field."""
    found = []
    for constraint in metadata:
        for kind, beyond in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
            if isinstance(bound := getattr(constraint, kind, None), int | float):
                found.append(bound + beyond)
    return found


def _inherited_acts(options: type[MethodOptions]) -> dict[str, tuple[Options, Any]]:
    """Other values of the options that dnas' own classes of options have."""
    fields = options.model_fields
    found: dict[str, tuple[Options, Any]] = {}
    if "partial_channels" in fields:
        found["partial_channels"] = ({}, 1 if fields["partial_channels"].default == 2 else 2)
    if "with_none" in fields:
        found["with_none"] = ({}, not fields["with_none"].default)
    if "initial_scale" in fields:
        found["initial_scale"] = ({}, 0.5)
    return found


def check_reads_no_test_images(name: str, options: Options | None = None) -> None:
    """A search has the training split and asks for no other. Also see `check_pipeline`."""
    with _no_test_images():
        search(name, None, options, planted=plant(get_method(name).default_mapping, 0))


@contextmanager
def _no_test_images() -> Iterator[None]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a search must not read test images, and load_test was called; use the split it is given")

    assert isinstance(load_test, FunctionType)
    # The code and not the name, which others have imported.
    code, load_test.__code__ = load_test.__code__, refuse.__code__
    try:
        yield
    finally:
        load_test.__code__ = code


def check_pipeline(name: str, options: Options | None = None) -> None:
    """In a run folder: interrupted by a signal in the middle of an epoch or trial and resumed, a search leaves the same
    bytes as one that was not; and it does not mind that the test images of its data are damaged."""
    method, values = _method(name, None, options, {key: value for key, value in REAL.items() if key != "watch_images"})
    overrides = {
        "command": "search",
        "method": name,
        "mapping": method.mapping_name,
        "options": {key: value for key, value in (options or {}).items() if not key.startswith("search.")},
        "search": values,
    }
    with tempfile.TemporaryDirectory() as folder:
        source = _poisoned(Path(folder) / "images", values["images"])
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        steps = _Steps()
        data = {"source": str(source)}
        with _no_test_images():
            pipeline.start({**overrides, "data": data}, out=whole, reporter=steps)
            try:
                pipeline.start({**overrides, "data": data}, out=broken, reporter=_Steps(steps.count // 2 + 1))
            except Interrupted:
                pipeline.resume(broken)
            else:
                raise AssertionError(f"the search of {name} has no step after which it could be interrupted")
        one, two = (_contents(run) for run in (whole, broken))
    assert one.keys() == two.keys(), f"interrupted and resumed, {name} leaves {sorted(two)} instead of {sorted(one)}"
    differing = [file for file in one if one[file] != two[file]]
    assert not differing, f"interrupted and resumed, {name} leaves another {', '.join(differing)}; see check_resumes"


class _Steps(Silent):
    """Counts steps, and asks the run to stop at one of them."""

    def __init__(self, stop: int = 0) -> None:
        self.count, self.stop = 0, stop

    def step(self, step: int, shown: Mapping[str, float]) -> None:
        self.count += 1
        if self.count == self.stop:
            signal.raise_signal(signal.SIGTERM)


def _poisoned(folder: Path, count: int) -> Path:
    """Training pictures as files, beside test pictures that no reader could read."""
    split, _ = pictures(count)
    for i, (image, label) in enumerate(zip(split.batch(torch.arange(count)), split.labels.tolist(), strict=True)):
        for part in ("train", "test"):
            (folder / part / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / "train" / str(label) / f"{i}.png")
        (folder / "test" / str(label) / f"{i}.png").write_bytes(b"no picture")
    return folder


def _contents(run: Path) -> dict[str, Any]:
    """What a search leaves and a second one must repeat, by file."""
    result = json.loads((run / "result.json").read_text("utf-8"))
    for key in ("run", "search_seconds", "train_seconds", "peak_memory_bytes"):
        result.pop(key)
    names = {"architecture.json", "architecture.svg", "metrics.jsonl", pipeline.PARAMETERS_FILE}
    files = {entry.name: entry.read_bytes() for entry in run.iterdir() if entry.name in names}
    return {**files, "result.json": result}


# --- clauses on a method under a mapping ------------------------------------------------------------------------


def check_searches(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Real networks are searched, and what comes out lies in the space and is as deep as what was searched."""
    record = search(name, mapping, options, size=REAL)
    problem = _objection(record.found.architecture, record.method)
    assert problem is None, f"the architecture that {name} finds {problem}"


def check_exports(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Whatever was learnt, a method exports an architecture of the space: two distinct inputs a node, no `none`.

    Candidates have the right depth, and their shares lie above 0 and up to 1.
    """
    mapping = mapping or get_method(name).default_mapping
    record = search(name, mapping, options, planted=plant(mapping, 0))
    problem = _objection(record.found.architecture, record.method)
    assert problem is None, f"the architecture that {name} finds {problem}"
    for candidate in record.candidates:
        problem = _objection(candidate.architecture, record.method, final=False)
        assert problem is None, f"an architecture that {name} proposes {problem}"
        assert 0 < candidate.share <= 1, f"{name} proposes to judge on a share of {candidate.share} of the images"
    if isinstance(method := record.method, SupernetMethod):
        for number, scale in enumerate((0.0, 0.01, 1.0, 30.0)):
            architecture = method.derive(_random_mapping(method, scale, number), Progress(1, 2))
            problem = None if architecture is None else _objection(architecture, method)
            assert problem is None, f"with parameters of size {scale}, what {name} derives {problem}"


def _random_mapping(method: SupernetMethod, scale: float, seed: int) -> Any:
    """What a method learns, with normal parameters, where they may lie."""
    mapping = method.mapping(LAYERS, 0)
    generator = torch_stream(seed, "test-parameters")
    with torch.no_grad():
        for parameter in mapping.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        if isinstance(method, GradientMethod):
            method.project(mapping)
    return mapping


def check_deterministic(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """The seed decides every bit; another seed gives another search, and no global random state is read or moved."""
    planted = plant(mapping or get_method(name).default_mapping, 0)
    before = _global_states()
    try:
        records = []
        for seed, state in ((0, 1), (0, 2), (1, 1)):
            random.seed(state)
            np.random.seed(state)
            torch.manual_seed(state)
            fresh = _global_states()
            records.append(search(name, mapping, options, seed=seed, planted=planted))
            moved = [library for library, value in _global_states().items() if value != fresh[library]]
            assert not moved, (
                f"{name} draws from the global random state of {', '.join(moved)}; use progress.generator, "
                "streams.torch_stream or streams.numpy_stream"
            )
    finally:
        _restore(before)
    one, again, other = records
    differing = one.differences(again)
    assert not differing, f"two searches of {name} with one seed differ: {differing}; draw from the seed alone"
    assert one.differences(other), f"{name} does the same whatever the seed; draw with the seed that it is given"


def _global_states() -> dict[str, Any]:
    kind, words, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (kind, bytes(np.asarray(words)), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def _restore(states: Mapping[str, Any]) -> None:
    kind, words, *rest = states["numpy"]
    random.setstate(states["random"])
    np.random.set_state((kind, np.frombuffer(words, np.uint32), *rest))
    torch.set_rng_state(torch.frombuffer(bytearray(states["torch"]), dtype=torch.uint8))


def check_resumes(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """From the checkpoint after any step, trial or judged candidate, a new object comes to the same end, to the bit."""
    mapping = mapping or get_method(name).default_mapping
    again = partial(search, name, mapping, options, planted=plant(mapping, 0))
    whole = again()
    for checkpoint in whole.session.checkpoints:
        differing = whole.differences(again(start=checkpoint))
        assert not differing, (
            f"resumed from its checkpoint of step {checkpoint.state['step']}, {name} comes to another end: "
            f"{differing}; what is learnt belongs into the parameters and buffers of `mapping` or into "
            "`search.memory`, not into the method, and `propose` must be a function of its arguments"
        )


def check_cost(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """The cost of a search is what was computed: counted here from outside, at the networks."""
    mapping = mapping or get_method(name).default_mapping
    trials = issubclass(get_method(name), TrialMethod)
    size = {**REAL, "batch_size": 4}  # so that batches are of more than one size
    with _counted() as counted:
        record = search(name, mapping, options, size=size, planted=None if trials else plant(mapping, 0))
    cost, expected = record.found.cost, counted.images / _method(name, mapping, options, size)[1]["batch_size"]
    assert cost["step_equivalents"] > 0, f"the search of {name} says that it cost nothing"
    assert math.isclose(cost["step_equivalents"], expected, rel_tol=1e-9), (
        f"{name} says that its search cost {cost['step_equivalents']:.3f} passes forward and backward, but the "
        f"networks were asked for {expected:.3f}; add what it computes by itself to search.cost['step_equivalents']"
    )
    assert cost["architectures_evaluated"] == counted.judged, (
        f"{name} says that it judged {cost['architectures_evaluated']} architectures, but it was {counted.judged}; "
        "judge by search.accuracy, which counts, and do not count again"
    )


class _Count:
    """Passes through networks: images · (⅓ forward, ⅔ backward); and how many architectures were judged."""

    def __init__(self) -> None:
        self.images = 0.0
        self.paths = 0
        self.trained: set[Network] = set()

    @property
    def judged(self) -> int:
        return self.paths + len(self.trained)

    def after_forward(self, module: nn.Module, inputs: tuple[Any, ...], logits: Any) -> None:
        if not isinstance(module, Supernet | PlantedSupernet | Network):
            return
        size = len(inputs[0])
        self.images += FORWARD * size
        if logits.requires_grad:
            logits.register_hook(partial(self._after_backward, size))
        if isinstance(module, Network):
            self.trained.add(module)
        elif not torch.is_grad_enabled():
            # An architecture's mixing weights are 1 and nothing else (`relaxation.path`).
            active = inputs[1].active
            self.paths += active is not None and torch.equal(inputs[1].operations, active.to(inputs[1].operations))

    def _after_backward(self, size: int, gradient: Tensor) -> None:
        self.images += (1 - FORWARD) * size


@contextmanager
def _counted() -> Iterator[_Count]:
    count = _Count()
    handle = register_module_forward_hook(count.after_forward)
    try:
        yield count
    finally:
        handle.remove()


def check_schedules(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """In the last epoch, mixing weights, penalty, skip dropout, scores and derivation are the same functions of the
    parameters, however many epochs there were and however many of them were warm-up."""
    own = {key: value for key, value in (options or {}).items() if not key.startswith("search.")}
    lengths = ((1, 0), (2, 0), (2, 1), (5, 0), (5, 1), (9, 2))
    for draw in (0, 1):
        ends = []
        for epochs, warmup in lengths:
            method = create(name, mapping, own, DARTS)
            if not isinstance(method, SupernetMethod):
                return
            learnt = _random_mapping(method, 0.5, 0)
            ends.append(_functions(method, learnt, Progress(epochs - 1, epochs, warmup, step=7, draw=draw)))
        for (epochs, warmup), end in zip(lengths, ends, strict=True):
            differing = [what for what in end if end[what] != ends[0][what]]
            assert not differing, (
                f"{name} ends {epochs} epochs, {warmup} of them warm-up, with other {', '.join(differing)} than 1 "
                "epoch; let schedules be functions of progress.share, which is 1 in the last epoch"
            )


def _functions(method: SupernetMethod, mapping: Any, progress: Progress) -> dict[str, Any]:
    with torch.no_grad():
        mixing = method.mixing(mapping, progress)
        found: dict[str, Any] = {
            "mixing weights": _bits({"o": mixing.operations, "e": mixing.edges, "b": mixing.bypass}),
            "active operations": None if mixing.active is None else mixing.active.tolist(),
            "skip dropout": method.skip_dropout(progress),
            "derived architecture": method.derive(mapping, progress),
        }
        if isinstance(method, GradientMethod):
            penalty = method.penalty(mapping, progress)
            found["penalty"] = None if penalty is None else penalty.item()
            found["scores"] = _bits({"scores": method.scores(mapping, progress)})
    return found


def check_survives_failures(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Trials that fail are trials without a score: the method goes on, and only if all of them failed it gives up."""
    if not issubclass(get_method(name), TrialMethod):
        return
    mapping = mapping or get_method(name).default_mapping
    record = search(name, mapping, options, planted=plant(mapping, 0), failing=2)
    problem = _objection(record.found.architecture, record.method)
    assert problem is None, f"where half of the trials fail, the architecture that {name} finds {problem}"
    try:
        search(name, mapping, options, planted=plant(mapping, 0), failing=1)
    except RunError:
        return
    raise AssertionError(
        f"{name} chooses an architecture although no trial has a score; raise RunError, as `best` does"
    )


def check_finds_planted(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """A planted best architecture is found more often than by chance (`agreement_by_chance`).

    Over a few searches, the mean agreement lies 4 standard deviations above that of architectures that know nothing of
    it. A gradient method ranks edges, too, and for these alone it is 1: few of them are wrong by chance, so the mean
    cannot lie far above, but it lies far below where they are ranked the wrong way round.
    """
    gradient = issubclass(get_method(name), GradientMethod)
    mapping = mapping or get_method(name).default_mapping
    seeds = range(3 if gradient else 6)
    planted = [plant(mapping, seed) for seed in seeds]
    found = [
        search(name, mapping, options, seed=seed, size=LONG, planted=planted[seed]).found.architecture for seed in seeds
    ]
    for inputs_only, deviations in ((False, 4), (True, 1))[: 1 + gradient]:
        shares = [agreement(*pair, inputs_only=inputs_only) for pair in zip(found, planted, strict=True)]
        mean, deviation = agreement_by_chance(mapping, inputs_only=inputs_only)
        needed = mean + deviations * deviation / math.sqrt(len(seeds))
        assert sum(shares) / len(seeds) > needed, (
            f"of {'the inputs in ' * inputs_only}an architecture that the cross-entropy and the accuracy point to, "
            f"{name} finds {', '.join(f'{100 * share:.0f} %' for share in shares)} under --mapping {mapping}; chance "
            f"alone finds {100 * mean:.0f} %, and the mean must exceed {100 * needed:.0f} %. Does the gradient "
            "reach the parameters with the right sign, and does the choice follow them, or the scores?"
        )


# --- all of it --------------------------------------------------------------------------------------------------

CHECKS_OF_A_METHOD = (check_declaration, check_mappings)
CHECKS_OF_A_SEARCH = (check_reads_no_test_images, check_pipeline)
CHECKS_OF_A_MAPPING = (
    check_searches,
    check_exports,
    check_deterministic,
    check_resumes,
    check_cost,
    check_schedules,
    check_survives_failures,
    check_finds_planted,
)


def check_method(
    name: str, mapping: str | None = None, *, options: Options | None = None, acts: Acts | None = None
) -> None:
    """The whole contract.

    Args:
        mapping: Only under this one; under all that the method claims unless given.
        options: See the module.
        acts: See `check_options`.
    """
    for check in CHECKS_OF_A_METHOD:
        check(name)
    check_options(name, options, acts)
    for check_search in CHECKS_OF_A_SEARCH:
        check_search(name, options)
    for each in (mapping,) if mapping else get_method(name).mappings:
        for check_mapping in CHECKS_OF_A_MAPPING:
            check_mapping(name, each, options)

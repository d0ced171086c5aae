"""Checks of the behavior of a method: search, export, resuming, costs and failures."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from dnas.errors import RunError
from dnas.methods.protocol import (
    GradientMethod,
    Progress,
    SupernetMethod,
    TrialMethod,
)
from dnas.methods.registry import get_method
from dnas.network.network import Network
from dnas.rng import numpy_stream
from dnas.searching.judging import FORWARD
from dnas.space.architecture import layer_pair
from dnas.space.darts import DARTS
from dnas.space.limits import LIMITED, Delivered, Feasible
from dnas.space.network_plan import Shape
from dnas.supernet.mapping import SHARED
from dnas.supernet.supernet import Supernet
from dnas.testing.planted import CLASSES, LAYERS, SIDE, PlantedSupernet, agreement, agreement_by_chance, plant
from dnas.testing.record import LONG, REAL, Options, objection, random_mapping, search, tested_method

# The network that `check_limits` limits.
SHAPE = Shape(channels=8, classes=CLASSES, image_size=SIDE, image_channels=1, stem="cifar")
CLASS_NAMES = tuple(map(str, range(CLASSES)))

# --- clauses on a method under a mapping ------------------------------------------------------------------------


def check_searches(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that a search of real networks returns an architecture of the space with the searched depth."""
    record = search(name, mapping, options, size=REAL)
    problem = objection(record.found.architecture, record.method)
    assert problem is None, f"the architecture that {name} finds {problem}"


def check_exports(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that a method exports an architecture of the space for all parameters: two inputs per node, no `none`.

    Candidates must have the right depth, and shares above 0 and at most 1.
    """
    mapping = mapping or get_method(name).default_mapping
    record = search(name, mapping, options, planted=plant(mapping, 0))
    problem = objection(record.found.architecture, record.method)
    assert problem is None, f"the architecture that {name} finds {problem}"
    for candidate in record.candidates:
        problem = objection(candidate.architecture, record.method, final=False)
        assert problem is None, f"an architecture that {name} proposes {problem}"
        assert 0 < candidate.share <= 1, f"{name} proposes to evaluate on a share of {candidate.share} of the images"
    if isinstance(method := record.method, SupernetMethod):
        for number, scale in enumerate((0.0, 0.01, 1.0, 30.0)):
            architecture = method.derive(random_mapping(method, scale, number), Progress(1, 2))
            problem = None if architecture is None else objection(architecture, method)
            assert problem is None, f"with parameters of size {scale}, what {name} derives {problem}"


def check_deterministic(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that a search is bitwise reproducible by its seed, differs for another, and uses no global random state."""
    planted = plant(mapping or get_method(name).default_mapping, 0)
    records = []
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        with global_state(state, name):
            records.append(search(name, mapping, options, seed=seed, planted=planted))
    one, again, other = records
    differing = one.differences(again)
    assert not differing, (
        f"two searches of {name} with one seed differ: {differing}; draw random numbers only from the seed"
    )
    assert one.differences(other), f"{name} does the same for all seeds; use the given seed for random numbers"


@contextmanager
def global_state(seed: int, name: str) -> Iterator[None]:
    """Seed the global random states within the block. Raises AssertionError if they have changed at its end."""
    before = _states()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        fresh = _states()
        yield
        moved = [library for library, value in _states().items() if value != fresh[library]]
        assert not moved, (
            f"{name} draws from the global random state of {', '.join(moved)}; use progress.generator, "
            "rng.torch_stream or rng.numpy_stream"
        )
    finally:
        kind, words, *rest = before["numpy"]
        random.setstate(before["random"])
        np.random.set_state((kind, np.frombuffer(words, np.uint32), *rest))
        torch.set_rng_state(torch.frombuffer(bytearray(before["torch"]), dtype=torch.uint8))


def _states() -> dict[str, Any]:
    kind, words, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy": (kind, bytes(np.asarray(words)), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


def check_resumes(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that a new object resumes bit for bit from the checkpoint after any step, trial or candidate."""
    mapping = mapping or get_method(name).default_mapping
    again = partial(search, name, mapping, options, planted=plant(mapping, 0))
    whole = again()
    for checkpoint in whole.session.checkpoints:
        differing = whole.differences(again(start=checkpoint))
        assert not differing, (
            f"resumed from its checkpoint of step {checkpoint.state['step']}, {name} ends with other results: "
            f"{differing}; keep learned state in the parameters and buffers of `mapping` or in "
            "`search.memory`, not in the method, and make `propose` a function of its arguments"
        )


def check_cost(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that the reported cost of a search equals the computation counted at the networks."""
    mapping = mapping or get_method(name).default_mapping
    trials = issubclass(get_method(name), TrialMethod)
    size = {**REAL, "batch_size": 4}  # so that batch sizes differ
    with counted() as count:
        record = search(name, mapping, options, size=size, planted=None if trials else plant(mapping, 0))
    cost, expected = record.found.cost, count.images / tested_method(name, mapping, options, size)[1]["batch_size"]
    assert cost["step_equivalents"] > 0, f"the search of {name} reports a cost of 0"
    assert math.isclose(cost["step_equivalents"], expected, rel_tol=1e-9), (
        f"{name} reports a search cost of {cost['step_equivalents']:.3f} forward and backward passes, but the "
        f"networks computed {expected:.3f}; add its own computation to search.cost['step_equivalents']"
    )
    assert cost["architectures_evaluated"] == count.judged, (
        f"{name} reports {cost['architectures_evaluated']} evaluated architectures, but there were {count.judged}; "
        "evaluate with search.accuracy, which counts them, and do not count again"
    )


class _Count:
    """Passes through networks, as images · (⅓ forward, ⅔ backward), and the number of evaluated architectures."""

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
            # The mixing weights of an architecture are all 1 (`relaxation.path`).
            active = inputs[1].active
            self.paths += active is not None and torch.equal(inputs[1].operations, active.to(inputs[1].operations))

    def _after_backward(self, size: int, gradient: Tensor) -> None:
        self.images += (1 - FORWARD) * size


@contextmanager
def counted() -> Iterator[_Count]:
    """Count the forward passes of modules within the block."""
    count = _Count()
    handle = register_module_forward_hook(count.after_forward)
    try:
        yield count
    finally:
        handle.remove()


def random_limits(name: str, mapping: str, seed: int) -> Feasible:
    """Return limits on one or two costs that a random architecture just satisfies."""
    delivered = Delivered(DARTS, LAYERS, mapping == SHARED, SHAPE, CLASS_NAMES, "int8")
    rng = numpy_stream(seed, "limits", *f"{name} {mapping}".encode())
    limited = [str(each) for each in rng.permutation(LIMITED)[: rng.integers(1, 3)]]
    return Feasible(delivered, delivered.costs(plant(mapping, int(rng.integers(1 << 30))), limited))


def check_limits(name: str, mapping: str | None = None, options: Options | None = None, seed: int = 0) -> None:
    """Check that a search satisfies limits, and that resuming it under limits gives the same result.

    The searched architecture, second choices and all complete architectures that are evaluated must satisfy them.

    Args:
        seed: The seed of the limits; see `random_limits`.
    """
    mapping = mapping or get_method(name).default_mapping
    feasible = random_limits(name, mapping, seed)
    again = partial(search, name, mapping, options, seed=seed, planted=plant(mapping, seed), feasible=feasible)
    record = again()
    found, judged = record.found, [trial.architecture for trial in record.found.history]
    for what, architectures in (("finds", [found.architecture]), ("offers", found.others), ("judges", judged)):
        for architecture in architectures:
            # A method may evaluate layers that lack nodes; a published rule may omit inputs.
            whole = all(len(layer.nodes) == DARTS.nodes for layer in architecture.layers)
            excess = feasible.excess(architecture) if whole else {}
            assert not excess, f"limited to {feasible.limits}, {name} {what} an architecture that needs {excess}"
    if mapping == SHARED:
        assert layer_pair(found.architecture), f"within limits, {name} finds different layers under --mapping shared"
    halfway = record.session.checkpoints[len(record.session.checkpoints) // 2]
    differing = record.differences(again(start=halfway))
    assert not differing, f"resumed halfway, {name} ends with other results under limits: {differing}"


def check_survives_failures(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that a method continues after failed trials, which have no score, and only fails if all trials failed."""
    if not issubclass(get_method(name), TrialMethod):
        return
    mapping = mapping or get_method(name).default_mapping
    record = search(name, mapping, options, planted=plant(mapping, 0), failing=2)
    problem = objection(record.found.architecture, record.method)
    assert problem is None, f"if half of the trials fail, the architecture that {name} finds {problem}"
    try:
        search(name, mapping, options, planted=plant(mapping, 0), failing=1)
    except RunError:
        return
    raise AssertionError(
        f"{name} chooses an architecture although no trial has a score; raise RunError, as `best` does"
    )


def check_finds_planted(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that a planted best architecture is found more often than by chance (`agreement_by_chance`).

    Over a few searches, the mean agreement must lie 4 standard deviations above that of unrelated architectures. For
    the edges that a gradient-based method also ranks, it must lie 1 above: few of them are wrong by chance, so the
    mean cannot lie far above, but it lies far below if they are ranked in reverse order.
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

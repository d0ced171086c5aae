"""Whether the torch path is right on a device: comparisons in float64, for `benchmarks/gpu.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import supernet
import torch
import torch.nn.functional as F
import train
from gpu_setting import (
    FLOAT64_LIMIT,
    STAGE,
    VARIANTS,
    Setting,
    describe,
    flat,
    relative,
)
from plain import PlainSupernet, weight_pairs
from torch import Tensor

from dnas.network.network import Network, build, drop_path
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.mapping import Mapping as ArchitectureMapping
from dnas.supernet.relaxation import (
    MixingWeights,
    edge_softmax,
    expand,
    layer_softmax,
    path,
    sigmoid,
    softmax,
    straight_through,
)
from dnas.supernet.supernet import Supernet
from dnas.training import updates
from dnas.training.build import to_device


@dataclass(frozen=True)
class Case:
    """How mixing weights come about in one comparison of the supernets.

    Attributes:
        mapping: Its name; None: the weights of a sampled path, of which nothing else is executed.
        relaxation: Of the operations.
        edges: Of the edges: over those of a node, over all of a layer, or none.
        partial: K.
        zero: Whether the operations have `none` among them.
    """

    mapping: str | None
    relaxation: str = "sigmoid"
    edges: str = "node"
    partial: int = 4
    zero: bool = False

    @property
    def operations(self) -> tuple[str, ...]:
        return ("none", *DARTS.primitives) if self.zero else DARTS.primitives

    @property
    def name(self) -> str:
        what = "path" if self.mapping is None else f"{self.mapping}, {self.relaxation}, edges {self.edges}"
        return f"{what}, K={self.partial}{', none' if self.zero else ''}"


RELAXATIONS: dict[str, Callable[[tuple[Tensor, ...]], Tensor]] = {
    "sigmoid": sigmoid,
    "softmax": softmax,
    "one-hot": lambda terms: straight_through(softmax(terms)),
}
CASES = (
    *(Case(mapping, relaxation) for mapping in MAPPINGS for relaxation in RELAXATIONS),
    Case("decoupled", edges="layer"),
    Case("shared", "softmax", "none", partial=1, zero=True),
    Case("decoupled", partial=2),
    Case(None),
    Case(None, partial=1),
)


def mixing_of(case: Case, mapping: ArchitectureMapping | None, shape: supernet.Shape, like: Tensor) -> MixingWeights:
    """The mixing weights of a case, on the device and in the type of a tensor."""
    if mapping is None:
        architecture = sampling.sample(shape.space, numpy_stream(0, STAGE), shape.layers)
        return path(architecture, case.operations, shape.space).to(like)
    operations, logits = RELAXATIONS[case.relaxation](mapping.terms()), mapping.edge_logits()
    edges = None
    if logits is not None:
        edges = edge_softmax(logits, shape.space) if case.edges == "node" else layer_softmax(logits)
    return expand(operations, edges, shape.layers).to(like)


def supernet_difference(case: Case, shape: supernet.Shape, device: str) -> dict[str, float]:
    """The batched supernet against the plain one in float64: relative differences of what they give."""
    shape = replace(shape, partial=case.partial)
    networks = supernet.both(shape, case.operations)
    for network in networks.values():
        network.to(device, torch.float64)
    images, labels = (each.to(device) for each in supernet.batch(shape, 0, torch.float64))
    mapping = None
    if case.mapping is not None:
        sizes = (shape.layers, len(shape.space.edges), len(case.operations))
        mapping = MAPPINGS[case.mapping](*sizes, with_edges=case.edges != "none", scale=1.0)
        mapping.to(device, torch.float64)
    architecture = [] if mapping is None else list(mapping.parameters())
    found = {}
    for variant, network in networks.items():
        logits = network(images, mixing_of(case, mapping, shape, images))
        weights = list(network.parameters())
        grads = updates.gradients_of(F.cross_entropy(logits, labels), [*architecture, *weights])
        by_weight = dict(zip(weights, grads[len(architecture) :], strict=True))
        found[variant] = (logits, grads[: len(architecture)], by_weight)
    (fast, fast_slopes, fast_grads), (slow, slow_slopes, slow_grads) = (found[v] for v in VARIANTS.values())
    batched, plain = (networks[variant] for variant in VARIANTS.values())
    assert isinstance(batched, Supernet) and isinstance(plain, PlainSupernet)
    pairs = [(fast_grads[a][where], slow_grads[b]) for a, where, b in weight_pairs(batched, plain)]
    out = {"output": relative(fast, slow), "weight_gradients": relative(*(flat(g) for g in zip(*pairs, strict=True)))}
    if architecture:
        out["architecture_gradients"] = relative(flat(fast_slopes), flat(slow_slopes))
    return out


def network_difference(number: int, shape: train.Shape, device: str) -> dict[str, float]:
    """A random derived network on a device against itself on the CPU, both training in float64."""
    images, labels = train.images_and_labels(shape)
    found = []
    for where in (device, "cpu"):
        network = random_network(number, shape).double()
        network = to_device(network, where).train()
        paths = drop_path(network, shape.batch, train.DROP_PATH, torch_stream(0, "drop-path")).double()
        logits, auxiliary = network(images.double().to(where), paths.to(where))
        losses = [F.cross_entropy(out, labels.to(where)) for out in (logits, auxiliary)]
        grads = updates.gradients_of(losses[0] + train.AUXILIARY_WEIGHT * losses[1], list(network.parameters()))
        found.append((logits, flat(grads), flat([b for b in network.buffers() if b.is_floating_point()])))
    kinds = ("output", "weight_gradients", "statistics")
    return {kind: relative(a, b) for kind, a, b in zip(kinds, *found, strict=True)}


def random_network(number: int, shape: train.Shape) -> Network:
    architecture = sampling.sample(DARTS, numpy_stream(number, STAGE), shape.layers)
    return build(architecture, shape.channels, train.CLASSES, auxiliary=True)


def check(cases: Mapping[str, Callable[[], dict[str, float]]]) -> dict[str, Any]:
    """The differences of each case or its exception, and the largest of all."""
    found: dict[str, Any] = {}
    for name, run in cases.items():
        try:
            found[name] = run()
        except Exception as error:
            found[name] = {"error": describe(error)}
    numbers = [value for row in found.values() for value in row.values() if isinstance(value, float)]
    # Written so that a difference that is no number is not equal.
    equal = all("error" not in row for row in found.values()) and all(value <= FLOAT64_LIMIT for value in numbers)
    return {"equal": equal, "largest": max(numbers, default=None), "limit": FLOAT64_LIMIT, "differences": found}


def check_supernets(setting: Setting) -> dict[str, Any]:
    cases = CASES if setting.device == "cuda" else (CASES[4], *CASES[-4:])
    return check({case.name: partial(supernet_difference, case, setting.checked, setting.device) for case in cases})


def check_networks(setting: Setting) -> dict[str, Any]:
    shape, device = setting.checked_network, setting.device
    numbers = range(setting.checked_networks)
    return check({f"random {number}": partial(network_difference, number, shape, device) for number in numbers})

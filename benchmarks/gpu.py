"""The torch path on a GPU: whether it is right there, and what its steps take, beside the plain supernet.

    python benchmarks/gpu.py --json gpu.json --minutes 2    # without a GPU a reduced form on the CPU, of tiny shapes

Parts run in order of importance:

- The batched supernet against the plain one in float64, for mappings and relaxations; and derived networks on the GPU
  against the same networks on the CPU.
- A search step (architecture step and weight step) of both supernets, their steps in turns. At two shapes, in float32,
  TF32, and under autocast to bfloat16.
- A training step of a derived network, without the loading of data; the same precisions.
- Kernels that one step launches, by the profiler.
- As an experiment, forward and backward pass as one CUDA graph, and whether its loss and gradients are the eager ones.

A part that fails is reported with its exception, and the next goes on. After `--minutes` no further part begins. The
JSON file is written anew after every part, so it holds what was measured if the process is ended.

Memory is the most that was allocated on the GPU from before a variant was built until after its second step, less what
was allocated before. Times are of whole steps between two synchronisations. `cudnn.benchmark` is off, as it is in runs.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import measure
import supernet
import torch
import torch.nn.functional as F
import train
from cyclopts import App, Parameter
from plain import PlainSupernet, weight_pairs
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dnas.kernels import native
from dnas.network.network import Network, build, drop_path
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.darts import DARTS
from dnas.space.published import load_published
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
from dnas.training.descent import Descent

BATCHED, PLAIN = "batched", "plain"
VARIANTS = {BATCHED: supernet.ENGINE, PLAIN: supernet.PLAIN}
FLOAT32, TF32, BFLOAT16 = "float32", "tf32", "bfloat16"
FLOAT64_LIMIT = 1e-9  # largest relative difference that counts as equal
WARMUP_STEPS = 2
CAPTURE_WARMUP = 3  # steps on a side stream before a capture, as torch's manual wants it
LEAST_ROUNDS = 3
STAGE = "benchmark"

Step = Callable[[], object]

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Setting:
    """What is measured on a device.

    Attributes:
        checked: Shape of the supernets that are compared in float64; K and depth vary by case.
        checked_networks: How many random architectures are compared, and their shape.
        searches: Shapes of the search steps, the most important first.
        training: Shape of the training step.
        rounds: Steps of each variant that are timed.
        seconds: After so many no further round begins, once there are a few.
    """

    device: str
    checked: supernet.Shape
    checked_networks: int
    checked_network: train.Shape
    searches: dict[str, supernet.Shape]
    training: train.Shape
    rounds: int
    seconds: float


DARTS_LIKE, DNAS_LIKE = "8 layers", "20 layers"
TINY = supernet.Shape(layers=3, channels=8, batch=4, size=8, nodes=2)
GPU = Setting(
    device="cuda",
    checked=supernet.Shape(layers=4, channels=16, batch=8, size=16),
    checked_networks=4,
    checked_network=train.Shape(layers=8, channels=8, batch=8, size=32),
    searches={DARTS_LIKE: supernet.Shape(), DNAS_LIKE: supernet.Shape(layers=20, channels=16, batch=96)},
    training=train.Shape(layers=20, channels=36, batch=96, size=32),
    rounds=10,
    seconds=5.0,
)
CPU = Setting(
    device="cpu",
    checked=replace(TINY, nodes=DARTS.nodes),
    checked_networks=1,
    checked_network=train.Shape(layers=3, channels=4, batch=4, size=8),
    searches={DARTS_LIKE: TINY, DNAS_LIKE: replace(TINY, batch=6)},
    training=train.Shape(layers=3, channels=4, batch=4, size=8),
    rounds=1,
    seconds=0.0,
)


@dataclass(frozen=True)
class Part:
    """Something to measure, and its name."""

    name: str
    run: Callable[[], dict[str, Any]]


@dataclass
class Report:
    """All that is known so far; `parts` are JSON objects in the order in which they ran."""

    facts: dict[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)


# --- the device -----------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """Names and versions that the figures depend on."""
    facts: dict[str, Any] = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "card": properties.name,
            "card_memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return facts


def synchronise(device: str) -> None:
    """Wait until the device has done all that it was asked for."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def precision_of(precision: str) -> Iterator[None]:
    """Products and convolutions of float32 as TF32 or not; what it was is put back."""
    matrices, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == TF32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matrices, convolutions


def autocast(precision: str, device: str, cache: bool = True) -> torch.autocast:
    """For the forward pass; a captured graph cannot use the cache of weights."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == BFLOAT16, cache_enabled=cache)


def relative(a: Tensor, b: Tensor) -> float:
    """The norm of the difference over the norm of b."""
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    return float((a - b).norm() / b.norm().clamp_min(1e-300))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


# --- equality -------------------------------------------------------------------------------------------


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
    cases = CASES if setting.device == "cuda" else (CASES[0], CASES[4], *CASES[-4:])
    return check({case.name: partial(supernet_difference, case, setting.checked, setting.device) for case in cases})


def check_networks(setting: Setting) -> dict[str, Any]:
    shape, device = setting.checked_network, setting.device
    numbers = range(setting.checked_networks)
    return check({f"random {number}": partial(network_difference, number, shape, device) for number in numbers})


# --- the steps ------------------------------------------------------------------------------------------


def search_step(network: nn.Module, shape: supernet.Shape, precision: str, device: str) -> Step:
    """One search step as `dnas.searching.search` takes it, without batches, on one pair of them."""
    network.to(device)
    weights, mapping = list(network.parameters()), supernet.mapping(shape).to(device)
    architecture = list(mapping.parameters())
    adam = torch.optim.Adam(architecture, 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    sgd = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4, foreach=True)
    above = Descent("mapping", mapping, {"architecture": adam}, STAGE)
    below = Descent("supernet", network, {"weights": sgd}, STAGE)
    train_batch, validation_batch = ([each.to(device) for each in supernet.batch(shape, draw)] for draw in (0, 1))

    def loss(batch: list[Tensor], relaxed: bool) -> Tensor:
        images, labels = batch
        mixing = supernet.mixing_of(mapping, shape)
        with autocast(precision, device):
            return F.cross_entropy(network(images, mixing if relaxed else mixing.detach()), labels)

    def step() -> None:
        value, slopes = updates.first_order(lambda: loss(validation_batch, True), architecture, weights)
        above.step(0, value, slopes, lambda: "a layer")
        value, grads = updates.sparse_gradients(lambda: loss(train_batch, False), weights)
        below.step(0, value, grads, lambda: "a layer", clip_norm=train.CLIP)

    return step


def derived_network(shape: train.Shape, device: str) -> Network:
    network = build(load_published("DARTS_V2", shape.layers), shape.channels, train.CLASSES, auxiliary=True)
    return to_device(network, device).train()


def inputs_of(shape: train.Shape, device: str) -> tuple[Tensor, Tensor]:
    images, labels = train.images_and_labels(shape)
    return images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device)


def training_step(shape: train.Shape, precision: str, device: str) -> Step:
    """One training step as `dnas.training.trainer` takes it by default, on one batch."""
    network = derived_network(shape, device)
    images, labels = inputs_of(shape, device)
    generator = torch_stream(0, "drop-path")
    sgd = torch.optim.SGD(network.parameters(), 0.025, 0.9, weight_decay=3e-4, fused=True)
    descent = Descent("network", network, {"optimizer": sgd}, STAGE)

    def step() -> None:
        paths = drop_path(network, shape.batch, train.DROP_PATH, generator).to(device)

        def loss() -> Tensor:
            with autocast(precision, device):
                return train.loss_of(network, images, labels, paths)

        value, grads = updates.gradients(loss, descent.parameters)
        descent.step(0, value, grads, lambda: "a layer", clip_norm=train.CLIP)

    return step


# --- time and memory ------------------------------------------------------------------------------------


def prepared(make: Callable[[], Step], device: str) -> tuple[Step, int | None]:
    """A step that has been taken twice, and the bytes of memory that it came to."""
    if device != "cuda":
        step = make()
        step()
        return step, None
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step = make()
    for _ in range(WARMUP_STEPS):
        step()
    torch.cuda.synchronize()
    return step, torch.cuda.max_memory_allocated() - before


def in_turns(steps: Mapping[str, Step], setting: Setting) -> dict[str, list[float]]:
    """Seconds of each call, by variant; every other round in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    began = time.perf_counter()
    for i in range(setting.rounds):
        if i >= LEAST_ROUNDS and time.perf_counter() - began > setting.seconds:
            break
        for name in list(steps)[:: -1 if i % 2 else 1]:
            synchronise(setting.device)
            start = time.perf_counter()
            steps[name]()
            synchronise(setting.device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def timed(makers: Mapping[str, Callable[[], Step]], setting: Setting, images: int) -> dict[str, Any]:
    """A row for each variant: its seconds, rate and memory, or its exception."""
    rows: dict[str, Any] = {}
    steps: dict[str, Step] = {}
    for name, make in makers.items():
        try:
            steps[name], memory = prepared(make, setting.device)
            rows[name] = {"memory_bytes": memory}
        except Exception as error:
            rows[name] = {"error": describe(error)}
    for name, samples in in_turns(steps, setting).items():
        rows[name] |= {"seconds": measure.spread(samples), "samples": samples}
        rows[name]["images_per_second"] = images / median(samples)
    return rows


def with_ratios(rows: dict[str, Any], first: str, second: str) -> dict[str, Any]:
    """With the first variant's time and memory divided by the second's, where both were measured."""
    a, b = rows.get(first, {}), rows.get(second, {})
    if "samples" in a and "samples" in b:
        ratios = {"time_ratio": measure.paired_ratio(a["samples"], b["samples"])}
        if a.get("memory_bytes") and b.get("memory_bytes"):
            ratios["memory_ratio"] = a["memory_bytes"] / b["memory_bytes"]
        return {**rows, **ratios}
    return rows


def search_makers(shape: supernet.Shape, precision: str, device: str) -> dict[str, Callable[[], Step]]:
    networks = supernet.both(shape)
    return {name: partial(search_step, networks[VARIANTS[name]], shape, precision, device) for name in VARIANTS}


def time_search(setting: Setting, which: str, precision: str) -> dict[str, Any]:
    """Both supernets' search step."""
    shape = setting.searches[which]
    with precision_of(precision):
        # An image counts once a step, although both halves of the step have a batch.
        rows = timed(search_makers(shape, precision, setting.device), setting, shape.batch)
    return {"shape": asdict(shape), "precision": precision, **with_ratios(rows, BATCHED, PLAIN)}


def time_training(setting: Setting, precision: str) -> dict[str, Any]:
    """The derived network's training step."""
    shape = setting.training
    with precision_of(precision):
        makers = {"eager": partial(training_step, shape, precision, setting.device)}
        rows = timed(makers, setting, shape.batch)
    return {"shape": asdict(shape), "precision": precision, **rows}


# --- launches -------------------------------------------------------------------------------------------


def launches(step: Step, device: str) -> dict[str, Any]:
    """What one step asks of the device: kernels, copies, and the seconds that kernels take together.

    On the CPU the operations of torch that move data instead.
    """
    if device != "cuda":
        return {"operations": measure.count(step).launches}
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    kernels = copies = fills = asked = 0
    busy = 0.0
    for event in profiled.events():
        if event.device_type.name != "CUDA":
            asked += "LaunchKernel" in event.name
        elif event.name.startswith("Memcpy"):
            copies += 1
        elif event.name.startswith("Memset"):
            fills += 1
        else:
            kernels += 1
            busy += event.time_range.elapsed_us() * 1e-6
    if not kernels:  # a profiler that may not look at this device
        return {"operations": measure.count(step).launches, "profiler": "saw no kernels"}
    return {"launches": kernels, "launch_calls": asked, "copies": copies, "fills": fills, "kernel_seconds": busy}


def count_launches(makers: Mapping[str, Callable[[], Step]], setting: Setting, precision: str) -> dict[str, Any]:
    """A row for each variant: what a step launches, or its exception."""
    rows: dict[str, Any] = {"precision": precision}
    with precision_of(precision):
        for name, make in makers.items():
            try:
                rows[name] = launches(prepared(make, setting.device)[0], setting.device)
            except Exception as error:
                rows[name] = {"error": describe(error)}
    return rows


def search_launches(setting: Setting, which: str) -> dict[str, Any]:
    return count_launches(search_makers(setting.searches[which], FLOAT32, setting.device), setting, FLOAT32)


def training_launches(setting: Setting) -> dict[str, Any]:
    makers = {"eager": partial(training_step, setting.training, FLOAT32, setting.device)}
    return count_launches(makers, setting, FLOAT32)


# --- CUDA graphs ----------------------------------------------------------------------------------------

Gradients = tuple[Tensor, tuple[Tensor, ...]]


def captured(run: Callable[[], Gradients]) -> tuple[Step, Gradients]:
    """A forward and backward pass as a CUDA graph: its replay, and the tensors into which it writes."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(CAPTURE_WARMUP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph.replay, results


def compare_graph(run: Callable[[], Gradients], setting: Setting, images: int) -> dict[str, Any]:
    """Times of the eager pass and of the replay, and whether both give the same.

    `noise` is how far two eager passes are from each other: sums on a GPU can come in any order. On the CPU, which has
    no graphs, the eager pass stands for the replay.
    """
    if setting.device == "cuda":
        replay, results = captured(run)
    else:
        results = run()
        replay = run
    first, second = run(), run()
    for tensor in (results[0], *results[1]):
        if setting.device == "cuda":
            tensor.fill_(float("nan"))  # so that only a replay can make it right
    replay()
    synchronise(setting.device)
    out: dict[str, Any] = {
        "equal_to_the_bit": all(map(torch.equal, (results[0], *results[1]), (first[0], *first[1]))),
        "loss_difference": relative(results[0], first[0]),
        "gradient_difference": relative(flat(results[1]), flat(first[1])),
        "noise": relative(flat(second[1]), flat(first[1])),
    }
    del first, second
    return out | timed({"eager": lambda: run, "replay": lambda: replay}, setting, images)


def graph_training(setting: Setting, precision: str) -> dict[str, Any]:
    """The derived network's forward and backward pass."""
    shape, device = setting.training, setting.device
    network = derived_network(shape, device)
    parameters = list(network.parameters())
    images, labels = inputs_of(shape, device)
    paths = drop_path(network, shape.batch, train.DROP_PATH, torch_stream(0, "drop-path")).to(device)

    def run() -> Gradients:
        with autocast(precision, device, cache=False):
            loss = train.loss_of(network, images, labels, paths)
        return loss.detach(), updates.gradients_of(loss, parameters)

    with precision_of(precision):
        return {"precision": precision, **compare_graph(run, setting, shape.batch)}


def graph_search(setting: Setting, which: str, variant: str) -> dict[str, Any]:
    """A supernet's forward and backward pass in a weight step."""
    shape, device = setting.searches[which], setting.device
    network = supernet.supernet(VARIANTS[variant], shape).to(device)
    weights = list(network.parameters())
    images, labels = (each.to(device) for each in supernet.batch(shape, 0))
    mixing = supernet.mixing_of(supernet.mapping(shape).to(device), shape).detach()

    def run() -> Gradients:
        loss = F.cross_entropy(network(images, mixing), labels)
        return loss.detach(), updates.gradients_of(loss, weights)

    with precision_of(FLOAT32):
        return {"precision": FLOAT32, **compare_graph(run, setting, shape.batch)}


# --- all parts ------------------------------------------------------------------------------------------


def parts_of(setting: Setting) -> list[Part]:
    """In order of importance."""
    return [
        Part("check supernets", partial(check_supernets, setting)),
        Part("check networks", partial(check_networks, setting)),
        Part(f"search step, {DARTS_LIKE}, {FLOAT32}", partial(time_search, setting, DARTS_LIKE, FLOAT32)),
        Part(f"training step, {BFLOAT16}", partial(time_training, setting, BFLOAT16)),
        Part(f"training step, {FLOAT32}", partial(time_training, setting, FLOAT32)),
        Part(f"search step, {DNAS_LIKE}, {FLOAT32}", partial(time_search, setting, DNAS_LIKE, FLOAT32)),
        Part(f"launches of a search step, {DARTS_LIKE}", partial(search_launches, setting, DARTS_LIKE)),
        Part("launches of a training step", partial(training_launches, setting)),
        Part(f"search step, {DARTS_LIKE}, {TF32}", partial(time_search, setting, DARTS_LIKE, TF32)),
        Part(f"search step, {DARTS_LIKE}, {BFLOAT16}", partial(time_search, setting, DARTS_LIKE, BFLOAT16)),
        Part(f"training step, {TF32}", partial(time_training, setting, TF32)),
        Part(f"graph of a training step, {FLOAT32}", partial(graph_training, setting, FLOAT32)),
        Part(f"graph of a training step, {BFLOAT16}", partial(graph_training, setting, BFLOAT16)),
        Part(f"search step, {DNAS_LIKE}, {TF32}", partial(time_search, setting, DNAS_LIKE, TF32)),
        Part(f"search step, {DNAS_LIKE}, {BFLOAT16}", partial(time_search, setting, DNAS_LIKE, BFLOAT16)),
        Part(f"launches of a search step, {DNAS_LIKE}", partial(search_launches, setting, DNAS_LIKE)),
        Part(f"graph of a training step, {TF32}", partial(graph_training, setting, TF32)),
        # Last, because a capture that fails may leave the device in disorder.
        Part(f"graph of a weight step, {PLAIN}", partial(graph_search, setting, DARTS_LIKE, PLAIN)),
        Part(f"graph of a weight step, {BATCHED}", partial(graph_search, setting, DARTS_LIKE, BATCHED)),
    ]


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def carry_out(part: Part, deadline: float) -> dict[str, Any]:
    """A part as a JSON object: its state (done, failed or skipped), seconds, and result or exception."""
    began = time.monotonic()
    if began >= deadline:
        return {"name": part.name, "state": "skipped", "seconds": 0.0, "error": "no time was left"}
    try:
        with native.only_torch():
            row = {"state": "done", "result": part.run()}
    except Exception as error:
        row = {"state": "failed", "error": describe(error)}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"name": part.name, "seconds": time.monotonic() - began, **row}


def measure_all(setting: Setting, minutes: float, file: Path | None, only: str = "") -> Report:
    """All parts whose name has the text `only` in it, one after another until the deadline."""
    deadline = time.monotonic() + 60 * minutes
    report = Report(machine(setting.device))
    for part in parts_of(setting):
        if only not in part.name:
            continue
        row = carry_out(part, deadline)
        report.parts.append(row)
        print(f"{row['name']}: {row['state']}, {row['seconds']:.1f} s {row.get('error', '')}", flush=True)
        if file is not None:
            file.write_text(json.dumps(asdict(report), indent=1))
    return report


# --- tables ---------------------------------------------------------------------------------------------


def variants_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of a part's result, by variant."""
    return {name: row for name, row in result.items() if name in (PLAIN, BATCHED, "eager", "replay")}


def step_cells(part: Mapping[str, Any], variant: str, row: Mapping[str, Any]) -> list[str]:
    seconds, memory = row.get("seconds"), row.get("memory_bytes")
    time_cells = [f"{1e3 * seconds[key]:.2f}" for key in ("min", "median", "max")] if seconds else [""] * 3
    count = row.get("launches", row.get("operations"))
    return [
        part["name"],
        variant,
        *time_cells,
        f"{row['images_per_second']:,.0f}" if seconds else "",
        f"{memory / measure.GIB:.2f}" if memory else "",
        "" if count is None else f"{count:,}",
        f"{1e3 * row['kernel_seconds']:.2f}" if "kernel_seconds" in row else "",
    ]


def tables(report: Report) -> list[Table]:
    """The differences, and the steps."""
    differences = Table(title="Relative differences in float64", title_justify="left")
    for head in ("case", "output", "weight gradients", "architecture gradients", "statistics"):
        differences.add_column(head, justify="left" if head == "case" else "right")
    steps = Table(title="Steps", title_justify="left")
    for head in ("part", "variant", "ms min", "median", "max", "images/s", "peak GiB", "launches", "kernels ms"):
        steps.add_column(head, justify="left" if head in ("part", "variant") else "right")
    for part in report.parts:
        result = part.get("result", {})
        for name, row in result.get("differences", {}).items():
            kinds = ("output", "weight_gradients", "architecture_gradients", "statistics")
            differences.add_row(name, *(f"{row[kind]:.1e}" if kind in row else "–" for kind in kinds))
        for variant, row in variants_of(result).items():
            steps.add_row(*step_cells(part, variant, row))
    return [differences, steps]


def remarks(report: Report) -> Iterator[str]:
    """What the tables do not say: ratios, equality, exceptions, and what was left out."""
    for part in report.parts:
        result = part.get("result", {})
        if "equal" in result:
            yield f"{part['name']}: {'equal' if result['equal'] else 'NOT EQUAL'}, at most {result['largest']}"
        if "time_ratio" in result:
            memory = f", memory {result['memory_ratio']:.3f}" if "memory_ratio" in result else ""
            yield f"{part['name']}: {BATCHED} / {PLAIN}: time {result['time_ratio']:.3f}{memory}"
        if "equal_to_the_bit" in result:
            same = "to the bit" if result["equal_to_the_bit"] else "not to the bit"
            numbers = ", ".join(
                f"{key.replace('_', ' ')} {result[key]:.1e}"
                for key in ("loss_difference", "gradient_difference", "noise")
            )
            yield f"{part['name']}: replay as eager {same}; {numbers}"
        for name, row in {**variants_of(result), **result.get("differences", {})}.items():
            if "error" in row:
                yield f"{part['name']}, {name}: {row['error']}"
        if "error" in part:
            yield f"{part['name']}: {part['state']}: {part['error']}"


@app.default
def main(
    *,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    minutes: float = 10.0,
    only: str = "",
    device: Annotated[str, Parameter(help="auto, cuda or cpu")] = "auto",
) -> None:
    """Measure, and print two tables.

    Args:
        json_file: Write everything to this JSON file.
        minutes: After so many no further part begins.
        only: Only parts whose name has this text in it.
        device: With cpu the reduced form; auto: cuda where there is one.
    """
    setting = GPU if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else CPU
    measure.show_facts(machine(setting.device))
    report = measure_all(setting, minutes, json_file, only)
    console = Console(width=140)
    for table in tables(report):
        console.print(table)
    for remark in remarks(report):
        print(remark)


if __name__ == "__main__":
    app()

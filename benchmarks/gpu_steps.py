"""Steps of searches and trainings on a device, for `benchmarks/gpu.py`: time, memory, launches, CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import measure
import supernet
import torch
import torch.nn.functional as F
import train
from gpu_setting import (
    BATCHED,
    CAPTURE_WARMUP,
    FLOAT32,
    LEAST_ROUNDS,
    PLAIN,
    STAGE,
    VARIANTS,
    WARMUP_STEPS,
    Setting,
    Step,
    autocast,
    describe,
    flat,
    precision_of,
    relative,
    synchronise,
)
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dnas.network.network import Network, build, drop_path
from dnas.rng import torch_stream
from dnas.space.published import load_published
from dnas.training import updates
from dnas.training.build import to_device
from dnas.training.descent import Descent

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

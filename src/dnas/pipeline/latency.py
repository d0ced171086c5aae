"""Latency of operations on this machine with ONNX Runtime, for one image and one thread; stored in the user's cache.

Each operation is measured separately, as the minimum over many passes. The CPU time of the thread is measured, so other
processes only interfere through the caches. In a network, operations are fused and their inputs may already be in the
cache. Therefore a few whole networks of the given shape are also measured, and a line is fitted: their time is a
constant plus a factor times the sum of their operations. Further networks of that shape measure the error.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import thread_time_ns
from typing import Any

import numpy as np

from dnas.disk import read_json, write_atomically
from dnas.errors import InputError
from dnas.pipeline.machine import environment
from dnas.pipeline.onnx_graph import INPUT, chain_model, network_model, require_onnx
from dnas.space import latency
from dnas.space.architecture import Architecture
from dnas.space.limits import Delivered
from dnas.space.primitives import PRIMITIVES
from dnas.space.protocol import layer_kinds
from dnas.space.sampling import sample

COPIES = 8  # copies of an operation in one graph, so that the overhead of a call is small
WARM, PASSES, SECONDS = 5, 400, 0.2  # warm-up passes; maximum number, and maximum duration, of the measured passes
FITTED, TESTED = 12, 6  # numbers of random networks for fitting the line and for testing it


@dataclass(frozen=True)
class Passes:
    """Seconds of one pass: the minimum and the quartiles."""

    least: float
    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """Interquartile range, relative to the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Table:
    """Latency of operations in networks of one shape.

    Attributes:
        times: Nanoseconds, by the keys of `space.latency`.
        alone: Nanoseconds of each operation measured separately, and the spread.
        factor: Ratio of the two.
        errors: Relative errors (predicted / measured - 1) for networks that were not used in the fit.
    """

    times: Mapping[str, int]
    alone: Mapping[str, tuple[float, float]]
    factor: float
    errors: Sequence[float]


def measured(delivered: Delivered) -> Table:
    """Return the table for a shape of networks, from the cache if possible.

    Raises:
        InputError: ONNX Runtime is not installed, or does not support a primitive.
    """
    require_onnx()
    file = _cache()
    kept: dict[str, Any] = {}
    if file is not None and file.is_file():
        with suppress(InputError):  # damaged
            kept = read_json(file)
    alone: dict[str, tuple[float, float]] = {each: tuple(pair) for each, pair in kept.get("operations", {}).items()}
    shape = repr((delivered.space.name, delivered.layers, delivered.shape))
    needed = _operations(delivered)
    if shape not in kept.get("shapes", {}) or not needed.keys() <= alone.keys():
        for each, (name, channels, stride, side) in needed.items():
            if each not in alone:
                alone[each] = _operation(name, channels, stride, side)
        fit = _fitted(delivered, alone)
        kept = {"operations": alone, "shapes": {**kept.get("shapes", {}), shape: fit}}
        if file is not None:
            with suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(kept, indent=1).encode())
    fit = kept["shapes"][shape]
    times = {each: round(fit["factor"] * alone[each][0]) for each in needed}
    own = {each: alone[each] for each in needed}
    return Table({latency.FIXED: round(fit["constant"]), **times}, own, fit["factor"], fit["errors"])


def covers(times: Mapping[str, int], delivered: Delivered) -> bool:
    """Return True if the times cover all operations of networks of this shape."""
    return {latency.FIXED, *_operations(delivered)} <= times.keys()


def of_network(delivered: Delivered, architecture: Architecture, clock: Callable[[], int] = thread_time_ns) -> Passes:
    """Measure a whole network: the operations in the order of the exported file, with random weights.

    Args:
        clock: Clock in nanoseconds: CPU time of the thread, or `perf_counter_ns`, which includes other processes.
    """
    shape, network = delivered.shape, delivered.planned(architecture)
    model = network_model(network, shape.image_size, shape.image_channels, shape.final_norm)
    image = np.random.default_rng(0).normal(size=(1, shape.image_channels, shape.image_size, shape.image_size))
    return _passes(model, {INPUT: image.astype(np.float32)}, clock)


def _operations(delivered: Delivered) -> dict[str, tuple[str, int, int, int]]:
    """Return all operations of networks of this shape, by key."""
    found = {}
    network = delivered.planned(_sampled(delivered, np.random.default_rng(0)))
    kinds = layer_kinds(delivered.layers)
    for kind, layer, (outer, inner) in zip(
        kinds, network.layers, latency.sides(network, delivered.shape.image_size), strict=True
    ):
        for name in delivered.space.primitives:
            for outside in (True, False):
                what = (name, layer.channels, 2 if kind and outside else 1, outer if outside else inner)
                found[latency.key(*what)] = what
    return found


def _sampled(delivered: Delivered, rng: np.random.Generator, primitives: Sequence[str] = ()) -> Architecture:
    """Draw a random architecture, using only these primitives if any are given."""
    found = sample(delivered.space, rng, delivered.layers, shared=delivered.shared)
    if not primitives:
        return found
    drawn = {
        layer: delivered.space.layer(
            [[(str(rng.choice(primitives)), source) for _, source in node] for node in layer.nodes]
        )
        for layer in dict.fromkeys(found.layers)
    }
    return Architecture(tuple(drawn[layer] for layer in found.layers), found.reductions, found.space)


def _operation(name: str, channels: int, stride: int, side: int) -> tuple[float, float]:
    """Measure a primitive separately. Returns nanoseconds and the spread."""
    chain = PRIMITIVES[name].chain(channels, stride)
    image = np.random.default_rng(0).normal(size=(1, channels, side, side)).astype(np.float32)
    images = {f"{INPUT}{copy}": image for copy in range(COPIES)}
    whole, empty = (_passes(chain_model(each, channels, side, COPIES), images) for each in (chain, ()))
    return 1e9 * max(0.0, whole.least - empty.least) / COPIES, whole.spread


def _fitted(delivered: Delivered, alone: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    """Fit the constant and the factor by relative errors, and return them with the errors on other networks."""
    rng, space = np.random.default_rng(0), delivered.space
    edges = [(reduction, e) for reduction in (False, True) for e in range(len(space.edges))]
    everywhere = [name for name in space.primitives if all(name in space.choices(*edge) for edge in edges)]
    # Two primitives each, so that their times differ; fusion and conversion are the same as in other networks.
    pairs = [rng.permutation(everywhere)[:2] for _ in range(FITTED)]
    networks = [_sampled(delivered, rng, [str(name) for name in pair]) for pair in pairs]
    networks += [_sampled(delivered, rng) for _ in range(TESTED)]
    sums, seconds = [], []
    for each in networks:
        network = delivered.planned(each)
        sums.append(sum(alone[op][0] for op in latency.operations(each, network, delivered.shape.image_size)))
        seconds.append(1e9 * of_network(delivered, each).least)
    x, y = np.array(sums[:-TESTED]), np.array(seconds[:-TESTED])
    (constant, factor), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], 1), np.ones(len(y)), rcond=None)
    predicted = constant + factor * np.array(sums[-TESTED:])
    errors = predicted / np.array(seconds[-TESTED:]) - 1
    return {"constant": float(constant), "factor": float(factor), "errors": errors.tolist()}


def _passes(model: bytes, images: Mapping[str, Any], clock: Callable[[], int] = thread_time_ns) -> Passes:
    import onnxruntime  # type: ignore[import-untyped,unused-ignore]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(WARM):
        session.run(None, images)
    times: list[int] = []
    while len(times) < PASSES and sum(times) < 1e9 * SECONDS:
        began = clock()
        session.run(None, images)
        times.append(clock() - began)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]) / 1e9
    return Passes(min(times) / 1e9, float(low), float(median), float(high))


def _cache() -> Path | None:
    """Return the cache file for this machine and version of the runtime, or None if there is no cache folder."""
    import onnxruntime

    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        caches = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # no HOME
        return None
    machine = repr((platform.node(), platform.machine(), environment()["processor"], onnxruntime.__version__))
    return caches / "dnas" / f"latency-{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"

"""One weight step of a sampled path beside one of the dense supernet: time, memory, operations, bytes.

    python benchmarks/sampled.py                       # 8 layers, 16 channels, batch 64, 32×32, all channels mixed
    python benchmarks/sampled.py --backend torch       # without native kernels, which only the dense step has
    python benchmarks/sampled.py --partial 4 --json

A step is a forward and a backward pass, gradients clipped to norm 5, and SGD with momentum and decay. The dense step
mixes all candidates of all edges, as a gradient method does; the sampled step executes one uniform architecture of
independent layers, another one in every step, and what it does not execute rests. Both have the same weights, images
and optimiser. Paths differ in cost, so compare medians.

Nothing is timed before a path is found equal to the dense supernet that has the path's zeros and ones for mixing
weights; see `differences`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import measure
import supernet
import torch
import torch.nn.functional as F
from cyclopts import App, Parameter

from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.supernet.relaxation import MixingWeights, path
from dnas.supernet.supernet import Supernet
from dnas.training import updates
from dnas.training.guard import clip

SAMPLED, DENSE = "sampled", "dense"
# Largest differences that count as equal; see `supernet.FLOAT32` for those at the measured shape.
FLOAT64 = 1e-9
FLOAT32 = {"loss": 1e-5, "logits": 1e-3, "weight_gradients": 2e-2}

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Shape(supernet.Shape):
    """As in `benchmarks/supernet.py`, with all channels mixed.

    Attributes:
        partial: K; 1/K of the channels pass through the operations.
    """

    partial: int = 1


# --- the two variants -----------------------------------------------------------------------------------


def network_of(shape: Shape) -> Supernet:
    network = supernet.supernet(supernet.ENGINE, shape)
    assert isinstance(network, Supernet)
    return network


def path_of(shape: Shape, number: int) -> MixingWeights:
    """The mixing weights of a uniform architecture."""
    architecture = sampling.sample(shape.space, numpy_stream(number, "benchmark"), shape.layers)
    return path(architecture, shape.space.primitives, shape.space)


def weight_step(variant: str, network: Supernet, shape: Shape) -> Callable[[], None]:
    """One weight step as a function; every call moves the weights on, and draws another path."""
    weights = list(network.parameters())
    sgd = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4, foreach=True)
    images, labels = supernet.batch(shape, 0, weights[0].dtype)
    dense = supernet.mixing_of(supernet.mapping(shape), shape).detach().to(images)
    steps = 0

    def step() -> None:
        nonlocal steps
        mixing = path_of(shape, steps).to(images) if variant == SAMPLED else dense
        steps += 1
        _, grads = updates.sparse_gradients(lambda: F.cross_entropy(network(images, mixing), labels), weights)
        reached = [g for g in grads if g is not None]
        clip(reached, 5.0, torch.nn.utils.get_total_norm(reached))
        parts = None if mixing.active is None else network.parts(mixing.active)
        updates.apply(sgd, weights, grads, parts)

    return step


def build(variant: str, threads: int, **shape: int) -> Callable[[], None]:
    """A step of one variant alone, in a process of its own (`measure.peak_memory`)."""
    torch.set_num_threads(threads)
    return weight_step(variant, network_of(Shape(**shape)), Shape(**shape))


# --- equality -------------------------------------------------------------------------------------------


def differences(shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """A path against the dense supernet with the same mixing weights, each the norm of the difference over its norm.

    Of the loss, the logits and the gradients of all weights, which are zeros where nothing is executed.
    """
    network = network_of(shape).to(dtype)
    weights = list(network.parameters())
    images, labels = supernet.batch(shape, 0, dtype)
    sparse = path_of(shape, 0).to(images)
    found = []
    for mixing in (sparse, replace(sparse, active=None)):
        logits = network(images, mixing)
        loss, grads = updates.gradients(lambda logits=logits: F.cross_entropy(logits, labels), weights)
        found.append((loss, logits.detach(), torch.cat([g.flatten() for g in grads])))
    kinds = ("loss", "logits", "weight_gradients")
    return {kind: float((a - b).norm() / b.norm()) for kind, a, b in zip(kinds, *found, strict=True)}


def check(shape: Shape) -> dict[str, Any]:
    """Whether both compute the same: as measured, and at a small shape in float64."""
    small = Shape(layers=4, channels=max(8, 2 * shape.partial), batch=4, size=8, partial=shape.partial)
    found = {"float64": differences(small, torch.float64), "float32": differences(shape, torch.float32)}
    equal = all(value <= FLOAT64 for value in found["float64"].values())
    return {"equal": equal and all(found["float32"][k] <= v for k, v in FLOAT32.items()), "differences": found}


# --- measurement ----------------------------------------------------------------------------------------


def compare(shape: Shape, steps: int, threads: int) -> dict[str, Any]:
    """The `figures` of both variants, how many candidate operations a step executes, and their ratios."""
    variants = {variant: weight_step(variant, network_of(shape), shape) for variant in (SAMPLED, DENSE)}
    seconds = measure.interleaved(variants, steps)
    counts = {variant: measure.count(step) for variant, step in variants.items()}
    del variants
    active = path_of(shape, 0).active
    assert active is not None
    executed = {SAMPLED: int(active.sum()), DENSE: active.numel()}
    rows = {}
    for variant in (SAMPLED, DENSE):
        memory = measure.peak_memory(build, variant=variant, threads=threads, **asdict(shape))
        rows[variant] = measure.figures(seconds[variant], memory, counts[variant]) | {"executed": executed[variant]}
    ratios = measure.ratios(rows[SAMPLED], rows[DENSE]) | {"executed_ratio": executed[SAMPLED] / executed[DENSE]}
    return {"shape": asdict(shape), **ratios, **rows}


# --- the command ----------------------------------------------------------------------------------------


@app.default
def main(
    shape: Annotated[Shape, Parameter(name="*")] = Shape(),
    *,
    steps: int = 10,
    backend: Literal["auto", "torch"] = "auto",
    threads: int = os.cpu_count() or 1,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Check that a path is what it should be, then measure both steps.

    Args:
        steps: Steps of each variant that are timed, after one that is not.
        backend: torch: the dense step without native kernels.
        threads: Of both variants.
        json: Print everything as one JSON object in the last line.
    """
    os.environ["DNAS_BACKEND"] = backend  # read when the kernels are first used, here and in child processes
    torch.set_num_threads(threads)
    facts = measure.machine()
    measure.show_facts(facts)
    result = check(shape)
    supernet.show_check(result)
    if not result["equal"]:
        measure.finish(result, json)
        sys.exit(1)
    result["machine"] = facts
    print(f"equal; now {steps} timed steps of each, the counting, and the memory", flush=True)
    result |= compare(shape, steps, threads)
    measure.show(
        f"One weight step, {supernet.describe(shape)}", {variant: result[variant] for variant in (SAMPLED, DENSE)}
    )
    print(f"candidate operations executed: {result[SAMPLED]['executed']} of {result[DENSE]['executed']}")
    measure.finish(result, json, f"{SAMPLED} / {DENSE}")


if __name__ == "__main__":
    app()

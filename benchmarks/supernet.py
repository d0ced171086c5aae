"""One search step of the engine beside the plain supernet's: time, memory, operations, bytes.

    python benchmarks/supernet.py                       # the DARTS setting: 8 layers, 16 channels, batch 64, 32×32
    python benchmarks/supernet.py --backend torch       # without native kernels
    python benchmarks/supernet.py --sweep points.json   # the cost against layers, channels, batch size, K, nodes

A step is an architecture step (weights frozen; gradients of the architecture parameters alone; Adam) and a weight
step (architecture detached; gradients clipped to norm 5; SGD). Both variants have the same weights, images, mapping
(decoupled), relaxation (sigmoid, edge softmax) and optimisers. Freezing the weights in the architecture step helps
the plain supernet, too: the public codes do not.

Nothing is timed before both are found equal; see `check`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import measure
import torch
import torch.nn.functional as F
from cyclopts import App, Parameter
from plain import PlainSupernet, copy_weights, weight_pairs
from torch import Tensor, nn

from dnas.rng import torch_stream
from dnas.space.darts import DARTS, Space
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import Decoupled
from dnas.supernet.relaxation import MixingWeights, edge_softmax, expand, sigmoid

ENGINE, PLAIN = "engine", "plain"
CLASSES = 10
# Largest differences that count as equal; see `differences`. In float32, noise of 1e-7 in the images alone moves the
# gradients by about 1e-3.
FLOAT64 = dict.fromkeys(("loss", "logits", "architecture_gradients", "weight_gradients"), 1e-9)
FLOAT32_SMALL = dict.fromkeys(FLOAT64, 1e-3) | {"loss": 1e-5}
FLOAT32 = {"loss": 1e-5, "logits": 1e-3, "architecture_gradients": 2e-2, "weight_gradients": 2e-2}

app = App(help=__doc__, help_format="plaintext", default_parameter=Parameter(negative=""))


@dataclass(frozen=True)
class Shape:
    """What a step's cost depends on.

    Attributes:
        layers: Depth of the supernet.
        channels: Width of its first cells.
        batch: Images of a step.
        size: Their side in pixels.
        partial: K; 1/K of the channels pass through the operations.
        nodes: Of a cell.
    """

    layers: int = 8
    channels: int = 16
    batch: int = 64
    size: int = 32
    partial: int = 4
    nodes: int = 4

    @property
    def space(self) -> Space:
        return replace(DARTS, nodes=self.nodes)


# --- the two variants -----------------------------------------------------------------------------------


def supernet(variant: str, shape: Shape, names: tuple[str, ...] = DARTS.primitives) -> nn.Module:
    sizes = {"layers": shape.layers, "channels": shape.channels, "partial": shape.partial, "classes": CLASSES}
    if variant == ENGINE:
        return build_supernet(shape.space, names, **sizes)
    return PlainSupernet(names, nodes=shape.nodes, **sizes)


def both(shape: Shape, names: tuple[str, ...] = DARTS.primitives) -> dict[str, nn.Module]:
    """Both variants, with the same weights."""
    networks = {variant: supernet(variant, shape, names) for variant in (ENGINE, PLAIN)}
    copy_weights(networks[ENGINE], networks[PLAIN])
    return networks


def mapping(shape: Shape, names: tuple[str, ...] = DARTS.primitives, scale: float = 1e-3) -> Decoupled:
    return Decoupled(shape.layers, len(shape.space.edges), len(names), scale=scale)


def mixing_of(parameters: Decoupled, shape: Shape) -> MixingWeights:
    """DNAS: σ(alpha) · σ(gamma), and beta by softmax over the edges of a node."""
    return expand(sigmoid(parameters.terms()), edge_softmax(parameters.edge_logits(), shape.space), parameters.layers)


def batch(shape: Shape, draw: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch_stream(draw, "benchmark")
    images = torch.randn(shape.batch, 3, shape.size, shape.size, generator=generator, dtype=dtype)
    return images, torch.randint(CLASSES, (shape.batch,), generator=generator)


def search_step(network: nn.Module, shape: Shape) -> Callable[[], None]:
    """One search step of this network as a function; every call moves its weights and architecture parameters on."""
    weights = list(network.parameters())
    dtype = weights[0].dtype
    parameters = mapping(shape).to(dtype)
    adam = torch.optim.Adam(parameters.parameters(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    sgd = torch.optim.SGD(weights, 0.025, momentum=0.9, weight_decay=3e-4, foreach=True)
    (train_images, train_labels), (images, labels) = (batch(shape, draw, dtype) for draw in (0, 1))

    def step() -> None:
        for weight in weights:
            weight.requires_grad_(False)
        F.cross_entropy(network(images, mixing_of(parameters, shape)), labels).backward()
        adam.step()
        adam.zero_grad()
        for weight in weights:
            weight.requires_grad_(True)
        with torch.no_grad():
            mixing = mixing_of(parameters, shape)
        F.cross_entropy(network(train_images, mixing), train_labels).backward()
        nn.utils.clip_grad_norm_(weights, 5.0)
        sgd.step()
        sgd.zero_grad()

    return step


def build(variant: str, threads: int, **shape: int) -> Callable[[], None]:
    """A step of one variant alone, in a process of its own (`measure.peak_memory`)."""
    torch.set_num_threads(threads)
    return search_step(supernet(variant, Shape(**shape)), Shape(**shape))


# --- equality -------------------------------------------------------------------------------------------


def differences(
    shape: Shape, dtype: torch.dtype, *, names: tuple[str, ...] = DARTS.primitives, own_bypass: bool = False
) -> dict[str, float]:
    """Engine against plain at random mixing weights, each the norm of the difference over the plain one's.

    Of the loss, the logits, the gradients of all architecture parameters, and those of all weights.
    """
    networks = {variant: network.to(dtype) for variant, network in both(shape, names).items()}
    parameters = mapping(shape, names, scale=1.0).to(dtype)
    images, labels = batch(shape, 0, dtype)
    found = {}
    for variant, network in networks.items():
        mixing = mixing_of(parameters, shape)
        if own_bypass:
            mixing = replace(mixing, bypass=mixing.edges.square())
        logits = network(images, mixing)
        loss = F.cross_entropy(logits, labels)
        architecture, weights = list(parameters.parameters()), list(network.parameters())
        gradients = torch.autograd.grad(loss, architecture + weights)
        by_weight = dict(zip(weights, gradients[len(architecture) :], strict=True))
        flat = torch.cat([g.flatten() for g in gradients[: len(architecture)]])
        found[variant] = (loss.detach(), logits.detach(), flat, by_weight)
    fast, slow = (found[variant][3] for variant in (ENGINE, PLAIN))
    pairs = [(fast[a][where], slow[b]) for a, where, b in weight_pairs(networks[ENGINE], networks[PLAIN])]
    weight_gradients = [torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1)]
    results = [*zip(found[ENGINE][:3], found[PLAIN][:3], strict=True), weight_gradients]
    kinds = ("loss", "logits", "architecture_gradients", "weight_gradients")
    return {kind: float((a - b).norm() / b.norm()) for kind, (a, b) in zip(kinds, results, strict=True)}


def check(shape: Shape) -> dict[str, Any]:
    """Whether both compute the same: as measured, and at a small shape, there with `none` and own bypass weights, too.

    Native kernels are float32, so it is the parts in float32 that cover them.
    """
    small = Shape(
        layers=4, channels=max(8, 2 * shape.partial), batch=4, size=8, partial=shape.partial, nodes=shape.nodes
    )
    unusual: dict[str, Any] = {"names": ("none", *DARTS.primitives), "own_bypass": shape.partial > 1}
    found = {
        "float64": differences(small, torch.float64),
        "float64_with_none": differences(small, torch.float64, **unusual),
        "float32_small": differences(small, torch.float32),
        "float32_with_none": differences(small, torch.float32, **unusual),
        "float32": differences(shape, torch.float32),
    }
    limits = {"float64": FLOAT64, "float64_with_none": FLOAT64, "float32": FLOAT32}
    limits |= {"float32_small": FLOAT32_SMALL, "float32_with_none": FLOAT32_SMALL}
    equal = all(found[part][kind] <= limit for part in found for kind, limit in limits[part].items())
    return {"equal": equal, "differences": found}


# --- measurement ----------------------------------------------------------------------------------------


def compare(shape: Shape, steps: int, threads: int) -> dict[str, Any]:
    """The `figures` of both variants and their ratios."""
    variants = {variant: search_step(network, shape) for variant, network in both(shape).items()}
    seconds = measure.interleaved(variants, steps)
    counts = {variant: measure.count(step) for variant, step in variants.items()}
    del variants
    rows = {}
    for variant in (ENGINE, PLAIN):
        memory = measure.peak_memory(build, variant=variant, threads=threads, **asdict(shape))
        rows[variant] = measure.figures(seconds[variant], memory, counts[variant])
    return {"shape": asdict(shape), **measure.ratios(rows[ENGINE], rows[PLAIN]), **rows}


SWEEP: dict[str, tuple[int, ...]] = {
    "layers": (8, 11, 14, 17, 20),
    "channels": (8, 16, 24, 32),
    "batch": (16, 32, 64, 96),
    "partial": (1, 2, 4, 8),
    "nodes": (2, 3, 4, 5),
}


def sweep(base: Shape, steps: int, threads: int, path: Path) -> list[dict[str, Any]]:
    """One of the shape's numbers at a time, the others as given. The file holds all points so far at any time."""
    points: list[dict[str, Any]] = []
    for name, values in SWEEP.items():
        for value in values:
            shape = replace(base, **{name: value})
            if shape.channels % (2 * shape.partial):
                continue  # no such network: 1/K of the channels is an even number
            known = next((p for p in points if p["shape"] == asdict(shape)), None)
            points.append({"varied": name, **({**known, "varied": name} if known else compare(shape, steps, threads))})
            path.write_text(json.dumps({"machine": measure.machine(), "points": points}, indent=1))
            point = points[-1]
            seconds = ", ".join(f"{v} {point[v]['seconds']['median']:.3f} s" for v in (ENGINE, PLAIN))
            print(f"{name} {value}: {seconds}; time ratio {point['time_ratio']:.3f}", flush=True)
    return points


def draw_sweep(points: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory of both variants against what was varied. Needs the `bench` extra."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    varied = list(dict.fromkeys(point["varied"] for point in points))
    figure, axes = pyplot.subplots(2, len(varied), figsize=(3 * len(varied), 5), squeeze=False, layout="constrained")
    for column, name in enumerate(varied):
        mine = [point for point in points if point["varied"] == name]
        at = [point["shape"][name] for point in mine]
        for variant, colour in ((ENGINE, "#D55E00"), (PLAIN, "#000000")):
            seconds = [point[variant]["seconds"]["min"] for point in mine]
            memory = [point[variant]["memory_bytes"] / 2**30 for point in mine]
            axes[0, column].plot(at, seconds, "o-", color=colour, label=variant)
            axes[1, column].plot(at, memory, "o-", color=colour)
        axes[1, column].set_xlabel({"partial": "K", "batch": "images of a step"}.get(name, name))
        for row in (0, 1):
            axes[row, column].set_ylim(bottom=0)
    axes[0, 0].set_ylabel("seconds a step")
    axes[1, 0].set_ylabel("peak memory, GiB")
    axes[0, 0].legend()
    figure.savefig(path)


# --- the command ----------------------------------------------------------------------------------------


@app.default
def main(
    shape: Annotated[Shape, Parameter(name="*")] = Shape(),
    *,
    steps: int = 10,
    backend: Literal["auto", "torch"] = "auto",
    threads: int = os.cpu_count() or 1,
    sweep_to: Annotated[Path | None, Parameter(name="--sweep")] = None,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Check that both variants are equal, then measure them.

    Args:
        steps: Steps of each variant that are timed, after one that is not.
        backend: torch: the engine without native kernels.
        threads: Of both variants.
        sweep_to: Measure a series of shapes around this one instead, write the points to this JSON file, and draw them.
        json: Print everything as one JSON object in the last line.
    """
    os.environ["DNAS_BACKEND"] = backend  # read when the kernels are first used, here and in child processes
    torch.set_num_threads(threads)
    facts = measure.machine()
    measure.show_facts(facts)
    result = check(shape)
    show_check(result)
    if not result["equal"]:
        measure.finish(result, json)
        sys.exit(1)
    result["machine"] = facts
    if sweep_to is not None:
        result["points"] = sweep(shape, steps, threads, sweep_to)
        try:
            draw_sweep(result["points"], sweep_to.with_suffix(".svg"))
        except ImportError:
            print("no picture: pip install 'dnas[bench]' for matplotlib")
    else:
        print(f"equal; now {steps} timed steps of each, the counting, and the memory", flush=True)
        result |= compare(shape, steps, threads)
        measure.show(f"One search step, {describe(shape)}", {name: result[name] for name in (PLAIN, ENGINE)})
    measure.finish(result, json)


def describe(shape: Shape) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(shape).items())


def show_check(result: dict[str, Any]) -> None:
    for part, kinds in result["differences"].items():
        print(f"{part}: " + ", ".join(f"{kind.replace('_', ' ')} {value:.1e}" for kind, value in kinds.items()))


if __name__ == "__main__":
    app()

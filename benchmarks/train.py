"""One training step of the discrete network beside the public DARTS code's way of computing the same.

    python benchmarks/train.py                    # 8 layers, 16 channels, batch 96, 32×32, two architectures
    python benchmarks/train.py --backend torch    # without native kernels

`Plain` is that way: a module an edge, NCHW, one drop-path an operation, nothing fused. Both take the same steps on the
same pictures (auxiliary head, drop-path, clipping, SGD), from the same weights; augmentation is timed apart. Nothing is
timed before both are found equal in float64.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

import measure
import torch
import torch.nn.functional as F
from cyclopts import App, Parameter
from torch import Tensor, nn

from dnas.data.augment import Augmentation, augment
from dnas.data.splits import DataInfo
from dnas.network.modules import AuxiliaryPool
from dnas.network.network import Network, build, drop_path
from dnas.rng import torch_stream
from dnas.space.architecture import Architecture
from dnas.space.network_plan import AUXILIARY_FEATURES, LayerPlan, NetworkPlan
from dnas.space.plan import plan
from dnas.space.primitives import AvgPool, Chain, Conv, FactorizedReduce, Identity, Layer, MaxPool, Norm, ReLU
from dnas.space.published import load_published
from dnas.training.build import to_device
from dnas.training.guard import clip
from dnas.training.updates import apply, gradients_of

ENGINE, PLAIN = "engine", "plain"
CONVOLUTIONS = [
    ("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 0), ("dil_conv_5x5", 2),
    ("dil_conv_3x3", 1), ("sep_conv_3x3", 2), ("sep_conv_5x5", 3), ("dil_conv_5x5", 4),
]  # fmt: skip
ARCHITECTURES: dict[str, Callable[[int], Architecture]] = {
    "DARTS_V2": partial(load_published, "DARTS_V2"),
    "convolutions": partial(Architecture.from_darts, CONVOLUTIONS, CONVOLUTIONS),
}
CLASSES = 10
CLIP, AUXILIARY_WEIGHT, DROP_PATH = 5.0, 0.4, 0.2
# Largest relative differences that count as equal. In single precision only the loss says something: the gradients'
# own error is up to some percent.
LIMITS = {
    torch.float64: {"loss": 1e-9, "gradients": 1e-9, "statistics": 1e-9},
    torch.float32: {"loss": 1e-5},
}

app = App(help=__doc__)


@dataclass(frozen=True)
class Shape:
    layers: int = 8
    channels: int = 16
    batch: int = 96
    size: int = 32


# --- the public code's network: weights have the names of `dnas.network.network.Network` ---------------------------


class PlainReduce(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        out: Tensor = self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))
        return out


def plain_layer(layer: Layer) -> nn.Module:
    match layer:
        case Identity():
            return nn.Identity()
        case ReLU():
            return nn.ReLU()
        case Norm():
            return nn.BatchNorm2d(layer.channels)
        case MaxPool():
            return nn.MaxPool2d(3, layer.stride, 1)
        case AvgPool():
            return nn.AvgPool2d(3, layer.stride, 1, count_include_pad=False)
        case FactorizedReduce():
            return PlainReduce(layer.inputs, layer.outputs)
        case Conv():
            shape = (layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, layer.dilation)
            return nn.Conv2d(*shape, groups=layer.groups, bias=False)
    raise AssertionError(layer)


def plain_chain(chain: Chain) -> nn.Sequential:
    return nn.Sequential(*map(plain_layer, chain))


def plain_drop_path(x: Tensor, factor: Tensor) -> Tensor:
    """The public code divides and masks in place; here the division is part of the factor already."""
    return x.mul_(factor[:, None, None, None])


class PlainCell(nn.Module):
    def __init__(self, cell: LayerPlan) -> None:
        super().__init__()
        self.preprocess = nn.ModuleList(map(plain_chain, cell.preprocess))
        self.operations = nn.ModuleList(plain_chain(edge.chain) for edge in cell.edges)
        self.cell = cell

    def forward(self, before: Tensor, previous: Tensor, paths: Tensor | None) -> Tensor:
        states = [self.preprocess[0](before), self.preprocess[1](previous)]
        for node in range(2, 2 + len(self.cell.edges) // 2):
            terms = []
            for e in (2 * node - 4, 2 * node - 3):
                edge = self.cell.edges[e]
                y = self.operations[e](states[edge.source])
                if paths is not None and edge.chain != (Identity(),):
                    y = plain_drop_path(y, paths[e])
                terms.append(y)
            states.append(terms[0] + terms[1])
        return torch.cat([states[s] for s in self.cell.concat], 1)


class PlainAuxiliary(nn.Module):
    def __init__(self, network: NetworkPlan) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.ReLU(), AuxiliaryPool(), plain_chain(network.auxiliary))
        self.classifier = nn.Linear(AUXILIARY_FEATURES, network.classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


class Plain(nn.Module):
    def __init__(self, network: NetworkPlan) -> None:
        super().__init__()
        self.stem = plain_chain(network.stem.first)
        self.cells = nn.ModuleList(map(PlainCell, network.layers))
        self.auxiliary = PlainAuxiliary(network)
        self.auxiliary_after = network.auxiliary_after
        self.classifier = nn.Linear(network.features, network.classes)

    def forward(self, images: Tensor, paths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        before = previous = self.stem(images)
        for k, cell in enumerate(self.cells):
            before, previous = previous, cell(before, previous, None if paths is None else paths[k])
            if k == self.auxiliary_after:
                auxiliary = self.auxiliary(previous)
        return self.classifier(F.adaptive_avg_pool2d(previous, 1).flatten(1)), auxiliary


def both(name: str, shape: Shape) -> tuple[Network, Plain]:
    """The network of an architecture and the plain one, with the same weights, both training."""
    architecture = ARCHITECTURES[name](shape.layers)
    network = build(architecture, shape.channels, CLASSES, auxiliary=True)
    plain = Plain(plan(architecture, channels=shape.channels, classes=CLASSES))
    plain.load_state_dict(network.state_dict())
    return to_device(network, "cpu").train(), plain.train()


def images_and_labels(shape: Shape) -> tuple[Tensor, Tensor]:
    images = torch.randn(shape.batch, 3, shape.size, shape.size, generator=torch_stream(0, "images"))
    return images, torch.randint(CLASSES, (shape.batch,), generator=torch_stream(0, "labels"))


# --- one step ---------------------------------------------------------------------------------------------


def loss_of(network: nn.Module, images: Tensor, labels: Tensor, paths: Tensor) -> Tensor:
    logits, auxiliary = network(images, paths)
    return F.cross_entropy(logits, labels) + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary, labels)


def engine_step(network: Network, shape: Shape) -> Callable[[], object]:
    """As `dnas.trainer` takes it."""
    images, labels = images_and_labels(shape)
    images = images.contiguous(memory_format=torch.channels_last)
    parameters, generator = list(network.parameters()), torch_stream(0, "drop-path")
    optimizer = torch.optim.SGD(parameters, 0.025, 0.9, weight_decay=3e-4, fused=True)

    def step() -> float:
        paths = drop_path(network, shape.batch, DROP_PATH, generator)
        loss = loss_of(network, images, labels, paths)
        grads = gradients_of(loss, parameters)
        clip(grads, CLIP, torch.nn.utils.get_total_norm(grads))
        apply(optimizer, parameters, grads)
        return float(loss.detach())

    return step


def plain_step(network: Plain, shape: Shape) -> Callable[[], object]:
    """As the public code's loop takes it."""
    images, labels = images_and_labels(shape)
    optimizer = torch.optim.SGD(network.parameters(), 0.025, 0.9, weight_decay=3e-4)
    edges = max(len(list(cell.operations)) for cell in network.cells)
    keep = 1 - DROP_PATH

    def step() -> float:
        paths = torch.empty(len(network.cells), edges, shape.batch).bernoulli_(keep).div_(keep)
        optimizer.zero_grad()
        loss = loss_of(network, images, labels, paths)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step


def build_step(variant: str, name: str, threads: int, **shape: int) -> Callable[[], object]:
    """A step of one variant alone, in a process of its own (`measure.peak_memory`)."""
    torch.set_num_threads(threads)
    network, plain = both(name, Shape(**shape))
    return engine_step(network, Shape(**shape)) if variant == ENGINE else plain_step(plain, Shape(**shape))


# --- equality and time --------------------------------------------------------------------------------------


def differences(name: str, shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """Largest relative differences of the engine's loss, gradients and running statistics from the plain ones."""
    images, labels = images_and_labels(shape)
    results = []
    for network in both(name, shape):
        network.to(dtype)
        paths = torch.empty(shape.layers, 8, shape.batch, dtype=dtype)
        paths.bernoulli_(1 - DROP_PATH, generator=torch_stream(0, "drop-path")).div_(1 - DROP_PATH)
        loss = loss_of(network, images.to(dtype), labels, paths)
        grads = gradients_of(loss, list(network.parameters()))
        results.append(([loss.detach()], grads, [b.to(dtype) for b in network.buffers()]))
    found = (
        max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(*parts, strict=True))
        for parts in zip(*results, strict=True)
    )
    return dict(zip(("loss", "gradients", "statistics"), found, strict=True))


def check(name: str, shape: Shape) -> bool:
    """Whether both variants compute the same. Prints the differences."""
    equal = True
    for dtype, limits in LIMITS.items():
        found = differences(name, shape, dtype)
        print(f"{name}, {dtype}: " + ", ".join(f"{what} {value:.1e}" for what, value in found.items()), flush=True)
        equal &= all(found[what] <= limit for what, limit in limits.items())
    return equal


def augmentation(shape: Shape) -> Callable[[], Tensor]:
    """A batch as the trainer makes it."""
    info = DataInfo("toy", tuple("0123456789"), 3, shape.size, (0.5,) * 3, (0.25,) * 3, True)
    pool = torch.randint(256, (2_000, 3, shape.size, shape.size), dtype=torch.uint8)
    recipe, generator = Augmentation(shape.size // 8, True, shape.size // 2), torch_stream(0, "augment")
    indices = torch.randint(len(pool), (shape.batch,))
    return lambda: augment(pool[indices], recipe, info, generator).contiguous(memory_format=torch.channels_last)


def compare(name: str, shape: Shape, steps: int, threads: int) -> dict[str, Any]:
    """The `figures` of both variants and their ratios; `augmentation` is its share of a step of the engine."""
    network, plain = both(name, shape)
    variants = {ENGINE: engine_step(network, shape), PLAIN: plain_step(plain, shape)}
    # In turns with the steps, so that a busy moment meets both.
    seconds = measure.interleaved({**variants, "augmentation": augmentation(shape)}, steps)
    counts = {variant: measure.count(step) for variant, step in variants.items()}
    del variants, network, plain
    rows = {}
    for variant in (ENGINE, PLAIN):
        memory = measure.peak_memory(build_step, variant=variant, name=name, threads=threads, **asdict(shape))
        rows[variant] = measure.figures(seconds[variant], memory, counts[variant])
    share = measure.paired_ratio(seconds["augmentation"], seconds[ENGINE])
    return {"augmentation": share, **measure.ratios(rows[ENGINE], rows[PLAIN]), **rows}


@app.default
def main(
    shape: Annotated[Shape, Parameter(name="*")] = Shape(),
    *,
    architecture: Annotated[list[str] | None, Parameter(help="one of DARTS_V2, convolutions; all")] = None,
    steps: int = 8,
    backend: Literal["auto", "torch"] = "auto",
    threads: int = os.cpu_count() or 1,
    json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Check that both variants are equal, then measure them.

    Args:
        steps: Steps of each variant that are timed, after one that is not.
        backend: torch: the engine without native kernels.
        threads: Of both variants.
        json: Print everything as one JSON object in the last line.
    """
    os.environ["DNAS_BACKEND"] = backend  # read when the kernels are first used, here and in child processes
    torch.set_num_threads(threads)
    facts = measure.machine()
    measure.show_facts(facts)
    result: dict[str, Any] = {"machine": facts, "shape": asdict(shape), "equal": True}
    for name in architecture or ARCHITECTURES:
        result["equal"] &= check(name, Shape(shape.layers, shape.channels, min(shape.batch, 16), shape.size))
        if not result["equal"]:
            measure.finish(result, json)
            sys.exit(1)
        found = result[name] = compare(name, shape, steps, threads)
        measure.show(f"One training step of {name}", {variant: found[variant] for variant in (PLAIN, ENGINE)})
        rates = {variant: shape.batch / found[variant]["seconds"]["median"] for variant in (PLAIN, ENGINE)}
        print(", ".join(f"{variant} {rate:.0f} images/s" for variant, rate in rates.items()), end="; ")
        print(f"{1 / found['time_ratio']:.2f} times as fast; augmentation is {found['augmentation']:.1%} of a step")
    measure.finish(result, json)


if __name__ == "__main__":
    app()

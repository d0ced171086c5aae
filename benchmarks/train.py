"""Training steps of the discrete network, next to the public DARTS code's way of computing the same.

    OMP_NUM_THREADS=2 python benchmarks/train.py --json
    OMP_NUM_THREADS=2 DNAS_BACKEND=torch python benchmarks/train.py --json

`Plain` is that way: a module an edge, NCHW, one drop-path an operation, nothing fused. Both take the same steps
(auxiliary head, drop-path, clipping, SGD) on the same pictures; augmentation is timed apart. `--check` compares
outputs and gradients instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from measure import figures, finish, interleaved, machine, ratios, show
from torch import Tensor, nn

from dnas.architecture import Architecture, load_published
from dnas.augment import Augmentation, augment
from dnas.bilevel import apply, gradients_of
from dnas.data import DataInfo
from dnas.guard import clip
from dnas.modules import AuxiliaryPool
from dnas.network import Network, build, drop_path
from dnas.ops import AvgPool, Chain, Conv, FactorizedReduce, Identity, Layer, MaxPool, Norm, ReLU
from dnas.plan import AUXILIARY_FEATURES, CellPlan, NetworkPlan, plan
from dnas.streams import torch_stream
from dnas.trainer import to_device

CONVOLUTIONS = [
    ("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 0), ("dil_conv_5x5", 2),
    ("dil_conv_3x3", 1), ("sep_conv_3x3", 2), ("sep_conv_5x5", 3), ("dil_conv_5x5", 4),
]  # fmt: skip
ARCHITECTURES: dict[str, Callable[[int], Architecture]] = {
    "DARTS_V2": partial(load_published, "DARTS_V2"),
    "convolutions": partial(Architecture.from_darts, CONVOLUTIONS, CONVOLUTIONS),
}
CLIP, AUXILIARY_WEIGHT, DROP_PATH = 5.0, 0.4, 0.2


# --- the public code's network: weights have the names of `dnas.network.Network` ---------------------------


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
    def __init__(self, cell: CellPlan) -> None:
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
        self.cells = nn.ModuleList(map(PlainCell, network.cells))
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


def pair(architecture: Architecture, channels: int, classes: int = 10) -> tuple[Network, Plain]:
    """The network and the plain one, with the same weights, both training."""
    network = build(architecture, channels, classes, auxiliary=True)
    plain = Plain(plan(architecture, channels=channels, classes=classes))
    plain.load_state_dict(network.state_dict())
    return to_device(network, "cpu").train(), plain.train()


# --- one step ---------------------------------------------------------------------------------------------


def loss_of(network: nn.Module, images: Tensor, labels: Tensor, paths: Tensor) -> Tensor:
    logits, auxiliary = network(images, paths)
    return F.cross_entropy(logits, labels) + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary, labels)


def sgd(network: nn.Module, fused: bool) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), 0.025, 0.9, weight_decay=3e-4, fused=fused)


def our_step(network: Network, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """As `dnas.trainer` takes it."""
    optimizer, parameters = sgd(network, True), list(network.parameters())
    generator = torch_stream(0, "drop-path")

    def step() -> float:
        paths = drop_path(network, len(images), DROP_PATH, generator)
        loss = loss_of(network, images, labels, paths)
        grads = gradients_of(loss, parameters)
        clip(grads, CLIP, torch.nn.utils.get_total_norm(grads))
        apply(optimizer, parameters, grads)
        return float(loss.detach())

    return step


def plain_step(network: Plain, images: Tensor, labels: Tensor) -> Callable[[], object]:
    """As the public code's loop takes it."""
    optimizer = sgd(network, False)
    edges = max(len(cell.operations) for cell in network.cells)  # type: ignore[arg-type]
    keep = 1 - DROP_PATH

    def step() -> float:
        paths = torch.empty(len(network.cells), edges, len(images)).bernoulli_(keep).div_(keep)
        optimizer.zero_grad()
        loss = loss_of(network, images, labels, paths)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    return step


def toy(batch: int, size: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch, 3, size, size, generator=torch_stream(0, "images"))
    return images, torch.randint(10, (batch,), generator=torch_stream(0, "labels"))


def differences(architecture: Architecture, channels: int, batch: int, size: int, dtype: torch.dtype) -> list[float]:
    """Largest relative differences of loss, gradients and running statistics from the plain network's."""
    images, labels = toy(batch, size)
    results = []
    for network in pair(architecture, channels):
        network.to(dtype)
        paths = torch.empty(len(network.cells), 8, batch, dtype=dtype)  # type: ignore[arg-type]
        paths.bernoulli_(1 - DROP_PATH, generator=torch_stream(0, "drop-path")).div_(1 - DROP_PATH)
        loss = loss_of(network, images.to(dtype), labels, paths)
        grads = gradients_of(loss, list(network.parameters()))
        results.append(([loss.detach()], grads, [b.to(dtype) for b in network.buffers()]))
    return [
        max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(*parts, strict=True))
        for parts in zip(*results, strict=True)
    ]


def augmentation_seconds(batch: int, size: int, rounds: int) -> list[float]:
    info = DataInfo("toy", tuple("0123456789"), 3, size, (0.5,) * 3, (0.25,) * 3, True)
    pool = torch.randint(256, (2_000, 3, size, size), dtype=torch.uint8)
    recipe, generator = Augmentation(size // 8, True, size // 2), torch_stream(0, "augment")
    indices = torch.randint(len(pool), (batch,))

    def make() -> Tensor:
        images = augment(pool, indices, recipe, info, generator)
        return images.contiguous(memory_format=torch.channels_last)

    return interleaved({"augmentation": make}, 4 * rounds)["augmentation"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("channels", 16), ("batch", 96), ("size", 32), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--architecture", action="append", choices=list(ARCHITECTURES))
    parser.add_argument("--check", action="store_true", help="compare results in float64 and float32 instead")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    images, labels = toy(chosen.batch, chosen.size)
    for name in chosen.architecture or ARCHITECTURES:
        architecture = ARCHITECTURES[name](chosen.layers)
        result: dict[str, object] = {"architecture": name, **machine()}
        if chosen.check:
            sizes = (chosen.channels, chosen.batch, chosen.size)
            equal = True
            # In single precision only the loss says something: the gradients' own error is 1 %.
            for dtype, limits in ((torch.float64, (1e-9, 1e-9, 1e-9)), (torch.float32, (1e-5,))):
                found = dict(zip(("loss", "grads", "buffers"), differences(architecture, *sizes, dtype), strict=True))
                print(name, dtype, *(f"{what} {d:.1e}" for what, d in found.items()))
                equal &= all(d <= limit for d, limit in zip(found.values(), limits, strict=False))
            result["equal"] = equal
        else:
            network, plain = pair(architecture, chosen.channels)
            ours = images.contiguous(memory_format=torch.channels_last)
            steps = {"dnas": our_step(network, ours, labels), "plain": plain_step(plain, images, labels)}
            seconds = interleaved(steps, chosen.rounds)
            rows = {name: figures(samples, None, None) for name, samples in seconds.items()}
            show(f"A training step of {name}: {chosen.batch} images, {torch.get_num_threads()} threads", rows)
            result |= {"variants": rows, **ratios(rows["dnas"], rows["plain"])}
            result["speedup"] = 1 / ratios(rows["dnas"], rows["plain"])["time_ratio"]
            share = min(augmentation_seconds(chosen.batch, chosen.size, chosen.rounds)) / min(seconds["dnas"])
            result["augmentation_share"] = share
            rate = {name: chosen.batch / row["seconds"]["median"] for name, row in rows.items()}
            print(", ".join(f"{n} {r:.0f} images/s" for n, r in rate.items()), end="; ")
            print(f"{result['speedup']:.2f} times as fast; augmentation is {share:.1%} of a step")
        finish(result, chosen.json)


if __name__ == "__main__":
    main()

"""Training with fake quantization: what `int8.py` compares with a plain training, and what dnas does not have.

In the last tenth of the steps every forward pass rounds as the int8 file of `dnas export` does: weights per output
channel to -127 … 127, and each tensor that ONNX Runtime quantizes to 256 levels from its least to its largest value
in the batch. Gradients pass the rounding unchanged (straight-through; Bengio et al. 2013, "Estimating or propagating
gradients through stochastic neurons"; Jacob et al. 2018, "Quantization and training of neural networks for efficient
integer-arithmetic-only inference"). Ranges of the batch have no state, so a checkpoint would need none.

A batch norm multiplies each channel of a convolution by a number of its own, and rounding per channel in ±127 commutes
with that: it makes no difference whether weights are rounded before or after the norm is folded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dnas.kernels import discrete
from dnas.training.trainer import Training

SHARE = 0.1  # of the steps, at the end
# Functions whose results ONNX Runtime quantizes. Pooling by the maximum, slices and views keep the levels.
QUANTIZED = {"relu", "batch_norm", "add", "cat", "mean", "avg_pool2d", "adaptive_avg_pool2d"}


def per_channel(weight: Tensor) -> Tensor:
    """Weights [C, …], each channel rounded to the nearest of 255 levels from -largest to largest."""
    scale = (weight.detach().flatten(1).abs().amax(1) / 127).clamp_min(torch.finfo(weight.dtype).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


def per_tensor(x: Tensor) -> Tensor:
    """Numbers rounded to the nearest of 256 levels from the least to the largest of them, of which one is 0."""
    low, high = torch.aminmax(x.detach())
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / 255).clamp_min(torch.finfo(x.dtype).tiny)
    zero = (-128 - low / scale).round().to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127)


class Sites(TorchFunctionMode):
    """The places of a forward pass whose results are quantized: first all are found, then `chosen` ones round.

    A place is the number of its call in a pass, which is the same in each. Not rounded are the result of a convolution
    that only a norm takes, since the file has both as one convolution, and one that only a ReLU takes, for the same
    reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active = False
        self.chosen: set[int] | None = None
        self.count = 0
        self.names: list[str] = []
        self.takers: list[list[int]] = []
        self.latest: dict[int, int] = {}  # the place that a tensor is from, by its id
        self.held: list[Tensor] = []  # so that no id is used twice

    def begin(self) -> None:
        self.active, self.count = True, 0

    def end(self) -> None:
        self.active = False
        if self.chosen is None:
            self.chosen = {k for k in range(self.count) if not self._merged(k)}
            self.held.clear()

    def _merged(self, place: int) -> bool:
        by = {self.names[taker] for taker in self.takers[place]}
        return by == {"relu"} or (self.names[place] == "convolution" and by == {"batch_norm"})

    def result(self, name: str, taken: Any, out: Tensor) -> Tensor:
        """The result of a place, rounded if it is chosen."""
        place = self.count
        self.count += 1
        if self.chosen is not None:
            return per_tensor(out) if place in self.chosen else out
        self.names.append(name)
        self.takers.append([])
        for source in self._sources(taken):
            self.takers[source].append(place)
        self.latest[id(out)] = place
        self.held.append(out)
        return out

    def _sources(self, taken: Any) -> set[int]:
        tensors = torch.utils._pytree.tree_leaves(taken)
        return {self.latest[id(t)] for t in tensors if isinstance(t, Tensor) and id(t) in self.latest}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.active:
            return out
        name = func.__name__.rstrip("_")
        if name in QUANTIZED and out.is_floating_point():
            return self.result(name, args, out)
        if self.chosen is None and isinstance(out, Tensor) and (sources := self._sources(args)):
            self.latest[id(out)] = max(sources)
            self.held.append(out)
        return out


@contextlib.contextmanager
def fake_quantized(network: nn.Module, sites: Sites) -> Iterator[None]:
    """Within the block, passes of the network round weights and activations; native kernels of cells are not used."""
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    weights = [layer.weight for layer in layers]

    def hook(layer: nn.Module, taken: Any, out: Tensor) -> Tensor:
        return sites.result("convolution", taken, out)

    def before(network: nn.Module, taken: Any) -> Any:
        for layer, weight in zip(layers, weights, strict=True):
            del layer._parameters["weight"]
            layer.weight = per_channel(weight)  # type: ignore[assignment]
        sites.begin()
        return (per_tensor(taken[0]), *taken[1:])

    def after(network: nn.Module, taken: Any, out: Any) -> None:
        sites.end()
        for layer, weight in zip(layers, weights, strict=True):
            del layer.weight
            layer.weight = weight

    handles = [layer.register_forward_hook(hook) for layer in layers]
    handles += [network.register_forward_pre_hook(before), network.register_forward_hook(after)]
    try:
        with sites, mock.patch.object(discrete, "available", lambda x: False):
            yield
    finally:
        for handle in handles:
            handle.remove()


class Int8AwareTraining(Training):
    """A training whose last steps, from `first` (0-based) on, round as the int8 file does."""

    def __init__(self, first: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.first, self.sites = first, Sites()

    def step(self, step: int) -> float:
        if step < self.first:
            return super().step(step)
        with fake_quantized(self.network, self.sites):
            if self.sites.chosen is None:
                self._find()
            return super().step(step)

    @torch.no_grad()
    def _find(self) -> None:
        """A pass that finds the places; norms keep their statistics."""
        kept = [buffer.clone() for buffer in self.network.buffers()]
        self.network(torch.zeros(2, self.info.channels, *(self.info.image_size,) * 2))
        for buffer, before in zip(self.network.buffers(), kept, strict=True):
            buffer.copy_(before)

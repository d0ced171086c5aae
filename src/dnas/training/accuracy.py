"""How many test images a network names right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dnas.data.augment import normalise
from dnas.data.splits import DataInfo, Split
from dnas.data.streaming import AHEAD
from dnas.runtime import distributed

TEST_BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """Right answers among test images, with a 95 % Wilson interval (E. B. Wilson 1927)."""

    correct: int
    images: int

    @property
    def value(self) -> float:
        return self.correct / self.images

    @property
    def interval(self) -> tuple[float, float]:
        from scipy.stats import binomtest

        bounds = binomtest(self.correct, self.images).proportion_ci(0.95, "wilson")
        return float(bounds.low), float(bounds.high)


@torch.no_grad()
def answers(network: nn.Module, split: Split, info: DataInfo, device: str = "cpu") -> Tensor:
    """The logits [N, classes] of every image, without augmentation."""
    network.eval()
    logits = []
    every = torch.split(torch.arange(len(split)), TEST_BATCH)
    chunks = every[distributed.rank() :: distributed.count()]
    for k, indices in enumerate(chunks):
        images = split.batch(indices, chunks[k + 1 : k + 1 + AHEAD])
        batch = normalise(images.to(device), info).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits.append(network(batch).cpu())
    known = distributed.from_all(logits)
    return torch.cat([known[k % len(known)][k // len(known)] for k in range(len(every))])


def predict(network: nn.Module, split: Split, info: DataInfo, device: str = "cpu") -> Tensor:
    """The predicted class [N] of every image, without augmentation."""
    return answers(network, split, info, device).argmax(1)


def measure_accuracy(network: nn.Module, split: Split, info: DataInfo, device: str = "cpu") -> Accuracy:
    """How many images of a split the network gets right."""
    right = predict(network, split, info, device) == split.labels.cpu()
    return Accuracy(int(right.sum()), len(right))

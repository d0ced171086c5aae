"""Accuracy of a network on test images, in total and by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnas.data.augment import normalise
from dnas.data.splits import DataInfo, Split
from dnas.data.streaming import AHEAD
from dnas.runtime import distributed

TEST_BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """Correct predictions among test images, with a 95% Wilson interval (E. B. Wilson 1927).

    Attributes:
        confusion: Number of images of each true class (row) by predicted class (column); empty if it was not kept.
    """

    correct: int
    images: int
    confusion: tuple[tuple[int, ...], ...] = ()

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
    """Return the logits [N, classes] of all images, without augmentation."""
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
    """Return the predicted class [N] of each image, without augmentation."""
    return answers(network, split, info, device).argmax(1)


def measure_accuracy(network: nn.Module, split: Split, info: DataInfo, device: str = "cpu") -> Accuracy:
    """Measure how many images of a split the network classifies correctly."""
    matrix = confusion_matrix(split.labels, predict(network, split, info, device), len(info.classes))
    return Accuracy(int(matrix.trace()), len(split), tuple(map(tuple, matrix.tolist())))


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count the images of each true class (row) by predicted class (column): int64 [classes, classes]."""
    pairs = labels.cpu() * classes + predicted.cpu()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def by_class(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> dict[str, Any]:
    """Return the results per class for result.json, from a confusion matrix [classes, classes].

    Returns:
        `balanced_accuracy`: the mean recall of the classes with test images (scikit-learn's `balanced_accuracy_score`);
        `majority_share`: the share of the largest class, which is the accuracy of always predicting it;
        `per_class`: for each class its name, number of images, recall and precision, the last two None if there is no
        image or no prediction of the class; `confusion`: the matrix.
    """
    matrix = np.array(confusion, np.int64)
    images, answers, right = matrix.sum(1), matrix.sum(0), matrix.diagonal()

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    per_class = [
        {"class": name, "images": n, "recall": share(hits, n), "precision": share(hits, named)}
        for name, n, named, hits in zip(classes, images.tolist(), answers.tolist(), right.tolist(), strict=True)
    ]
    recalls = [row["recall"] for row in per_class if row["recall"] is not None]
    return {
        "balanced_accuracy": float(np.mean(recalls)),
        "majority_share": int(images.max()) / int(images.sum()),
        "per_class": per_class,
        "confusion": matrix.tolist(),
    }

"""The loss of a classifier in training: cross-entropy, with smoothed labels and weights of classes where wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """The weight n / (k · n_c) of each class, float32 [classes]: scikit-learn's "balanced". Its mean over images is 1.

    Args:
        labels: int64 [n], those that are trained on. Of k classes there is an image; the others have no weight.
    """
    each = torch.bincount(labels, minlength=classes)
    weights = len(labels) / ((each > 0).sum() * each)
    return torch.where(each > 0, weights, 0.0).float()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """The mean loss of a batch: logits [B, classes], labels int64 [B].

    A weight is that of an image, by its true class. Torch's own `weight` would also weigh the smoothed part of every
    label, by the class that it is spread to: with 95 : 5 images, half of each label of the one would be the other. And
    it divides by the weights of a batch, so that an image would count for less beside rare ones.

    Args:
        weights: float32 [classes].
    """
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return (weights[labels] * losses).mean()

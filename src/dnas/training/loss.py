"""Training loss of a classifier: cross-entropy with optional label smoothing and class weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Return class weights n / (k · n_c), float32 [classes] (scikit-learn's "balanced"); their mean over images is 1.

    Args:
        labels: int64 [n], of the training images. k classes have images; the others have weight 0.
    """
    each = torch.bincount(labels, minlength=classes)
    weights = len(labels) / ((each > 0).sum() * each)
    return torch.where(each > 0, weights, 0.0).float()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None) -> Tensor:
    """Return the mean loss of a batch: logits [B, classes], labels int64 [B].

    Each image is weighted by its true class. The `weight` of torch would also weight the smoothed part of every label,
    by the class that it is spread to: with 95 : 5 images, half of each label of one class would be the other class. It
    also divides by the sum of weights in a batch, so that an image would count less next to images of rare classes.

    Args:
        weights: float32 [classes].
    """
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return (weights[labels] * losses).mean()

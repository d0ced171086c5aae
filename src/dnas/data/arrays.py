"""Images in arrays: their size, and the mean and standard deviation of their channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dnas.data.memory import FEWER_IMAGES, memory_for, require_tensor_fits
from dnas.data.memory import images as in_words
from dnas.data.pictures import count_values
from dnas.data.sources.samples import Bytes, Counts


def resized_to(images: Bytes, size: int) -> Tensor:
    """Square images [N, C, S, S] in another size, antialiased."""
    count, channels = images.shape[:2]
    require_tensor_fits(count, channels, size)
    with memory_for(count * channels * size * size, in_words(count, channels, size), FEWER_IMAGES):
        if images.shape[-1] == size:
            # A copy, as arrays made from the bytes of a file are read-only.
            return torch.from_numpy(images.copy())
        resized = torch.empty(count, channels, size, size, dtype=torch.uint8)
        for start in range(0, count, 1024):
            pixels = torch.from_numpy(images[start : start + 1024].astype(np.float32))
            pixels = torch.nn.functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
            resized[start : start + 1024] = pixels.round_().clamp_(0, 255)
        return resized


def value_counts(images: Tensor) -> Counts:
    """How often each of the 256 values occurs in each channel of [N, C, H, W]: [C, 256]."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 1024):
        counts += count_values(images[start : start + 1024].numpy())
    return counts


def mean_std(counts: Counts) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the scale 0..1, from counts of the 256 values [C, 256].

    A constant channel gets a standard deviation of 1, since it is a divisor.
    """
    values = np.arange(256)
    mean = counts @ values / counts.sum(1)
    variance = (counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)
    varies = (counts > 0).sum(1) > 1
    std = np.where(varies, np.sqrt(variance) / 255, 1.0)
    return tuple((mean / 255).tolist()), tuple(std.tolist())

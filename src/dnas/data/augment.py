"""Normalization of uint8 images for the network, and augmentation in training.

A whole batch at a time, on its device, without worker processes. Random numbers come from a CPU generator, so that a
seed gives the same images on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dnas.data.splits import DataInfo
from dnas.errors import InputError
from dnas.settings import TrainFlip


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a training image, in this order.

    Args:
        pad: pixels of black added on each side before a random crop of the old size.
        flip: whether half of the images are mirrored left to right.
        cutout: side in pixels of the square that is set to 0 after normalization; 0 for none.
        rotation: largest angle in degrees, up to 180; 0 for none.
        color: largest change of brightness, in standard deviations, and of the factors of contrast and saturation,
            below 1; 0 for none.

    Raises:
        InputError: a number is out of range.
    """

    pad: int
    flip: bool
    cutout: int
    rotation: float = 0.0
    color: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("pad", self.pad), ("cutout", self.cutout)):
            if value < 0:
                raise InputError(f"{name} of the augmentation must be at least 0 pixels, got {value}")
        if not 0 <= self.rotation <= 180:
            raise InputError(f"rotation of the augmentation must be 0 to 180 degrees, got {self.rotation}")
        if not 0 <= self.color < 1:
            raise InputError(f"color of the augmentation must be at least 0 and below 1, got {self.color}")


def mirrors(flip: TrainFlip, info: DataInfo) -> bool:
    """Return True if training images are mirrored with a setting, by any rule.

    Runs have "on", "off" or "alternate" (`flips`); "auto" is from runs before the setting existed, which decided by
    the kind of the data set.
    """
    return info.flip if flip == "auto" else flip != "off"


def normalise(images: Tensor, info: DataInfo, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return (x / 255 - mean) / std of uint8 [B, C, H, W], per channel, as `dtype`."""
    return _normalised(images.to(torch.promote_types(dtype, torch.float32)), info).to(dtype)


def augment(
    images: Tensor,
    recipe: Augmentation,
    info: DataInfo,
    generator: torch.Generator,
    among: tuple[int, int] | None = None,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Augment a training batch: crop, mirror, rotate, normalize, change colors and cut out.

    Areas outside of the image are black; the square of the cutout becomes 0, the mean, and is clipped
    at the border (DeVries and Taylor, arXiv:1708.04552). Rotation is about the center, to the nearest
    pixel. One call takes 6 * B uniform numbers from `generator`: rows of (vertical crop, horizontal crop,
    flip, cutout row, cutout column, angle). A recipe with colors takes 3 * B more, in rows of (contrast,
    saturation, brightness).

    Args:
        images: uint8 [B, C, H, W].
        recipe: the augmentation; `mirrors` decides whether to flip.
        info: mean and std.
        generator: a CPU generator; the only source of randomness.
        among: for a part of a batch, the position of its first image and the batch size: results are as in the batch.
        mirrored: bool [B], the images to mirror if the recipe flips; by default they are drawn at random.

    Returns:
        float32 [B, C, H, W] on the device of the images.
    """
    height, width = images.shape[2:]
    device = images.device
    first, of = among or (0, len(images))
    uniform = torch.rand(6, of, generator=generator, dtype=torch.float32)[:, first : first + len(images)]
    span = torch.tensor([2 * recipe.pad + 1, 2 * recipe.pad + 1, 2, height, width])
    drawn = (uniform[:5] * span[:, None]).long().to(device)
    down, right, flip, cut_row, cut_column = drawn[:, :, None]  # each [B, 1]
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)

    rows = y + (down - recipe.pad)
    columns = x + (right - recipe.pad)
    if recipe.flip:
        chosen = flip == 1 if mirrored is None else mirrored.to(device)[:, None]
        columns = torch.where(chosen, columns.flip(1), columns)
    batch = _gathered(images, rows, columns).float()
    if recipe.rotation:
        batch = _rotated(batch, (uniform[5] * 2 - 1) * recipe.rotation)
    batch = _normalised(batch, info)
    if recipe.color:
        shifts = torch.rand(3, of, generator=generator, dtype=torch.float32)[:, first : first + len(images)]
        batch = _recolored(batch, ((shifts * 2 - 1) * recipe.color).to(device))
    if recipe.cutout:
        first_row, first_column = cut_row - recipe.cutout // 2, cut_column - recipe.cutout // 2
        in_rows = (y >= first_row) & (y < first_row + recipe.cutout)
        in_columns = (x >= first_column) & (x < first_column + recipe.cutout)
        batch.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
    return batch


def _gathered(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return uint8 [B, C, H, W]: pixel (b, c, y, x) is images[b, c, rows[b, y], columns[b, x]] (or 0)."""
    count, channels, height, width = images.shape
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    pixel = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    plane = torch.arange(count * channels, device=images.device).view(count, channels) * (height * width)
    batch = images.reshape(-1).take(plane[:, :, None, None] + pixel[:, None])
    return batch.mul_(inside[:, None])


def _rotated(batch: Tensor, degrees: Tensor) -> Tensor:
    """Rotate float [B, C, H, W] counter-clockwise by `degrees` [B], nearest pixel, black outside."""
    height, width = batch.shape[2:]
    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid scales both axes to -1 … 1, hence the ratios for images that are not square.
    theta = torch.stack(
        [
            torch.stack([cos, -sin * (height / width), zero], 1),
            torch.stack([sin * (width / height), cos, zero], 1),
        ],
        1,
    )
    grid = torch.nn.functional.affine_grid(theta.to(batch.device), list(batch.shape), align_corners=False)
    return torch.nn.functional.grid_sample(batch, grid, mode="nearest", align_corners=False)


def _recolored(batch: Tensor, shifts: Tensor) -> Tensor:
    """Change the colors of normalized float [B, C, H, W] by `shifts` [3, B] of contrast, saturation and brightness.

    Contrast scales the distance of each pixel from the mean of its image, saturation that of each channel from the mean
    of its pixel, and brightness is added.
    """
    contrast, saturation, brightness = shifts[:, :, None, None, None]
    gray = batch.mean(1, keepdim=True)
    mean = gray.mean((2, 3), keepdim=True)
    return gray.sub(mean).mul_(1 + contrast).add_(mean + brightness) + (batch - gray).mul_(
        (1 + contrast) * (1 + saturation)
    )


def _normalised(pixels: Tensor, info: DataInfo) -> Tensor:
    """Normalize floating-point pixels 0..255 in place, like `normalise`."""
    mean = torch.tensor(info.mean, dtype=pixels.dtype, device=pixels.device)[:, None, None]
    std = torch.tensor(info.std, dtype=pixels.dtype, device=pixels.device)[:, None, None]
    return pixels.div_(255).sub_(mean).div_(std)

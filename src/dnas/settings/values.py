"""What the settings of searches, trainings and data share: kinds of values, names and limits."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dnas.errors import InputError
from dnas.units import byte_count, duration, one_or_several, whole_number

# A duration in seconds, which may be given as `duration` reads it: 300 or "5m".
Duration = Annotated[float, BeforeValidator(duration)]
# A whole number, which may be given as `whole_number` reads it: 130000 or "130k".
WholeNumber = Annotated[int, BeforeValidator(whole_number)]
# One or several, in ascending order: of whole numbers, and of numbers of bytes as `byte_count` reads them.
_Several = Annotated[int, Field(ge=0)] | list[int]
WholeNumbers = Annotated[_Several, BeforeValidator(partial(one_or_several, whole_number))]
ByteCounts = Annotated[_Several, BeforeValidator(partial(one_or_several, byte_count))]
Durations = Annotated[Annotated[float, Field(ge=0)] | list[float], BeforeValidator(partial(one_or_several, duration))]
Flip = Literal["auto", "on", "off"]
TrainFlip = Literal["auto", "on", "off", "alternate"]
Memory = Literal["auto", "whole", "stream"]
Resize = Literal["auto", "crop", "pad", "squeeze"]  # `data/pictures.py` does it
AUTO_RESIZE: Final[Resize] = "auto"
CROP: Final[Resize] = "crop"
PAD: Final[Resize] = "pad"
SQUEEZE: Final[Resize] = "squeeze"
StemName = Literal["cifar", "halving", "tiny-imagenet", "imagenet"]  # `space/plan.py` builds them
CIFAR_STEM: Final[StemName] = "cifar"
HALVING_STEM: Final[StemName] = "halving"
TINY_IMAGENET_STEM: Final[StemName] = "tiny-imagenet"
IMAGENET_STEM: Final[StemName] = "imagenet"
SMALLEST_IMAGE = 8  # pixels of a side
WIDEST = 100  # what the channels of a hand-made network are multiplied by at most
CHANNELS = 36  # of the first cells of a trained network: the width of the literature for CIFAR
MIN_LAYERS = 3  # a network has two reductions, and one layer at least that is none


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


FLIP: Any = Field(
    "auto",
    description="mirror half of the images left to right; auto: unless that confuses classes",
)

STEM: Any = Field(
    CIFAR_STEM,
    description="first layers: cifar (keeps the resolution), halving (32 → 16 pixels, by one convolution), "
    "tiny-imagenet (64 → 32, by three) or imagenet (224 → 28)",
)

STRATIFIED: Any = Field(
    False,
    description="draws of images keep the share of each class, where classes are unbalanced or a draw has few images "
    "of each; a configuration without this setting is of an earlier version, whose draws did not [by default: True]",
)


def there(section: str, images: int, count: int) -> int:
    """How many of `count` images are used. Raises InputError where more are wanted."""
    if images > count:
        raise InputError(f"{section}.images is {images}, and there are {count}; give at most those, or 0 for all")
    return images or count


def check_batches(images: int, batch_size: int, parts: int) -> None:
    """Raises InputError where a batch, or a part of one, would be a single image, which has no batch statistics."""
    smallest = images // max(1, math.ceil(images / batch_size))
    if parts > 1 and smallest // parts < 2:
        raise InputError(
            f"--batch-size {batch_size} gives batches of {smallest} of {images} images, which cannot be cut into "
            f"{parts} parts of two or more; choose a larger one, or fewer ranks"
        )
    if smallest < 2:
        raise InputError(
            f"--batch-size {batch_size} would leave a batch of one of {images} images; choose another or more images"
        )


def cosine(top: float, bottom: float, epoch: float, epochs: float) -> float:
    # The last epoch is one step short of the bottom, as with the schedulers of DARTS' time.
    return bottom + (top - bottom) * (1 + math.cos(math.pi * epoch / epochs)) / 2

"""Types of values, names and bounds that the settings of searches, trainings and data share."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dnas.errors import InputError
from dnas.units import byte_count, duration, one_or_several, whole_number

# A duration in seconds, given in any form that `duration` reads: 300 or "5m".
Duration = Annotated[float, BeforeValidator(duration)]
# A whole number, given in any form that `whole_number` reads: 130000 or "130k".
WholeNumber = Annotated[int, BeforeValidator(whole_number)]
# One value or several in ascending order: whole numbers, and numbers of bytes in any form that `byte_count` reads.
_Several = Annotated[int, Field(ge=0)] | list[int]
WholeNumbers = Annotated[_Several, BeforeValidator(partial(one_or_several, whole_number))]
ByteCounts = Annotated[_Several, BeforeValidator(partial(one_or_several, byte_count))]
Durations = Annotated[Annotated[float, Field(ge=0)] | list[float], BeforeValidator(partial(one_or_several, duration))]
Flip = Literal["auto", "on", "off"]
TrainFlip = Literal["auto", "on", "off", "alternate"]
Memory = Literal["auto", "whole", "stream"]
Resize = Literal["auto", "crop", "pad", "squeeze"]  # implemented in `data/pictures.py`
AUTO_RESIZE: Final[Resize] = "auto"
CROP: Final[Resize] = "crop"
PAD: Final[Resize] = "pad"
SQUEEZE: Final[Resize] = "squeeze"
StemName = Literal["cifar", "halving", "tiny-imagenet", "imagenet"]  # built by each space
CIFAR_STEM: Final[StemName] = "cifar"
HALVING_STEM: Final[StemName] = "halving"
TINY_IMAGENET_STEM: Final[StemName] = "tiny-imagenet"
IMAGENET_STEM: Final[StemName] = "imagenet"
STEMS: Final = get_args(StemName)
SMALLEST_IMAGE = 8  # pixels of a side
WIDEST = 100  # largest width factor of a reference network
CHANNELS = 36  # initial channels of a trained network, as in the literature for CIFAR
MIN_LAYERS = 3  # a network has two reductions and at least one normal layer


class Settings(BaseModel):
    """Base class of all settings: immutable, without unknown names or conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


FLIP: Any = Field(
    "auto",
    description="flip half of the images horizontally; auto: unless that confuses classes",
)

STEM: Any = Field(
    CIFAR_STEM,
    description="first layers. cifar: keep the resolution; halving: halve it by one convolution (32 → 16 pixels); "
    "tiny-imagenet: halve it by three (64 → 32); imagenet: divide it by eight (224 → 28)",
)

STRATIFIED: Any = Field(
    False,
    description="subsets of images keep the share of each class, if classes are unbalanced or have few images in the "
    "subset. Files of earlier versions do not have this setting and mean false [by default: True]",
)


def there(section: str, images: int, count: int) -> int:
    """Return how many of `count` images are used. Raises InputError if there are fewer than requested."""
    if images > count:
        raise InputError(
            f"{section}.images must be at most {count} (the number of training images), or 0 for all; got {images}"
        )
    return images or count


def check_batches(images: int, batch_size: int, parts: int) -> None:
    """Raise InputError if a batch, or a part of one, would have a single image, which has no batch statistics."""
    smallest = images // max(1, math.ceil(images / batch_size))
    if parts > 1 and smallest // parts < 2:
        raise InputError(
            f"--batch-size {batch_size} with {images} images gives a batch of {smallest}, which cannot be split into "
            f"{parts} parts of two or more; choose a larger batch size, or fewer ranks"
        )
    if smallest < 2:
        raise InputError(
            f"--batch-size {batch_size} with {images} images gives a last batch of one; choose another batch size or "
            "more images"
        )


def cosine(top: float, bottom: float, epoch: float, epochs: float) -> float:
    """Return the value of a cosine from `top` to `bottom` at an epoch."""
    # The last epoch is one step above the minimum, as in the schedulers that DARTS used.
    return bottom + (top - bottom) * (1 + math.cos(math.pi * epoch / epochs)) / 2

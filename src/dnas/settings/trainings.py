"""Settings of the training of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import Self

from dnas.errors import InputError
from dnas.settings.recipe import BY_PASSES, FINAL_NORM, PADDING, Recipe, or_by_passes, padding, ramp
from dnas.settings.values import (
    CHANNELS,
    MIN_LAYERS,
    SMALLEST_IMAGE,
    STEM,
    STRATIFIED,
    WIDEST,
    StemName,
    TrainFlip,
    WholeNumber,
    check_batches,
    cosine,
    there,
)

# Batch-norm statistics of averaged weights are measured on so many training images, or on all if there are fewer.
STATISTICS_IMAGES = 2_048
CUTOUT_BY_PASSES = -2  # the value of cutout by which it is chosen by the number of epochs
FEW_PASSES, MANY_PASSES = 25, 600
SEVERAL_PASSES = 50
# From so many epochs on, with color=-1 and muon_weight_decay=-1.
COLOR, MUON_WEIGHT_DECAY = 0.3, 0.2
DROP_PATH = 0.2  # of DARTS, in 600 epochs


@dataclass(frozen=True)
class Regularisation:
    """Strength of the regularization: side of the cutout in pixels, and final rate of drop path."""

    cutout: int
    drop_path: float


def regularisation(passes: float, image_size: int) -> Regularisation:
    """Return the regularization for a training of so many epochs.

    Up to 25 epochs, nothing is memorized, and cutout and drop path only slow the training down. From 600 epochs on they
    are those of DARTS: half of the side, and 0.2. In between they grow linearly in the logarithm of the epochs. Label
    smoothing and weight decay are not part of it, since short trainings use the values of DARTS.
    """
    strength = ramp(passes, FEW_PASSES, MANY_PASSES)
    return Regularisation(round(strength * (image_size // 2)), strength * DROP_PATH)


class NetworkTrainSettings(Recipe):
    """Settings shared by the trainings of all networks. Defaults are those of DARTS on CIFAR-10."""

    epochs: int = Field(600, ge=1, description="epochs over the training images")
    steps: int = Field(0, ge=0, description="stop after this many steps, if the epochs have more; 0: no limit")
    batch_size: int = Field(96, ge=2, description="number of images per step")
    parts: int = Field(
        1,
        ge=1,
        description="number of batch splits, each with its own batch-norm statistics [by default: ranks]",
    )
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    stratified: bool = STRATIFIED
    learning_rate: float = Field(0.025, gt=0, description="initial (linear schedule: maximum) learning rate of SGD")
    learning_rate_min: float = Field(
        0.0, ge=0, description="minimum learning rate, at the end of the cosine or linear schedule"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(3e-4, ge=0, description="weight decay (L2 penalty) of SGD")
    clip_norm: float = Field(5.0, gt=0, description="maximum norm for gradient clipping")
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: the loss of an image is weighted by n / (k · n_c), for n training images, k classes and "
        "n_c images of its own class, so that all classes have equal weight; the finals then compare balanced accuracy",
    )
    half_size: float = Field(
        0.0, ge=0, lt=1, description="share of the steps, at the start, with images at half resolution"
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps, at the end, whose weights are averaged (at least two steps); 0: no averaging",
    )
    cutout: int = Field(
        -1,
        ge=-2,
        description="side of the cutout in pixels; -1: half the image; -2: chosen by the number of epochs, from none "
        "up to 25 epochs to half the image from 600 epochs on",
    )
    pad: int = PADDING
    flip: TrainFlip = Field(
        "auto",
        description="flip half of the images horizontally; auto: unless that confuses classes; alternate: each image "
        "in every other epoch, so that two epochs show both versions",
    )
    rotation: float = Field(0.0, ge=0, le=180, description="largest random rotation, in degrees")
    color: Annotated[float, AfterValidator(or_by_passes)] = Field(
        0.0,
        ge=-1,
        lt=1,
        description="largest random change of brightness (in standard deviations), contrast and saturation; -1: chosen "
        "by the number of epochs, from none up to 25 epochs to 0.3 from 50 epochs on",
    )

    def check(self) -> None:
        """Check that these values go together, as far as that depends on no image. Raises InputError."""
        self.check_recipe("train")

    def resolved(self, count: int, image_size: int) -> Self:
        """Return a copy with all automatic values resolved, for `count` training images."""
        self.check()
        if self.half_size and image_size < 2 * SMALLEST_IMAGE:
            raise InputError(
                f"train.half_size={self.half_size} cannot be used with images of {image_size} pixels, half of which is "
                f"below {SMALLEST_IMAGE}; remove it"
            )
        settings = self.in_numbers(count, image_size)
        check_batches(settings.images, self.batch_size, self.parts)
        return settings

    def in_numbers(self, count: int, image_size: int) -> Self:
        """Return a copy with all automatic values resolved, without checks.

        Values that depend on the number of epochs stay automatic, since a budget plans the epochs later.
        """
        return self.model_copy(
            update={
                "images": there("train", self.images, count),
                "cutout": image_size // 2 if self.cutout == -1 else self.cutout,
                "pad": padding(self.pad, image_size),
            }
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def rate(self, step: int) -> float:
        """Return the learning rate of SGD in a step (0-based)."""
        if self.schedule == "linear":
            # Taken at the middle of the step, so that neither the first nor the last step has a rate of 0.
            share = (step + 0.5) / self.step_count
            falling = (1 - share) / (1 - self.warmup)
            rising = share / self.warmup if share < self.warmup else 1.0
            return self.learning_rate_min + (self.learning_rate - self.learning_rate_min) * min(rising, falling)
        epoch = step // self.steps_per_epoch
        if self.schedule == "exponential":
            return float(self.learning_rate * self.decay**epoch)
        return cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)

    @property
    def step_count(self) -> int:
        """Number of steps."""
        whole = self.epochs * self.steps_per_epoch
        return min(self.steps or whole, whole)

    @property
    def passes(self) -> float:
        """Number of passes over the training images."""
        return self.step_count / self.steps_per_epoch

    def cutout_side(self, image_size: int) -> int:
        """Return the side of the cutout in pixels."""
        return regularisation(self.passes, image_size).cutout if self.cutout == CUTOUT_BY_PASSES else self.cutout

    def padding(self, image_size: int) -> int:
        """Return the pixels of padding before a random crop."""
        return padding(self.pad, image_size, self.passes)

    @property
    def color_shift(self) -> float:
        """Return the largest random change of colors.

        With `BY_PASSES`, after 64 epochs of 2,500 images of CIFAR-10 the accuracy is 1 to 2 percentage points higher
        than without; after 20 epochs of 12,500 images it is not (docs/outcome.md).
        """
        if self.color != BY_PASSES:
            return self.color
        return COLOR * ramp(self.passes, FEW_PASSES, SEVERAL_PASSES)

    @property
    def muon_decay(self) -> float:
        """Return the weight decay of Muon.

        With `BY_PASSES`, after 64 epochs of 2,500 images of CIFAR-10 the accuracy is 3.1 percentage points higher
        than without; after 7 epochs of 45,000 images, a decay of 0.1 costs 1.1 points (docs/outcome.md).
        """
        if self.muon_weight_decay != BY_PASSES:
            return self.muon_weight_decay
        return MUON_WEIGHT_DECAY * ramp(self.passes, FEW_PASSES, SEVERAL_PASSES)

    @property
    def half_size_steps(self) -> int:
        """Number of first steps with images at half resolution."""
        return round(self.half_size * self.step_count)

    @property
    def average_steps(self) -> int:
        """Number of last steps over which the weights are averaged."""
        return min(self.step_count, max(2, round(self.average * self.step_count))) if self.average else 0

    @property
    def statistics_images(self) -> int:
        """Number of images on which the batch-norm statistics of averaged weights are measured."""
        return min(STATISTICS_IMAGES, self.images) if self.average else 0

    def drop_path_rate(self, epoch: int) -> float:
        """Return the drop path probability of an epoch."""
        return 0.0


def _depth(layers: int) -> int:
    if layers != 0 and layers < MIN_LAYERS:
        raise ValueError(f"must be at least {MIN_LAYERS}, got {layers}")
    return layers


class TrainSettings(NetworkTrainSettings):
    """Settings of the training of an architecture, which also has a depth, a width and drop path."""

    layers: Annotated[int, AfterValidator(_depth)] = Field(
        0, le=1000, description="depth of the trained network, for --mapping shared; 0: as searched"
    )
    channels: int = Field(CHANNELS, ge=2, description="initial channels of the trained network")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the loss of the auxiliary head; 0: no head")
    drop_path: Annotated[float, AfterValidator(or_by_passes)] = Field(
        DROP_PATH,
        lt=1,
        description="drop path probability at the end of a linear ramp from 0; -1: chosen by the number of epochs, "
        "from 0 up to 25 epochs to 0.2 from 600 epochs on",
    )
    final_norm: bool = FINAL_NORM
    stem: StemName = STEM

    def drop_path_rate(self, epoch: int) -> float:
        """Return the probability by the ramp of DARTS: from 0 in the first epoch to the full rate after the last."""
        by_passes = self.drop_path == BY_PASSES
        top = regularisation(self.passes, SMALLEST_IMAGE).drop_path if by_passes else self.drop_path
        return top * epoch / self.epochs


class WidthTrainSettings(NetworkTrainSettings):
    """Settings of the training of a reference network that has a width."""

    width: float = Field(1.0, gt=0, le=WIDEST, description="factor of the channels of every convolution")
    params: WholeNumber = Field(
        0,
        ge=0,
        description="choose the width whose number of parameters is closest to this: a number, or a text such as "
        '"130k" or "1.2M"; 0: keep the width',
    )

    def check(self) -> None:
        super().check()
        if self.params and "width" in self.model_fields_set:
            raise InputError(
                f"train.width={self.width} cannot be used with train.params={self.params}, which chooses the width; "
                "remove one"
            )


# Settings that only apply to a reference network with a width.
WIDTH_SETTINGS = tuple(
    name for name in WidthTrainSettings.model_fields if name not in NetworkTrainSettings.model_fields
)
# Settings that only apply to an architecture.
ARCHITECTURE_SETTINGS = tuple(
    name for name in TrainSettings.model_fields if name not in NetworkTrainSettings.model_fields
)


def train_over(above: Mapping[str, Any], beneath: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `beneath`, overridden by those `above`.

    A width or a number of parameters replaces both, since each determines the other. Epochs replace steps, which would
    end the training earlier.
    """
    hidden = {*WIDTH_SETTINGS} if any(name in above for name in WIDTH_SETTINGS) else set()
    if "epochs" in above:
        hidden.add("steps")
    return {**{name: value for name, value in beneath.items() if name not in hidden}, **above}

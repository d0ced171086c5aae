"""What the training of a network can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import Self

from dnas.errors import InputError
from dnas.settings.recipe import FINAL_NORM, Recipe
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

# By so many training images, or all, batch norms are made to fit averaged weights.
STATISTICS_IMAGES = 2_048
# Values of cutout and drop_path that stand for what `regularisation` gives.
CUTOUT_BY_PASSES, DROP_PATH_BY_PASSES = -2, -1.0
FEW_PASSES, MANY_PASSES = 25, 600
DROP_PATH = 0.2  # of DARTS, in 600 epochs


@dataclass(frozen=True)
class Regularisation:
    """How strongly a training is regularised: the side of the cut square in pixels, and the full rate of drop-path."""

    cutout: int
    drop_path: float


def regularisation(passes: float, image_size: int) -> Regularisation:
    """What suits a training that sees each image so often.

    Up to 25 passes nothing is learnt by heart, and both only slow the training down; from 600 on they are DARTS': half
    of the side, and 0.2. In between they grow in a line over the logarithm of the passes. Label smoothing and weight
    decay are no part of it, since DARTS' are no stronger than those of few passes.
    """
    strength = math.log(passes / FEW_PASSES) / math.log(MANY_PASSES / FEW_PASSES)
    strength = min(1.0, max(0.0, strength))
    return Regularisation(round(strength * (image_size // 2)), strength * DROP_PATH)


class NetworkTrainSettings(Recipe):
    """The training of any network. Defaults are those of DARTS on CIFAR-10."""

    epochs: int = Field(600, ge=1, description="passes over the training images")
    steps: int = Field(0, ge=0, description="end after so many steps, if the epochs have more; 0: with the last epoch")
    batch_size: int = Field(96, ge=2, description="images per step")
    parts: int = Field(
        1,
        ge=1,
        description="a batch is computed in so many, each with its own batch-norm statistics [by default: ranks]",
    )
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    stratified: bool = STRATIFIED
    learning_rate: float = Field(0.025, gt=0, description="learning rate of SGD at the start")
    learning_rate_min: float = Field(
        0.0, ge=0, description="learning rate at the end of the cosine, or of the linear schedule"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(3e-4, ge=0, description="L2 penalty on SGD's weights, which it adds to the gradient")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the gradient; a longer one is scaled to it")
    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: an image's loss counts n / (k · n_c) times, for n training images, k classes and n_c "
        "images of its own class, so that each class counts alike; the finals are then judged by the balanced accuracy",
    )
    half_size: float = Field(
        0.0, ge=0, lt=1, description="share of the steps, the first ones, whose images are scaled to half their side"
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the steps, the last ones, whose weights are averaged at the end, two steps at least; 0: "
        "the last weights are taken",
    )
    cutout: int = Field(
        -1,
        ge=-2,
        description="side of the cut square in pixels; -1: half the image; -2: by the passes over the images, from "
        "none up to 25 to half the image from 600 on",
    )
    pad: int = Field(-1, ge=-1, description="pixels of padding before a random crop; -1: an eighth of the image")
    flip: TrainFlip = Field(
        "auto",
        description="mirror half of the images left to right; auto: unless that confuses classes; alternate: each "
        "image in every other epoch, so that two epochs show both sides of it",
    )
    rotation: float = Field(0.0, ge=0, le=180, description="largest random rotation, in degrees")

    def check(self) -> None:
        """Check that these values go together, as far as that depends on no image. Raises InputError."""
        self.check_recipe("train")

    def resolved(self, count: int, image_size: int) -> Self:
        """With every automatic value replaced by its number, for `count` training images."""
        self.check()
        if self.half_size and image_size < 2 * SMALLEST_IMAGE:
            raise InputError(
                f"train.half_size={self.half_size} has no use with images of {image_size} pixels, whose half is below "
                f"{SMALLEST_IMAGE}; leave it out"
            )
        settings = self.in_numbers(count, image_size)
        check_batches(settings.images, self.batch_size, self.parts)
        return settings

    def in_numbers(self, count: int, image_size: int) -> Self:
        """Return a copy with every automatic value replaced by its number, whether or not they go together.

        But for those that follow from the passes over the images, since a budget plans these later.
        """
        return self.model_copy(
            update={
                "images": there("train", self.images, count),
                "cutout": image_size // 2 if self.cutout == -1 else self.cutout,
                "pad": round(image_size / 8) if self.pad < 0 else self.pad,
            }
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def rate(self, step: int) -> float:
        """The learning rate of SGD in a step, 0-based."""
        if self.schedule == "linear":
            # Taken at the middle of the step, so that the first is no pause, and the last does not jump.
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
        """How many steps there are."""
        whole = self.epochs * self.steps_per_epoch
        return min(self.steps or whole, whole)

    @property
    def passes(self) -> float:
        """How often each image is seen."""
        return self.step_count / self.steps_per_epoch

    def cutout_side(self, image_size: int) -> int:
        """The side of the cut square, in pixels."""
        return regularisation(self.passes, image_size).cutout if self.cutout == CUTOUT_BY_PASSES else self.cutout

    @property
    def half_size_steps(self) -> int:
        """How many steps, the first ones, see images of half the size."""
        return round(self.half_size * self.step_count)

    @property
    def average_steps(self) -> int:
        """Over how many steps, the last ones, the weights are averaged."""
        return min(self.step_count, max(2, round(self.average * self.step_count))) if self.average else 0

    @property
    def statistics_images(self) -> int:
        """How many images go through the network once more, for its batch norms."""
        return min(STATISTICS_IMAGES, self.images) if self.average else 0

    def drop_path_rate(self, epoch: int) -> float:
        """The probability with which a path is dropped in an epoch."""
        return 0.0


def _depth(layers: int) -> int:
    if layers != 0 and layers < MIN_LAYERS:
        raise ValueError(f"must be at least {MIN_LAYERS}, got {layers}")
    return layers


def _probability(drop_path: float) -> float:
    if drop_path < 0 and drop_path != DROP_PATH_BY_PASSES:
        raise ValueError(f"must be at least 0, or -1 for by the passes, got {drop_path}")
    return drop_path


class TrainSettings(NetworkTrainSettings):
    """The training of an architecture's network, which can be stacked, widened and dropped in parts."""

    layers: Annotated[int, AfterValidator(_depth)] = Field(
        0, le=1000, description="depth, for a shared cell that is stacked anew; 0: as found"
    )
    channels: int = Field(CHANNELS, ge=2, description="width C of the first cells")
    auxiliary_weight: float = Field(0.4, ge=0, description="weight of the auxiliary head's loss; 0: no head")
    drop_path: Annotated[float, AfterValidator(_probability)] = Field(
        DROP_PATH,
        lt=1,
        description="probability of dropping an operation's output per image, at the end of a linear ramp from 0; -1: "
        "by the passes over the images, from 0 up to 25 to 0.2 from 600 on",
    )
    final_norm: bool = FINAL_NORM
    stem: StemName = STEM

    def drop_path_rate(self, epoch: int) -> float:
        """DARTS' ramp: from 0 in the first epoch towards the full rate, which the epoch after the last would have."""
        by_passes = self.drop_path == DROP_PATH_BY_PASSES
        top = regularisation(self.passes, SMALLEST_IMAGE).drop_path if by_passes else self.drop_path
        return top * epoch / self.epochs


class WidthTrainSettings(NetworkTrainSettings):
    """The training of a hand-made network that has a width."""

    width: float = Field(1.0, gt=0, le=WIDEST, description="what the channels of every convolution are multiplied by")
    params: WholeNumber = Field(
        0,
        ge=0,
        description='parameters to come closest to by the width: a number, or a text such as "130k" or "1.2M"; 0: keep '
        "the width",
    )

    def check(self) -> None:
        super().check()
        if self.params and "width" in self.model_fields_set:
            raise InputError(
                f"train.width={self.width} cannot be used with train.params={self.params}, which chooses the width; "
                "remove one"
            )


# What only a hand-made network with a width has use for.
WIDTH_SETTINGS = tuple(
    name for name in WidthTrainSettings.model_fields if name not in NetworkTrainSettings.model_fields
)
# What only an architecture has use for.
ARCHITECTURE_SETTINGS = tuple(
    name for name in TrainSettings.model_fields if name not in NetworkTrainSettings.model_fields
)


def train_over(above: Mapping[str, Any], beneath: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training over others.

    A width or size stands in place of both: each decides the other. Epochs stand in place of steps, which would end the
    training before.
    """
    hidden = {*WIDTH_SETTINGS} if any(name in above for name in WIDTH_SETTINGS) else set()
    if "epochs" in above:
        hidden.add("steps")
    return {**{name: value for name, value in beneath.items() if name not in hidden}, **above}

"""What a search and a training can be told: every setting once, with its meaning and its default.

A method names the class of settings that its search reads (`methods.Method.Settings`), so what a search has no use
for is no setting of it, and is refused.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from dnas.errors import InputError

Flip = Literal["auto", "on", "off"]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


_FLIP: Any = Field(
    "auto",
    description="mirror half of the images left to right; auto: unless that confuses classes, see docs/data.md",
)


class SearchSettings(Settings):
    """What every search has. Defaults are those of DARTS on CIFAR-10 (Liu et al. 2019, A.1)."""

    layers: int = Field(8, ge=3, le=1000, description="depth L of what is searched")
    channels: int = Field(16, ge=2, description="width C of its first cells")
    epochs: int = Field(50, ge=1, description="passes over the weights' images; in every trial, where there are trials")
    batch_size: int = Field(64, ge=2, description="images of a step")
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    train_share: float = Field(
        0.5, gt=0, lt=1, description="share of the images that the weights see; the others judge architectures"
    )
    learning_rate: float = Field(0.025, gt=0, description="A15: of the weights' SGD, at the start")
    learning_rate_min: float = Field(0.001, ge=0, description="A15: at the end of the cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the weights' SGD")
    weight_decay: float = Field(3e-4, ge=0, description="of all weights")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    pad: int = Field(-1, ge=-1, description="pixels of padding before a random crop; -1: an eighth of the image")
    flip: Flip = _FLIP
    seconds: float = Field(0.0, ge=0, description="stop after this time, at the end of a step or trial; 0: no limit")
    steps: int = Field(
        0, ge=0, description="stop after the cost of so many steps forward and backward, likewise; 0: no limit"
    )

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        """With every automatic value replaced by its number.

        Args:
            count: Training images.
            travel: How far an architecture parameter goes, where `architecture_learning_rate` is 0.
            image_size: Pixels of a side.
            threads: What the machine can do at a time, for automatic numbers of processes.

        Raises:
            InputError: Values that do not go together.
        """
        settings = self.model_copy(
            update={
                "images": _there("search", self.images, count),
                "pad": round(image_size / 8) if self.pad < 0 else self.pad,
            }
        )
        validation = settings.images - settings.weight_images
        for part, images in (("train", settings.weight_images), ("validate", validation or settings.images)):
            if images < 2:
                raise InputError(
                    f"train_share={self.train_share} of {settings.images} images leaves {images} to {part} with; "
                    "choose another share or more images"
                )
        parts = self.parts if isinstance(self, SupernetSettings) else 1
        _check_batches(min(settings.weight_images, validation or settings.images), self.batch_size, parts)
        return settings

    @property
    def weight_images(self) -> int:
        """How many images the weights see."""
        return round(self.images * self.train_share)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.weight_images / self.batch_size)

    def spent(self, seconds: float, steps: float) -> bool:
        """Whether a limit is reached: seconds and step equivalents so far."""
        return (0 < self.seconds <= seconds) or (0 < self.steps <= steps)

    def rate(self, epoch: int) -> float:
        """The weights' learning rate in an epoch: a cosine that starts at its top (Loshchilov & Hutter 2017)."""
        return _cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)


class SupernetSettings(SearchSettings):
    """A search whose candidates share the weights of one supernet."""

    learning_rate_cycles: int = Field(
        1, ge=1, le=10, description="cosines of the learning rate, each twice as long as the one before"
    )
    nesterov: bool = Field(False, description="Nesterov's momentum in the weights' SGD")
    parts: int = Field(
        1,
        ge=1,
        description="a batch is computed in so many, each with its own batch-norm statistics [by default: ranks]",
    )
    recompute: bool = Field(
        False, description="compute a layer's operations again in the backward pass: less memory, more time"
    )
    watch_images: int = Field(
        256,
        ge=0,
        description="after each epoch compare supernet and derived network on this many validation images; 0: do not",
    )

    def rate(self, epoch: int) -> float:
        """The weights' learning rate in an epoch: cosines with warm restarts (Loshchilov & Hutter 2017)."""
        units = 2**self.learning_rate_cycles - 1  # cycle c starts after 2^c - 1 of them and takes 2^c
        start = 2 ** ((epoch * units // self.epochs + 1).bit_length() - 1)
        unit = self.epochs / units
        return _cosine(self.learning_rate, self.learning_rate_min, epoch - (start - 1) * unit, start * unit)

    def moves_architecture(self, epoch: int) -> bool:
        """Whether architecture parameters follow gradients in this epoch."""
        return False


class GradientSettings(SupernetSettings):
    """A search that moves architecture parameters along gradients."""

    warmup_epochs: int = Field(-1, ge=-1, description="A14: epochs in which only weights move; -1: 30 % of the epochs")
    architecture_learning_rate: float = Field(
        3e-4,
        ge=0,
        description="A15: of the architecture parameters' Adam; 0: such that they travel as far as in the paper",
    )
    architecture_beta1: float = Field(0.5, ge=0, lt=1, description="A15: of Adam")
    architecture_beta2: float = Field(0.999, ge=0, lt=1, description="A15: of Adam")
    architecture_weight_decay: float = Field(1e-3, ge=0, description="A17: of the architecture parameters")
    update: Literal["first-order", "second-order", "single-level"] = Field(
        "first-order", description="A13: bilevel with either gradient, or both moved by the same batch of all images"
    )
    order: Literal["architecture-first", "weights-first"] = Field(
        "architecture-first", description="which moves first in a step of the bilevel updates"
    )
    eigenvalue: bool = Field(
        False,
        description="after each epoch, the dominant eigenvalue of the validation loss' architecture Hessian on one "
        "batch, as `eigenvalue` in metrics.jsonl; by torch, so it takes some 100 native steps",
    )

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        if self.update == "single-level" and self.order != "architecture-first":
            raise InputError(f"search.order={self.order} has no use with search.update=single-level: both move at once")
        if self.update == "single-level" and self.train_share != GradientSettings().train_share:
            raise InputError(
                f"search.train_share={self.train_share} has no use with search.update=single-level: it sees all images"
            )
        if self.eigenvalue and self.recompute:
            raise InputError("search.eigenvalue does not go with search.recompute: second derivatives need all layers")
        warmup = round(0.3 * self.epochs) if self.warmup_epochs < 0 else self.warmup_epochs
        if warmup >= self.epochs:
            raise InputError(
                f"warmup_epochs is {warmup} of {self.epochs} epochs, so the architecture would never move; lower it"
            )
        settings = super().resolved(count, travel, image_size, threads)
        settings = settings.model_copy(update={"warmup_epochs": warmup})
        if settings.architecture_learning_rate == 0:
            rate = float(f"{travel / settings.architecture_steps:.4g}")
            settings = settings.model_copy(update={"architecture_learning_rate": rate})
        return settings

    @property
    def weight_images(self) -> int:
        return self.images if self.update == "single-level" else super().weight_images

    @property
    def architecture_steps(self) -> int:
        return (self.epochs - self.warmup_epochs) * self.steps_per_epoch

    def moves_architecture(self, epoch: int) -> bool:
        return epoch >= self.warmup_epochs


class TrialSettings(SearchSettings):
    """A search that trains every candidate from scratch, shortly."""

    trials: int = Field(100, ge=1, description="how many candidates are trained")
    processes: int = Field(
        0,
        ge=0,
        le=1024,
        description="how many of them at a time, each in a process with its share of the threads; 0: one a thread on "
        "the CPU, else 1",
    )

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        settings = super().resolved(count, travel, image_size, threads)
        return settings.model_copy(update={"processes": self.processes or min(threads, self.trials)})


class NetworkTrainSettings(Settings):
    """The training of any network. Defaults are those of DARTS on CIFAR-10."""

    epochs: int = Field(600, ge=1, description="passes over the training images")
    batch_size: int = Field(96, ge=2, description="images of a step")
    parts: int = Field(
        1,
        ge=1,
        description="a batch is computed in so many, each with its own batch-norm statistics [by default: ranks]",
    )
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    learning_rate: float = Field(0.025, gt=0, description="of the SGD, at the start")
    learning_rate_min: float = Field(0.0, ge=0, description="at the end of the cosine")
    schedule: Literal["cosine", "exponential"] = Field("cosine", description="of the learning rate")
    decay: float = Field(0.97, gt=0, le=1, description="factor of an epoch, with schedule=exponential")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the weights' SGD")
    weight_decay: float = Field(3e-4, ge=0, description="of all weights")
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the gradient")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label that goes to all classes")
    cutout: int = Field(-1, ge=-1, description="side of the cut square in pixels; -1: half the image")
    pad: int = Field(-1, ge=-1, description="pixels of padding before a random crop; -1: an eighth of the image")
    flip: Flip = _FLIP
    rotation: float = Field(0.0, ge=0, le=180, description="largest random rotation, in degrees")

    def resolved(self, count: int, image_size: int) -> Self:
        """With every automatic value replaced by its number, for `count` training images."""
        defaults = NetworkTrainSettings()
        if self.schedule == "cosine" and self.decay != defaults.decay:
            raise InputError(f"train.decay={self.decay} has no use with train.schedule=cosine; choose exponential")
        if self.schedule == "exponential" and self.learning_rate_min != defaults.learning_rate_min:
            raise InputError(
                f"train.learning_rate_min={self.learning_rate_min} has no use with train.schedule=exponential; "
                "choose cosine"
            )
        images = _there("train", self.images, count)
        _check_batches(images, self.batch_size, self.parts)
        return self.model_copy(
            update={
                "images": images,
                "cutout": image_size // 2 if self.cutout < 0 else self.cutout,
                "pad": round(image_size / 8) if self.pad < 0 else self.pad,
            }
        )

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.batch_size)

    def rate(self, epoch: int) -> float:
        """The learning rate in an epoch."""
        if self.schedule == "exponential":
            return float(self.learning_rate * self.decay**epoch)
        return _cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)

    def drop_path_rate(self, epoch: int) -> float:
        """The probability with which a path is dropped in an epoch."""
        return 0.0


class TrainSettings(NetworkTrainSettings):
    """The training of an architecture's network, which can be stacked, widened and dropped in parts."""

    layers: int = Field(0, ge=0, le=1000, description="depth, for a shared cell that is stacked anew; 0: as found")
    channels: int = Field(36, ge=2, description="width C of the first cells")
    auxiliary_weight: float = Field(0.4, ge=0, description="of the auxiliary head's loss; 0: no head")
    drop_path: float = Field(0.2, ge=0, lt=1, description="probability at the end of a linear ramp")
    stem: Literal["cifar", "tiny-imagenet", "imagenet"] = Field(
        "cifar", description="cifar, tiny-imagenet (64 → 32 pixels) or imagenet (224 → 28)"
    )

    def drop_path_rate(self, epoch: int) -> float:
        """DARTS' ramp: from 0 in the first epoch towards the full rate, which the epoch after the last would have."""
        return self.drop_path * epoch / self.epochs


# What only an architecture has use for.
ARCHITECTURE_SETTINGS = tuple(
    name for name in TrainSettings.model_fields if name not in NetworkTrainSettings.model_fields
)


def _there(section: str, images: int, count: int) -> int:
    """How many of `count` images are used. Raises InputError where more are wanted."""
    if images > count:
        raise InputError(f"{section}.images is {images}, and there are {count}; give at most those, or 0 for all")
    return images or count


def _check_batches(images: int, batch_size: int, parts: int) -> None:
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


def _cosine(top: float, bottom: float, epoch: float, epochs: float) -> float:
    # The last epoch is one step short of the bottom, as with the schedulers of DARTS' time.
    return bottom + (top - bottom) * (1 + math.cos(math.pi * epoch / epochs)) / 2

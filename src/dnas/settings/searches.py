"""What a search can be told."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from typing_extensions import Self

from dnas.errors import InputError
from dnas.settings.recipe import FINAL_NORM, Recipe
from dnas.settings.values import (
    FLIP,
    STEM,
    STRATIFIED,
    Duration,
    Flip,
    Settings,
    StemName,
    check_batches,
    cosine,
    there,
)


class SearchSettings(Settings):
    """What every search has. Defaults are those of DARTS on CIFAR-10 (Liu et al. 2019, A.1)."""

    layers: int = Field(8, ge=3, le=1000, description="depth L of the searched network, in cells")
    channels: int = Field(16, ge=2, description="width C of the supernet's first cells, or of a candidate's")
    epochs: int = Field(50, ge=1, description="passes over the weights' images; in every trial, where there are trials")
    batch_size: int = Field(64, ge=2, description="images per step")
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    stratified: bool = STRATIFIED
    train_share: float = Field(
        0.5, gt=0, lt=1, description="share of the images that the weights see; the others judge architectures"
    )
    learning_rate: float = Field(0.025, gt=0, description="A15: learning rate of the weights' SGD at the start")
    learning_rate_min: float = Field(0.001, ge=0, description="A15: learning rate at the end of the cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the weights' SGD")
    weight_decay: float = Field(3e-4, ge=0, description="L2 penalty on all weights, as SGD adds it to the gradient")
    clip_norm: float = Field(
        5.0, gt=0, description="largest norm of the weights' gradient; a longer one is scaled to it"
    )
    pad: int = Field(-1, ge=-1, description="pixels of padding before a random crop; -1: an eighth of the image")
    flip: Flip = FLIP
    stem: StemName = STEM
    seconds: Duration = Field(
        0.0,
        ge=0,
        description='stop after this time, at the end of a step or trial: seconds, or a text such as "5m" or "1h30m"; '
        "0: no limit",
    )
    steps: int = Field(
        0, ge=0, description="stop after the cost of so many steps forward and backward, likewise; 0: no limit"
    )

    def check(self) -> None:
        """Check that these values go together, as far as that depends on no image. Raises InputError."""

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
        self.check()
        settings = self.model_copy(
            update={
                "images": there("search", self.images, count),
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
        check_batches(min(settings.weight_images, validation or settings.images), self.batch_size, parts)
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
        return cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)


class SupernetSettings(SearchSettings):
    """A search whose candidates share the weights of one supernet."""

    learning_rate_cycles: int = Field(
        1, ge=1, le=10, description="cosines of the learning rate, each twice as long as the one before"
    )
    nesterov: bool = Field(False, description="use Nesterov's momentum in SGD")
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
        return cosine(self.learning_rate, self.learning_rate_min, epoch - (start - 1) * unit, start * unit)

    def moves_architecture(self, epoch: int) -> bool:
        """Whether architecture parameters follow gradients in this epoch."""
        return False


class GradientSettings(SupernetSettings):
    """A search that moves architecture parameters along gradients."""

    warmup_epochs: int = Field(-1, ge=-1, description="A14: epochs in which only weights move; -1: 30 % of the epochs")
    architecture_learning_rate: float = Field(
        3e-4,
        ge=0,
        description="A15: learning rate of the architecture parameters' Adam; 0: such that they travel as far as in "
        "the paper",
    )
    architecture_beta1: float = Field(0.5, ge=0, lt=1, description="A15: Adam's decay of its mean of gradients")
    architecture_beta2: float = Field(0.999, ge=0, lt=1, description="A15: Adam's decay of its mean of their squares")
    architecture_weight_decay: float = Field(1e-3, ge=0, description="A17: L2 penalty on the architecture parameters")
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

    def check(self) -> None:
        super().check()
        if self.update == "single-level" and self.order != "architecture-first":
            raise InputError(
                f"search.order={self.order} cannot be used with search.update=single-level, which moves both at once"
            )
        if self.update == "single-level" and self.train_share != GradientSettings().train_share:
            raise InputError(
                f"search.train_share={self.train_share} cannot be used with search.update=single-level, which uses all "
                "images"
            )
        if self.eigenvalue and self.recompute:
            raise InputError(
                "search.eigenvalue cannot be used with search.recompute: second derivatives need all layers"
            )
        if self.warmup >= self.epochs:
            raise InputError(
                f"search.warmup_epochs must be below the {self.epochs} epochs of the search, got {self.warmup}; else "
                "the architecture would never move"
            )

    @property
    def warmup(self) -> int:
        """How many epochs only weights move."""
        return round(0.3 * self.epochs) if self.warmup_epochs < 0 else self.warmup_epochs

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        settings = super().resolved(count, travel, image_size, threads)
        settings = settings.model_copy(update={"warmup_epochs": self.warmup})
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


class TrialSettings(SearchSettings, Recipe):
    """A search that trains every candidate from scratch, shortly."""

    trials: int = Field(100, ge=1, description="how many candidates are trained")
    processes: int = Field(
        0,
        ge=0,
        le=1024,
        description="how many of them at a time, each in a process with its share of the threads; 0: one a thread on "
        "the CPU, else 1",
    )
    final_norm: bool = FINAL_NORM

    def check(self) -> None:
        super().check()
        self.check_recipe("search")

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        settings = super().resolved(count, travel, image_size, threads)
        return settings.model_copy(update={"processes": self.processes or min(threads, self.trials)})

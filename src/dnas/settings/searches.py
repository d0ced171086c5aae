"""Settings of searches."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from typing_extensions import Self

from dnas.errors import InputError
from dnas.settings.recipe import FINAL_NORM, PADDING, Recipe, padding
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
    """Settings shared by all searches. Defaults are those of DARTS on CIFAR-10 (Liu et al. 2019, A.1)."""

    layers: int = Field(8, ge=3, le=1000, description="depth: number of layers of the searched network")
    channels: int = Field(16, ge=2, description="initial channels of the supernet, or of each candidate")
    epochs: int = Field(
        50, ge=1, description="epochs over the images that train the weights; in each trial, if there are trials"
    )
    batch_size: int = Field(64, ge=2, description="number of images per step")
    images: int = Field(0, ge=0, description="use this many training images, drawn by the seed; 0: all")
    stratified: bool = STRATIFIED
    train_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the images that train the weights; the others are for validation of architectures",
    )
    learning_rate: float = Field(0.025, gt=0, description="A15: initial learning rate of SGD for the network weights")
    learning_rate_min: float = Field(0.001, ge=0, description="A15: minimum learning rate of the cosine annealing")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD for the network weights")
    weight_decay: float = Field(3e-4, ge=0, description="weight decay (L2 penalty) of SGD on all network weights")
    clip_norm: float = Field(5.0, gt=0, description="maximum norm for gradient clipping of the network weights")
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
        0,
        ge=0,
        description="stop after compute equal to this many training steps, at the end of a step or trial; 0: no limit",
    )

    def check(self) -> None:
        """Check that these values go together, as far as that depends on no image. Raises InputError."""

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        """Return a copy with all automatic values resolved.

        Args:
            count: Number of training images.
            travel: The distance that an architecture parameter can move, if `architecture_learning_rate` is 0.
            image_size: Side of the images in pixels.
            threads: Number of threads, for automatic numbers of processes.

        Raises:
            InputError: Values that contradict each other.
        """
        self.check()
        settings = self.model_copy(
            update={
                "images": there("search", self.images, count),
                "pad": padding(self.pad, image_size),
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
        """Number of images that train the weights."""
        return round(self.images * self.train_share)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.weight_images / self.batch_size)

    def spent(self, seconds: float, steps: float) -> bool:
        """Return True if so many seconds or step equivalents reach a limit."""
        return (0 < self.seconds <= seconds) or (0 < self.steps <= steps)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch by cosine annealing (Loshchilov & Hutter 2017)."""
        return cosine(self.learning_rate, self.learning_rate_min, epoch, self.epochs)


class SupernetSettings(SearchSettings):
    """Settings of a search whose candidates share the weights of one supernet."""

    learning_rate_cycles: int = Field(
        1, ge=1, le=10, description="cycles of cosine annealing with warm restarts, each twice as long as the last"
    )
    nesterov: bool = Field(False, description="use Nesterov's momentum in SGD")
    parts: int = Field(
        1,
        ge=1,
        description="number of batch splits, each with its own batch-norm statistics [by default: ranks]",
    )
    recompute: bool = Field(
        False, description="activation checkpointing: recompute activations in the backward pass to save memory"
    )
    watch_images: int = Field(
        256,
        ge=0,
        description="after each epoch, compare supernet and derived network on this many validation images; 0: never",
    )

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch by cosine annealing with warm restarts (Loshchilov & Hutter 2017)."""
        units = 2**self.learning_rate_cycles - 1  # cycle c starts after 2^c - 1 of them and takes 2^c
        start = 2 ** ((epoch * units // self.epochs + 1).bit_length() - 1)
        unit = self.epochs / units
        return cosine(self.learning_rate, self.learning_rate_min, epoch - (start - 1) * unit, start * unit)

    def moves_architecture(self, epoch: int) -> bool:
        """Return True if this epoch updates the architecture parameters by gradients."""
        return False


class GradientSettings(SupernetSettings):
    """Settings of a search that updates architecture parameters by gradients."""

    warmup_epochs: int = Field(-1, ge=-1, description="A14: epochs that only update weights; -1: 30% of the epochs")
    architecture_learning_rate: float = Field(
        3e-4,
        ge=0,
        description="A15: learning rate of Adam for the architecture parameters; 0: chosen by the number of steps, so "
        "that a parameter can move as far as in the paper",
    )
    architecture_beta1: float = Field(0.5, ge=0, lt=1, description="A15: β1 of Adam for the architecture parameters")
    architecture_beta2: float = Field(0.999, ge=0, lt=1, description="A15: β2 of Adam for the architecture parameters")
    architecture_weight_decay: float = Field(1e-3, ge=0, description="A17: L2 penalty on the architecture parameters")
    update: Literal["first-order", "second-order", "single-level"] = Field(
        "first-order",
        description="A13: bilevel update with the first-order or second-order gradient, or single-level: weights and "
        "architecture parameters are updated by the same batch of all images",
    )
    order: Literal["architecture-first", "weights-first"] = Field(
        "architecture-first", description="what each step of a bilevel search updates first"
    )
    eigenvalue: bool = Field(
        False,
        description="after each epoch, compute the dominant eigenvalue of the Hessian of the validation loss by the "
        "architecture parameters on one batch, as `eigenvalue` in metrics.jsonl; takes as long as about 100 "
        "native steps",
    )

    def check(self) -> None:
        super().check()
        if self.update == "single-level" and self.order != "architecture-first":
            raise InputError(
                f"search.order={self.order} cannot be used with search.update=single-level, which updates both at once"
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
                "the architecture would never be updated"
            )

    @property
    def warmup(self) -> int:
        """Number of epochs that only update weights."""
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
    """Settings of a search that trains every candidate briefly from scratch."""

    trials: int = Field(100, ge=1, description="number of trials, that is, of trained candidates")
    processes: int = Field(
        0,
        ge=0,
        le=1024,
        description="trials to execute in parallel, each in a process with its share of the threads; 0: one per thread "
        "on the CPU, else 1",
    )
    pad: int = PADDING
    final_norm: bool = FINAL_NORM

    def check(self) -> None:
        super().check()
        self.check_recipe("search")

    def resolved(self, count: int, travel: float, image_size: int, threads: int = 1) -> Self:
        settings = super().resolved(count, travel, image_size, threads)
        return settings.model_copy(update={"processes": self.processes or min(threads, self.trials)})

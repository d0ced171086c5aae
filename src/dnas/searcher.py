"""Runs a gradient method on the training split: images in, an architecture out.

It is handed the training split and nothing else, so no method can see test images. In each step an
architecture step on one half of the images (after the warm-up), then a weight step on the other half
(DARTS, algorithm 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dnas import bilevel
from dnas.architecture import Architecture
from dnas.augment import Augmentation, augment
from dnas.checkpoint import Checkpoint, pack_optimizer, unpack_optimizer
from dnas.config import SearchSettings
from dnas.data import DataInfo, Split, batches, chosen, halves
from dnas.guard import clip, first_bad_gradient, first_bad_layer, require_finite
from dnas.kernels.memory import give_back
from dnas.methods import GradientMethod, Progress
from dnas.session import Captured, Session
from dnas.streams import torch_stream
from dnas.supernet import SkipDropout, build_supernet

STAGE = "search"


@dataclass(frozen=True)
class Batch:
    """Augmented images [B, C, H, W] with labels [B], and the number of this draw within its step."""

    images: Tensor
    labels: Tensor
    draw: int


class Search:
    """The state of a search, and its two steps. `search_architecture` loops over it; so can you.

    Args:
        method: With its options and mapping.
        settings: Resolved, i.e. with every automatic value replaced by its number.
        split, info: Training images and what is known of them.
        seed: Of everything drawn.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        method: GradientMethod,
        settings: SearchSettings,
        split: Split,
        info: DataInfo,
        seed: int,
        device: str,
    ) -> None:
        self.method, self.settings, self.info, self.seed, self.device = method, settings, info, seed, device
        self.pool = chosen(split, settings.images, seed).to(device)
        self.supernet = build_supernet(
            method.space,
            method.operations,
            layers=settings.layers,
            channels=settings.channels,
            classes=len(info.classes),
            inputs=info.channels,
            partial=method.options.partial_channels,
            recompute=settings.recompute,
            seed=seed,
        ).to(device)
        self.mapping = method.mapping(settings.layers, seed).to(device)
        self.weights = list(self.supernet.parameters())
        self.architecture = list(self.mapping.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights,
            settings.learning_rate,
            settings.momentum,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
        self.architecture_optimizer = torch.optim.Adam(
            self.architecture,
            settings.architecture_learning_rate,
            (settings.architecture_beta1, settings.architecture_beta2),
            weight_decay=settings.architecture_weight_decay,
        )
        if settings.update == "single-level":
            self.train_part = self.validation_part = torch.arange(len(self.pool))
        else:
            self.train_part, self.validation_part = halves(len(self.pool), seed)
        self.recipe = Augmentation(settings.pad, info.flip, cutout=0)
        self.sums = dict.fromkeys(("loss", "correct", "validation_loss", "gradient", "decay"), 0.0)
        self._orders: tuple[int, list[Tensor], list[Tensor]] = (-1, [], [])

    # --- where a step is ----------------------------------------------------------------------------------

    def progress(self, step: int) -> Progress:
        return Progress(step // self.settings.steps_per_epoch, self.settings.epochs, self.settings.warmup_epochs)

    def batch(self, step: int, draw: int) -> Batch:
        """The images of a step: draw 0 from the training half, draw 1 from the validation half."""
        epoch, i = divmod(step, self.settings.steps_per_epoch)
        if self._orders[0] != epoch:
            size = self.settings.batch_size
            self._orders = (
                epoch,
                batches(len(self.train_part), size, self.seed, epoch, "order"),
                batches(len(self.validation_part), size, self.seed, epoch, "order-validation"),
            )
        part, order = ((self.train_part, self._orders[1]), (self.validation_part, self._orders[2]))[draw]
        indices = part[order[i % len(order)]].to(self.device)
        generator = torch_stream(self.seed, "augment", step, draw)
        images = augment(self.pool.images, indices, self.recipe, self.info, generator)
        return Batch(images, self.pool.labels[indices], draw)

    # --- losses -------------------------------------------------------------------------------------------

    def logits(self, batch: Batch, step: int, relaxed: bool) -> Tensor:
        """[B, classes]; differentiable in the architecture parameters only where `relaxed`."""
        progress = self.progress(step)
        mixing = self.method.mixing(self.mapping, progress)
        rate = self.method.skip_dropout(progress)
        dropout = SkipDropout(rate, self.seed, (step, batch.draw)) if rate else None
        out: Tensor = self.supernet(batch.images, mixing if relaxed else mixing.detach(), dropout)
        return out

    def architecture_loss(self, batch: Batch, step: int) -> Tensor:
        loss = F.cross_entropy(self.logits(batch, step, relaxed=True), batch.labels)
        penalty = self.method.penalty(self.mapping)
        return loss if penalty is None else loss + penalty

    def weight_loss(self, batch: Batch, step: int) -> Tensor:
        logits = self.logits(batch, step, relaxed=False)
        self.sums["correct"] += float((logits.detach().argmax(1) == batch.labels).sum())
        return F.cross_entropy(logits, batch.labels)

    # --- steps --------------------------------------------------------------------------------------------

    def architecture_step(self, step: int) -> None:
        """Move the architecture parameters; the weights stay as they are, to the bit."""
        batch = self.batch(step, 1)
        if self.settings.update == "second-order":
            train = self.batch(step, 0)
            loss, grads = bilevel.unrolled(
                lambda: F.cross_entropy(self.logits(train, step, relaxed=True), train.labels),
                lambda: self.architecture_loss(batch, step),
                self.architecture,
                self.weights,
                xi=self.settings.rate(self.progress(step).epoch),
                momentum=self.settings.momentum,
                buffers=[self.weight_optimizer.state[w].get("momentum_buffer") for w in self.weights],
                weight_decay=self.settings.weight_decay,
            )
        else:
            loss, grads = bilevel.first_order(
                lambda: self.architecture_loss(batch, step), self.architecture, self.weights
            )
        self._move_architecture(batch, step, loss, grads)

    def weight_step(self, step: int) -> float:
        """Move the weights; the architecture parameters stay as they are, to the bit. Returns the loss."""
        batch = self.batch(step, 0)
        loss, grads = bilevel.gradients(lambda: self.weight_loss(batch, step), self.weights)
        return self._move_weights(batch, step, loss, grads)

    def joint_step(self, step: int) -> float:
        """Move both along the gradients of one batch (single level). Returns the loss."""
        batch = self.batch(step, 0)
        loss, grads = bilevel.gradients(
            lambda: self.architecture_loss(batch, step), [*self.weights, *self.architecture]
        )
        count = len(self.weights)
        self._move_architecture(batch, step, loss, grads[count:])
        return self._move_weights(batch, step, loss, grads[:count])

    def step(self, step: int) -> float:
        """All of one step, 0-based, in DARTS' order: architecture first. Returns the training loss."""
        if self.progress(step).epoch < self.settings.warmup_epochs:
            return self.weight_step(step)
        if self.settings.update == "single-level":
            return self.joint_step(step)
        self.architecture_step(step)
        return self.weight_step(step)

    def _move_architecture(self, batch: Batch, step: int, loss: Tensor, grads: tuple[Tensor, ...]) -> None:
        value = self._checked(batch, step, loss, "the validation loss")
        norm = torch.nn.utils.get_total_norm(grads)
        self.sums["gradient"] += require_finite(
            norm,
            "the architecture's gradient norm",
            STAGE,
            step,
            lambda: first_bad_gradient(self.mapping, grads),
        )
        decay = self.settings.architecture_weight_decay
        self.sums["decay"] += decay * float(torch.nn.utils.get_total_norm([p.detach() for p in self.architecture]))
        self.sums["validation_loss"] += value
        bilevel.apply(self.architecture_optimizer, self.architecture, grads)

    def _move_weights(self, batch: Batch, step: int, loss: Tensor, grads: tuple[Tensor, ...]) -> float:
        value = self._checked(batch, step, loss, "the training loss")
        norm = torch.nn.utils.get_total_norm(grads)
        require_finite(norm, "the gradient norm", STAGE, step, lambda: first_bad_gradient(self.supernet, grads))
        clip(grads, self.settings.clip_norm, norm)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = self.settings.rate(self.progress(step).epoch)
        bilevel.apply(self.weight_optimizer, self.weights, grads)
        self.sums["loss"] += value * len(batch.labels)
        return value

    def _checked(self, batch: Batch, step: int, loss: Tensor, what: str) -> float:
        def where() -> str:
            return first_bad_layer(self.supernet, batch.images, lambda: self.logits(batch, step, relaxed=False))

        return require_finite(loss, what, STAGE, step, where)

    # --- what is kept -------------------------------------------------------------------------------------

    def capture(self) -> Captured:
        """Everything that the next step depends on: tensors and JSON, for a checkpoint."""
        tensors = {f"supernet.{k}": v for k, v in self.supernet.state_dict().items()}
        tensors |= {f"mapping.{k}": v for k, v in self.mapping.state_dict().items()}
        state: dict[str, Any] = {"sums": self.sums}
        for name, optimizer in (
            ("weights", self.weight_optimizer),
            ("architecture", self.architecture_optimizer),
        ):
            packed, state[name] = pack_optimizer(name, optimizer)
            tensors |= packed
        return tensors, state

    def restore(self, checkpoint: Checkpoint) -> None:
        """Be as when the checkpoint was captured."""
        state = checkpoint.state["loop"]
        self.supernet.load_state_dict(checkpoint.part("supernet"))
        self.mapping.load_state_dict(checkpoint.part("mapping"))
        for name, optimizer in self._optimizers():
            unpack_optimizer(name, optimizer, checkpoint.tensors, state[name])
        self.sums = dict(state["sums"])

    def _optimizers(self) -> tuple[tuple[str, torch.optim.Optimizer], ...]:
        return ("weights", self.weight_optimizer), ("architecture", self.architecture_optimizer)

    def epoch_metrics(self, step: int) -> dict[str, Any]:
        """What an epoch that ends with `step` was like; starts the sums anew.

        `entropy` is that of psi within an edge, as a share of the uniform law's; `skips` counts
        skip_connect among the derived operations; `travel` is the largest architecture parameter;
        `gradient_over_decay` compares what Adam adds up: the gradient and the weight decay (A17).
        """
        progress = self.progress(step)
        moved = 0 if progress.epoch < self.settings.warmup_epochs else self.settings.steps_per_epoch
        with torch.no_grad():
            mixing = self.method.mixing(self.mapping, progress)
        share = mixing.operations / mixing.operations.sum(-1, keepdim=True)
        entropy = -(share * share.clamp_min(1e-30).log()).sum(-1).mean() / math.log(share.shape[-1])
        genes = self.method.derive(self.mapping, progress).layers
        skips = sum(op == "skip_connect" for cell in genes for node in cell.nodes for op, _ in node)
        images = len(self.train_part)
        metrics: dict[str, Any] = {
            "stage": STAGE,
            "epoch": progress.epoch + 1,
            "learning_rate": self.settings.rate(progress.epoch),
            "loss": self.sums["loss"] / images,
        }
        if self.settings.update != "single-level" or not moved:
            metrics["accuracy"] = self.sums["correct"] / images
        if moved:
            metrics["validation_loss"] = self.sums["validation_loss"] / moved
            if self.sums["decay"]:
                metrics["gradient_over_decay"] = self.sums["gradient"] / self.sums["decay"]
        metrics["entropy"] = float(entropy)
        metrics["skips"] = skips
        metrics["travel"] = max(float(p.detach().abs().max()) for p in self.architecture)
        self.sums = dict.fromkeys(self.sums, 0.0)
        return metrics


def search_architecture(
    method: GradientMethod,
    settings: SearchSettings,
    split: Split,
    info: DataInfo,
    *,
    seed: int,
    session: Session,
    device: str = "cpu",
) -> tuple[Architecture, dict[str, Tensor]]:
    """Search on the training split; gives the architecture and the architecture parameters behind it.

    Raises:
        RunError: A loss or gradient is not finite.
        Interrupted: A signal came; a checkpoint was written.
    """
    search = Search(method, settings, split, info, seed, device)
    steps = settings.epochs * settings.steps_per_epoch
    checkpoint = session.start(STAGE, f"search ({method.name}, {method.mapping_name})", steps)
    if checkpoint is not None:
        search.restore(checkpoint)
    for step in range(0 if checkpoint is None else checkpoint.state["step"], steps):
        loss = search.step(step)
        if (step + 1) % settings.steps_per_epoch == 0:
            session.metric(**search.epoch_metrics(step))
        session.step_done(step + 1, {"loss": loss}, search.capture)
    give_back()
    architecture = method.derive(search.mapping, Progress(settings.epochs, settings.epochs, settings.warmup_epochs))
    parameters = {k: v.detach().cpu().clone() for k, v in search.mapping.state_dict().items()}
    return architecture, parameters

"""Run a method with a supernet on the training split: images in, an architecture out.

A search only has access to the training split, so no method can use test images. A gradient-based method updates its
architecture parameters on one part of the images (after the warm-up) and the weights on the other part (DARTS,
algorithm 1). A sampling-based method updates the weights of sampled paths, and evaluates them on the other part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.data.augment import Augmentation, mirrors, normalise
from dnas.data.splits import DataInfo, Split, chosen, halves
from dnas.data.streaming import AHEAD
from dnas.kernels.draws import Draws
from dnas.methods.protocol import GradientMethod, Progress, SupernetMethod
from dnas.parts.protocol import Part
from dnas.rng import torch_stream
from dnas.runtime import distributed
from dnas.runtime.checkpoint import Checkpoint, restore_module
from dnas.runtime.session import Captured
from dnas.searching.composition import Closings, perturbed, skip_dropout, those_that_move
from dnas.searching.judging import FORWARD, JUDGED_AT_ONCE, STAGE
from dnas.settings import GradientSettings, SupernetSettings
from dnas.space.architecture import Architecture
from dnas.space.protocol import layer_kinds
from dnas.supernet.build import build_supernet
from dnas.supernet.protocol import Owned, WeightSharing
from dnas.supernet.relaxation import MixingWeights, path
from dnas.supernet.signal import Halves
from dnas.training import updates
from dnas.training.batches import Batch, Batches
from dnas.training.descent import Descent
from dnas.training.guard import first_bad_layer


class Search:
    """The state of a search, and its two steps. `search_supernet` loops over it; other code can do the same.

    Args:
        method: The method with its options and mapping.
        settings: Resolved settings, i.e. with a number for each automatic value.
        split, info: Training images and their description.
        seed: The seed of all random numbers.
        device: "cpu" or "cuda".
        supernet: A replacement for the supernet, called as (images, mixing weights, skip dropout) → logits. By default
            one is built.
        with_parts: Parts added to a gradient-based method, in this order. See `parts/protocol.py`.
    """

    def __init__(
        self,
        method: SupernetMethod,
        settings: SupernetSettings,
        split: Split,
        info: DataInfo,
        seed: int,
        device: str,
        supernet: nn.Module | None = None,
        with_parts: Sequence[Part] = (),
    ) -> None:
        self.with_parts = tuple(with_parts)
        self.method, self.settings, self.info, self.seed, self.device = method, settings, info, seed, device
        self.pool = chosen(split, settings.images, seed, settings.stratified).to(device)
        if supernet is None:
            supernet = build_supernet(
                method.space,
                method.operations,
                layers=settings.layers,
                channels=settings.channels,
                classes=len(info.classes),
                inputs=info.channels,
                stem=settings.stem,
                partial=method.options.partial_channels,
                recompute=settings.recompute,
                seed=seed,
            )
        self.supernet = supernet.to(device)
        self.mapping = method.mapping(settings.layers, seed).to(device)
        self.weights = list(self.supernet.parameters())
        self.architecture = list(self.mapping.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights,
            settings.learning_rate,
            settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            foreach=True,
        )
        self.weight_descent = Descent(
            "supernet", self.supernet, {"weights": self.weight_optimizer}, STAGE, loss="the training loss"
        )
        architecture_optimizer = method.optimizer(self.mapping, settings)
        self.architecture_descent = Descent(
            "mapping",
            self.mapping,
            {} if architecture_optimizer is None else {"architecture": architecture_optimizer},
            STAGE,
            loss="the validation loss",
            norm="the architecture's gradient norm",
        )
        self.halves = Halves(self.architecture).to(device) if isinstance(method, GradientMethod) else None
        # [L, E, O]: if edges have primitives of their own, the others are not executed.
        self.active = None if method.allowed is None else method.allowed[torch.tensor(layer_kinds(settings.layers))]
        if settings.weight_images == len(self.pool):
            self.train_part = self.validation_part = torch.arange(len(self.pool))
        else:
            labels = self.pool.labels if settings.stratified else None
            self.train_part, self.validation_part = halves(len(self.pool), seed, settings.train_share, labels)
        self.recipe = Augmentation(settings.pad, mirrors(settings.flip, info), cutout=0)
        distributed.check_parts(settings.parts, "search")
        self.batches = [
            Batches(
                self.pool,
                part,
                info,
                self.recipe,
                steps=settings.steps_per_epoch,
                size=settings.batch_size,
                parts=settings.parts,
                seed=seed,
                order=order,
                generator=partial(self._augmentation, draw),
            )
            for draw, (part, order) in enumerate(
                ((self.train_part, "order"), (self.validation_part, "order-validation"))
            )
        ]
        self.closings = Closings(method, self.mapping, self._shape)
        self.states = {part.name: part.begin(self) for part in self.with_parts}
        self.correct = 0  # of a step, on this rank
        self._compared: dict[int, tuple[Tensor | None, ...]] = {}  # by draw: gradients of the weights in a step
        self.sums = dict.fromkeys(("loss", "correct", "validation_loss", "gradient", "decay"), 0.0)
        # The cost of the search so far: see `Cost`.
        self.cost = {"step_equivalents": 0.0, "architectures_evaluated": 0}
        self.memory: dict[str, Any] = {}
        self.trained = 0  # steps, of which a limit of time can have left some out
        self.scores: list[float] = []
        self.stopped: Architecture | None = None
        self.derived_accuracy: float | None = None  # of the architecture derived in the last epoch, if it was recorded
        self._executed: Tensor | None = None

    # --- batches of a step --------------------------------------------------------------------------------

    def progress(self, step: int, draw: int = 0) -> Progress:
        settings = self.settings
        warmup = settings.warmup_epochs if isinstance(settings, GradientSettings) else 0
        return Progress(
            step // settings.steps_per_epoch,
            settings.epochs,
            warmup,
            step,
            draw,
            self.seed,
            settings.channels,
            self.info.image_size,
        )

    def batch(self, step: int, draw: int) -> Batch:
        """Return the images of a step: draw 0 from the training half, draw 1 from the validation half."""
        return self.batches[draw].whole(step, draw)

    def _augmentation(self, draw: int, step: int) -> torch.Generator:
        return torch_stream(self.seed, "augment", step, draw)

    def parts(self, step: int, draw: int) -> list[Batch]:
        """Return the batch splits of a step that belong to this rank (see `runtime/distributed.py`)."""
        return self.batches[draw].parts(step, draw)

    # --- losses -------------------------------------------------------------------------------------------

    def logits(self, batch: Batch, step: int, relaxed: bool, bump: Tensor | None = None) -> Tensor:
        """Return logits [B, classes], differentiable in the architecture parameters only if `relaxed`.

        Args:
            bump: Added to the mixing weights of the operations, [L, E, O].
        """
        progress = self.progress(step, batch.draw)
        mixing = self.mixing(progress) if relaxed else self.mixing(progress).detach()
        if bump is not None:
            mixing = replace(mixing, operations=mixing.operations + bump)
        self._executed = mixing.active
        rate = skip_dropout(self.with_parts, self, progress)
        counters = (step, batch.draw) if batch.part is None else (step, batch.draw, batch.part)
        draws = Draws(rate, self.seed, counters) if rate or "noise" in self.method.operations else None
        return self.forward(batch.images, mixing, draws)

    def mixing(self, progress: Progress) -> MixingWeights:
        """Return the method's mixing weights in the data type of the supernet, only for operations that edges have."""
        mixing = self.method.mixing(self.mapping, progress).to(self.weights[0])
        if mixing.active is None and self.active is not None:
            mixing = replace(mixing, active=self.active)
        return self.closings.applied(mixing)

    def forward(self, images: Tensor, mixing: MixingWeights, draws: Draws | None = None) -> Tensor:
        """Return logits [B, classes] of normalized images under any mixing weights, and count the pass in `cost`."""
        passes = 1.0 if torch.is_grad_enabled() else FORWARD
        self.cost["step_equivalents"] += passes * len(images) / self.settings.batch_size
        logits: Tensor = self.supernet(images, mixing, draws)
        return logits

    def architecture_loss(self, batch: Batch, step: int) -> Tensor:
        return sum(self.penalties(batch, step), self.relaxed_loss(batch, step))

    def penalties(self, batch: Batch, step: int) -> list[Tensor]:
        """Return the terms that the method and its parts add to the architecture loss; they do not depend on images."""
        assert isinstance(self.method, GradientMethod)
        progress = self.progress(step, batch.draw)
        added = [self.method.penalty(self.mapping, progress)]
        added += [part.penalty(self, progress) for part in self.with_parts]
        return [penalty for penalty in added if penalty is not None]

    def relaxed_loss(self, batch: Batch, step: int) -> Tensor:
        return F.cross_entropy(self.logits(batch, step, relaxed=True), batch.labels)

    def training_slopes(self, step: int) -> Sequence[Tensor]:
        """Return the gradients of the training loss in the architecture parameters, on images of the weight step."""
        loss = self.over_parts(self.relaxed_loss, self.parts(step, 0), step)
        return updates.first_order(loss, self.architecture, self.weights)[1]

    def training_gradients(self, step: int, bump: Tensor) -> Sequence[Tensor | None]:
        """Return the gradients in the weights on the same images, with `bump` [L, E, O] added to the mixing weights."""
        loss = self.over_parts(partial(self.weight_loss, bump=bump), self.parts(step, 0), step)
        return updates.sparse_gradients(loss, self.weights)[1]

    def weight_loss(self, batch: Batch, step: int, bump: Tensor | None = None) -> Tensor:
        logits = self.logits(batch, step, relaxed=False, bump=bump)
        self.correct += int((logits.detach().argmax(1) == batch.labels).sum())
        return F.cross_entropy(logits, batch.labels)

    def over_parts(self, loss: Callable[[Batch, int], Tensor], parts: Sequence[Batch], step: int) -> updates.Loss:
        """Return the loss of a whole batch, in the form that `updates` takes, from those of its splits."""

        def terms() -> Iterator[Tensor]:
            before = self.cost["step_equivalents"]
            for part in parts:
                yield part.weight * loss(part, step)
            # Computed by all ranks, and available on each.
            self.cost["step_equivalents"] = before + parts[0].of / self.settings.batch_size

        return terms if self.settings.parts > 1 else lambda: loss(parts[0], step)

    @torch.no_grad()
    def judge(
        self, what: Architecture | MixingWeights, images: int | None = None, first: int = 0
    ) -> tuple[float, float]:
        """Return the accuracy and cross-entropy of one architecture, executed by itself, or of mixing weights.

        They are measured with the weights of the supernet on `images` validation images without augmentation, starting
        at `first` and wrapping around. Batch norms use the statistics of up to 256 of these images at a time, so each
        architecture is evaluated with its own statistics, as after a recalibration (Guo et al. 2020, §3.2).
        """
        if isinstance(what, Architecture):
            self.cost["architectures_evaluated"] += 1
            what = path(what, self.method.operations, self.method.space).to(self.weights[0])
        part = self.validation_part.roll(-first)[:images]
        # Sums of correct predictions and of losses; on the device, to synchronize with it only once.
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        before = self.cost["step_equivalents"]
        chunks = part.chunk(math.ceil(len(part) / JUDGED_AT_ONCE))[distributed.rank() :: distributed.count()]
        for k, indices in enumerate(chunks):
            batch = self.pool.batch(indices, chunks[k + 1 : k + 1 + AHEAD])
            logits = self.forward(normalise(batch, self.info), what)
            labels = self.pool.labels[indices.to(self.device)]
            sums += torch.stack([(logits.argmax(1) == labels).sum(), F.cross_entropy(logits, labels, reduction="sum")])
        self.cost["step_equivalents"] = before + FORWARD * len(part) / self.settings.batch_size
        correct, loss = map(distributed.number, sums.tolist())
        return correct / len(part), loss / len(part)

    def accuracy(self, what: Architecture | MixingWeights, images: int | None = None, first: int = 0) -> float:
        """Return the accuracy as `judge` does."""
        return self.judge(what, images, first)[0]

    # --- steps --------------------------------------------------------------------------------------------

    def architecture_step(self, step: int) -> None:
        """Update the architecture parameters; the weights do not change."""
        assert isinstance(self.settings, GradientSettings)
        parts = self.parts(step, 1)
        validation_loss = self.over_parts(self.architecture_loss, parts, step)
        if self.settings.update == "second-order":
            loss, grads = updates.unrolled(
                self.over_parts(self.relaxed_loss, self.parts(step, 0), step),
                validation_loss,
                self.architecture,
                self.weights,
                xi=self.settings.rate(self.progress(step).epoch),
                momentum=self.settings.momentum,
                buffers=[self.weight_optimizer.state[w].get("momentum_buffer") for w in self.weights],
                weight_decay=self.settings.weight_decay,
            )
        elif any(part.compares for part in self.with_parts):
            count = len(self.architecture)
            loss, found = updates.sparse_gradients(validation_loss, [*self.architecture, *self.weights])
            grads, self._compared[1] = updates.filled(found[:count], self.architecture), found[count:]
        else:
            loss, grads = updates.first_order(validation_loss, self.architecture, self.weights)
        self._move_architecture(parts[0], step, loss, grads)

    def weight_step(self, step: int) -> float:
        """Update the weights and return the loss; the architecture parameters do not change."""
        parts = self.parts(step, 0)
        with perturbed(self.with_parts, self, step):
            self.correct = 0
            curious = [part for part in self.with_parts if part.wants_slopes(self, step)]
            bump = torch.zeros(self._shape, device=self.device, requires_grad=True) if curious else None
            wanted: list[Tensor] = [*self.weights] if bump is None else [*self.weights, bump]
            loss, found = updates.sparse_gradients(
                self.over_parts(partial(self.weight_loss, bump=bump), parts, step), wanted
            )
            grads = found[: len(self.weights)]
            self.sums["correct"] += distributed.number(self.correct)
            if any(part.compares for part in self.with_parts):
                self._compared[0] = tuple(None if g is None else g.clone() for g in grads)
            for part in curious:
                (slopes,) = updates.filled(found[-1:], wanted[-1:])
                grads = updates.added(grads, part.weight_gradients(self, step, slopes))
        return self._move_weights(parts[0], step, loss, grads)

    def joint_step(self, step: int) -> float:
        """Update both by the gradients of one batch (single level) and return the loss."""
        parts = self.parts(step, 0)
        loss, grads = updates.sparse_gradients(
            self.over_parts(self.architecture_loss, parts, step), [*self.weights, *self.architecture]
        )
        count = len(self.weights)
        self._move_architecture(parts[0], step, loss, updates.filled(grads[count:], self.architecture))
        return self._move_weights(parts[0], step, loss, grads[:count])

    def step(self, step: int) -> float:
        """Take one whole step, 0-based, and return the training loss."""
        settings = self.settings
        self.closings.add(*(part.closing(self, step) for part in self.with_parts))
        if not settings.moves_architecture(self.progress(step).epoch):
            loss = self.weight_step(step)
        elif isinstance(settings, GradientSettings) and settings.update == "single-level":
            loss = self.joint_step(step)
        elif isinstance(settings, GradientSettings) and settings.order == "weights-first":
            loss = self.weight_step(step)
            self.architecture_step(step)
        else:
            self.architecture_step(step)
            loss = self.weight_step(step)
        if len(self._compared) == 2:
            for part in self.with_parts:
                part.compare(self, self._compared[0], self._compared[1])
        self._compared.clear()
        self.trained = step + 1
        return loss

    def follow(self, loss: Tensor) -> None:
        """Update the method's own parameters to reduce a loss that it computed (`SupernetMethod.after_epoch`)."""
        self.architecture_descent.move(updates.gradients_of(loss, self.architecture))

    def _move_architecture(self, batch: Batch, step: int, loss: Tensor, grads: tuple[Tensor, ...]) -> None:
        assert isinstance(self.method, GradientMethod) and isinstance(self.settings, GradientSettings)
        length = float(torch.nn.utils.get_total_norm([p.detach() for p in self.architecture]))
        assert self.halves is not None
        self.halves.add(step, self._of_data(batch, step, grads))
        taken = self.architecture_descent.step(step, loss, grads, self._first_bad(batch, step))
        self.sums["gradient"] += taken.norm
        self.sums["decay"] += self.settings.architecture_weight_decay * length
        self.sums["validation_loss"] += taken.loss
        with torch.no_grad():
            self.method.project(self.mapping)

    def _of_data(self, batch: Batch, step: int, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the gradients of the loss without those of the penalties."""
        penalties = self.penalties(batch, step)
        if not penalties:
            return grads
        added = updates.gradients_of(sum(penalties[1:], penalties[0]), self.architecture)
        return tuple(g - own for g, own in zip(grads, added, strict=True))

    def _move_weights(self, batch: Batch, step: int, loss: Tensor, grads: Sequence[Tensor | None]) -> float:
        """Update the weights, except those of operations that the loss did not execute, which do not change."""
        moving, grads = those_that_move(self.with_parts, self, self._executed, grads)
        sharing = self.supernet if isinstance(self.supernet, WeightSharing) else None
        parts = sharing.parts(moving) if sharing is not None and moving is not None else None
        taken = self.weight_descent.step(
            step,
            loss,
            grads,
            self._first_bad(batch, step),
            rates={"weights": self.settings.rate(self.progress(step).epoch)},
            clip_norm=self.settings.clip_norm,
            parts=parts,
        )
        self.sums["loss"] += taken.loss * batch.of
        return taken.loss

    def owned(self) -> Iterable[Owned]:
        """Return the weights that belong to operations."""
        return self.supernet.owned() if isinstance(self.supernet, WeightSharing) else ()

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Return L, E and O."""
        return self.settings.layers, len(self.method.space.edges), len(self.method.operations)

    def _first_bad(self, batch: Batch, step: int) -> Callable[[], str]:
        """Return a function that finds where the loss of a batch first became non-finite."""
        again = partial(self.logits, batch, step, relaxed=False)
        return partial(first_bad_layer, self.supernet, batch.images, again)

    # --- checkpoints --------------------------------------------------------------------------------------

    def capture(self) -> Captured:
        """Return the state that the next step depends on, as tensors and JSON for a checkpoint."""
        weights, weights_state = self.weight_descent.capture()
        architecture, architecture_state = self.architecture_descent.capture()
        kept = {f"part.{name}.{key}": value for name, state in self.states.items() for key, value in state.items()}
        kept |= {"closings.closed": self.closings.closed} if self.with_parts else {}
        if self.halves is not None:
            kept |= {f"halves.{key}": value for key, value in self.halves.state_dict().items()}
        state: dict[str, Any] = {
            "sums": self.sums,
            "cost": self.cost,
            "memory": self.memory,
            "trained": self.trained,
            "scores": self.scores,
            "derived_accuracy": self.derived_accuracy,
            "stopped": None if self.stopped is None else self.stopped.to_json(),
        }
        return weights | architecture | kept, state | weights_state | architecture_state

    def restore(self, checkpoint: Checkpoint) -> int:
        """Restore the state of a checkpoint and return the number of steps taken before it."""
        state = checkpoint.state["loop"]
        self.weight_descent.restore(checkpoint)
        self.architecture_descent.restore(checkpoint)
        if self.halves is not None:
            restore_module(checkpoint, "halves", self.halves)
        self.closings.restore(checkpoint.part("closings"))
        for name, begun in self.states.items():
            for key, value in checkpoint.part(f"part.{name}").items():
                begun[key].copy_(value)
        self.sums, self.cost, self.memory = dict(state["sums"]), dict(state["cost"]), dict(state["memory"])
        self.trained, self.scores = int(state["trained"]), list(state["scores"])
        self.derived_accuracy = state["derived_accuracy"]
        self.stopped = None if state["stopped"] is None else Architecture.from_json(state["stopped"])
        return self.trained

"""Finals: successive halving of candidate networks, evaluated on held-out training images.

Each entrant starts a full training with the settings that it would have as the winner. After a share of its steps it
is evaluated, the better half continues, and so on. The training of the winner continues from its current state, on all
images. So no step of the winner is lost, and since fast networks may take more steps in the same time, candidates are
compared at equal time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.data.augment import normalise
from dnas.data.splits import DataInfo, Split, chosen, halves
from dnas.errors import Diverged, InputError
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.names import FINALS_STAGE
from dnas.runtime.session import Captured, Session
from dnas.searching.judging import JUDGED_AT_ONCE
from dnas.settings import SMALLEST_IMAGE, TrainSettings, check_batches
from dnas.space.architecture import Architecture
from dnas.training.build import built
from dnas.training.trainer import Training

# The share of its training that an entrant has completed after the last round; that of each earlier round is half as
# large.
LAST_SHARE = 0.02
# A fifth of the training images is held out for evaluation, but no more than this many.
HELD_OUT_SHARE, HELD_OUT_IMAGES = 0.2, 2_000
# With fewer held-out images, finals are only held on request.
LEAST_JUDGES = 100


@dataclass(frozen=True)
class Entrant:
    """An architecture, the settings to train it with if it wins, and its origin."""

    architecture: Architecture
    settings: TrainSettings
    origin: str


@dataclass(frozen=True)
class Round:
    """The number of entrants in a round, and the share of their steps after which they are evaluated."""

    entrants: int
    share: float


def rounds(count: int) -> list[Round]:
    """Return the rounds: each has half the entrants of the one before, down to two, and twice the share of steps."""
    sizes = [count]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return [Round(size, LAST_SHARE / 2 ** (len(sizes) - 1 - k)) for k, size in enumerate(sizes)]


def beside(count: int) -> float:
    """Return the cost of finals in addition to the training of the winner, as a share of the steps of one training."""
    programme = rounds(count)
    before = [0.0, *(each.share for each in programme)]
    shares = sum(each.entrants * (each.share - done) for each, done in zip(programme, before, strict=False))
    return shares - programme[-1].share


def held_out(images: int) -> int:
    """Return the number of training images held out for evaluation."""
    return min(HELD_OUT_IMAGES, round(HELD_OUT_SHARE * images))


def tell_apart(images: int, batch_size: int) -> bool:
    """Return True if there are enough training images to train on some and evaluate on the others."""
    judges = held_out(images)
    return judges >= LEAST_JUDGES and images - judges >= batch_size


def check_images(images: int, batch_size: int) -> None:
    """Raise InputError if there are too few training images to hold some out."""
    judges = held_out(images)
    if judges < 2:
        raise InputError(f"--finals holds out a fifth of {images} training images, which is too few; give --finals 0")
    check_batches(images - judges, batch_size, 1)


class Finals:
    """The state of the finals.

    Attributes:
        scores: The accuracies of each entrant in the rounds that it took part in; None if its training diverged.
        trainings: The trainings of the remaining entrants, by number.
        taken: The number of training steps that each has completed.
    """

    def __init__(
        self, entrants: Sequence[Entrant], split: Split, info: DataInfo, seed: int, device: str, half: bool
    ) -> None:
        self.entrants, self.info, self.seed, self.device = entrants, info, seed, device
        settings = entrants[0].settings
        split = chosen(split, settings.images, seed, settings.stratified)
        labels = split.labels if settings.stratified else None
        trained, judged = halves(len(split), seed, 1 - held_out(len(split)) / len(split), labels)
        self.pool, self.judges = split.subset(trained), _sized(split.subset(judged), half)
        self.scores: list[list[float | None]] = [[] for _ in entrants]
        self.trainings: dict[int, Training] = {}
        self.taken = [0] * len(entrants)

    def training(self, number: int) -> Training:
        """Return the training of an entrant, and start it if it has not started yet."""
        if number not in self.trainings:
            entrant = self.entrants[number]
            network = built(entrant.architecture, entrant.settings, self.info, self.seed)
            # Epochs are as long as those of the full training, so that its schedules stay valid.
            self.trainings[number] = Training(
                network, entrant.settings, self.pool, self.info, self.seed, FINALS_STAGE, self.device
            )
        return self.trainings[number]

    def judged(self, number: int, share: float, stepped: Callable[[float], None]) -> float | None:
        """Train an entrant up to a share of its steps and return its accuracy, or None if its training diverged.

        Args:
            stepped: Called with the loss after each step.
        """
        if None in self.scores[number]:
            return None
        training, settings = self.training(number), self.entrants[number].settings
        try:
            for step in range(self.taken[number], round(share * settings.step_count)):
                loss = training.step(step)
                self.taken[number] = step + 1
                if (step + 1) % settings.steps_per_epoch == 0:
                    training.end_epoch(step)
                stepped(loss)
        except Diverged:
            return None
        balanced = settings.class_weights == "balanced"
        return accuracy_of_batches(training.network, self.judges, self.info, self.device, balanced)

    def ahead(self, round_: int, count: int) -> list[int]:
        """Return the numbers of the best `count` entrants of a round; of equal ones, the first."""
        known = {number: scores[round_] for number, scores in enumerate(self.scores) if len(scores) > round_}
        worth = {number: -1.0 if score is None else score for number, score in known.items()}
        return sorted(sorted(worth, key=lambda number: -worth[number])[:count])

    def capture(self) -> Captured:
        tensors: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for number, training in self.trainings.items():
            held, states[str(number)] = training.capture()
            tensors |= {f"{number}.{name}": tensor for name, tensor in held.items()}
        return tensors, {"scores": self.scores, "taken": self.taken, "trainings": states}

    def restore(self, checkpoint: Checkpoint) -> None:
        loop = checkpoint.state["loop"]
        self.scores = [list(scores) for scores in loop["scores"]]
        self.taken = list(loop["taken"])
        for number, state in loop["trainings"].items():
            part = Checkpoint(checkpoint.sequence, checkpoint.part(number), {"step": 0, "loop": state})
            self.training(int(number)).restore(part)


def hold_finals(
    entrants: Sequence[Entrant], split: Split, info: DataInfo, *, seed: int, session: Session, device: str = "cpu"
) -> tuple[int, list[list[float | None]]]:
    """Hold the finals. Return the number of the winner, and the accuracies of all entrants by round.

    The session passes on the training of the winner. The settings are resolved; their numbers of steps take equal time.

    Raises:
        Diverged: The trainings of all entrants diverged.
        Interrupted: A signal came; a checkpoint was written.
    """
    programme = rounds(len(entrants))
    half = all(entrant.settings.half_size >= LAST_SHARE for entrant in entrants)
    finals = Finals(entrants, split, info, seed, device, half)
    blocks = sum(each.entrants for each in programme)
    checkpoint = session.start(FINALS_STAGE, "finals", blocks)
    if checkpoint is not None:
        finals.restore(checkpoint)
    done = sum(map(len, finals.scores))
    ahead, block = list(range(len(entrants))), 0

    def stepped(loss: float) -> None:
        session.step_done(sum(map(len, finals.scores)), {"loss": loss}, finals.capture)

    for k, each in enumerate(programme):
        if k:
            ahead = finals.ahead(k - 1, each.entrants)
            finals.trainings = {number: finals.trainings[number] for number in ahead if number in finals.trainings}
        for number in ahead:
            block += 1
            if block <= done:
                continue
            score = finals.judged(number, each.share, stepped)
            finals.scores[number].append(score)
            session.step_done(block, {} if score is None else {"accuracy": score}, finals.capture)
    (winner,) = finals.ahead(len(programme) - 1, 1)
    if finals.scores[winner][-1] is None:
        raise Diverged(f"the training of each of the {len(entrants)} candidates diverged; lower train.learning_rate")
    captured = finals.training(winner).capture()
    session.complete({"winner": winner, "accuracies": finals.scores}, captured, finals.taken[winner])
    return winner, finals.scores


@torch.no_grad()
def accuracy_of_batches(network: nn.Module, split: Split, info: DataInfo, device: str, balanced: bool = False) -> float:
    """Return the accuracy of a network in training, without changing it; `balanced`: the mean recall over classes.

    Batch norms use the statistics of up to 256 of these images at a time: after a few steps their running means are
    still close to those of the initial weights.
    """
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    right = torch.zeros(len(info.classes), dtype=torch.int64)
    for indices in torch.arange(len(split)).chunk(math.ceil(len(split) / JUDGED_AT_ONCE)):
        images = normalise(split.batch(indices).to(device), info).contiguous(memory_format=torch.channels_last)
        out = network(images)
        logits = out[0] if isinstance(out, tuple) else out
        labels = split.labels[indices]
        right += torch.bincount(labels[logits.argmax(1).cpu() == labels], minlength=len(right))
    torch._foreach_copy_(buffers, before)
    if not balanced:
        return int(right.sum()) / len(split)
    each = torch.bincount(split.labels, minlength=len(right))
    return float((right[each > 0] / each[each > 0]).double().mean())


def _sized(split: Split, half: bool) -> Split:
    """Return the held-out images in memory, at the size that the entrants were trained on."""

    def sized(images: Tensor) -> Tensor:
        if not half:
            return images
        side = max(SMALLEST_IMAGE, images.shape[-1] // 2)
        return F.interpolate(images.float(), size=(side, side), mode="area").round().to(torch.uint8)

    parts = torch.arange(len(split)).chunk(math.ceil(len(split) / JUDGED_AT_ONCE))
    return Split(torch.cat([sized(split.batch(part)) for part in parts]), split.labels)

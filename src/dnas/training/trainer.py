"""Train and test a network: the same trainer for every architecture and for reference networks.

By default as in DARTS: SGD with cosine annealing, cutout, an auxiliary loss, linearly increasing drop path and gradient
clipping (Liu et al. 2019, A.2). The reported accuracy is that of the last epoch on the test split; nothing is selected
by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnas.data.augment import Augmentation, mirrors, normalise
from dnas.data.splits import DataInfo, Split, chosen
from dnas.data.streaming import AHEAD
from dnas.kernels.memory import give_back
from dnas.network.network import Network, drop_path
from dnas.rng import torch_stream
from dnas.runtime import distributed
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Captured, Session
from dnas.settings import SMALLEST_IMAGE, NetworkTrainSettings, TrainSettings
from dnas.training.accuracy import TEST_BATCH
from dnas.training.average import WeightMean, renew_statistics
from dnas.training.batches import Batch, Batches
from dnas.training.build import NetworkType, to_device
from dnas.training.descent import Descent
from dnas.training.guard import first_bad_layer
from dnas.training.loop import run_steps
from dnas.training.loss import balanced_weights, cross_entropy
from dnas.training.optimizers import optimizers, rates
from dnas.training.updates import filled, sparse_gradients


def train_network(
    network: NetworkType,
    settings: NetworkTrainSettings,
    split: Split,
    info: DataInfo,
    *,
    seed: int,
    session: Session,
    stage: str = "train",
    title: str = "train",
    device: str = "cpu",
    begun: Checkpoint | None = None,
) -> NetworkType:
    """Train a network in place on the training split, and return it, on the device.

    Args:
        network: Images → logits. A `Network` may have an auxiliary head and drop path.
        settings: Resolved settings, without automatic values. For a `Network`, its TrainSettings.
        begun: Result of `Training.capture` of the same training after its first steps.

    Raises:
        RunError: A loss or gradient is not finite.
        Interrupted: A signal was received; a checkpoint was written.
    """
    training = Training(network, settings, split, info, seed, stage, device)
    run_steps(
        training,
        session,
        stage,
        title,
        steps=settings.step_count,
        steps_per_epoch=settings.steps_per_epoch,
        end_epoch=training.end_epoch,
        begun=begun,
    )
    training.finish()
    give_back()
    return network


class Training:
    """State of a training, and its step. `train_network` loops over it."""

    def __init__(
        self,
        network: nn.Module,
        settings: NetworkTrainSettings,
        split: Split,
        info: DataInfo,
        seed: int,
        stage: str,
        device: str,
    ) -> None:
        distributed.check_parts(settings.parts, "train")
        self.settings, self.seed, self.stage, self.device = settings, seed, stage, device
        pool = chosen(split, settings.images, seed, settings.stratified).to(device)
        self.network = to_device(network, device)
        self.network.train()
        self.descent = Descent("network", self.network, optimizers(self.network, settings), stage)
        self.mean = WeightMean(self.network)
        self.pool, self.info = pool, info
        balanced = settings.class_weights == "balanced"
        self.class_weights = balanced_weights(pool.labels, len(info.classes)) if balanced else None
        self.sums = {"loss": 0.0, "correct": 0.0, "images": 0.0}  # sums over the epoch so far
        self.batches = Batches(
            pool,
            torch.arange(len(pool)),
            info,
            Augmentation(
                settings.padding(info.image_size),
                mirrors(settings.flip, info),
                settings.cutout_side(info.image_size),
                settings.rotation,
                settings.color_shift,
            ),
            steps=settings.steps_per_epoch,
            size=settings.batch_size,
            parts=settings.parts,
            seed=seed,
            order="order-train",
            generator=partial(torch_stream, seed, "augment-train"),
            alternate=settings.flip == "alternate",
        )

    def step(self, step: int) -> float:
        """Update the weights in a step (0-based). Returns the loss."""
        settings, network, parameters = self.settings, self.network, self.descent.parameters
        epoch = step // settings.steps_per_epoch
        parts = self.batches.parts(step)
        paths = None
        if rate := settings.drop_path_rate(epoch):
            assert isinstance(network, Network)
            draw = torch_stream(self.seed, "drop-path", step)
            paths = drop_path(network, parts[0].of, rate, draw).to(self.device)
        half = step < settings.half_size_steps
        inputs = [_inputs(part, paths, half) for part in parts]
        right: list[int] = []
        losses = partial(_losses, network, parts, inputs, settings, self.class_weights, self.device, right)
        loss, grads = sparse_gradients(losses, parameters)
        taken = self.descent.step(
            step,
            loss,
            filled(grads, parameters),
            partial(first_bad_layer, network, inputs[0][0], partial(network, *inputs[0])),
            rates=rates(settings, self.descent.optimizers, step),
            clip_norm=settings.clip_norm,
        )
        averaged = step - (settings.step_count - settings.average_steps)
        if averaged >= 0:
            self.mean.add(averaged)
        self.sums["images"] += parts[0].of
        self.sums["loss"] += taken.loss * parts[0].of
        self.sums["correct"] += distributed.number(sum(right))
        return taken.loss

    def end_epoch(self, step: int) -> dict[str, Any]:
        """Return the metrics of the epoch that ends with `step`, and reset the sums."""
        epoch = step // self.settings.steps_per_epoch
        images = self.sums["images"]
        metrics = {
            "stage": self.stage,
            "epoch": epoch + 1,
            "learning_rate": self.settings.rate(step),
            "loss": self.sums["loss"] / images,
            "accuracy": self.sums["correct"] / images,
        }
        self.sums = dict.fromkeys(self.sums, 0.0)
        return metrics

    def finish(self) -> None:
        """After the last step, set the weights of the network to their average, if averaging is on."""
        if self.settings.average_steps:
            self.mean.take()
            renew_statistics(self.network, self._plain_batches(), self.device)

    def _plain_batches(self) -> Iterator[Tensor]:
        """Yield some of the images without augmentation, as in a test, for which the statistics are needed."""
        # Drawn at random, since images of a class may be adjacent.
        drawn = torch.randperm(len(self.pool), generator=torch_stream(self.seed, "statistics"))
        drawn = drawn[: self.settings.statistics_images]
        batches = drawn.tensor_split(-(-len(drawn) // TEST_BATCH))
        for k, indices in enumerate(batches):
            images = self.pool.batch(indices, batches[k + 1 : k + 1 + AHEAD])
            yield normalise(images, self.info).contiguous(memory_format=torch.channels_last)

    def capture(self) -> Captured:
        """Return everything that the next step depends on, as tensors and JSON, for a checkpoint."""
        tensors, state = self.descent.capture()
        return tensors | self.mean.capture(), state | {"sums": self.sums}

    def restore(self, checkpoint: Checkpoint) -> int:
        """Restore the state of a checkpoint. Returns the number of steps taken."""
        self.descent.restore(checkpoint)
        self.mean.restore(checkpoint)
        step = int(checkpoint.state["step"])
        # Checkpoints of versions without finals do not have this sum, which was then the whole epoch.
        self.sums = {"images": self.batches.seen(step), **checkpoint.state["loop"]["sums"]}
        return step


def _inputs(part: Batch, paths: Tensor | None, half: bool) -> tuple[Tensor, ...]:
    """Return the inputs of the network for a part.

    Images, reduced to half their side length if `half`, and, with drop path, the factors [layers, edges, B].
    """
    images = part.images
    if half:
        images = F.interpolate(images, size=[max(SMALLEST_IMAGE, side // 2) for side in images.shape[2:]], mode="area")
    images = images.contiguous(memory_format=torch.channels_last)
    if paths is None:
        return (images,)
    first = part.part or 0
    return images, paths[:, :, first : first + len(images)]


def _losses(
    network: nn.Module,
    parts: Sequence[Batch],
    inputs: Sequence[tuple[Tensor, ...]],
    settings: NetworkTrainSettings,
    class_weights: Tensor | None,
    device: str,
    right: list[int],
) -> Iterator[Tensor]:
    """Yield the share of each part in the loss, and append its number of correct predictions to `right`."""
    with part_statistics(network, settings.parts) as forward:
        for part, taken in zip(parts, inputs, strict=True):
            with forward(part.weight), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                logits, loss = _loss(network, taken, part.labels, settings, class_weights)
            right.append(int((logits.detach().argmax(1) == part.labels).sum()))
            yield loss if settings.parts == 1 else part.weight * loss


@contextmanager
def part_statistics(network: nn.Module, parts: int) -> Iterator[Callable[[float], AbstractContextManager[None]]]:
    """Compute a batch within the block, and each part within the inner block of its weight.

    Afterwards, running statistics are the mean of those that each part would have produced by itself, on any rank.
    """
    if parts == 1 or not list(network.buffers()):
        yield lambda weight: nullcontext()
        return
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    running = [buffer for buffer in buffers if buffer.is_floating_point()]
    means = [torch.zeros_like(buffer) for buffer in running]

    @contextmanager
    def forward(weight: float) -> Iterator[None]:
        torch._foreach_copy_(buffers, before)
        yield
        torch._foreach_add_(means, running, alpha=weight)

    yield forward
    torch._foreach_copy_(running, [mean for mean in distributed.total(means) if mean is not None])


def _loss(
    network: nn.Module,
    inputs: Sequence[Tensor],
    labels: Tensor,
    settings: NetworkTrainSettings,
    class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the logits of a batch, and its loss."""
    out = network(*inputs)
    logits, auxiliary = out if isinstance(out, tuple) else (out, None)
    loss = cross_entropy(logits, labels, settings.label_smoothing, class_weights)
    if auxiliary is not None:
        assert isinstance(settings, TrainSettings)
        extra = cross_entropy(auxiliary, labels, settings.label_smoothing, class_weights)
        loss = loss + settings.auxiliary_weight * extra
    return logits, loss

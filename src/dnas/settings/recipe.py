"""How weights are trained from scratch: those of the final network, and those of a candidate in a trial."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from dnas.errors import InputError
from dnas.settings.values import Settings

FINAL_NORM: Any = Field(
    False, description="normalize the output of the last layer, so that every architecture starts with logits near 1"
)

# Values of pad that are replaced by those of `padding`.
PAD_BY_SIZE, PAD_BY_PASSES = -1, -2
PADDING: Any = Field(
    PAD_BY_SIZE,
    ge=PAD_BY_PASSES,
    description="pixels of padding before a random crop; -1: an eighth of the image; -2: chosen by the number of "
    "epochs, from none up to 2 epochs to an eighth of the image from 50 epochs on",
)
UNCROPPED_PASSES, CROPPED_PASSES = 2, 50


def ramp(passes: float, first: float, last: float) -> float:
    """Return 0 up to `first` epochs, 1 from `last` on, and in between linearly in the logarithm of the epochs."""
    return min(1.0, max(0.0, math.log(passes / first) / math.log(last / first)))


def padding(pad: int, image_size: int, passes: float = 0.0) -> int:
    """Return the pixels of padding before a random crop, for a setting `pad`.

    With `PAD_BY_PASSES`, it grows linearly in the logarithm of the epochs: random crops show images that were seen
    before in another way, but what is cut off is missing if an image is only seen a few times. Without `passes`, the
    setting is kept, since a budget plans the epochs later.
    """
    if pad == PAD_BY_SIZE:
        return round(image_size / 8)
    if pad != PAD_BY_PASSES or not passes:
        return pad
    return round(ramp(passes, UNCROPPED_PASSES, CROPPED_PASSES) * image_size / 8)


BY_PASSES = -1.0  # a value of other settings that are chosen by the number of epochs


def or_by_passes(value: float) -> float:
    """Check a setting that is at least 0 or `BY_PASSES`."""
    if value < 0 and value != BY_PASSES:
        raise ValueError(f"must be at least 0, or -1 to choose it by the number of epochs, got {value}")
    return value


class Recipe(Settings):
    """Optimizer, schedule and loss. Defaults are those of DARTS."""

    schedule: Literal["cosine", "exponential", "linear"] = Field(
        "cosine",
        description="learning rate schedule. cosine: per epoch, along half a cosine; exponential: per epoch, by a "
        "constant factor; linear: per step, up to the maximum and then down",
    )
    decay: float = Field(
        0.97, gt=0, le=1, description="factor of the learning rate per epoch, with schedule=exponential"
    )
    warmup: float = Field(
        0.2, ge=0, lt=1, description="share of all steps in which the learning rate rises, with schedule=linear"
    )
    nesterov: bool = Field(False, description="use Nesterov's momentum in SGD")
    optimizer: Literal["sgd", "muon"] = Field(
        "sgd",
        description="sgd: SGD for all weights; muon: Muon for convolutions except depthwise ones, SGD for the rest",
    )
    muon_learning_rate: float = Field(
        0.05, gt=0, description="initial learning rate of Muon, with optimizer=muon; it follows the schedule of SGD"
    )
    muon_weight_decay: Annotated[float, AfterValidator(or_by_passes)] = Field(
        0.0,
        description="share by which Muon shrinks its weights per step and learning rate, with optimizer=muon; -1: "
        "chosen by the number of epochs, from none up to 25 epochs to 0.2 from 50 epochs on",
    )
    norm_decay: bool = Field(True, description="apply weight_decay also to batch norms and biases")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label that is spread over all classes")

    def check_recipe(self, section: str) -> None:
        """Check that values which depend on others apply. Raises InputError."""
        for name, needs, values in (
            ("decay", "schedule", ("exponential",)),
            ("learning_rate_min", "schedule", ("cosine", "linear")),
            ("warmup", "schedule", ("linear",)),
            ("muon_learning_rate", "optimizer", ("muon",)),
            ("muon_weight_decay", "optimizer", ("muon",)),
        ):
            value, chosen = getattr(self, name), getattr(self, needs)
            # What presets leave to the number of epochs applies as soon as something it depends on does.
            if chosen not in values and value not in (type(self).model_fields[name].default, BY_PASSES):
                raise InputError(
                    f"{section}.{name}={value} only applies to {section}.{needs}={' or '.join(values)}, not {chosen}; "
                    f"remove it or change the {needs}"
                )

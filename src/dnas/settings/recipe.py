"""How the weights of a network are trained from nothing: of what a run trains, and of a trial's candidate."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dnas.errors import InputError
from dnas.settings.values import Settings

FINAL_NORM: Any = Field(
    False, description="normalise what the last layer gives, so that every architecture starts with logits near 1"
)


class Recipe(Settings):
    """Optimizer, schedule and loss. Defaults are those of DARTS."""

    schedule: Literal["cosine", "exponential", "linear"] = Field(
        "cosine",
        description="how the learning rate falls: from epoch to epoch by half a cosine, or by a constant factor "
        "(exponential); from step to step in a line, after one up (linear)",
    )
    decay: float = Field(
        0.97, gt=0, le=1, description="factor of the learning rate from epoch to epoch, with schedule=exponential"
    )
    warmup: float = Field(
        0.2, ge=0, lt=1, description="share of all steps in which the learning rate rises, with schedule=linear"
    )
    nesterov: bool = Field(False, description="use Nesterov's momentum in SGD")
    optimizer: Literal["sgd", "muon"] = Field(
        "sgd", description="sgd: of all weights. muon: Muon for convolutions that are not depthwise, SGD for all else"
    )
    muon_learning_rate: float = Field(
        0.05, gt=0, description="learning rate of Muon at the start, with optimizer=muon; it falls as that of SGD does"
    )
    norm_decay: bool = Field(True, description="weight_decay holds for batch norms and biases too")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label that is spread over all classes")

    def check_recipe(self, section: str) -> None:
        """Check that these values, and those of a section that they go with, apply. Raises InputError."""
        for name, needs, values in (
            ("decay", "schedule", ("exponential",)),
            ("learning_rate_min", "schedule", ("cosine", "linear")),
            ("warmup", "schedule", ("linear",)),
            ("muon_learning_rate", "optimizer", ("muon",)),
        ):
            value, chosen = getattr(self, name), getattr(self, needs)
            if chosen not in values and value != type(self).model_fields[name].default:
                raise InputError(
                    f"{section}.{name}={value} only applies to {section}.{needs}={' or '.join(values)}, not {chosen}; "
                    f"remove it or change the {needs}"
                )

"""Limits on the costs of the delivered network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dnas.settings.values import ByteCounts, Durations, Settings, StemName, WholeNumbers

Precision = Literal["float32", "int8"]  # `space/cost.py` has their sizes


class LimitSettings(Settings):
    """Limits on the delivered network, which are met exactly; 0: no limit.

    One of them can have several values. The last five settings describe the network for which a search without a
    training meets the limits. A run takes them from the settings of its training.
    """

    params: WholeNumbers = Field(0, description='most parameters: a number, or a text such as "100k"; 0: no limit')
    macs: WholeNumbers = Field(
        0, description='most multiply-accumulates for one image: a number, or a text such as "10M"; 0: no limit'
    )
    ram: ByteCounts = Field(
        0,
        description="most bytes of activations that are in memory at a time, for one image, in the order of execution: "
        'a number, or a text such as "256KB"; 0: no limit',
    )
    size: ByteCounts = Field(
        0,
        description="largest file, in bytes, that `dnas export --format onnx` may write: a number, or a text such as "
        '"500KB"; 0: no limit',
    )
    latency: Durations = Field(
        0.0,
        description="most time for one image, on this machine's processor with one thread of ONNX Runtime: a number "
        'of seconds, or a text such as "5ms"; 0: no limit',
    )
    precision: Precision = Field("int8", description="type of the activations that `ram` counts: int8 or float32")
    layers: int = Field(0, ge=0, le=1000, description="depth of the limited network; 0: as trained")
    channels: int = Field(0, ge=0, description="initial channels of the limited network; 0: as trained")
    stem: StemName | None = Field(None, description="stem of the limited network; without it: as trained")
    final_norm: bool = Field(False, description="normalize the output of its last layer, if a stem is given")

    times: dict[str, int] = Field(
        default_factory=dict,
        description="nanoseconds of the operations of such networks, where `latency` is limited, as they were measured "
        "when the run began; empty: measured then",
    )

    @property
    def given(self) -> dict[str, int]:
        """Return the limits that are set, that of latency in nanoseconds; of several values the largest."""
        limits = {name: getattr(self, name) for name in LIMITS}
        given = {name: most[-1] if isinstance(most, list) else most for name, most in limits.items() if most}
        return {name: round(1e9 * most) if name == "latency" else most for name, most in given.items()}

    @property
    def several(self) -> list[str]:
        """Return the names of the limits that have several values."""
        return [name for name in LIMITS if isinstance(getattr(self, name), list)]

    @property
    def tighter(self) -> list[LimitSettings]:
        """Return a copy with each of several values but the largest, in ascending order."""
        return [
            self.model_copy(update={name: value}) for name in self.several[:1] for value in getattr(self, name)[:-1]
        ]


LIMITS = ("params", "macs", "size", "latency", "ram")


class AnswerSettings(Settings):
    """The plan for the network of one of several values of a limit, where it differs from that for the largest."""

    channels: int = Field(ge=1, description="initial channels of the network")
    steps: int = Field(0, ge=0, description="number of training steps; 0: the same as for the largest value")
    finals_steps: list[int] = Field(default_factory=list, description="as `finals_steps` of a run")
    prior: str = Field("", description="as `prior` of a run; empty: the same")
    baseline_steps: int = Field(0, ge=0, description="as `baseline_steps` of a run")
    times: dict[str, int] = Field(default_factory=dict, description="as `times` of limits")

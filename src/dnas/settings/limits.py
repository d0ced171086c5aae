"""What the delivered network may cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dnas.settings.values import ByteCounts, Durations, Settings, StemName, WholeNumbers

Precision = Literal["float32", "int8"]  # `space/cost.py` has their bytes


class LimitSettings(Settings):
    """Limits on the delivered network, which hold exactly; 0: none.

    One of them may have several values. The last five settings say for which network a search without a training holds
    them; a run has them from its training.
    """

    params: WholeNumbers = Field(0, description='most parameters: a number, or a text such as "100k"; 0: no limit')
    macs: WholeNumbers = Field(
        0, description='most multiply-accumulates for one image: a number, or a text such as "10M"; 0: no limit'
    )
    ram: ByteCounts = Field(
        0,
        description="most bytes of activations that are live at a time, for one image, in the order in which the "
        'network is executed: a number, or a text such as "256KB"; 0: no limit',
    )
    size: ByteCounts = Field(
        0,
        description="most bytes of the file that `dnas export --format onnx` writes: a number, or a text such as "
        '"500KB"; 0: no limit',
    )
    latency: Durations = Field(
        0.0,
        description="most time for one image, on this machine's processor with one thread of ONNX Runtime: a number "
        'of seconds, or a text such as "5ms"; 0: no limit',
    )
    precision: Precision = Field("int8", description="type of the activations that `ram` counts: int8 or float32")
    layers: int = Field(0, ge=0, le=1000, description="depth of the network that limits hold for; 0: as trained")
    channels: int = Field(0, ge=0, description="width of its first cells; 0: as trained")
    stem: StemName | None = Field(None, description="its first layers; without it: as trained")
    final_norm: bool = Field(False, description="whether its last layer is normalised, where a stem is given")

    times: dict[str, int] = Field(
        default_factory=dict,
        description="nanoseconds of the operations of such networks, where `latency` is limited, as they were measured "
        "when the run began; empty: measured then",
    )

    @property
    def given(self) -> dict[str, int]:
        """The limits that there are, that of latency in nanoseconds; of several values the largest."""
        limits = {name: getattr(self, name) for name in LIMITS}
        given = {name: most[-1] if isinstance(most, list) else most for name, most in limits.items() if most}
        return {name: round(1e9 * most) if name == "latency" else most for name, most in given.items()}

    @property
    def several(self) -> list[str]:
        """The limits that have several values."""
        return [name for name in LIMITS if isinstance(getattr(self, name), list)]

    @property
    def tighter(self) -> list[LimitSettings]:
        """With each of several values but the largest, in ascending order."""
        return [
            self.model_copy(update={name: value}) for name in self.several[:1] for value in getattr(self, name)[:-1]
        ]


LIMITS = ("params", "macs", "size", "latency", "ram")


class AnswerSettings(Settings):
    """What is planned for the network of one of several values of a limit, where it is not as for the largest."""

    channels: int = Field(ge=1, description="width of its first cells")
    steps: int = Field(0, ge=0, description="steps of its training; 0: as many as the largest has")
    finals_steps: list[int] = Field(default_factory=list, description="as `finals_steps` of a run")
    prior: str = Field("", description="as `prior` of a run; empty: the same")
    baseline_steps: int = Field(0, ge=0, description="as `baseline_steps` of a run")
    times: dict[str, int] = Field(default_factory=dict, description="as `times` of limits")

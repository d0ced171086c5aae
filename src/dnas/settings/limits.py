"""Limits on the costs of the delivered network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dnas.settings.values import Bytes, Settings, StemName, WholeNumber

Precision = Literal["float32", "int8"]  # `space/cost.py` has their sizes


class LimitSettings(Settings):
    """Limits on the delivered network, which are met exactly; 0: no limit.

    The last four settings describe the network for which a search without a training meets the limits. A run takes them
    from the settings of its training.
    """

    params: WholeNumber = Field(0, ge=0, description='most parameters: a number, or a text like "100k"; 0: no limit')
    macs: WholeNumber = Field(
        0, ge=0, description='most multiply-accumulates for one image: a number, or a text such as "10M"; 0: no limit'
    )
    ram: Bytes = Field(
        0,
        ge=0,
        description="most bytes of activations that are in memory at a time, for one image, in the order of execution: "
        'a number, or a text such as "256KB"; 0: no limit',
    )
    size: Bytes = Field(
        0,
        ge=0,
        description="largest file, in bytes, that `dnas export --format onnx` may write: a number, or a text such as "
        '"500KB"; 0: no limit',
    )
    precision: Precision = Field("int8", description="type of the activations that `ram` counts: int8 or float32")
    layers: int = Field(0, ge=0, le=1000, description="depth of the limited network; 0: as trained")
    channels: int = Field(0, ge=0, description="initial channels of the limited network; 0: as trained")
    stem: StemName | None = Field(None, description="stem of the limited network; without it: as trained")
    final_norm: bool = Field(False, description="normalize the output of its last layer, if a stem is given")

    @property
    def given(self) -> dict[str, int]:
        """Return the limits that are set."""
        limits = {name: getattr(self, name) for name in ("params", "macs", "size", "ram")}
        return {name: most for name, most in limits.items() if most}

"""What the delivered network may cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dnas.settings.values import Bytes, Settings, StemName, WholeNumber

Precision = Literal["float32", "int8"]  # `space/cost.py` has their bytes


class LimitSettings(Settings):
    """Limits on the delivered network, which hold exactly; 0: none.

    The last four say for which network a search without a training holds them; a run has them from its training.
    """

    params: WholeNumber = Field(0, ge=0, description='most parameters: a number, or a text such as "100k"; 0: no limit')
    macs: WholeNumber = Field(
        0, ge=0, description='most multiply-accumulates for one image: a number, or a text such as "10M"; 0: no limit'
    )
    ram: Bytes = Field(
        0,
        ge=0,
        description="most bytes of activations that are live at a time, for one image, in the order in which the "
        'network is executed: a number, or a text such as "256KB"; 0: no limit',
    )
    size: Bytes = Field(
        0,
        ge=0,
        description="most bytes of the file that `dnas export --format onnx` writes: a number, or a text such as "
        '"500KB"; 0: no limit',
    )
    precision: Precision = Field("int8", description="type of the activations that `ram` counts: int8 or float32")
    layers: int = Field(0, ge=0, le=1000, description="depth of the network that limits hold for; 0: as trained")
    channels: int = Field(0, ge=0, description="width of its first cells; 0: as trained")
    stem: StemName | None = Field(None, description="its first layers; without it: as trained")
    final_norm: bool = Field(False, description="whether its last layer is normalised, where a stem is given")

    @property
    def given(self) -> dict[str, int]:
        """The limits that there are."""
        limits = {name: getattr(self, name) for name in ("params", "macs", "size", "ram")}
        return {name: most for name, most in limits.items() if most}

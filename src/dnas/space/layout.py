"""Widths of a chain that are its own, as in published networks, in place of a width that doubles at each reduction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dnas.errors import InputError, choices, shown
from dnas.space.blocks import divisible
from dnas.space.primitives import Chain, Layer, ReLU, ReLU6

ACTIVATIONS: dict[str, Layer] = {"relu": ReLU(), "relu6": ReLU6()}
KEYS = ("stem", "widths", "last", "activation", "hidden")


@dataclass(frozen=True)
class Layout:
    """The widths of a chain at its own number of initial channels.

    Attributes:
        stem: Channels of the stem, which are the initial channels of the network.
        widths: Channels of the output of each layer.
        last: Channels of the 1×1 convolution after the last layer; 0: as in the space.
        activation: Key of `ACTIVATIONS`, in place of the ReLU6 of stem, blocks and last convolution; "": as they have.
        hidden: Features of a hidden layer of the classifier, which reads the mean over pixels; 0: there is none.
    """

    stem: int
    widths: tuple[int, ...]
    last: int = 0
    activation: str = ""
    hidden: int = 0

    @property
    def befores(self) -> tuple[int, ...]:
        """Channels of the input of each layer."""
        return (self.stem, *self.widths[:-1])

    def objection(self, layers: int) -> str | None:
        """Return the reason why no network of this depth can have this layout, or None if one can."""
        if len(self.widths) != layers:
            return f"the layout has {len(self.widths)} widths, but there are {layers} layers"
        for name, width in (("stem", self.stem), *((f"widths[{k}]", width) for k, width in enumerate(self.widths))):
            if width < 2 or width % 2:
                return f"{name} of the layout must be even and at least 2, got {width}"
        for name, width in (("last", self.last), ("hidden", self.hidden)):
            if width < 0:
                return f"{name} of the layout must be at least 0, got {width}"
        if self.activation and self.activation not in ACTIVATIONS:
            return f"unknown activation {self.activation!r} of the layout{choices(self.activation, ACTIVATIONS)}"
        return None

    def at(self, channels: int) -> Layout:
        """Return the layout at this many initial channels: all widths in proportion, as multiples of 8.

        This is the width multiplier channels / stem of MobileNetV2, under which the last convolution never shrinks; nor
        does a hidden layer.
        """
        if channels == self.stem:
            return self
        factor = channels / self.stem
        widths = tuple(divisible(factor * width) for width in self.widths)
        last, hidden = (divisible(max(1.0, factor) * width) if width else 0 for width in (self.last, self.hidden))
        return replace(self, stem=channels, widths=widths, last=last, hidden=hidden)

    def dressed(self, chain: Chain) -> Chain:
        """Return a chain of layers with the activation of the layout."""
        if not self.activation:
            return chain
        return tuple(ACTIVATIONS[self.activation] if isinstance(layer, ReLU6) else layer for layer in chain)

    def to_json(self) -> dict[str, Any]:
        """Return the layout for an architecture file."""
        value: dict[str, Any] = {"stem": self.stem, "widths": list(self.widths)}
        if self.last:
            value["last"] = self.last
        if self.activation:
            value["activation"] = self.activation
        if self.hidden:
            value["hidden"] = self.hidden
        return value

    @classmethod
    def from_json(cls, value: Any) -> Layout:
        """Return the layout of an architecture file. Raises InputError for anything else."""
        if not isinstance(value, dict) or not {"stem", "widths"} <= set(value) <= set(KEYS):
            keys = "stem and widths, and possibly last, activation and hidden"
            raise InputError(f"layout must be an object of {keys}, got {shown(value)}")
        stem, widths, last, hidden = value["stem"], value["widths"], value.get("last", 0), value.get("hidden", 0)
        numbers = [stem, last, hidden, *(widths if isinstance(widths, list) else (None,))]
        if any(not isinstance(number, int) or isinstance(number, bool) for number in numbers):
            raise InputError(f"stem, widths, last and hidden of a layout must be integers, got {shown(value)}")
        activation = value.get("activation", "")
        if not isinstance(activation, str):
            raise InputError(f"activation of a layout must be a text, got {shown(activation)}")
        return cls(stem, tuple(widths), last, activation, hidden)

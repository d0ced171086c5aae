"""Preprocessing that an exported network expects, read from its file without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dnas.data.headers import Rule
from dnas.data.sources.samples import Bytes
from dnas.errors import InputError


@dataclass(frozen=True)
class Expected:
    """Preprocessing and classes of an exported network; fields as in `DataInfo`."""

    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rule: Rule

    @classmethod
    def of(cls, facts: Mapping[str, Any], where: str) -> Expected:
        """Read the content of preprocess.json. Raises InputError that names the file if it is damaged."""
        try:
            rule = Rule(facts["resize"], tuple(facts["values"]))
            mean, std = (tuple(map(float, facts[name])) for name in ("mean", "std"))
            return cls(tuple(facts["classes"]), int(facts["channels"]), int(facts["image_size"]), mean, std, rule)
        except (KeyError, TypeError, ValueError, AssertionError):
            raise InputError(f"{where} does not describe the preprocessing of images; export it again") from None

    def normalized(self, pixels: Bytes) -> npt.NDArray[np.float32]:
        """uint8 [B, C, S, S] → float32, by the same operations as `augment.normalise`, bit for bit."""
        mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (self.mean, self.std))
        normalized: npt.NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return normalized

"""scikit-learn's handwritten digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dnas.data.sources.protocol import Named, Source
from dnas.data.sources.samples import Bytes, Labels, in_test


def _read(path: Path, part: str) -> tuple[Bytes, Labels]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    chosen = in_test(labels) == (part == "test")
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return images[chosen, None], labels[chosen]


SOURCES = (Source(kind="digits", rank=0, arrays=_read, mirrored=False, named=Named(name="digits")),)

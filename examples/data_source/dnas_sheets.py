"""Data sets that are one large picture a class and part, a grid of tiles of 8×8 pixels."""

from pathlib import Path

import numpy as np
from PIL import Image

from dnas.data.sources.protocol import Source

CLASSES = ("ring", "dot")


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, C, S, S] with C 1 or 3, and labels int64 [N], of the part "train" or "test"."""
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        sheet = np.asarray(Image.open(folder / f"sheet-{part}-{name}.png").convert("L"))
        rows = sheet.reshape(sheet.shape[0] // 8, 8, -1, 8).swapaxes(1, 2).reshape(-1, 1, 8, 8)
        images.append(rows)
        labels += [label] * len(rows)
    return np.concatenate(images), np.array(labels, np.int64)


SHEETS = Source(
    kind="sheets",
    holds=lambda path: (path / f"sheet-train-{CLASSES[0]}.png").is_file(),
    arrays=read,
    classes=CLASSES,
    mirrored=True,
)

"""Record of the training images of a run: a digest of each image, so that later tests can exclude them.

It is stored in `training_images.safetensors` in the run folder, with 8 bytes per image. It covers the whole training
split: a search reads both halves, and mean and standard deviation are computed from all images. The digest is computed
from the decoded pixels at the image size and channels of the run, so it does not depend on the names or locations of
files. If a training started with the weights of another run, the record includes the images of that run. A copy of an
image with the same pixels has the same digest; a resized, recompressed or cropped copy has another.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import PIL
import safetensors
import safetensors.torch
import torch

from dnas.data.sources.samples import Labels
from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.pipeline.model import info_from_json
from dnas.runtime.names import TRAINING_IMAGES_FILE

FORMAT = "dnas-training-images/1"
HASH = "8-byte BLAKE2b of uint8 pixels [channels, size, size], little-endian"


@dataclass(frozen=True)
class TrainingImages:
    """The record of the training images of a run.

    Attributes:
        digests: int64 [N], see `pictures.image_digests`.
        info: Facts of the data of the run, with the channels and image size of the digests.
        pillow: Version of the library that decoded the images.
    """

    digests: Labels
    info: DataInfo
    pillow: str = PIL.__version__

    @classmethod
    def of(cls, split: Split, info: DataInfo) -> TrainingImages:
        """Return the record of a training split."""
        return cls(split.digests(), info)

    def to_bytes(self) -> bytes:
        """Return the content of the file, the same bytes for the same images."""
        facts = {
            "format": FORMAT,
            "hash": HASH,
            "size": self.info.image_size,
            "channels": self.info.channels,
            "pillow": self.pillow,
            "data": asdict(self.info),
        }
        # One entry: safetensors writes several in an order that differs from run to run.
        return safetensors.torch.save({"digests": torch.from_numpy(self.digests)}, {"dnas": json.dumps(facts)})

    def joined(self, other: TrainingImages | None) -> TrainingImages:
        """Return the record with the images of another one added if the two are comparable, otherwise unchanged."""
        if other is None or not other.fits(self.info):
            return self
        return replace(self, digests=np.union1d(self.digests, other.digests))

    def fits(self, info: DataInfo) -> bool:
        """Return True if images with these facts are decoded like the recorded ones, so digests are comparable."""
        return (self.info.image_size, self.info.channels, self.info.rule) == (info.image_size, info.channels, info.rule)

    def among(self, digests: Labels) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Return a mask [M] of the digests, int64 [M], that are in the record."""
        return np.isin(digests, self.digests)


def read_training_images(run: Path, name: str = TRAINING_IMAGES_FILE) -> TrainingImages | None:
    """Return the record of a run folder, or None if it has none, as in runs of earlier versions.

    Raises InputError that names the file if it is damaged.
    """
    path = run / name
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("dnas", "{}"))
            digests = file.get_tensor("digests")
        if facts.get("format") != FORMAT:
            raise ValueError(f"its format is {facts.get('format')!r}")
        if digests.dtype != torch.int64 or digests.ndim != 1:
            raise ValueError(f"its digests are {digests.dtype} {list(digests.shape)}")
        return TrainingImages(digests.numpy(), info_from_json(facts["data"]), str(facts["pillow"]))
    except Exception as error:  # what a forged header leads to has many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{str(path)!r} cannot be read ({reason}); restore the file") from None

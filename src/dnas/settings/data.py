"""The source of the images of a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from dnas.settings.values import (
    CROP,
    SMALLEST_IMAGE,
    Memory,
    Resize,
    Settings,
)


def _size(pixels: int) -> int:
    if pixels != 0 and pixels < SMALLEST_IMAGE:
        raise ValueError(f"must be at least {SMALLEST_IMAGE}, got {pixels}")
    return pixels


class DataSettings(Settings):
    """The source of the images, and their properties."""

    source: str = Field("digits", description="name of a data set, or a path: images, arrays, a list or an archive")
    image_column: str = Field("", description="column of a list with the paths of images; empty: a usual name")
    label_column: str = Field("", description="column of a list with the classes; empty: a usual name")
    root: str = Field("", description="folder that the paths of a list are relative to; empty: the folder of the list")
    data_dir: str = Field("", description="folder of the named data sets; empty: $DNAS_DATA_DIR, else ~/.cache/dnas")
    image_size: Annotated[int, AfterValidator(_size)] = Field(
        0,
        le=4096,
        description=f"side of the images in pixels, at least {SMALLEST_IMAGE}; 0: determined from the data, as without "
        "--image-size",
    )
    resize: Resize = Field(
        CROP,
        description="how images become squares. crop: resize the shorter side and crop the center; pad: resize the "
        "longer side and pad with the mean color of the image; squeeze: resize both sides; auto: pad if the longer "
        "side of most training images is more than 1.6 times the shorter one, else crop. Files of earlier versions do "
        "not have this setting and mean crop [by default: auto]",
    )
    memory: Memory = Field(
        "auto",
        description="whole: load all images into memory; stream: decode them batch by batch; auto: stream if the "
        "images need more than half of the memory",
    )
    workers: int = Field(
        0, ge=0, le=1024, description="worker processes that decode streamed images; 0: as many as torch has threads"
    )
    skip_broken: bool = Field(
        False, description="skip images that cannot be read, if they are at most a tenth of a split"
    )
    train_images: int = Field(0, ge=0)
    fingerprint: str = ""

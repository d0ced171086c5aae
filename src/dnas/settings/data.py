"""Where the images of a run come from."""

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
    """Where the images come from, and what was found there."""

    source: str = Field("digits", description="name of a data set, or a path: images, arrays, a list or an archive")
    image_column: str = Field("", description="a list's column with the files of images; empty: a usual name")
    label_column: str = Field("", description="a list's column with the classes; empty: a usual name")
    root: str = Field("", description="folder that the paths of a list start from; empty: the folder of the list")
    data_dir: str = Field("", description="folder of the named data sets; empty: $DNAS_DATA_DIR, else ~/.cache/dnas")
    image_size: Annotated[int, AfterValidator(_size)] = Field(
        0,
        le=4096,
        description=f"pixels of a side, at least {SMALLEST_IMAGE}; 0: from the data, for which --image-size is left "
        "out",
    )
    resize: Resize = Field(
        CROP,
        description="crop: scale the shorter side and keep the middle square; pad: scale the longer side and fill up "
        "with the mean color of the picture; squeeze: scale both sides; auto: pad, where most training images are "
        "longer than 1.6 times their shorter side, else crop; a configuration without this setting is of an earlier "
        "version, which cropped [by default: auto]",
    )
    memory: Memory = Field(
        "auto", description="whole: hold all images; stream: decode a batch at a time; auto: stream what is too large"
    )
    workers: int = Field(
        0, ge=0, le=1024, description="processes that decode what is streamed; 0: as many as torch has threads"
    )
    skip_broken: bool = Field(
        False, description="go on without images that cannot be read, if they are at most a tenth of a split"
    )
    train_images: int = Field(0, ge=0)
    fingerprint: str = ""

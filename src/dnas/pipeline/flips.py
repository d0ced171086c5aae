"""Whether training images are mirrored: the setting `flip`, whose "auto" becomes "on" or "off" before a run begins.

Any other value is the user's and is kept. "auto" is for published data sets what is usual for them, and for IDX files,
which often hold digits or letters, off. Folders of images are measured (`mirroring`), on training images alone and
always on the same ones, so all runs on a data set agree.
"""

from __future__ import annotations

from typing import Literal

from dnas.data.mirroring import Finding, find_mirrored
from dnas.data.sources.protocol import Place
from dnas.data.sources.registry import locate
from dnas.data.splits import DataInfo, Split
from dnas.pipeline.config import Config
from dnas.runtime import distributed


def resolve_flips(config: Config, split: Split, info: DataInfo, given: Place | None = None) -> tuple[Config, str]:
    """Replace "auto" in the settings of the search and of the training.

    Args:
        config: The resolved configuration of a run.
        split, info: All training images, and what is known of them.
        given: The place of images that the caller holds.

    Returns:
        The configuration, and a line for the user; "" if both were chosen by hand.

    Raises:
        RunError: A streamed image is not what it was when it was listed.
    """
    stages = [name for name in ("search", "train") if getattr(getattr(config, name), "flip", "") == "auto"]
    if not stages:
        return config, ""
    # Measured once, since the last bits of another machine could decide otherwise.
    flip, line = distributed.from_first(_chosen(config, split, info, given) if distributed.leads() else ("on", ""))
    settings = {name: getattr(config, name).model_copy(update={"flip": flip}) for name in stages}
    return config.model_copy(update=settings), line


def _chosen(config: Config, split: Split, info: DataInfo, given: Place | None) -> tuple[Literal["on", "off"], str]:
    """The choice for a data set, and why."""
    source = locate(config.data.source, config.data.data_dir or None, given=given).source
    if source.measured:
        found = find_mirrored(split)
        return ("off" if found.pair else "on"), _measured(found, info)
    if info.flip:
        return "on", f"flips on, as usual for {source.kind}"
    return "off", f"flips off, as usual for {source.kind}"


def _measured(found: Finding, info: DataInfo) -> str:
    if not found.images:
        return "flips on: too few training images of each class to measure whether mirroring confuses classes"
    looked = f"measured on {found.images:,} training images"
    if found.pair is None:
        return f"flips on: mirroring confuses no classes, {looked}"
    first, second = (info.classes[label] for label in found.pair.classes)
    return f"flips off: mirrored {first!r} looks like {second!r}, {looked}"

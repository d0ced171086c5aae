"""The setting `flip`: whether training images are flipped. "auto" becomes "on" or "off" before a run starts.

Other values are choices of the user and are kept. "auto" is the usual choice for published data sets, and off for IDX
files, which often contain digits or letters. For folders of images it is measured (`mirroring`), only on training
images and always on the same ones, so that all runs on a data set agree.
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
        split, info: All training images, and facts about them.
        given: The place of images in the caller's memory.

    Returns:
        The configuration, and a line for the user; "" if both were chosen by hand.

    Raises:
        RunError: A streamed image changed since it was listed.
    """
    stages = [name for name in ("search", "train") if getattr(getattr(config, name), "flip", "") == "auto"]
    if not stages:
        return config, ""
    # Measured once, since rounding on another machine could lead to another decision.
    flip, line = distributed.from_first(_chosen(config, split, info, given) if distributed.leads() else ("on", ""))
    settings = {name: getattr(config, name).model_copy(update={"flip": flip}) for name in stages}
    return config.model_copy(update=settings), line


def _chosen(config: Config, split: Split, info: DataInfo, given: Place | None) -> tuple[Literal["on", "off"], str]:
    """Return the choice for a data set, and the reason."""
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

"""Read the images of a listing: into memory, or streamed from their files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnas.data.arrays import value_counts
from dnas.data.decoders import Decoders
from dnas.data.headers import Headers, Rule
from dnas.data.index import Files, Index, index_file
from dnas.data.memory import fit_in_memory, require_tensor_fits
from dnas.data.pictures import decode_readable, survey
from dnas.data.sources.listing import Listing
from dnas.data.sources.registry import data_root
from dnas.data.sources.samples import Counts, Labels
from dnas.data.sources.tree import Tree
from dnas.data.streaming import Streamed
from dnas.data.unreadable import Broken, Unreadable, require_few
from dnas.errors import InputError
from dnas.reporter import Reporter
from dnas.settings import CROP, Memory, Resize

# Number of images in the batches that are in memory at the same time, which must fit.
STREAMED_AT_ONCE = 1024


@dataclass(frozen=True)
class Pictures:
    """Images of a listing.

    Attributes:
        images: [N, C, H, W], in memory or streamed.
        counts: Histogram of the values in each channel [C, 256].
        rule: Conversion to square 8-bit images.
        headers: Properties before conversion, if they were read.
        kept: int64 [N], positions of these images in the listing; None: all.
        skipped: The other images, which cannot be read.
    """

    images: Tensor | Streamed
    counts: Counts
    rule: Rule
    headers: Headers | None
    kept: Labels | None = None
    skipped: Sequence[Broken] = ()


def read_pictures(
    place: Path,
    tree: Tree,
    listing: Listing,
    part: str,
    *,
    channels: int | None = None,
    size: int | None = None,
    rule: Rule | None = None,
    resize: Resize = CROP,
    data_dir: str | None,
    memory: Memory,
    workers: int,
    reporter: Reporter | None,
    skip_broken: bool,
) -> Pictures:
    """Read the images of a listing. Raises Unreadable for broken ones.

    Args:
        place: The data set, which gives its index its name.
        tree: Holds the images, unless the listing has its own.
        part: Part of the data set.
        channels, size, rule: Format and conversion; by default those of the images, and `resize`.
        data_dir, memory, workers, reporter, skip_broken: As in `splits.load_train`.
    """
    tree = listing.tree or tree
    count = len(listing.names)
    index = None
    if memory != "whole" and not tree.held:
        files = Files.look(tree, listing.names)
        index = Index(files, listing.labels, index_file(data_root(data_dir), place, part), reporter)
    elif memory == "stream":
        raise InputError(f"--data-memory stream: {str(tree.path)!r} {tree.held}")
    headers = None
    if channels is None or size is None or rule is None:
        headers = index.shape() if index is not None else survey(tree, listing.names)
        rule = rule or headers.rule(resize)
        channels, size = channels or headers.channels, size or headers.size(rule.resize)
    if index is None or (memory == "auto" and fit_in_memory(count, channels, size)):
        require_no_workers(workers, str(tree.path))
        if not tree.held:
            require_tensor_fits(count, channels, size, ", or --data-memory stream")
        pixels, broken = decode_readable(tree, listing.names, channels, size, rule)
        kept = _kept(tree.path, listing, part, broken, channels, size, skip_broken)
        images = torch.from_numpy(pixels)
        return Pictures(images, value_counts(images), rule, headers, kept, broken)
    require_tensor_fits(min(count, STREAMED_AT_ONCE), channels, size)
    decoders = Decoders(workers)
    counts, found = index.look(channels, size, decoders, rule)
    decoders.close()  # until batches are requested, if any
    broken = list(found.values())
    kept = _kept(tree.path, listing, part, broken, channels, size, skip_broken)
    digests = index.digests(channels, size, rule)
    streamed = Streamed(index.files, channels, size, decoders, positions=kept, digests=digests, rule=rule)
    return Pictures(streamed, counts, rule, headers, kept, broken)


def _kept(
    path: Path, listing: Listing, part: str, broken: Sequence[Broken], channels: int, size: int, skip_broken: bool
) -> Labels | None:
    """Return the positions of the readable images; None if all are. Raises Unreadable for too many broken ones."""
    if not broken:
        return None
    if not skip_broken:
        raise Unreadable(path, broken, channels, size)
    require_few(path, broken, len(listing.names), part, channels, size)
    names = {name for name, _ in broken}
    kept = np.array([position for position, name in enumerate(listing.names) if name not in names], np.int64)
    lost = np.setdiff1d(listing.labels, listing.labels[kept])
    if part == "train" and len(lost):
        remedy = (
            f"no readable training image is left in class {listing.classes[lost[0]]!r}: repair one or remove the class"
        )
        raise Unreadable(path, broken, channels, size, remedy)
    return kept


def require_no_streaming(memory: Memory, workers: int, source: str) -> None:
    """Raise InputError if images that are always in memory are to be streamed."""
    if memory == "stream":
        raise InputError(f"--data-memory stream only applies to folders of images, not to {source!r}; remove it")
    require_no_workers(workers, source)


def require_no_workers(workers: int, source: str) -> None:
    """Raise InputError if there are workers for images that are in memory."""
    if workers:
        raise InputError(
            f"--data-workers {workers} only applies to streamed images, and {source!r} is in memory; remove it, "
            "or use --data-memory stream for a folder of images"
        )

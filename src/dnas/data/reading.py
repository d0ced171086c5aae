"""The pictures of a listing become images: in memory, or left in their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnas.data.decoders import Decoders
from dnas.data.index import Files, Index, index_file
from dnas.data.memory import fit_in_memory, require_tensor_fits
from dnas.data.pictures import count_values, decode, survey
from dnas.data.sources.listing import Listing
from dnas.data.sources.registry import data_root
from dnas.data.sources.samples import Counts
from dnas.data.sources.tree import Tree
from dnas.data.streaming import Streamed
from dnas.errors import InputError
from dnas.reporter import Reporter
from dnas.settings import Memory

# Images of the batches that are in memory at a time, which must fit.
STREAMED_AT_ONCE = 1024


def read_pictures(
    place: Path,
    tree: Tree,
    listing: Listing,
    part: str,
    *,
    channels: int | None = None,
    size: int | None = None,
    data_dir: str | None,
    memory: Memory,
    workers: int,
    reporter: Reporter | None,
) -> tuple[Tensor | Streamed, Counts]:
    """The images of a listing, in memory or not, and how often each value occurs in each channel [C, 256].

    Args:
        place: The data set, after which its index is named.
        tree: Where its pictures are, unless the listing says another.
        part: Which part of the data set they are.
        channels, size: What they become; by default as the pictures have it.
        data_dir, memory, workers, reporter: As of `splits.load_train`.
    """
    tree = listing.tree or tree
    count = len(listing.names)
    index = None
    if memory != "whole" and not tree.held:
        files = Files.look(tree, listing.names)
        index = Index(files, listing.labels, index_file(data_root(data_dir), place, part), reporter)
    elif memory == "stream":
        raise InputError(f"--data-memory stream: {str(tree.path)!r} {tree.held}")
    if channels is None or size is None:
        found = index.shape() if index is not None else survey(tree, listing.names)
        channels, size = channels or found[1], size or found[0]
    if index is None or (memory == "auto" and fit_in_memory(count, channels, size)):
        require_no_workers(workers, str(tree.path))
        if not tree.held:
            require_tensor_fits(count, channels, size, ", or --data-memory stream")
        images = torch.from_numpy(decode(tree, listing.names, channels, size))
        return images, count_all(images)
    require_tensor_fits(min(count, STREAMED_AT_ONCE), channels, size)
    decoders = Decoders(workers)
    counts = index.counts(channels, size, decoders)
    decoders.close()  # until batches are asked for, if they are
    return Streamed(index.files, channels, size, decoders, digests=index.digests(channels, size)), counts


def require_no_streaming(memory: Memory, workers: int, source: str) -> None:
    if memory == "stream":
        raise InputError(f"--data-memory stream: {source!r} is no folder of pictures; leave it out")
    require_no_workers(workers, source)


def require_no_workers(workers: int, source: str) -> None:
    if workers:
        raise InputError(
            f"--data-workers {workers} decode what is streamed, and {source!r} is held in memory; leave it out, or "
            "give --data-memory stream for a folder of pictures"
        )


def count_all(images: Tensor) -> Counts:
    """How often each of the 256 values occurs in each channel of [N, C, H, W]: [C, 256]."""
    counts = np.zeros((images.shape[1], 256), np.int64)
    for start in range(0, len(images), 1024):
        counts += count_values(images[start : start + 1024].numpy())
    return counts

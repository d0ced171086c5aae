"""Both splits of a data set as its source lists and decodes them, without torch; archives of folders."""

import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnas.data.pictures import decode, survey
from dnas.data.sources.archive import open_tree
from dnas.data.sources.listing import LeftOut, Reason
from dnas.data.sources.protocol import Columns
from dnas.data.sources.registry import locate
from dnas.settings import CROP


@dataclass(frozen=True)
class Read:
    """What is read of the training and the test part: images [N, C, S, S], labels, names, classes; what is left out."""

    images: list[np.ndarray]
    labels: list[list[int]]
    names: list[list[str]]
    classes: tuple[str, ...]
    counts: dict[Reason, Counter[str]]
    left_out: list[str]
    notes: tuple[str, ...]


def one(source: Path, columns: Columns | None = None, decoded: bool = True) -> Read:
    """Read a data set as `load_splits` does."""
    place = locate(str(source), None, columns)
    tree = open_tree(place.path)
    assert place.source.pictures is not None
    images, labels, names, notes, classes, known = [], [], [], (), None, None
    left_out = LeftOut()
    for part in ("train", "test"):
        listing = place.source.pictures(tree, part, classes)
        own = listing.tree or tree
        if decoded:
            known = known or survey(own, listing.names)
            images.append(decode(own, listing.names, known.channels, known.size(CROP), known.rule(CROP)))
        labels.append(listing.labels.tolist())
        names.append(listing.names)
        classes = listing.classes
        left_out.include(listing.left_out)
        notes += listing.notes
    return Read(images, labels, names, classes, left_out.counts, left_out.lines(), notes)


def same(found: Read, expected: Read) -> None:
    """Both have the same images, to the bit, and labels, in the same order."""
    assert found.labels == expected.labels and found.classes == expected.classes
    for mine, theirs in zip(found.images, expected.images, strict=True):
        assert np.array_equal(mine, theirs)


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    """An archive of the files of a folder, below a folder `top` of it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path

"""The contract of a kind of data set, as one check on an example of it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dnas.data.inspection import inspect_data
from dnas.data.sources.archive import open_tree
from dnas.data.sources.listing import Listing
from dnas.data.sources.protocol import Source
from dnas.data.sources.registry import locate, sources
from dnas.data.sources.samples import Labels
from dnas.data.sources.tree import Tree
from dnas.data.splits import fingerprint, load_splits
from dnas.errors import InputError


def check_source(kind: str, example: str | Path, *, data_dir: str | None = None) -> None:
    """Check the whole contract of a kind of data set.

    Args:
        kind: The name in `Source.kind` and the entry point.
        example: A small data set of that kind, in the form of --data, with at least two classes in both splits.
        data_dir: The folder of named data sets.
    """
    known = {source.kind: source for source in sources()}
    assert kind in known, f"no data source is of the kind {kind!r}; those that are known: {', '.join(known)}"
    source = known[kind]
    assert (source.arrays is None) != (source.pictures is None), f"{kind} must give arrays or pictures, one of the two"
    before = _contents(Path(example))
    place = locate(str(example), data_dir)
    assert place.source.kind == kind, (
        f"{str(example)!r} is taken for {place.source.kind}: let `holds` or `within` of {kind} tell it, or lower its "
        "rank"
    )
    if source.pictures is not None:
        _check_pictures(source, place.path)
    else:
        _check_arrays(source, place.path)
    _check_splits(str(example), data_dir, place.source)
    assert _contents(Path(example)) == before, f"{kind} must not write into the data set"


def _check_pictures(source: Source, path: Path) -> None:
    assert source.pictures is not None
    kind, tree = source.kind, open_tree(path)
    train = source.pictures(tree, "train", None)
    assert len(set(train.classes)) == len(train.classes) >= 2, f"{kind} must give two classes or more, each once"
    test = source.pictures(tree, "test", train.classes)
    for part, listing in (("train", train), ("test", test)):
        _check_labels(kind, part, listing.labels, len(train.classes))
        assert len(listing.names) == len(listing.labels), f"{kind} must give a label for each image of {part}"
        assert len(set(listing.names)) == len(listing.names), f"{kind} must give each image of {part} once"
        again = source.pictures(open_tree(path), part, None if part == "train" else train.classes)
        assert _facts(again) == _facts(listing), f"{kind} must list {part} the same every time"
        own = listing.tree or tree
        other: Tree = pickle.loads(pickle.dumps(own))
        for name in listing.names[:8]:
            with own.open(name) as one, other.open(name) as two:
                content = one.read()
                assert content == two.read(), f"the tree of {kind}, sent to a process, opens another {name!r}"
            with own.open(name) as stream, Image.open(stream) as image:
                image.load()
            size, changed = own.status(name)
            assert size > 0 and changed == own.status(name)[1], f"{kind} must give size and time of change of {name!r}"
    assert test.classes == train.classes, f"{kind} must give the test images in the given classes"
    assert not set(train.names) & set(test.names), f"{kind} gives images to both splits"
    if train.tree is None or isinstance(train.tree, type(tree)):
        _refuses(kind, lambda: source.pictures(tree, "test", ("no such class",)))  # type: ignore[misc]


def _check_arrays(source: Source, path: Path) -> None:
    assert source.arrays is not None
    for part in ("train", "test"):
        images, labels = source.arrays(path, part)
        square = images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[2] == images.shape[3]
        assert images.dtype == np.uint8 and square, (
            f"{source.kind} must give {part} as uint8 [N, C, S, S] with C 1 or 3, got {images.dtype} {images.shape}"
        )
        assert len(images) == len(labels), f"{source.kind} must give a label for each image of {part}"
        _check_labels(source.kind, part, labels, len(source.classes) or int(labels.max()) + 1)
        again = source.arrays(path, part)
        same = np.array_equal(images, again[0]) and np.array_equal(labels, again[1])
        assert same, f"{source.kind} must give the same images of {part} every time"


def _check_labels(kind: str, part: str, labels: Labels, classes: int) -> None:
    assert labels.dtype == np.int64 and labels.ndim == 1, f"{kind} must give labels of {part} as int64 [N]"
    assert len(labels), f"{kind} gives no images of {part}"
    assert labels.min() >= 0 and labels.max() < classes, f"{kind} gives labels of {part} beyond its {classes} classes"


def _check_splits(example: str, data_dir: str | None, source: Source) -> None:
    """Check that a run always reads the same images, streamed or not, as reported by `dnas data`."""
    train, info, test = load_splits(example, data_dir=data_dir)
    again = load_splits(example, data_dir=data_dir)
    for one, other in ((train, again[0]), (test, again[2])):
        assert fingerprint(one) == fingerprint(other), f"{source.kind} must give the same images every time"
    if source.pictures is not None:
        listing = source.pictures(open_tree(locate(example, data_dir).path), "train", None)
        if not (listing.tree or open_tree(locate(example, data_dir).path)).held:
            streamed, _, _ = load_splits(example, data_dir=data_dir, memory="stream", workers=1)
            everything = torch.arange(len(train))
            assert torch.equal(streamed.batch(everything), train.batch(everything)), f"{source.kind} streams others"
            streamed.close()
    found = inspect_data(example, data_dir=data_dir, resize=info.resize)
    assert found.images == {"train": len(train), "test": len(test)}, f"`dnas data` counts other images of {source.kind}"
    assert found.classes == info.classes, f"`dnas data` has other classes of {source.kind}"


def _refuses(kind: str, call: Callable[[], object]) -> None:
    try:
        call()
    except InputError as error:
        assert len(str(error).splitlines()) == 1, f"an error of {kind} must be one line: {error}"
        return
    raise AssertionError(f"{kind} must raise InputError for test images of a class that training has not")


def _facts(listing: Listing) -> tuple[object, ...]:
    return listing.classes, listing.names, listing.labels.tolist(), listing.left_out.lines(), listing.notes


def _contents(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and modification time of all files."""
    files = [path] if path.is_file() else [Path(root) / name for root, _, names in os.walk(path) for name in names]
    return sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)

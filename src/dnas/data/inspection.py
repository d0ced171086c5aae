"""Inspection of a data set as a run would read it, without a run: classes, skipped files, copies, shared sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from dnas.data import copies
from dnas.data.headers import Rule, Stored
from dnas.data.looks import Arrays, Files, Looks, Pictures, look_again, look_at
from dnas.data.origins import SharedSource, shared_sources
from dnas.data.pictures import survey
from dnas.data.sources.archive import tree_of
from dnas.data.sources.listing import MANY_SHOWN, LeftOut
from dnas.data.sources.protocol import Columns, Place
from dnas.data.sources.registry import locate
from dnas.data.sources.samples import Bytes, Labels
from dnas.errors import InputError
from dnas.reporter import Reporter, Silent
from dnas.settings import AUTO_RESIZE, CROP, SMALLEST_IMAGE, Resize

PARTS = ("train", "test")
# Number of images to show: per class, in total, in groups of copies; and their longest side in pixels.
OF_A_CLASS, OF_ALL, GROUPS, SIDE = 8, 480, 12, 96


@dataclass(frozen=True)
class File:
    """An image: its split, its name and its class."""

    part: str
    name: str
    label: str


@dataclass(frozen=True)
class LeftOutFiles:
    """Unused files, for one reason.

    Attributes:
        reason: One of `listing.Reason`, such as "not images".
        files: Number of files; for repeated rows of a list, number of rows.
        text: Description.
        examples: First few files.
    """

    reason: str
    files: int
    text: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Unreadable:
    """An unreadable image, and the reason."""

    part: str
    name: str
    reason: str


@dataclass(frozen=True)
class Copies:
    """Duplicate images.

    Attributes:
        groups: Images that are copies of each other.
        spare: By split, number of images to remove so that each occurs once.
        leaked: Number of test images with a copy in the training set.
        relabeled: Number of groups with images of several classes.
        mirrored: Number of pairs that are mirror images of each other.
    """

    groups: tuple[tuple[File, ...], ...] = ()
    spare: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    leaked: int = 0
    relabeled: int = 0
    mirrored: int = 0


@dataclass(frozen=True)
class Shown:
    """An image to show: uint8 [H, W] or [H, W, 3]; `group` is the group of its copies, if it is shown for these."""

    file: File
    pixels: Bytes
    group: str = ""


@dataclass(frozen=True)
class Inspection:
    """Data set as a run would read it.

    Attributes:
        source, kind: The given source, and its kind of data set.
        classes: Class names in the order of their labels.
        counts: By split, number of readable images per class.
        channels, image_size, resize: Format of the network's input, and the resize rule.
        stored: Number of images by storage format.
        left_out, unreadable: Unused files, with reasons.
        exact: Images with the same pixels, at their stored size.
        near: Images that are nearly the same, or mirror images; equal ones are represented by one of them.
        shared: Sources with images in both splits, judging by names: a hint.
        notes: Further notes on how images are read.
        mean: uint8 [C, S, S], mean of the training images in the format of the network's input.
        shown: Some images of each class and of groups of copies.
    """

    source: str
    kind: str
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    channels: int
    image_size: int
    resize: Resize
    stored: Mapping[Stored, int]
    left_out: tuple[LeftOutFiles, ...]
    unreadable: tuple[Unreadable, ...]
    exact: Copies
    near: Copies
    shared: tuple[SharedSource, ...]
    notes: tuple[str, ...] = ()
    mean: Bytes | None = field(default=None, repr=False, compare=False)
    shown: tuple[Shown, ...] = field(default=(), repr=False, compare=False)

    @property
    def images(self) -> dict[str, int]:
        """Number of readable images by split."""
        return {part: sum(self.counts[part]) for part in PARTS}

    def lacking(self, part: str) -> tuple[str, ...]:
        """Return the classes without images in a split."""
        return tuple(name for name, count in zip(self.classes, self.counts[part], strict=True) if not count)

    def majority(self, part: str) -> tuple[str, float]:
        """Return the largest class of a split, and its share of the images."""
        counts = self.counts[part]
        largest = max(range(len(counts)), key=counts.__getitem__)
        return self.classes[largest], counts[largest] / max(1, sum(counts))

    @property
    def imbalance(self) -> float:
        """Return the ratio of the largest to the smallest non-empty class, in training images."""
        counts = [count for count in self.counts["train"] if count]
        return max(counts) / min(counts) if counts else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return everything except the images, for JSON."""
        sizes, modes = self.sizes(), self.modes()
        shared_tests = sum(each.test for each in self.shared)
        return {
            "data": self.source,
            "kind": self.kind,
            "images": self.images,
            "classes": [
                {"name": name} | {part: self.counts[part][label] for part in PARTS}
                for label, name in enumerate(self.classes)
            ],
            "network": {"channels": self.channels, "image_size": self.image_size, "resize": self.resize},
            "sizes": [{"width": width, "height": height, "images": n} for (width, height), n in sizes],
            "modes": [{"format": form, "mode": mode, "bits": bits, "images": n} for (form, mode, bits), n in modes],
            "left_out": [asdict(each) for each in self.left_out],
            "unreadable": [asdict(each) for each in self.unreadable],
            "duplicates": {"exact": asdict(self.exact), "near": asdict(self.near)},
            "shared_sources": {"test_images": shared_tests, "sources": [asdict(each) for each in self.shared]},
            "test_lacks": list(self.lacking("test")),
            "train_lacks": list(self.lacking("train")),
            "imbalance": self.imbalance,
            "majority": {part: dict(zip(("class", "share"), self.majority(part), strict=True)) for part in PARTS},
            "notes": list(self.notes),
        }

    def sizes(self) -> list[tuple[tuple[int, int], int]]:
        """Return (width, height) of images with their counts, most common first."""
        found: Counter[tuple[int, int]] = Counter()
        for each, count in self.stored.items():
            found[each.width, each.height] += count
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    def modes(self) -> list[tuple[tuple[str, str, int], int]]:
        """Return (format, mode, bits per channel) of images with their counts, most common first."""
        found: Counter[tuple[str, str, int]] = Counter()
        for each, count in self.stored.items():
            found[each.format, each.mode, each.bits] += count
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class _Read:
    """Splits of a data set, and the format of the network's input."""

    parts: tuple[Pictures, Pictures]
    classes: tuple[str, ...]
    channels: int
    size: int
    rule: Rule
    left_out: tuple[LeftOutFiles, ...] = ()
    notes: tuple[str, ...] = ()


def inspect_data(
    source: str,
    *,
    data_dir: str | None = None,
    image_size: int | None = None,
    resize: Resize = AUTO_RESIZE,
    columns: Columns | None = None,
    reporter: Reporter | None = None,
) -> Inspection:
    """Inspect a data set as `dnas run` would read it, without a run. Every image is decoded once.

    Args:
        source, data_dir, image_size, resize, columns: As in `splits.load_train`.
        reporter: Shows progress.

    Raises:
        InputError: There is no such data set, or a run would reject it for another reason than unreadable images.
    """
    if image_size is not None and image_size < SMALLEST_IMAGE:
        raise InputError(f"--image-size must be at least {SMALLEST_IMAGE}, got {image_size}")
    reporter = reporter or Silent()
    place = locate(source, data_dir, columns)
    read = _files(place, image_size, resize) if place.source.pictures else _arrays(source, place, image_size, resize)
    count = sum(len(part.labels) for part in read.parts)
    reporter.start(f"inspecting {count:,} images", count, 0)
    try:
        seen: list[Looks] = []
        for part in read.parts:
            before = sum(len(looks.readable) for looks in seen)
            step = partial(_step, reporter, before)
            seen.append(look_at(part, read.channels, read.size, read.rule, step))
    finally:
        reporter.finish()
    return _found(source, place, read, seen)


def _step(reporter: Reporter, before: int, done: int) -> None:
    reporter.step(before + done, {})


def _files(place: Place, image_size: int | None, resize: Resize) -> _Read:
    assert place.source.pictures is not None
    tree = tree_of(place)
    train = place.source.pictures(tree, "train", None)
    test = place.source.pictures(tree, "test", train.classes)
    headers = survey(train.tree or tree, train.names)
    rule = headers.rule(resize)
    left_out = LeftOut()
    for listing in (train, test):
        left_out.include(listing.left_out)
    parts = [
        Files(part, each.tree or tree, each.names, each.labels) for part, each in zip(PARTS, (train, test), strict=True)
    ]
    return _Read(
        (parts[0], parts[1]),
        train.classes,
        headers.channels,
        image_size or headers.size(rule.resize),
        rule,
        tuple(
            LeftOutFiles(
                reason.value,
                left_out.files(reason, tree),
                left_out.line(reason, MANY_SHOWN),
                tuple(left_out.examples[reason]),
            )
            for reason in left_out.reasons()
        ),
        tuple(dict.fromkeys((*train.notes, *test.notes))),
    )


def _arrays(source: str, place: Place, image_size: int | None, resize: Resize) -> _Read:
    assert place.source.arrays is not None, place.source.kind
    if resize not in (AUTO_RESIZE, CROP):
        raise InputError(f"--resize {resize} does not apply to {source!r}, whose images are square; remove it")
    parts = [Arrays(part, *place.source.arrays(place.path, part)) for part in PARTS]
    top = max(int(part.labels.max()) for part in parts)
    classes = place.source.classes or tuple(str(number) for number in range(top + 1))
    if top >= len(classes):
        raise InputError(f"{str(place.path)!r} contains the label {top}, but labels must be 0 to {len(classes) - 1}")
    images = parts[0].images
    return _Read(
        (parts[0], parts[1]), classes, images.shape[1], image_size or max(SMALLEST_IMAGE, images.shape[-1]), Rule()
    )


def _found(source: str, place: Place, read: _Read, seen: Sequence[Looks]) -> Inspection:
    parts = read.parts
    names = [part.names for part in parts]
    trained = len(parts[0].labels)

    def file(number: int) -> File:
        side = int(number >= trained)
        position = number - side * trained
        return File(PARTS[side], names[side][position], read.classes[parts[side].labels[position]])

    exact, near = _copies(seen, file)
    stored: Counter[Stored] = Counter()
    for looks in seen:
        stored.update(looks.kinds)
    counted = [
        np.bincount(part.labels[looks.readable], minlength=len(read.classes))
        for part, looks in zip(parts, seen, strict=True)
    ]
    readable = max(1, int(seen[0].readable.sum()))
    shared: Sequence[SharedSource] = ()
    if isinstance(parts[0], Files):  # images of an array have no names
        shared = shared_sources(names[0], names[1], parts[0].labels.tolist(), parts[1].labels.tolist())
    return Inspection(
        source=source,
        kind=place.source.kind,
        classes=read.classes,
        counts={part: tuple(counts.tolist()) for part, counts in zip(PARTS, counted, strict=True)},
        channels=read.channels,
        image_size=read.size,
        resize=read.rule.resize,
        stored=dict(sorted(stored.items())),
        left_out=read.left_out,
        unreadable=tuple(
            Unreadable(PARTS[side], names[side][position], why)
            for side, looks in enumerate(seen)
            for position, why in looks.broken.items()
        ),
        exact=exact,
        near=near,
        shared=tuple(shared),
        notes=read.notes,
        mean=((2 * seen[0].total + readable) // (2 * readable)).astype(np.uint8),
        shown=tuple(_shown(read, seen[0], exact, near, names)),
    )


def _copies(seen: Sequence[Looks], file: Callable[[int], File]) -> tuple[Copies, Copies]:
    """Return exact and near copies among the readable images.

    Args:
        file: Returns the image with a number among the images of all splits.
    """
    readable, digests, thumbs = (
        np.concatenate([getattr(looks, name) for looks in seen]) for name in ("readable", "digests", "thumbs")
    )
    sides = np.repeat([0, 1], [len(looks.readable) for looks in seen])
    used = np.flatnonzero(readable)
    exact = [used[group] for group in copies.equal(digests[used])]
    members = {int(group[0]): group for group in exact}
    # One image represents all equal ones.
    firsts = used[np.sort(np.unique(digests[used], return_index=True)[1])]
    pairs = copies.near(thumbs[firsts])
    near = [firsts[group] for group in copies.joined(len(firsts), pairs.positions)]

    def leaked(group: Labels, others: Labels) -> set[int]:
        """Return the test images of a group, if others are training images."""
        return {int(k) for k in group if sides[k]} if (sides[others] == 0).any() else set()

    surely = {k for group in exact for k in leaked(group, group)}
    perhaps: set[int] = set()
    for pair in firsts[pairs.positions]:
        one, other = (members.get(int(k), np.array([k])) for k in pair)
        perhaps |= leaked(one, other) | leaked(other, one)

    def described(groups: Sequence[Labels], leaked: int, mirrored: int) -> Copies:
        spare = [sum(max(0, int((sides[group] == side).sum()) - 1) for group in groups) for side in (0, 1)]
        files = tuple(tuple(file(int(k)) for k in group) for group in groups)
        relabeled = sum(len({each.label for each in group}) > 1 for group in files)
        return Copies(files, dict(zip(PARTS, spare, strict=True)), leaked, relabeled, mirrored)

    mirrored = int(pairs.mirrored.sum())
    return described(exact, len(surely), 0), described(near, len(perhaps - surely), mirrored)


def _shown(
    read: _Read, training: Looks, exact: Copies, near: Copies, names: Sequence[Sequence[str]]
) -> Iterator[Shown]:
    """Yield images for a sheet: some of each class, evenly spaced, and groups of copies, those across splits first."""
    labels = read.parts[0].labels
    each = max(1, min(OF_A_CLASS, OF_ALL // len(read.classes)))

    def shown(side: int, position: int, group: str = "") -> Iterator[Shown]:
        image = look_again(read.parts[side], position, read.channels, read.rule)
        if image is not None:
            image.thumbnail((SIDE, SIDE))
            label = read.classes[read.parts[side].labels[position]]
            yield Shown(File(PARTS[side], names[side][position], label), np.asarray(image), group)

    for label in range(min(len(read.classes), OF_ALL)):
        members = np.flatnonzero((labels == label) & training.readable)
        for position in members[np.linspace(0, len(members) - 1, min(each, len(members))).astype(np.int64)]:
            yield from shown(0, int(position))
    places = [{name: position for position, name in enumerate(of_part)} for of_part in names]
    for kind, found in (("exact", exact), ("near", near)):
        groups = sorted(found.groups, key=lambda group: len({each.part for each in group}), reverse=True)
        for number, group in enumerate(groups[:GROUPS], 1):
            for each_file in group[:OF_A_CLASS]:
                side = PARTS.index(each_file.part)
                yield from shown(side, places[side][each_file.name], f"{kind} {number}")

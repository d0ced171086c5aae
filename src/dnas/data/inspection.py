"""What a run would read of a data set, found without running: classes, files left out, copies, shared sources."""

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
# Pictures that are shown: of each class, of all, of groups of copies; and their longest side in pixels.
OF_A_CLASS, OF_ALL, GROUPS, SIDE = 8, 480, 12, 96


@dataclass(frozen=True)
class File:
    """A picture: the split it is in, its name, and its class."""

    part: str
    name: str
    label: str


@dataclass(frozen=True)
class LeftOutFiles:
    """Files that are not used, for one reason.

    Attributes:
        reason: One of `listing.Reason`, such as "not images".
        files: How many; of repeated rows of a list, how many rows.
        text: The same in words.
        examples: The first few.
    """

    reason: str
    files: int
    text: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read, and why."""

    part: str
    name: str
    reason: str


@dataclass(frozen=True)
class Copies:
    """Pictures that occur more than once.

    Attributes:
        groups: Pictures that are copies of each other.
        spare: By split, how many pictures could go so that it has each once.
        leaked: How many test pictures have a copy in training.
        relabeled: How many groups have pictures of several classes.
        mirrored: How many pairs are mirror images of each other.
    """

    groups: tuple[tuple[File, ...], ...] = ()
    spare: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    leaked: int = 0
    relabeled: int = 0
    mirrored: int = 0


@dataclass(frozen=True)
class Shown:
    """A picture to look at: uint8 [H, W] or [H, W, 3]; `group` is that of its copies, if it is shown for these."""

    file: File
    pixels: Bytes
    group: str = ""


@dataclass(frozen=True)
class Inspection:
    """What a run would read of a data set.

    Attributes:
        source, kind: What was given, and which kind of data set it is.
        classes: Their names, in the order of their labels.
        counts: By split, how many readable pictures each class has.
        channels, image_size, resize: What the network would see, and by which rule.
        stored: How many pictures are stored in each way.
        left_out, unreadable: What is not used, and why.
        exact: Pictures with the same pixels, at the size in which they are stored.
        near: Pictures that are nearly the same, or mirror images; of equal ones, one stands for all.
        shared: Sources that both splits have pictures of, as far as names tell: a hint.
        notes: What else there is to know of how pictures are read.
        mean: uint8 [C, S, S], the mean of the training pictures as the network sees them.
        shown: Some pictures of each class, and of groups of copies.
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
        """How many readable pictures each split has."""
        return {part: sum(self.counts[part]) for part in PARTS}

    def lacking(self, part: str) -> tuple[str, ...]:
        """The classes that a split has no pictures of."""
        return tuple(name for name, count in zip(self.classes, self.counts[part], strict=True) if not count)

    def majority(self, part: str) -> tuple[str, float]:
        """The largest class of a split, and its share of the pictures."""
        counts = self.counts[part]
        largest = max(range(len(counts)), key=counts.__getitem__)
        return self.classes[largest], counts[largest] / max(1, sum(counts))

    @property
    def imbalance(self) -> float:
        """How many times as many training pictures the largest class has as the smallest that has any."""
        counts = [count for count in self.counts["train"] if count]
        return max(counts) / min(counts) if counts else 1.0

    def to_json(self) -> dict[str, Any]:
        """All of it but the pictures, as JSON takes it."""
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
        """(width, height) of pictures, and how many have them; the most common first."""
        found: Counter[tuple[int, int]] = Counter()
        for each, count in self.stored.items():
            found[each.width, each.height] += count
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    def modes(self) -> list[tuple[tuple[str, str, int], int]]:
        """(format, mode, bits of a channel) of pictures, and how many have them; the most common first."""
        found: Counter[tuple[str, str, int]] = Counter()
        for each, count in self.stored.items():
            found[each.format, each.mode, each.bits] += count
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class _Read:
    """The splits of a data set, and how the network would see them."""

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
    """Look at a data set as `dnas run` would read it, without running. Every picture is decoded once.

    Args:
        source, data_dir, image_size, resize, columns: As of `splits.load_train`.
        reporter: Is told how far it is.

    Raises:
        InputError: There is no such data set, or a run would refuse it for another reason than unreadable pictures.
    """
    if image_size is not None and image_size < SMALLEST_IMAGE:
        raise InputError(f"--image-size must be at least {SMALLEST_IMAGE}, got {image_size}")
    reporter = reporter or Silent()
    place = locate(source, data_dir, columns)
    read = _files(place, image_size, resize) if place.source.pictures else _arrays(source, place, image_size, resize)
    count = sum(len(part.labels) for part in read.parts)
    reporter.start(f"looking at {count:,} images", count, 0)
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
        raise InputError(f"{str(place.path)!r} has the label {top} where only 0 to {len(classes) - 1} are known")
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
    """Exact and near copies among the readable pictures.

    Args:
        file: Gives the picture with a number among those of all splits.
    """
    readable, digests, thumbs = (
        np.concatenate([getattr(looks, name) for looks in seen]) for name in ("readable", "digests", "thumbs")
    )
    sides = np.repeat([0, 1], [len(looks.readable) for looks in seen])
    used = np.flatnonzero(readable)
    exact = [used[group] for group in copies.equal(digests[used])]
    members = {int(group[0]): group for group in exact}
    # Of equal pictures one stands for all.
    firsts = used[np.sort(np.unique(digests[used], return_index=True)[1])]
    pairs = copies.near(thumbs[firsts])
    near = [firsts[group] for group in copies.joined(len(firsts), pairs.positions)]

    def leaked(group: Labels, others: Labels) -> set[int]:
        """The test pictures of a group, if others are training pictures."""
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
    """Pictures for a sheet: some of each class, evenly spaced, and groups of copies, those of both splits first."""
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

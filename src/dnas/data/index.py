"""Index of the images of a large folder, kept in a file, so that only the first start reads all of them.

Names, sizes and modification times are read from the file system at every start. Results that require reading and
decoding (sizes and colors of images, histograms, digests, and that no image is broken) are kept for groups of up to
1,024 images under a digest of those names, sizes and times. An index is therefore never out of date: a group in which
an image was added, removed or changed has another digest, and is read again.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dnas.data.decoders import Decoders, Task
from dnas.data.headers import Headers, Rule
from dnas.data.pictures import AS_IT_IS, count_files, survey
from dnas.data.sources.samples import Counts, File, Labels
from dnas.data.sources.tree import Tree
from dnas.data.unreadable import Broken, require_whole
from dnas.disk import write_atomically
from dnas.errors import RunError
from dnas.reporter import Reporter, Silent
from dnas.settings import CROP

GROUP = 1024
SAVE_SECONDS = 10.0
LARGEST_FILE = 2**28  # bytes; a million images need about twenty million


@dataclass(frozen=True)
class Files:
    """A table of image files: about 60 bytes each, without Python objects.

    Attributes:
        tree: Folder or archive with the files.
        text: Their names in it, concatenated, as in the file system.
        ends: int64 [N], end of each name in `text`.
        sizes, times: int64 [N], bytes and nanoseconds; -1 for a missing file.
    """

    tree: Tree
    text: bytes
    ends: Labels
    sizes: Labels
    times: Labels

    @classmethod
    def look(cls, tree: Tree, names: Sequence[str]) -> Files:
        """Return the files with these names in their current state."""
        table = np.full((2, len(names)), -1, np.int64)
        for index, name in enumerate(names):
            with suppress(OSError):  # decoding finds it again and reports it
                table[:, index] = tree.status(name)
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(tree, b"".join(encoded), ends, table[0], table[1])

    def __len__(self) -> int:
        return len(self.ends)

    def at(self, positions: Sequence[int] | Labels) -> list[File]:
        """Return name, size and time of the files at some positions."""
        files = []
        for position in map(int, positions):
            name = self.text[self.ends[position - 1] if position else 0 : self.ends[position]]
            files.append((os.fsdecode(name), int(self.sizes[position]), int(self.times[position])))
        return files

    def digest(self, positions: Sequence[int] | Labels) -> str:
        """Return the SHA-256 (hex) of names, sizes and times."""
        digest = hashlib.sha256()
        for name, size, changed in self.at(positions):
            digest.update(b"%s\0%d\0%d\0" % (os.fsencode(name), size, changed))
        return digest.hexdigest()


class _Known(BaseModel):
    """Known properties of one group.

    Attributes:
        sides, longer, elongated, grey, values, whole: `Headers` of the readable images; an older index lacks some of
            them, so that headers are read again.
        counts: {"channels x size": [C][256]}: histograms of the readable images. The key also contains the rule,
            unless it is crop.
        digests: {"channels x size": base64 of int64 [N], little-endian}: `pictures.image_digests`, with the same keys,
            0 for a broken image. An older index has none, so that images are read again.
        broken: {"channels x size": positions of broken images in the group}. These are tried at every start.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    sides: dict[int, int]
    grey: bool
    longer: dict[int, int] | None = None
    elongated: int = 0
    values: list[float] = Field(default_factory=list)
    whole: bool = True
    counts: dict[str, list[list[int]]] = Field(default_factory=dict)
    digests: dict[str, str] = Field(default_factory=dict)
    broken: dict[str, list[int]] = Field(default_factory=dict)

    @property
    def headers(self) -> Headers:
        return Headers(self.sides, self.longer or {}, self.elongated, self.grey, tuple(self.values), self.whole)


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["dnas-index/2"] = "dnas-index/2"  # version 1 accepted incomplete JPEG files
    folder: str
    groups: dict[str, _Known]


class Index:
    """Index of the images of a split.

    Args:
        files, labels: The images, in order.
        path: File of the index.
        reporter: Shows the progress of a first look.
    """

    def __init__(self, files: Files, labels: Labels, path: Path, reporter: Reporter | None = None) -> None:
        self.files, self.path, self.reporter = files, path, reporter or Silent()
        self.groups = {files.digest(group): group for group in _groups(labels)}
        self._known = {digest: group for digest, group in _read(path).items() if digest in self.groups}

    def shape(self) -> Headers:
        """Return the properties of all images that do not require decoding. Unknown headers are read."""
        total = Headers()
        for digest, group in self.groups.items():
            known = self._known.get(digest)
            if known is None or known.longer is None:
                found = survey(self.files.tree, [name for name, _, _ in self.files.at(group)])
                self._known[digest] = _Known(
                    sides=dict(found.shorter),
                    grey=found.grey,
                    longer=dict(found.longer),
                    elongated=found.elongated,
                    values=list(found.values),
                    whole=found.whole,
                    counts={} if known is None else known.counts,
                    digests={} if known is None else known.digests,
                    broken={} if known is None else known.broken,
                )
            total += self._known[digest].headers
        return total

    def counts(self, channels: int, size: int, decoders: Decoders, rule: Rule = AS_IT_IS) -> Counts:
        """Return the histogram of all images in each channel [C, 256]. Unknown groups are decoded, and kept.

        Raises Unreadable with all broken images.
        """
        counts, broken = self.look(channels, size, decoders, rule)
        require_whole(self.files.tree.path, list(broken.values()), channels, size)
        return counts

    def look(
        self, channels: int, size: int, decoders: Decoders, rule: Rule = AS_IT_IS
    ) -> tuple[Counts, dict[int, Broken]]:
        """Return the histogram of readable images, like `counts`, and {position: image} of broken ones, in order."""
        self.shape()
        key = _key(channels, size, rule)
        broken: dict[int, Broken] = {}
        unknown = []
        for digest, group in self.groups.items():
            if not self._is_whole(digest, key):
                unknown.append(digest)
            elif places := [group[place] for place in self._known[digest].broken.get(key, ())]:
                files = self.files.at(places)
                still = decoders.finish(decoders.begin(count_files, self.files.tree, files, channels, size, rule))[2]
                if len(still) == len(places):
                    broken |= dict(zip(places, still, strict=True))
                else:  # another version of Pillow can read one of them
                    unknown.append(digest)
        if unknown:
            self.reporter.start(f"first look at {sum(len(self.groups[d]) for d in unknown)} images", len(unknown), 0)
        saved = time.monotonic()
        try:
            found = self._counted(unknown, channels, size, decoders, rule)
            for done, (digest, counts, digests, names) in enumerate(found, 1):
                reasons, group, known = dict(names), self.groups[digest], self._known[digest]
                listed = [name for name, _, _ in self.files.at(group)]
                found_here = [place for place, name in enumerate(listed) if name in reasons]
                broken |= {group[place]: (listed[place], reasons[listed[place]]) for place in found_here}
                known.counts[key], known.broken[key] = counts.tolist(), found_here
                known.digests[key] = base64.b64encode(digests.astype("<i8").tobytes()).decode()
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
                self.reporter.step(done, {})
        finally:
            if unknown:
                self._save()  # an interrupted look continues from here
                self.reporter.finish()
        total = np.zeros((channels, 256), np.int64)
        for digest in self.groups:
            total += np.array(self._known[digest].counts[key], np.int64)
        return total, dict(sorted(broken.items()))

    def digests(self, channels: int, size: int, rule: Rule = AS_IT_IS) -> Labels:
        """Return the digest of each picture, int64 [N] (`pictures.image_digests`), which `look` has found; 0 of broken
        ones."""
        key = _key(channels, size, rule)
        found = np.empty(len(self.files), np.int64)
        for digest, group in self.groups.items():
            found[group.start : group.stop] = np.frombuffer(base64.b64decode(self._known[digest].digests[key]), "<i8")
        return found

    def _is_whole(self, digest: str, key: str) -> bool:
        """Return True if everything is known about a group at these channels and this size."""
        known = self._known[digest]
        return key in known.counts and len(known.digests.get(key, "")) == 4 * -(-8 * len(self.groups[digest]) // 3)

    def _counted(
        self, digests: Sequence[str], channels: int, size: int, decoders: Decoders, rule: Rule
    ) -> Iterator[tuple[str, Counts, Labels, list[Broken]]]:
        """Yield the results of `count_files` for some groups, in order."""
        begun: deque[tuple[str, Task[tuple[Counts, Labels, list[Broken]]]]] = deque()
        for digest in digests:
            files = self.files.at(self.groups[digest])
            begun.append((digest, decoders.begin(count_files, self.files.tree, files, channels, size, rule)))
            if len(begun) > 2 * decoders.count:
                first, task = begun.popleft()
                yield first, *decoders.finish(task)
        for digest, task in begun:
            yield digest, *decoders.finish(task)

    def _save(self) -> None:
        content = _Content(folder=str(self.files.tree.path), groups=self._known)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = content.model_dump_json().encode()
            write_atomically(self.path, _checksum(text) + b"\n" + text)
        except (OSError, RunError) as error:
            reason = getattr(error, "strerror", None) or error
            self.reporter.say(f"the index cannot be saved, so the next start reads all images again: {reason}")


def _key(channels: int, size: int, rule: Rule) -> str:
    """Return the key of counts and digests."""
    words = [f"{channels}x{size}", *([] if rule.resize == CROP else [rule.resize]), *map(repr, rule.values)]
    return " ".join(words)


def index_file(folder: Path, root: Path, part: str) -> Path:
    """Return the path, below `folder`, of the index of a part ("train" or "test") of the data set at `root`.

    The file consists of a line with the SHA-256 of the rest, and JSON.
    """
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return folder / "index" / f"{name}-{part}.index"


def _groups(labels: Labels) -> list[range]:
    """Return the positions of each group: within one class, if images are ordered by class."""
    steps = np.diff(labels)
    cuts = np.flatnonzero(steps) + 1 if (steps >= 0).all() else np.array([], np.int64)
    edges = [0, *map(int, cuts), len(labels)]
    return [
        range(start, min(start + GROUP, end)) for begin, end in pairwise(edges) for start in range(begin, end, GROUP)
    ]


def _read(path: Path) -> dict[str, _Known]:
    """Return the content of an index file; empty if it is missing or damaged."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            return {}
        checksum, _, text = path.read_bytes().partition(b"\n")
        return _Content.model_validate_json(text).groups if checksum == _checksum(text) else {}
    except (OSError, ValidationError):
        return {}


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()

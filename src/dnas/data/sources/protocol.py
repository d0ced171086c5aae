"""What a kind of data set must give, and where one lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dnas.data.sources.samples import Bytes, Labels
from dnas.data.sources.tree import Tree, is_dir, is_file

if TYPE_CHECKING:
    from dnas.data.sources.listing import Listing


IN_MEMORY = "memory"  # what configurations call images that a caller holds


@dataclass(frozen=True, kw_only=True)
class Named:
    """A published data set that is known by name.

    Attributes:
        name: As of `--data`.
        places: Where it may lie below the data directory; none: it comes with a package.
        url, files: Where its files are fetched, and (name, md5) of each.
        into: The folder below the data directory that they are put into.
        whole: Whether a place holds all of it; by default it does where it exists.
        hint: What else lies in the data directory that could be taken for it, as the end of a sentence.
    """

    name: str
    places: tuple[str, ...] = ()
    url: str = ""
    files: tuple[tuple[str, str], ...] = ()
    into: str = ""
    whole: Callable[[Path], bool] = lambda place: is_dir(place) or is_file(place)
    hint: Callable[[Path], str] = lambda data_dir: ""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One kind of data set: how it is told, and how it is read. It gives either `arrays` or `pictures`.

    A file in this folder lists its own as `SOURCES`; a package gives one by an entry point of the group
    `dnas.data_sources` that has the name of its kind. Nothing else names them.

    Attributes:
        kind: What messages call it.
        rank: Its place in lists, and in the order in which a folder is asked what it holds.
        holds: Whether a folder or file is of this kind. Raises InputError for one that must not be read.
        within: Likewise, where the same may lie in an archive; `pictures` then reads it there.
        arrays: (path, part) → images [N, C, S, S] and labels [N].
        pictures: (tree, part, classes) → a listing; `classes` are those of training, once they are known.
        given: (tree, classes) → the listing of all that is given to test with, and the part that it is; where that may
            be more than the part "test".
        by_columns: The same source, which reads lists by other columns than it would; None where it reads no lists.
        classes: Of arrays; by default their labels' numbers.
        mean_std: Published constants of each channel, on the scale 0..1.
        mirrored: Whether a mirrored picture keeps its label.
        measured: Whether `flip = "auto"` measures that.
    """

    kind: str
    rank: int = 100
    holds: Callable[[Path], bool] = lambda folder: False
    within: Callable[[Tree], bool] = lambda tree: False
    arrays: Callable[[Path, str], tuple[Bytes, Labels]] | None = None
    pictures: Callable[[Tree, str, tuple[str, ...] | None], Listing] | None = None
    given: Callable[[Tree, tuple[str, ...]], tuple[Listing, str]] | None = None
    by_columns: Callable[[Columns], Source] | None = None
    classes: tuple[str, ...] = ()
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    mirrored: bool = True
    measured: bool = False
    named: Named | None = None


@dataclass(frozen=True)
class Columns:
    """How a list of images is read.

    Attributes:
        image, label: The columns' names; "": the usual ones.
        root: The folder that paths are relative to; "": the list's.
    """

    image: str = ""
    label: str = ""
    root: str = ""

    def flags(self) -> str:
        """What was given, as the user typed it; "" for nothing."""
        given = {"--image-column": self.image, "--label-column": self.label, "--root": self.root}
        return " ".join(f"{flag} {value!r}" for flag, value in given.items() if value)


@dataclass(frozen=True)
class Place:
    """What lies where.

    Attributes:
        tree: What holds the files, if they are not at the path but in memory.
    """

    source: Source
    path: Path
    tree: Tree | None = None

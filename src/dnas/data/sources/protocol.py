"""Interface of a kind of data set, and the location of a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dnas.data.sources.samples import Bytes, Labels
from dnas.data.sources.tree import Tree, is_dir, is_file

if TYPE_CHECKING:
    from dnas.data.sources.listing import Listing


IN_MEMORY = "memory"  # name in configurations of images in the memory of the caller


@dataclass(frozen=True, kw_only=True)
class Named:
    """Published data set with a name.

    Attributes:
        name: Value of `--data`.
        places: Possible locations below the data directory; none: it is part of a package.
        url, files: URL of the files, and (name, md5) of each.
        into: Folder below the data directory for downloads.
        whole: Whether a location has all of its files; by default, whether it exists.
        hint: Note on files in the data directory that could be mistaken for it, as the end of a sentence.
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
    """Kind of data set: how to recognize and read it. It has either `arrays` or `pictures`.

    A file in this folder lists its sources as `SOURCES`; a package provides one by an entry point of the group
    `dnas.data_sources` with the name of its kind. No other code names them.

    Attributes:
        kind: Name in messages.
        rank: Position in lists, and in the order in which kinds are tried on a folder.
        holds: Whether a folder or file is of this kind. Raises InputError for one that must not be read.
        within: The same for archives that may contain this kind; `pictures` then reads it there.
        arrays: (path, part) → images [N, C, S, S] and labels [N].
        pictures: (tree, part, classes) → a listing; `classes` are those of training, once they are known.
        given: (tree, classes) → the listing of all images given for a test, and their part, if that can be more than
            the part "test".
        by_columns: Returns the same source with other columns for lists; None if it does not read lists.
        classes: Class names of arrays; by default the numbers of the labels.
        mean_std: Published constants of each channel, on the scale 0..1.
        mirrored: Whether a mirrored image keeps its label.
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
    """Columns of a list of images.

    Attributes:
        image, label: Names of the columns; "": the usual names.
        root: Folder to which paths are relative; "": the folder of the list.
    """

    image: str = ""
    label: str = ""
    root: str = ""

    def flags(self) -> str:
        """Return the given options as the user typed them; "" for none."""
        given = {"--image-column": self.image, "--label-column": self.label, "--root": self.root}
        return " ".join(f"{flag} {value!r}" for flag, value in given.items() if value)


@dataclass(frozen=True)
class Place:
    """Location of a data set.

    Attributes:
        tree: Holds the files, if they are in memory instead of at the path.
    """

    source: Source
    path: Path
    tree: Tree | None = None

"""Data sets by name or folder: which kinds there are, where one lies, and how it is fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from dnas.data.sources.archive import open_tree
from dnas.data.sources.protocol import IN_MEMORY, Columns, Named, Place, Source
from dnas.data.sources.tree import is_dir, is_file
from dnas.errors import InputError, did_you_mean
from dnas.plugins import Registry, modules_of

_FORMS = (
    "a folder of images, an archive of one (.zip, .tar, .tar.gz), a list of images (.csv, .tsv, .jsonl), arrays (.npz) "
    "or shards (.parquet, .arrow)"
)


def _own() -> Mapping[str, Source]:
    """The `SOURCES` of this folder's files."""
    listed = (getattr(module, "SOURCES", ()) for module in modules_of("dnas.data.sources"))
    return {source.kind: source for each in listed for source in each}


DATA_SOURCES = Registry[Source](
    "dnas.data_sources", Source, "data source", _own, name="kind", spelled=(re.compile(r"\S.*"), "some letters")
)


def sources() -> tuple[Source, ...]:
    """Every kind of data set, in the order of its rank.

    Raises InputError if a package gives one that has the kind of another, or is none.
    """
    return tuple(sorted(DATA_SOURCES.values(), key=lambda source: source.rank))


def names() -> tuple[str, ...]:
    """The data sets that are known by name."""
    return tuple(source.named.name for source in sources() if source.named is not None)


def _called(name: str) -> tuple[Source, Named] | None:
    return next(((s, s.named) for s in sources() if s.named is not None and s.named.name == name), None)


def found(data_dir: str | None = None) -> list[tuple[str, str]]:
    """(name, where it is or that it is missing) of each named data set; opens no data file."""
    root = data_root(data_dir)
    report = []
    for source in sources():
        if source.named is not None:
            place = _on_disk(source, source.named, root)
            where = "comes with scikit-learn" if not source.named.places else str(place.path) if place else ""
            report.append((source.named.name, where or f"not in {str(root)!r}"))
    return report


def data_root(data_dir: str | None) -> Path:
    """Where named data sets lie, and indexes of folders."""
    given = data_dir or os.environ.get("DNAS_DATA_DIR")
    if given:
        return _expanded(given)
    try:
        return Path.home() / ".cache" / "dnas"
    except RuntimeError:  # neither HOME nor an entry for this user
        return Path(".cache") / "dnas"


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def offline() -> bool:
    """Whether DNAS_OFFLINE forbids downloads."""
    return os.environ.get("DNAS_OFFLINE", "0") not in ("", "0")


def is_here(source: str, data_dir: str | None) -> bool:
    """Whether `locate` would find it without a download."""
    called = _called(source)
    return called is None or _on_disk(*called, data_root(data_dir)) is not None


def locate(source: str, data_dir: str | None, columns: Columns | None = None, given: Place | None = None) -> Place:
    """Where a data set lies, and of which kind it is; a named one is fetched if it is not there. Raises InputError.

    Args:
        given: The place of images that a caller holds, of which `source` is no more than the name.
    """
    if given is not None:
        place = given
    elif called := _called(source):
        root = data_root(data_dir)
        place = _on_disk(*called, root) or _download(*called, root)
    else:
        place = _lying_at(source)
    flags = columns.flags() if columns is not None else ""
    if not flags:
        return place
    assert columns is not None
    if place.source.by_columns is None:
        raise InputError(f"{flags} only applies to lists of images, and --data {source!r} is none; remove it")
    return replace(place, source=place.source.by_columns(columns))


def _lying_at(source: str) -> Place:
    folder = _expanded(source)
    if not source or not (is_dir(folder) or is_file(folder)):
        if source == IN_MEMORY:
            raise InputError(
                "these images were in the memory of a Python program and are in no file; give them again, in Python as "
                "data=…, or other ones as --data PATH"
            )
        hint = did_you_mean(source, names()) or f"; give a name ({', '.join(names())}) or the path of {_FORMS}"
        raise InputError(f"--data {source!r} is neither a known data set nor a file or folder that exists{hint}")
    tree = open_tree(folder)
    found = next((kind for kind in sources() if kind.holds(folder) or kind.within(tree)), None)
    if found is None:
        raise InputError(f"--data {source!r} is a file that cannot be used; give {_FORMS}")
    return Place(found, folder)


def _on_disk(source: Source, named: Named, root: Path) -> Place | None:
    if not named.places:
        return Place(source, Path(named.name))
    return next((Place(source, root / place) for place in named.places if named.whole(root / place)), None)


def _download(source: Source, named: Named, root: Path) -> Place:
    try:
        if offline():
            raise ConnectionError("DNAS_OFFLINE is set")
        import pooch  # type: ignore[import-untyped,unused-ignore]

        for file, md5 in named.files:
            pooch.retrieve(
                named.url + file,
                known_hash=f"md5:{md5}",
                fname=file,
                path=root / named.into,
                progressbar=False,
            )
    except Exception as error:  # whatever goes wrong in a network or a disk, the remedy is the same
        reason = " ".join(str(error).split()) or type(error).__name__
        files = " and ".join(file for file, _ in named.files)
        raise InputError(
            f"data set {named.name} is not at {str(root / named.into)!r} and could not be downloaded ({reason})"
            f"{named.hint(root)}; put {files} there or pass --data-dir"
        ) from error
    place = _on_disk(source, named, root)
    assert place is not None, root
    return place

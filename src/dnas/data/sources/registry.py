"""Data sets by name or folder: the registry of kinds, locations and downloads."""

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
    """Return all kinds of data sets by rank: the `SOURCES` of the files in this folder, and those of other packages.

    Raises InputError if a package provides an invalid source or a kind that already exists.
    """
    return tuple(sorted(DATA_SOURCES.values(), key=lambda source: source.rank))


def names() -> tuple[str, ...]:
    """Return the names of the named data sets."""
    return tuple(source.named.name for source in sources() if source.named is not None)


def _called(name: str) -> tuple[Source, Named] | None:
    return next(((s, s.named) for s in sources() if s.named is not None and s.named.name == name), None)


def found(data_dir: str | None = None) -> list[tuple[str, str]]:
    """Return (name, location or that it is missing) of each named data set; opens no data file."""
    root = data_root(data_dir)
    report = []
    for source in sources():
        if source.named is not None:
            place = _on_disk(source, source.named, root)
            where = "included in scikit-learn" if not source.named.places else str(place.path) if place else ""
            report.append((source.named.name, where or f"not in {str(root)!r}"))
    return report


def data_root(data_dir: str | None) -> Path:
    """Return the folder of named data sets and of indexes."""
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
    """Return True if DNAS_OFFLINE forbids downloads."""
    return os.environ.get("DNAS_OFFLINE", "0") not in ("", "0")


def is_here(source: str, data_dir: str | None) -> bool:
    """Return True if `locate` would find the data set without a download."""
    called = _called(source)
    return called is None or _on_disk(*called, data_root(data_dir)) is not None


def locate(source: str, data_dir: str | None, columns: Columns | None = None, given: Place | None = None) -> Place:
    """Return the location and the kind of a data set; download a named one if it is missing. Raises InputError.

    Args:
        given: The place of images in the memory of the caller, for which `source` is only a name.
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
        raise InputError(f"{flags} only applies to lists of images, not to --data {source!r}; remove it")
    return replace(place, source=place.source.by_columns(columns))


def _lying_at(source: str) -> Place:
    folder = _expanded(source)
    if not source or not (is_dir(folder) or is_file(folder)):
        if source == IN_MEMORY:
            raise InputError(
                "these images were in the memory of a Python program; give them again in Python as data=…, or give "
                "others as --data PATH"
            )
        hint = did_you_mean(source, names()) or f"; give a name ({', '.join(names())}) or the path of {_FORMS}"
        raise InputError(f"--data {source!r} is neither a known data set nor a file or folder that exists{hint}")
    if is_file(folder) and (download := _downloaded_as(folder.name)):
        return Place(download, folder)
    tree = open_tree(folder)
    found = next((kind for kind in sources() if kind.holds(folder) or kind.within(tree)), None)
    if found is None:
        raise InputError(f"--data {source!r} is an unsupported file; give {_FORMS}")
    return Place(found, folder)


def _downloaded_as(file: str) -> Source | None:
    """Return the named data set that is downloaded as a file of this name, and read from it as it is."""
    named = ((source, source.named) for source in sources() if source.named is not None)
    return next((source for source, each in named if file in each.places), None)


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
    except Exception as error:  # the remedy is the same for all errors of network and disk
        reason = " ".join(str(error).split()) or type(error).__name__
        files = " and ".join(file for file, _ in named.files)
        raise InputError(
            f"data set {named.name} is not at {str(root / named.into)!r} and could not be downloaded ({reason})"
            f"{named.hint(root)}; copy {files} there or set --data-dir"
        ) from error
    place = _on_disk(source, named, root)
    assert place is not None, root
    return place

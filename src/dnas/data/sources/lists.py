"""Lists of images and their labels: a CSV, TSV or JSONL file, or a folder or archive with one next to its images.

Image folders of Hugging Face are such lists, with a metadata.csv or metadata.jsonl in each split or at the top.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dnas.data.sources.listing import (
    LIST_ENDINGS,
    LeftOut,
    Listing,
    Reason,
    is_picture,
    look_below,
    subfolders,
    top_files,
)
from dnas.data.sources.parts import IMAGE_FOLDERS, find_parts, is_part, part_of
from dnas.data.sources.protocol import Columns, Source
from dnas.data.sources.samples import Labels, numbered, of_part
from dnas.data.sources.table import Row, names_images, read_list
from dnas.data.sources.tree import Folder, Tree, is_dir
from dnas.errors import InputError

_METADATA = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True)
class _File:
    """A list: its name, the folder to which its paths are relative, and its split; "" if its rows contain the split."""

    name: str
    base: str = ""
    part: str = ""


@dataclass(frozen=True)
class _Images:
    """Images of one split, without repetitions."""

    names: list[str]
    labels: list[str]


@dataclass(frozen=True)
class _Read:
    """Content of lists.

    Attributes:
        where: The list, or the folder of several lists, for messages.
        parts: "train" and "test", or "" if unsplit.
    """

    where: str
    parts: dict[str, _Images]
    left_out: LeftOut
    tree: Tree


def list_rows(tree: Tree, part: str, classes: tuple[str, ...] | None = None, *, columns: Columns) -> Listing:
    """List the images of a part ("train" or "test"), in the order of the rows. If unsplit, a fifth of each class is
    held out.

    Files left out are reported with the training part.

    Raises:
        InputError: A list is invalid or contradicts itself.
    """
    read = _read(tree, columns)
    train = read.parts.get("train", read.parts.get(""))
    assert train is not None, read.parts
    known = classes or tuple(sorted(set(train.labels)))
    used = read.parts.get(part, train)
    labels = numbered(used.labels, known, repr(read.where))
    if "train" in read.parts and part == "train":
        numbered(read.parts["test"].labels, known, repr(read.where))  # better reported before the search than after it
    positions: Labels = np.arange(len(labels))
    if "" in read.parts:
        positions = of_part(part, labels, known, repr(read.where))
    left_out = read.left_out if part == "train" else LeftOut()
    return Listing(known, [used.names[k] for k in positions], labels[positions], left_out, read.tree)


def list_given(tree: Tree, classes: tuple[str, ...], *, columns: Columns) -> tuple[Listing, str]:
    """List the images of a list given for testing: those of its test part, or all if it is unsplit."""
    read = _read(tree, columns)
    used = read.parts["test" if "test" in read.parts else ""]
    listing = Listing(classes, used.names, numbered(used.labels, classes, repr(read.where)), read.left_out, read.tree)
    return listing, "test" if "test" in read.parts else "all"


def _read(tree: Tree, columns: Columns) -> _Read:
    files = _files(tree)
    alone = isinstance(tree, Folder) and bool(tree.only)
    where = str(tree.path / files[0].name) if len(files) == 1 else str(tree.path)
    images = tree
    if columns.root:
        if not alone:
            raise InputError(f"--root only applies to list files, not to {str(tree.path)!r}; remove it")
        root = Path(columns.root).expanduser()
        if not is_dir(root):
            raise InputError(
                f"--root {columns.root!r} is not a folder; give the folder to which the paths in the list are relative"
            )
        images = Folder(root, only=tree.path.name)
    left_out = LeftOut()
    parts = _once(_named_rows(tree, images, files, columns), where, left_out)
    if not alone:
        _leave_out(left_out, tree, files, {name for part in parts.values() for name in part.names})
    if "" not in parts:
        _require_both(parts, where)
        if "validation" in parts and "test" in parts:
            left_out.add(
                Reason.VALIDATION, files[0].name if len(files) == 1 else ".", len(parts.pop("validation").names)
            )
        elif "validation" in parts:
            parts["test"] = parts.pop("validation")
    return _Read(where, parts, left_out, images)


def _files(tree: Tree) -> list[_File]:
    """Return the lists of a tree; none if its images are in class folders."""
    if isinstance(tree, Folder) and tree.only:
        return [_File(tree.only)] if tree.only.lower().endswith(LIST_ENDINGS) else []
    folders = subfolders(tree)
    found = find_parts(folders)
    if len(found) == 1:
        splits = (("train", found[0].train), ("test", found[0].test), ("validation", found[0].validation))
        each = [(part, folder, _metadata(tree, folder)) for part, named in splits for folder in named]
        files = [_File(f"{folder}/{name}", folder, part) for part, folder, name in each if name]
        if any(file.part == "train" for file in files):
            return files
    if any(not _holds_images(tree, folder) for folder in folders):
        return []
    lists = [name for name in top_files(tree) if name.lower().endswith(LIST_ENDINGS)]
    metadata = [name for name in lists if name in _METADATA]
    chosen = metadata or [name for name in lists if names_images(tree, name)]
    return [_File(chosen[0])] if len(chosen) == 1 else []


def _metadata(tree: Tree, folder: str) -> str | None:
    """Return the list in the folder of a split; None if there is none, or if there are class folders."""
    if any(inner.casefold() not in IMAGE_FOLDERS for inner in subfolders(tree, folder)):
        return None
    names = [entry.name for entry in tree.scan(folder) if entry.name in _METADATA and not entry.folder]
    return min(names) if names else None


def _holds_images(tree: Tree, folder: str) -> bool:
    """Return True if a folder, by its name and those of its subfolders, contains images of all classes."""
    if folder.casefold() not in IMAGE_FOLDERS and not is_part(folder):
        return False
    return all(inner.casefold() in IMAGE_FOLDERS or is_part(inner) for inner in subfolders(tree, folder))


def _named_rows(tree: Tree, images: Tree, files: list[_File], columns: Columns) -> list[tuple[Row, str, str, str]]:
    """Yield (row, list, name of the image, split or "" if unsplit) of all rows."""
    found = []
    for file in files:
        where = str(tree.path / file.name)
        rows = read_list(tree, file.name, columns)
        names = [_name(images, file.base, row, where) for row in rows]
        if file.part:
            parts = [file.part] * len(rows)
        elif rows[0].split is not None:
            parts = [_part(row, where) for row in rows]
        else:
            parts = _parts_of_folders(names)
        found += [(row, where, name, part) for row, name, part in zip(rows, names, parts, strict=True)]
    return found


def _name(tree: Tree, base: str, row: Row, where: str) -> str:
    """Return the name of a row's image in the tree."""
    name = posixpath.normpath(posixpath.join(base, row.image.replace("\\", "/")))
    if not isinstance(tree, Folder) and (name.startswith(("/", "../")) or name == ".."):
        raise InputError(f"line {row.line} of {where!r} names {row.image!r}, which is not in the archive; remove it")
    if "\0" in name:
        raise InputError(f"line {row.line} of {where!r} names {row.image!r}, which is not a valid file name; repair it")
    return name


def _part(row: Row, where: str) -> str:
    told = part_of(row.split or "")
    if told is None or told[1]:
        raise InputError(f"line {row.line} of {where!r} has the split {row.split!r}; write train, validation or test")
    return told[0]


def _parts_of_folders(names: list[str]) -> list[str]:
    """Return the splits by the folders of the images, if all are in folders of splits."""
    told = {folder: part_of(folder) for folder in {name.split("/")[0] for name in names if "/" in name}}
    if any("/" not in name for name in names) or not all(part and not part[1] for part in told.values()):
        return [""] * len(names)
    parts = {folder: part[0] for folder, part in told.items() if part}
    if "train" not in parts.values() or len(set(parts.values())) == 1:
        return [""] * len(names)
    return [parts[name.split("/")[0]] for name in names]


def _once(rows: list[tuple[Row, str, str, str]], where: str, left_out: LeftOut) -> dict[str, _Images]:
    """Return the images of each split without repeated rows. Raises InputError if rows contradict each other."""
    seen: dict[str, tuple[Row, str]] = {}
    parts: dict[str, _Images] = {}
    for row, file, name, part in rows:
        if name not in seen:
            seen[name] = row, part
            images = parts.setdefault(part, _Images([], []))
            images.names.append(name)
            images.labels.append(row.label)
            continue
        other, its_part = seen[name]
        if (other.label, its_part) != (row.label, part):
            first, second = (other.label, row.label) if other.label != row.label else (its_part, part)
            raise InputError(
                f"{row.image!r} is {first!r} in line {other.line} and {second!r} in line {row.line} of {where!r}; "
                "remove one"
            )
        left_out.add(Reason.REPEATED, posixpath.basename(file), 1, [name])
    return parts


def _require_both(parts: dict[str, _Images], where: str) -> None:
    missing = "training" if "train" not in parts else "test" if len(parts) == 1 else ""
    if missing:
        raise InputError(
            f"{where!r} has no {missing} images; add some, or remove the splits, so that a fifth is held out"
        )


def _leave_out(left_out: LeftOut, tree: Tree, files: list[_File], used: set[str]) -> None:
    """Count files next to the lists and their images."""
    below = look_below(tree, "")
    left_out.include(below.left_out)
    for name in below.names:
        if name not in used:
            left_out.add(Reason.UNLISTED, posixpath.dirname(name) or ".", 1, [name])
    # An image with an unusual file ending.
    odd = [name for name in used if not is_picture(name) and _is_there(tree, name)]
    left_out.take_back([*(file.name for file in files), *odd])


def _is_there(tree: Tree, name: str) -> bool:
    try:
        tree.status(name)
    except OSError:
        return False
    return True


def _source(columns: Columns) -> Source:
    return Source(
        kind="lists of images",
        rank=910,
        within=lambda tree: bool(_files(tree)),
        pictures=partial(list_rows, columns=columns),
        given=partial(list_given, columns=columns),
        by_columns=_source,
        measured=True,
    )


SOURCES = (_source(Columns()),)

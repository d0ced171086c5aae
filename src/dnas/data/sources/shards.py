"""Tables of images in the format of Hugging Face: .parquet and .arrow shards with columns of image files and labels.

They are read with pyarrow only: `datasets` would add a dozen packages, for downloads that are not needed here.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from dnas.data.memory import require_memory
from dnas.data.sources.listing import LeftOut, Listing, Reason, look_below, subfolders, top_files
from dnas.data.sources.parts import part_of
from dnas.data.sources.protocol import Columns, Source
from dnas.data.sources.samples import Labels, numbered, of_part
from dnas.data.sources.tree import Entry, Folder, Tree, is_hidden
from dnas.errors import InputError

ENDINGS = (".parquet", ".arrow")
_IMAGE = ("image", "img", "picture")
_LABEL = ("label", "labels", "class", "target", "category")
_NUMBERING = re.compile(r"-\d+-of-\d+.*|[-_]?\d+$")
_UNLABELED = -1  # label in Hugging Face data sets of test images whose labels are withheld


@dataclass(frozen=True)
class ShardTree:
    """The images of shards as files: "train-00000-of-00001.parquet/7" is in the eighth row.

    Attributes:
        base: Tree with the shards.
        column: Column of images.
    """

    base: Tree
    column: str
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[ShardTree], tuple[Tree, str]]:
        return ShardTree, (self.base, self.column)

    @property
    def path(self) -> Path:
        return self.base.path

    @property
    def held(self) -> str:
        if isinstance(self.base, Folder) and all(name.lower().endswith(".arrow") for name, _ in find_shards(self.base)):
            return ""
        return (
            "contains .parquet shards, which are loaded into memory; save them as .arrow with save_to_disk of datasets"
        )

    def _images(self, shard: str) -> Any:
        if shard not in self._loaded:
            images = _read(self.base, shard, [self.column]).column(0)
            if _is_struct(images.type):
                images = _pyarrow().compute.struct_field(images, "bytes")
            self._loaded[shard] = images
        return self._loaded[shard]

    def scan(self, folder: str) -> Iterator[Entry]:
        yield from self.base.scan(folder)

    def open(self, name: str) -> IO[bytes]:
        shard, _, row = name.rpartition("/")
        content = self._images(shard)[int(row)].as_py()
        if content is None:
            raise OSError("its row has a path but no bytes; write the table with embedded images")
        return io.BytesIO(content)

    def status(self, name: str) -> tuple[int, int]:
        shard, _, row = name.rpartition("/")
        content = self._images(shard)[int(row)]
        return (len(content.as_buffer()) if content.is_valid else 0), self.base.status(shard)[1]


@dataclass(frozen=True)
class _Part:
    """Images of a split: their names, and labels as in the table."""

    names: list[str]
    labels: list[Any]


@dataclass(frozen=True)
class _Table:
    """All shards of a data set.

    Attributes:
        parts: "train" and "test", or "" if unsplit.
        named: Class names, if the shards contain them.
    """

    parts: dict[str, _Part]
    named: tuple[str, ...]
    left_out: LeftOut
    tree: ShardTree


def find_shards(tree: Tree) -> list[tuple[str, str]]:
    """Return (name, split) of the shards of a tree: at the top, in data/, and in folders of splits; "" for no split."""
    found = []
    if isinstance(tree, Folder) and tree.only:
        return [(tree.only, "")] if tree.only.lower().endswith(ENDINGS) else []
    folders = subfolders(tree)
    places = ["", *(name for name in folders if name.casefold() == "data" or _split(name))]
    for place in places:
        names = top_files(tree) if not place else [e.name for e in tree.scan(place) if not e.folder]
        for name in sorted(names):
            if name.lower().endswith(ENDINGS) and not is_hidden(name):
                path = f"{place}/{name}" if place else name
                found.append((path, _split(_NUMBERING.sub("", name.rpartition(".")[0])) or _split(place)))
    return found


def _split(name: str) -> str:
    told = part_of(name)
    return told[0] if told and not told[1] else ""


def list_shards(tree: Tree, part: str, classes: tuple[str, ...] | None = None, *, columns: Columns) -> Listing:
    """List the images of a part ("train" or "test"), in the order of the rows. If unsplit, a fifth of each class is
    held out.

    Files left out are reported with the training part.

    Raises:
        InputError: A shard is invalid, or pyarrow is not installed.
    """
    table = _table(tree, columns)
    train = table.parts.get("train", table.parts.get(""))
    assert train is not None, table.parts
    known = classes or table.named or _classes(train.labels)
    used = table.parts.get(part, train)
    labels = numbered(_called(used, table), known, repr(str(tree.path)))
    if "train" in table.parts and part == "train":
        # Better reported before the search than after it.
        numbered(_called(table.parts["test"], table), known, repr(str(tree.path)))
    positions: Labels = np.arange(len(labels))
    if "" in table.parts:
        positions = of_part(part, labels, known, repr(str(tree.path)))
    left_out = table.left_out if part == "train" else LeftOut()
    return Listing(known, [used.names[k] for k in positions], labels[positions], left_out, table.tree)


def list_given(tree: Tree, classes: tuple[str, ...], *, columns: Columns) -> tuple[Listing, str]:
    """List the images of shards given for testing: the test part, or all if unsplit."""
    table = _table(tree, columns)
    part = "test" if "test" in table.parts else ""
    used = table.parts[part]
    labels = numbered(_called(used, table), classes, repr(str(tree.path)))
    return Listing(classes, used.names, labels, table.left_out, table.tree), part or "all"


def _classes(labels: Sequence[Any]) -> tuple[str, ...]:
    """Return the classes in numerical or alphabetical order."""
    return tuple(map(str, sorted(set(labels))))


def _called(part: _Part, table: _Table) -> list[str]:
    """Return the class name of each image. Raises InputError for a number without a name."""
    if not table.named:
        return [str(label) for label in part.labels]
    for name, label in zip(part.names, part.labels, strict=True):
        if not isinstance(label, int) or not 0 <= label < len(table.named):
            raise InputError(
                f"the image {name!r} in {str(table.tree.path)!r} has the label {label!r}, but labels of the "
                f"{len(table.named)} named classes must be 0 to {len(table.named) - 1}; remove it or repair it"
            )
    return [table.named[label] for label in part.labels]


def _table(tree: Tree, columns: Columns) -> _Table:
    if columns.root:
        raise InputError(f"--root only applies to lists of images, not to shards in {str(tree.path)!r}; remove it")
    shards = find_shards(tree)
    schema = _read(tree, shards[0][0], None).schema
    image = _column(schema.names, columns.image, _IMAGE, "images", "--image-column", tree.path)
    label = _column(schema.names, columns.label, _LABEL, "labels", "--label-column", tree.path)
    kind = schema.field(image).type
    if not (_is_struct(kind) or _pyarrow().types.is_binary(kind) or _pyarrow().types.is_large_binary(kind)):
        raise InputError(
            f"the column {image!r} in {str(tree.path)!r} must contain image files as bytes, got {kind}; name "
            "another with --image-column"
        )
    left_out = LeftOut()
    if not (isinstance(tree, Folder) and tree.only):
        below = look_below(tree, "")
        left_out.include(below.left_out)
        left_out.take_back(name for name, _ in shards)
    split = any(part for _, part in shards)
    parts: dict[str, _Part] = {}
    for shard, part in shards:
        labels = _labels(_read(tree, shard, [label]).column(0), label, tree.path / shard)
        names = [f"{shard}/{row}" for row in range(len(labels))]
        if split and (not part or (part != "train" and set(labels) == {_UNLABELED})):
            left_out.add(Reason.BESIDE if not part else Reason.UNLABELED, shard, len(names), [shard])
            continue
        own = parts.setdefault(part, _Part([], []))
        own.names.extend(names)
        own.labels.extend(labels)
    if "" not in parts:
        if "train" not in parts or len(parts) == 1:
            missing = "training" if "train" not in parts else "test"
            raise InputError(f"{str(tree.path)!r} has no shards of {missing} images; add some, or give a single shard")
        held_out = parts.pop("validation", None)
        if held_out is not None and "test" in parts:
            names = sorted({name.rpartition("/")[0] for name in held_out.names})
            left_out.add(Reason.VALIDATION, names[0], len(held_out.names), names)
        elif held_out is not None:
            parts["test"] = held_out
    return _Table(parts, _names(schema, label), left_out, ShardTree(tree, image))


def _labels(column: Any, name: str, where: Path) -> list[Any]:
    values: list[Any] = column.to_pylist()
    for row, value in enumerate(values):
        if not isinstance(value, int | str) or value == "":
            raise InputError(
                f"row {row} of {str(where)!r} must have a class or its number as {name!r}, got {value!r}; name "
                "another column with --label-column, or repair it"
            )
    return values


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """Return the class names written by `datasets`; () if there are none."""
    try:
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, facts["info"]["features"][label]["names"]))
    except (ValueError, KeyError, TypeError):
        return ()


def _column(there: Sequence[str], named: str, usual: Sequence[str], what: str, flag: str, where: Path) -> str:
    """Return the name of a column. Raises InputError if it is ambiguous."""
    shown = ", ".join(map(repr, there[:10])) + (", …" if len(there) > 10 else "")
    if named:
        if named not in there:
            raise InputError(f"{flag} {named!r} is not a column of {str(where)!r}, which has {shown}; use one of these")
        return named
    found = [name for name in there if name.casefold() in usual]
    if len(found) != 1:
        several = f"has several columns of {what}, {', '.join(map(repr, found))}"
        none = f"has no column of {what} ({', '.join(usual)}), only {shown}"
        raise InputError(f"{str(where)!r} {several if found else none}; name one with {flag}")
    return found[0]


def _read(tree: Tree, shard: str, columns: list[str] | None) -> Any:
    """Return some columns of a shard as a pyarrow table; without any, an empty one with schema. Raises InputError."""
    arrow = _pyarrow()
    where = str(tree.path / shard)
    try:
        if shard.lower().endswith(".arrow") and isinstance(tree, Folder):
            source = arrow.memory_map(where)
        else:
            require_memory(tree.status(shard)[0], repr(where), "save it as .arrow with save_to_disk of datasets")
            source = tree.open(shard)
        if shard.lower().endswith(".parquet"):
            if columns is None:
                return arrow.parquet.read_schema(source).empty_table()
            return arrow.parquet.read_table(source, columns=columns)
        try:
            table = arrow.ipc.open_stream(source).read_all()
        except arrow.ArrowInvalid:  # the file format with a footer, as in Feather
            source.seek(0)
            table = arrow.ipc.open_file(source).read_all()
        return table.slice(0, 0) if columns is None else table.select(columns)
    except (arrow.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where!r} cannot be read ({reason}); fetch it again") from error


def _is_struct(kind: Any) -> bool:
    return bool(_pyarrow().types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _pyarrow() -> Any:
    try:
        import pyarrow  # type: ignore[import-untyped,unused-ignore]
        import pyarrow.compute  # type: ignore[import-untyped,unused-ignore]
        import pyarrow.ipc  # type: ignore[import-untyped,unused-ignore]
        import pyarrow.parquet  # type: ignore[import-untyped,unused-ignore]
        import pyarrow.types  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise InputError(
            ".parquet and .arrow shards require pyarrow; install it with: pip install 'dnas[hf]'"
        ) from None
    return pyarrow


def _within(tree: Tree) -> bool:
    if not find_shards(tree):
        return False
    return (isinstance(tree, Folder) and bool(tree.only)) or not look_below(tree, "").names


def _source(columns: Columns) -> Source:
    return Source(
        kind="shards of Hugging Face",
        rank=920,
        within=_within,
        pictures=partial(list_shards, columns=columns),
        given=partial(list_given, columns=columns),
        by_columns=_source,
        measured=True,
    )


SOURCES = (_source(Columns()),)

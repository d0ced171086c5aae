"""Rows of a text file (CSV, TSV and JSON Lines), and their columns of images, labels and splits."""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dnas.data.sources.protocol import Columns
from dnas.data.sources.tree import Tree
from dnas.errors import InputError

_IMAGE = ("path", "file", "filename", "file_name", "image")
_LABEL = ("label", "class", "target", "category")
_SPLIT = ("split", "subset")
_DELIMITERS = (",", ";", "\t")
LARGEST_LIST = 2**30  # bytes


@dataclass(frozen=True)
class Row:
    """One image of a list. `split` is None if the list has no such column."""

    line: int
    image: str
    label: str
    split: str | None


@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    rows: list[tuple[int, Sequence[object]]]


def read_list(tree: Tree, name: str, columns: Columns) -> list[Row]:
    """Return the rows of a list, in order. Raises InputError that names the list and the line."""
    where = str(tree.path / name)
    table = _table(tree, name, columns)
    image = _column(table, columns.image, _IMAGE, "images", "--image-column", where)
    label = _column(table, columns.label, _LABEL, "labels", "--label-column", where)
    split = next((k for k, column in enumerate(table.columns) if _plain(column) in _SPLIT and k != label), None)
    if image == label:
        raise InputError(f"--image-column and --label-column are both {table.columns[image]!r}; name two columns")
    rows = []
    for line, cells in table.rows:
        if len(cells) != len(table.columns):
            raise InputError(
                f"line {line} of {where!r} has {len(cells)} cells, but the first line has {len(table.columns)}; "
                "put cells with a delimiter in quotes"
            )
        texts = [_cell(cells[k]) for k in (image, label, *([split] if split is not None else []))]
        for k, text in zip((image, label, split), texts, strict=False):
            if not text:
                raise InputError(
                    f"line {line} of {where!r} has no {table.columns[k or 0]!r}; fill it or remove the line"
                )
        rows.append(Row(line, texts[0], texts[1], texts[2] if split is not None else None))
    if not rows:
        raise InputError(f"{where!r} has no rows; write one line per image")
    return rows


def names_images(tree: Tree, name: str) -> bool:
    """Return True if a file is a list of images, by the usual names of its columns."""
    try:
        return _has_columns(_table(tree, name, Columns()), Columns())
    except InputError:
        return False


def _table(tree: Tree, name: str, columns: Columns) -> _Table:
    where, content = str(tree.path / name), _text(tree, name)
    if name.lower().endswith(".jsonl"):
        return _json_lines(content, where)
    if name.lower().endswith(".tsv"):
        return _delimited(content, "\t", where)
    tables = (_delimited(content, delimiter, where) for delimiter in _DELIMITERS)
    return next((t for t in tables if _has_columns(t, columns)), None) or _delimited(content, ",", where)


def _text(tree: Tree, name: str) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark, as written by spreadsheets."""
    where = str(tree.path / name)
    try:
        with tree.open(name) as stream:
            content = stream.read(LARGEST_LIST + 1)
        if len(content) > LARGEST_LIST:
            raise InputError(f"{where!r} has more than {LARGEST_LIST} bytes, which is too large for a list; split it")
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where!r} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{where!r} cannot be read ({error}); check it") from error


def _delimited(content: str, delimiter: str, where: str) -> _Table:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    rows: list[tuple[int, Sequence[object]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {where!r} cannot be read ({error}); repair it") from error
    if not rows:
        return _Table((), [])
    return _Table(tuple(str(cell).strip() for cell in rows[0][1]), rows[1:])


def _json_lines(content: str, where: str) -> _Table:
    found: list[tuple[int, dict[str, object]]] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"line {number} of {where!r} is not JSON ({error}); repair it") from error
        if not isinstance(row, dict):
            raise InputError(f"line {number} of {where!r} is not a JSON object; write {{...}} in each line")
        found.append((number, row))
        columns |= dict.fromkeys(row)
    return _Table(tuple(columns), [(number, [row.get(column) for column in columns]) for number, row in found])


def _cell(value: object) -> str:
    """Return a cell as text; "" for values that are neither text nor numbers."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _plain(column: str) -> str:
    return column.strip().casefold()


def _has_columns(table: _Table, columns: Columns) -> bool:
    """Return True if a first line has a column of images and one of labels."""

    def has(named: str, usual: Iterable[str]) -> bool:
        return named in table.columns if named else any(_plain(column) in usual for column in table.columns)

    return has(columns.image, _IMAGE) and has(columns.label, _LABEL)


def _column(table: _Table, named: str, usual: Sequence[str], what: str, flag: str, where: str) -> int:
    """Return the position of a column. Raises InputError if it is ambiguous."""
    shown = ", ".join(repr(column) for column in table.columns[:10]) + (", …" if len(table.columns) > 10 else "")
    if named:
        if named not in table.columns:
            raise InputError(
                f"{flag} {named!r} is not a column of {where!r}, which has {shown or 'none'}; use one of these"
            )
        return table.columns.index(named)
    found = [k for k, column in enumerate(table.columns) if _plain(column) in usual]
    if not found:
        raise InputError(
            f"the first line of {where!r} has no column of {what} ({', '.join(usual)}); its columns are "
            f"{shown or 'none'}; name one with {flag}, or add a first line"
        )
    if len(found) > 1:
        several = ", ".join(repr(table.columns[k]) for k in found)
        raise InputError(f"{where!r} has several columns of {what}, {several}; name one with {flag}")
    return found[0]

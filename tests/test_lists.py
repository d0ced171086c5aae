"""Lists of images: their rows are the same images in class folders, in whatever spelling; each row is used or reported."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from data_tools import no_network, picture, random_bytes, refused  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import Read, one, same, zipped

from dnas.data.sources.protocol import Columns
from dnas.data.sources.registry import locate
from dnas.data.unreadable import Unreadable

HEAD = ("path", "label", "split")


def table(rows, head=HEAD, delimiter=",", line="\n", quoting=csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=line, quoting=quoting).writerows([head, *rows])
    return text.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders in train/ and test/. Not to be changed."""
    root = tmp_path_factory.mktemp("lists") / "images"
    for part, count in (("train", 4), ("test", 2)):
        for c, name in enumerate(("a", "b c", "é")):
            for k in range(count):
                picture(
                    root / part / name / f"{k}.png", random_bytes(9, 10, 3, seed=10 * c + k + (part == "test") * 100)
                )
    return root


@pytest.fixture(scope="module")
def read(folder) -> Read:
    return one(folder)


@pytest.fixture(scope="module")
def rows(folder) -> list[tuple[str, str, str]]:
    """(path below the folder's parent, class, split), in the order of the class folders."""
    return [
        (file.relative_to(folder.parent).as_posix(), name, part)
        for part in ("train", "test")
        for name in ("a", "b c", "é")
        for file in sorted((folder / part / name).iterdir())
    ]


SPELLINGS = {
    "comma": lambda rows: table(rows).encode(),
    "mark and CRLF": lambda rows: table(rows, line="\r\n").encode("utf-8-sig"),
    "UTF-16, as a spreadsheet's text": lambda rows: table(rows, delimiter="\t").encode("utf-16"),
    "semicolon": lambda rows: table(rows, delimiter=";").encode(),
    "quotes": lambda rows: table(rows, quoting=csv.QUOTE_ALL).encode(),
    "capitals and blanks": lambda rows: table(
        [(f" {p} ", f"{c} ", s.upper()) for p, c, s in rows], ("Path ", " LABEL", "Split")
    ).encode(),
    "another order": lambda rows: table([(s, c, "x,\n\"", p) for p, c, s in rows], ("subset", "category", "notes", "file_name")).encode(),
    "blank lines": lambda rows: table(rows).replace("\n", "\n\n").encode(),
    "no last line end": lambda rows: table(rows).rstrip().encode(),
    "dots": lambda rows: table([(f"./images/../{p}", c, s) for p, c, s in rows]).encode(),
    "backslashes": lambda rows: table([(p.replace("/", "\\"), c, s) for p, c, s in rows]).encode(),
    "Training and eval": lambda rows: table(
        [(p, c, "Training" if s == "train" else "eval") for p, c, s in rows]
    ).encode(),
    "validation alone": lambda rows: table([(p, c, s.replace("test", "val")) for p, c, s in rows]).encode(),
    "twice": lambda rows: table([row for row in rows for _ in range(2)]).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_list_is_the_same_images_in_class_folders(folder, read, rows, name):
    path = folder.parent / "list.csv"
    path.write_bytes(SPELLINGS[name](rows))
    found = one(path)
    same(found, read)
    assert found.left_out == (["repeated rows: 18 in 'list.csv'"] if name == "twice" else [])


def test_absolute_paths_and_a_list_elsewhere(folder, read, rows, tmp_path):
    path = tmp_path / "list.tsv"
    path.write_text(table([(str(folder.parent / p), c, s) for p, c, s in rows], delimiter="\t"), "utf-8")
    same(one(path), read)
    path.write_text(table(rows, delimiter="\t"), "utf-8")
    same(one(path, Columns(root=str(folder.parent))), read)
    with refused("--root", "is not a folder"):
        one(path, Columns(root=str(path)))


def test_lines_of_json(folder, read, rows, tmp_path):
    path = folder.parent / "list.jsonl"
    lines = [{"image": p, "class": c, "split": s, "boxes": [[1, 2]]} for p, c, s in rows]
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    same(one(path), read)
    for number, line, words in ((2, "{", "not JSON"), (1, "[1]", "not a JSON object"), (3, '{"image": ["x"], "class": 1, "split": "test"}', "no 'image'")):  # fmt: skip
        texts = list(map(json.dumps, lines))
        texts[number - 1] = line
        path.write_text("\n".join(texts), "utf-8")
        with refused(f"line {number}", words, str(path)):
            one(path)


def test_numbers_as_labels(folder, rows):
    index = {"a": 0, "b c": 1.0, "é": "2"}
    path = folder.parent / "list.jsonl"
    path.write_text("\n".join(json.dumps({"file": p, "target": index[c], "split": s}) for p, c, s in rows), "utf-8")
    assert one(path).classes == ("0", "1", "2")


def test_named_columns_act_and_wrong_ones_are_refused(folder, read, rows):
    path = folder.parent / "list.csv"
    path.write_text(
        table([(p, p, c, c[::-1], s) for p, c, s in rows], ("path", "mine", "kind", "label", "split")), "utf-8"
    )
    same(one(path, Columns("mine", "kind")), read)
    assert one(path).classes == ("a", "c b", "é")
    with refused("--image-column 'theirs'", "'path', 'mine', 'kind'"):
        one(path, Columns("theirs"))
    with refused("--image-column and --label-column are both 'mine'"):
        one(path, Columns("mine", "mine"))
    for columns, flag in ((Columns("x"), "--image-column 'x'"), (Columns("", "y"), "--label-column 'y'"), (Columns(root="/"), "--root '/'")):  # fmt: skip
        for source in (str(folder), "digits"):
            with refused(flag, "only applies to lists"):
                locate(source, None, columns)


def test_unsplit_lists_hold_out_the_fifth_of_class_folders(folder, tmp_path):
    flat = tmp_path / "flat"
    for name in "ab":
        for k in range(7):
            picture(flat / name / f"{k}.png", random_bytes(8, 8, 3, seed=k + 10 * (name == "b")))
    text = table([(f"flat/{name}/{k}.png", name) for name in "ab" for k in range(7)], HEAD[:2])
    (tmp_path / "list.csv").write_text(text)
    same(one(tmp_path / "list.csv"), one(flat))
    # Splits may also be told by folders.
    inner = [(f"{part}/{name}/{k}.png", name) for part in ("train", "test") for name in "ab" for k in range(3)]
    for path, _ in inner:
        picture(tmp_path / "split" / path, random_bytes(8, 8, 3, seed=len(path)))
    (tmp_path / "split.csv").write_text(table(inner, HEAD[:2]))
    same(one(tmp_path / "split.csv", Columns(root=str(tmp_path / "split"))), one(tmp_path / "split"))


REFUSED = {
    "no columns": (lambda rows: table(rows[1:], rows[0]), ("no column of images", "--image-column", "'images/train/a/0.png'")),
    "no labels": (lambda rows: table(rows, ("path", "kind", "split")), ("no column of labels", "--label-column")),
    "two columns": (lambda rows: table(rows, ("path", "file", "label")), ("'path', 'file'", "--image-column")),
    "empty": (lambda rows: "", ("no column of images",)),
    "a first line alone": (lambda rows: table([]), ("no rows",)),
    "too few cells": (lambda rows: table([*rows, ("x.png", "a")]), ("line 20", "2 cells")),
    "no label": (lambda rows: table([*rows, ("x.png", " ", "test")]), ("line 20", "no 'label'")),
    "a new class in the test": (lambda rows: table([*rows, ("x.png", "zebra", "test")]), ("'zebra'", "did not occur in training")),
    "another split": (lambda rows: table([*rows, ("x.png", "a", "extra")]), ("line 20", "'extra'", "train, validation or test")),
    "two labels": (lambda rows: table([*rows, (rows[0][0], "é", "train")]), ("'a' in line 2", "'é' in line 20")),
    "two splits": (lambda rows: table([*rows, (rows[0][0], "a", "test")]), ("'train' in line 2", "'test' in line 20")),
    "training alone": (lambda rows: table([row for row in rows if row[2] == "train"]), ("no test images",)),
    "testing alone": (lambda rows: table([row for row in rows if row[2] == "test"]), ("no training images",)),
    "one image of a class": (lambda rows: table([row[:2] for row in [*rows[:8], rows[-1]]], HEAD[:2]), ("'é'", "one image")),
    "another encoding": (lambda rows: table(rows).encode("latin-1"), ("not UTF-8",)),
    "a null": (lambda rows: table([*rows, ("x\0.png", "a", "test")]), ("line 20", "not a valid file name")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_by_line(folder, rows, name):
    content, words = REFUSED[name]
    path = folder.parent / "list.csv"
    text = content(rows)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with refused("list.csv", *words):
        one(path)


def test_all_missing_files_are_named(folder, rows):
    path = folder.parent / "list.csv"
    path.write_text(table([*rows, *((f"gone/{k}.png", "a", "train") for k in range(3))]), "utf-8")
    with pytest.raises(Unreadable) as caught:
        one(path)
    assert caught.value.broken == [(f"gone/{k}.png", "No such file or directory") for k in range(3)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("place", ["splits", "top"])
def test_image_folders_of_hugging_face(folder, read, rows, tmp_path, kind, place):
    """With and without an archive; images that no list names are reported."""

    def write(file: Path, found: list[tuple[str, str]]) -> None:
        lines = [json.dumps({"file_name": name, "label": label}) for name, label in found]
        file.write_text(table(found, ("file_name", "label")) if kind == "csv" else "\n".join(lines), "utf-8")

    named: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for k, (path, label, part) in enumerate(rows):
        picture(tmp_path / "hf" / part / "images" / f"{k:02}.png", random_bytes(1, 1))
        (tmp_path / "hf" / part / "images" / f"{k:02}.png").write_bytes((folder.parent / path).read_bytes())
        named[part].append((f"images/{k:02}.png", label))
    if place == "splits":
        for part, found in named.items():
            write(tmp_path / "hf" / part / f"metadata.{kind}", found)
    else:
        write(
            tmp_path / "hf" / f"metadata.{kind}",
            [(f"{part}/{n}", c) for part, found in named.items() for n, c in found],
        )
    picture(tmp_path / "hf" / "train" / "extra.png", random_bytes(8, 8))
    (tmp_path / "hf" / "README.md").write_text("x")
    for source in (tmp_path / "hf", zipped(tmp_path / "hf", tmp_path / "hf.zip")):
        found = one(source)
        same(found, read)
        assert found.left_out == ["images that are not listed: 1 in 'train'", "1 file that is not an image (1 .md)"]


def test_a_list_beside_class_folders_changes_nothing(folder, read, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "images")
    (tmp_path / "images" / "labels.csv").write_text("path,label\nx,y\n")
    found = one(tmp_path / "images")
    same(found, read)
    assert found.left_out == ["1 file that is not an image (1 .csv)"]


@settings(max_examples=60, deadline=None)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["train", "test", "val"])), min_size=1, max_size=30),
    split=st.booleans(),
)
def test_every_row_is_used_or_reported(tmp_path_factory, drawn, split):
    """Of rows with repetitions. Each image has one split and class, whatever the rows say of it first."""
    parts: dict[int, str] = {}
    for k, part in drawn:
        parts.setdefault(k, part)
    rows = [(f"{k}.png", "ab"[k % 2], parts[k]) for k, _ in drawn]
    rows += [(f"{k}.png", "ab"[k % 2], "train") for k in (20, 21, 22, 23)] + [
        ("24.png", "a", "test"),
        ("24.png", "a", "test"),
    ]
    path = tmp_path_factory.mktemp("rows") / "list.csv"
    path.write_text(table([row if split else row[:2] for row in rows], HEAD if split else HEAD[:2]))
    place = locate(str(path), None)
    found = one(path, decoded=False)
    reported = sum(items.total() for items in found.counts.values())
    assert sum(map(len, found.names)) + reported == len(rows)
    assert place.source.kind == "lists of images"

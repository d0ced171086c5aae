"""Nothing is left out in silence: the files that are used and those that are reported are all the files there are."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from data_tools import no_network, refused, write  # noqa: F401
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from source_tools import zipped

from dnas.data.inspection import inspect_data
from dnas.data.sources.folder import list_folder
from dnas.data.sources.tree import Folder

# What systems and programs leave in folders; a name that ends in "/" is a folder with two files.
JUNK = (
    ".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", "._.DS_Store", ".directory", "ehthumbs.db", "Icon\r", ".hidden.jpg",
    "~$notes.docx", "notes.txt", "README", "x.png.part", "x.jpg.crdownload", "x.png~", "x.xml", "x.json", "checksums.md5",
    ".gitignore", ".nomedia", "__MACOSX/", ".ipynb_checkpoints/", "@eaDir/", ".git/", "$RECYCLE.BIN/", "lost+found/",
    ".thumbnails/", ".Trash-1000/", "System Volume Information/", ".fseventsd/",
)  # fmt: skip
ENDINGS = (".png", ".PNG", ".jpeg", ".JPG", ".webp", ".Gif", ".bmp", ".tiff", ".ppm")
OTHERS = (".heic", ".svg", ".mp4", ".pdf", ".jxl", ".raw", "", ".png.gz", ".psd")


def content(number: int) -> bytes:
    """A picture that is not equal to others."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@st.composite
def folders(draw) -> dict[str, int]:
    """The files of a data set in class folders, by name, with junk anywhere; numbers stand for pictures, -1 for none."""
    classes = draw(st.lists(st.sampled_from(["cat", "dog", "ox", "Ämsel", "a b"]), min_size=2, max_size=4, unique=True))
    parts = draw(st.sampled_from([[""], ["train", "test"], ["train", "val"], ["Training", "Testing", "validation"]]))
    files: dict[str, int] = {}
    places = [""]
    for part in parts:
        places += [part] if part else []
        for name in classes:
            folder = f"{part}/{name}" if part else name
            places.append(folder)
            for number in range(draw(st.integers(2, 5))):
                inner = draw(st.sampled_from(["", "", "", "deep/", "deep/deeper/"]))
                files[f"{folder}/{inner}{number}{draw(st.sampled_from(ENDINGS))}"] = len(files)
    if parts != [""]:
        places += draw(st.lists(st.sampled_from(["docs", "masks", "extra/cat"]), max_size=2, unique=True))
    for place in draw(st.lists(st.sampled_from(places), max_size=12)):
        prefix = f"{place}/" if place else ""
        kind = draw(st.sampled_from(["junk", "junk", "other", "broken", "loose"]))
        if kind == "junk":
            name = draw(st.sampled_from(JUNK))
            inside = ("one", "two/three.png") if name.endswith("/") else ("",)
            files |= {f"{prefix}{name}{each}": -1 for each in inside}
        elif kind == "other":
            files[f"{prefix}other{draw(st.sampled_from(OTHERS))}"] = -1
        elif kind == "broken":
            files[f"{prefix}broken.png"] = -1
        elif place:
            files[f"{prefix}loose.png"] = len(files)
    return files


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=folders(), archived=st.booleans())
def test_files_used_and_files_reported_are_all_there_are(tmp_path_factory, files, archived):
    root = tmp_path_factory.mktemp("files") / "data"
    for name, number in files.items():
        write(root / name, b"x" if number < 0 else content(number))
    assert sum(len(names) for _, _, names in os.walk(root)) == len(files)
    source = zipped(root, root.with_name("data.zip")) if archived else root
    found = inspect_data(str(source))
    used = sum(found.images.values()) + len(found.unreadable)
    reported = {each.reason: each.files for each in found.left_out}
    assert used + sum(reported.values()) == len(files), (reported, used, sorted(files))
    for each in found.left_out:
        assert each.text and bool(each.examples) is bool(each.files)
        assert all(any(f.startswith(e) for f in files) for e in each.examples), each.examples


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("place", ["", "train/", "train/cat/", "train/cat/deep/"])
def test_each_kind_of_junk_is_counted_wherever_it_lies(tmp_path, place, archived):
    assert len(set(JUNK)) >= 30
    files = {
        f"{part}/{name}/{number}.png" for part in ("train", "test") for name in ("cat", "dog") for number in (1, 2)
    }
    for number, name in enumerate(sorted(files)):
        write(tmp_path / "x" / name, content(number))
    junk = [f"{place}{name}{each}" for name in JUNK for each in (("one", "two/x.png") if name.endswith("/") else ("",))]
    for name in junk:
        write(tmp_path / "x" / name, b"x")
    found = inspect_data(str(zipped(tmp_path / "x", tmp_path / "x.zip") if archived else tmp_path / "x"))
    assert found.classes == ("cat", "dog") and sum(found.images.values()) == len(files) and not found.unreadable
    assert sum(each.files for each in found.left_out) == len(junk)
    told = " ".join(each.text for each in found.left_out)
    for name in JUNK:
        hidden = name.startswith((".", "__", "@", "$", "System", "lost")) and not name.startswith(("._", ".hidden"))
        kind = name.rstrip("/") if hidden else os.path.splitext(name)[1]  # noqa: PTH122
        assert (kind or "without an ending") in told or repr(kind) in told, (name, told)


def test_every_kind_is_told_and_images_of_other_formats_are_not_called_junk(tmp_path):
    for number in range(8):
        write(tmp_path / "x" / "ab"[number % 2] / f"{number}.png", content(number))
    kinds = [f".{letter}{letter}x" for letter in "abcdefghijkl"]
    for kind in (*kinds, ".heic", ".svg"):
        write(tmp_path / "x" / "a" / f"x{kind}", b"x")
    (found,) = inspect_data(str(tmp_path / "x")).left_out
    assert all(f"1 {kind}" in found.text for kind in kinds) and found.files == 14
    assert found.text.endswith("; convert .heic and .svg to .png or .jpg, to use them")
    (line,) = list_folder(Folder(tmp_path / "x"), "train").left_out.lines()  # as before a run, where it is short
    assert line.startswith("14 files that are not images (1 .aax, 1 .bbx, 1 .ccx, 1 .ddx, 1 .eex and 9 more); convert")


def test_the_same_of_lists_and_arrays(tmp_path):
    rows = []
    for number in range(8):
        write(tmp_path / "list" / "images" / f"{number}.png", content(number))
        rows.append(f"images/{number}.png,{'ab'[number % 2]}")
    write(tmp_path / "list" / "list.csv", "\n".join(["path,label", *rows[:6], rows[0]]).encode())
    for name in ("notes.txt", "images/.DS_Store", "images/Thumbs.db", "__MACOSX/x", "__MACOSX/y"):
        write(tmp_path / "list" / name, b"x")
    found = inspect_data(str(tmp_path / "list"))
    assert {each.reason: each.files for each in found.left_out} == {
        "unlisted": 2, "repeated": 1, "not images": 2, "hidden": 3,
    }  # fmt: skip
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / "images.npy", np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8))
    np.save(arrays / "labels.npy", np.arange(12) % 2)
    np.save(arrays / "weights.npy", np.zeros(3))
    for name in ("notes.txt", ".DS_Store", "x.png"):
        write(arrays / name, b"x")
    found = inspect_data(str(arrays))
    assert {each.reason: (each.files, each.examples) for each in found.left_out} == {
        "unlisted": (1, ("x.png",)), "arrays": (1, ("weights.npy",)), "not images": (1, ("notes.txt",)),
        "hidden": (1, (".DS_Store",)),
    }  # fmt: skip


@pytest.mark.parametrize("part", ["", "train/", "test/"])
def test_an_empty_class_is_refused_by_name(tmp_path, part):
    for folder in ("train/a", "train/b", "test/a", "test/b") if part else ("a", "b"):
        for number in range(2):
            write(tmp_path / "x" / folder / f"{number}.png", content(number))
    (tmp_path / "x" / f"{part}empty").mkdir()
    with refused("'empty'" if part == "test/" else "empty' contains no images"):
        inspect_data(str(Path(tmp_path / "x")))

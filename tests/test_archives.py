"""Archives are the folders that they were made of, to the bit, and nothing in one is read that should not be."""

from __future__ import annotations

import io
import json
import pickle
import random
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_tools import OUTSIDE, no_network, picture, random_bytes, refused  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tools import one, same, zipped

from dnas.data.index import Files, Index
from dnas.data.pictures import decode_files
from dnas.data.sources import archive as module
from dnas.data.sources.archive import open_tree
from dnas.data.sources.listing import Reason
from dnas.data.sources.tree import Folder
from dnas.data.unreadable import Unreadable
from dnas.errors import InputError, RunError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def pack(folder: Path, path: Path, top: str = "") -> Path:
    """An archive of the kind that its name says."""
    if path.suffix == ".zip":
        return zipped(folder, path, top)
    packing = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{packing}") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # in another order than that of reading
            archive.add(file, top + file.relative_to(folder).as_posix(), recursive=False)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders in train/ and test/, with what systems leave there. Not to be changed."""
    root = tmp_path_factory.mktemp("archives") / "pictures"
    for part, count in (("train", 4), ("test", 2)):
        for c, name in enumerate(("a", "b c", "é")):
            for k in range(count):
                picture(
                    root / part / name / f"{k}.png", random_bytes(9, 10, 3, seed=10 * c + k + (part == "test") * 100)
                )
    for name in ("train/a/._0.png", "train/.DS_Store", "train/a/notes.txt", "test/a/Thumbs.db"):
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("top", ["", "set/", "./", "one/two/"])
def test_an_archive_is_its_folder(folder, tmp_path, ending, top):
    expected = one(folder)
    found = one(pack(folder, tmp_path / f"x{ending}", top))
    same(found, expected)
    assert found.names == expected.names and found.counts == expected.counts


def test_what_a_mac_adds_is_no_class(folder, tmp_path):
    path = zipped(folder, tmp_path / "x.zip", "pictures/")
    with zipfile.ZipFile(path, "a") as archive:
        for name in (
            "__MACOSX/",
            "__MACOSX/._pictures",
            "__MACOSX/pictures/train/a/._1.png",
            ".DS_Store",
            "README.txt",
        ):
            archive.writestr(name, b"x")
    found = one(path)
    same(found, one(folder))
    assert found.counts[Reason.HIDDEN] == {".DS_Store": 2, "__MACOSX": 1, "._*": 1}
    assert found.counts[Reason.NOT_IMAGES] == {".txt": 2, ".db": 1}


def test_class_folders_at_the_top_and_one_split_alone(tmp_path):
    for name in "ab":
        for k in range(6):
            picture(tmp_path / "x" / name / f"{k}.png", random_bytes(8, 8, 3, seed=k + ord(name)))
    for top in ("", "x/", "x/y/"):
        same(one(zipped(tmp_path / "x", tmp_path / "x.zip", top)), one(tmp_path / "x"))
    with refused("x.zip", "train/ but no test/"):
        one(zipped(tmp_path / "x", tmp_path / "x.zip", "train/"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_arrays_in_an_archive(tmp_path, ending):
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "images.npy", random_bytes(20, 9, 9))
    np.save(tmp_path / "npy" / "labels.npy", np.arange(20) % 2)
    same(one(pack(tmp_path / "npy", tmp_path / f"x{ending}", "in/")), one(tmp_path / "npy"))


def test_a_list_in_an_archive_names_nothing_outside(folder, tmp_path):
    rows = [{"file": f"images/{c}{k}.png", "label": c} for c in "ab" for k in range(5)]
    for row in rows:
        picture(tmp_path / "x" / row["file"], random_bytes(8, 8, 3, seed=ord(row["label"])))
    for extra in (None, "../secret.png", "/etc/secret.png", "images/../../secret.png"):
        text = "\n".join(json.dumps(row) for row in [*rows, *([{"file": extra, "label": "a"}] if extra else [])])
        (tmp_path / "x" / "list.jsonl").write_text(text)
        path = zipped(tmp_path / "x", tmp_path / "x.zip")
        if extra is None:
            assert one(path).classes == ("a", "b")
            continue
        with refused("line 11", repr(extra), "not in the archive"):
            one(path)


# --- what is not trusted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(folder, tmp_path, name):
    path = zipped(folder, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with refused("x.zip", repr(name), "leads out"):
        one(path)
    with tarfile.open(pack(folder, tmp_path / "x.tar"), "a") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with refused("x.tar", repr(name), "leads out"):
        one(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(folder, tmp_path, kind):
    link = tarfile.TarInfo("train/a/link.png")
    link.type, link.linkname = kind, "train/a/0.png"
    with tarfile.open(pack(folder, tmp_path / "x.tar"), "a") as archive:
        archive.addfile(link)
    with refused("link.png", "is a link"):
        one(tmp_path / "x.tar")


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXPANDED", 2**20)
    zeros = io.BytesIO(bytes(2**25))
    tracemalloc.start()
    try:
        for ending in (".zip", ".tar.gz"):
            path = pack(folder, tmp_path / f"x{ending}")
            if ending == ".zip":
                with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
                    archive.writestr("big.bin", zeros.getvalue())
            else:
                with tarfile.open(path, "w:gz") as archive:
                    member = tarfile.TarInfo("big.bin")
                    member.size = 2**25
                    archive.addfile(member, io.BytesIO(zeros.getvalue()))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with refused(path.name, "would unpack to more than", "200 times"):
                one(path)
            assert tracemalloc.get_traced_memory()[1] - before < 2**22
    finally:
        tracemalloc.stop()


def test_a_name_twice_and_a_file_that_is_a_folder_are_refused(folder, tmp_path):
    path = zipped(folder, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("train/a/0.png", b"x")
    with refused("'train/a/0.png'", "twice"):
        one(path)
    with zipfile.ZipFile(zipped(folder, tmp_path / "y.zip"), "a") as archive:
        archive.writestr("train/a/0.png/more.png", b"x")
    with refused("'train/a/0.png'", "as a file and as a folder"):
        one(tmp_path / "y.zip")


def test_an_encrypted_archive_is_refused(folder, tmp_path):
    path = zipped(folder, tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        start = content.find(mark)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(mark, start + 4)
    path.write_bytes(content)
    with refused("x.zip", "encrypted"):
        one(path)


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tar.gz"])
def test_a_damaged_archive_is_refused_or_its_pictures_are_named(folder, tmp_path, ending):
    path = pack(folder, tmp_path / f"x{ending}")
    whole, draw = path.read_bytes(), random.Random(0)
    for cut in (0, 1, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with refused(path.name):
            one(path)
    expected = one(folder)
    for _ in range(20):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 0xFF
        path.write_bytes(content)
        try:
            found = one(path)
        except (Unreadable, InputError):
            continue
        if ending == ".zip":  # whose checksums find every change in a picture
            assert found.names != expected.names or all(map(np.array_equal, found.images, expected.images))


# --- streaming -----------------------------------------------------------------------------------------------------


class Here:
    """Decoders in this process."""

    count = 1

    def begin(self, function, *arguments):
        # As between processes.
        return pickle.loads(pickle.dumps((function, *arguments)))

    def finish(self, task):
        return task[0](*task[1:])


@pytest.mark.parametrize("kind", [".zip", ".tar", "arrays"])
def test_streamed_pictures_and_their_index_are_those_in_memory(folder, tmp_path, kind):
    if kind == "arrays":
        source = tmp_path / "npy"
        source.mkdir()
        np.save(source / "images.npy", random_bytes(30, 9, 10, 3))
        np.save(source / "labels.npy", np.arange(30) % 3)
    else:
        source = pack(folder, tmp_path / f"x{kind}")
    expected = one(source)
    from dnas.data.sources.registry import locate

    tree = open_tree(source)
    listing = locate(str(source), None).source.pictures(tree, "train", None)
    tree = listing.tree or tree
    assert not tree.held
    files = Files.look(tree, listing.names)
    index = Index(files, listing.labels, tmp_path / "cache" / "x.index")
    assert (index.shape().size("crop"), index.shape().channels) == (9, 3)
    counts = index.counts(3, 9, Here())
    assert counts.sum() == 3 * 81 * len(listing.names)
    assert np.array_equal(counts[0], np.bincount(expected.images[0][:, 0].ravel(), minlength=256))
    again = pickle.loads(pickle.dumps(files))
    order = [3, 0, 3, 7]
    assert np.array_equal(decode_files(again.tree, again.at(order), 3, 9), expected.images[0][order])
    later = Index(Files.look(tree, listing.names), listing.labels, tmp_path / "cache" / "x.index")
    assert later.groups.keys() == index.groups.keys() and np.array_equal(later.counts(3, 9, None), counts)
    # Another archive or array in its place is noticed before a picture of it is used.
    path = source if kind != "arrays" else source / "images.npy"
    if kind == "arrays":
        np.save(path, random_bytes(30, 9, 10, 3, seed=1))
    else:
        (folder.parent / "other").mkdir(exist_ok=True)
        pack(folder, path, "another/")
    with pytest.raises(RunError, match="has changed since the run started"):
        decode_files(again.tree, again.at([0]), 3, 9)


def test_a_packed_tar_says_why_it_is_not_streamed(folder, tmp_path):
    assert "compressed .tar" in open_tree(pack(folder, tmp_path / "x.tar.gz")).held
    assert Folder(folder).held == ""


# --- nothing in silence ---------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "0.png",
        "1.jpg",
        "2.PNG",
        "notes.txt",
        "._0.png",
        ".DS_Store",
        "Thumbs.db",
        "data.npz",
        "x",
        "list.csv",
        "a b.webp",
    ]
)
PLACES = st.sampled_from(
    ["", "train", "train/a", "train/b", "train/a/inner", "test/a", "test/b", "val/a", "val/b", "extra", "extra/more", "a", "b",
     "__MACOSX/train", ".git"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    drawn=st.sets(st.tuples(PLACES, NAMES), max_size=30),
    split=st.booleans(),
    ending=st.sampled_from(["", ".zip", ".tar"]),
)
def test_files_that_are_used_and_reported_are_all_there_are(tmp_path_factory, drawn, split, ending):
    """Of what is hidden, a folder counts once, whatever it holds."""
    root = tmp_path_factory.mktemp("files")
    sure = [
        f"{part}{name}/sure{k}.png" for part in (("train/", "test/") if split else ("",)) for name in "ab" for k in "12"
    ]
    names = {*sure, *(f"{place}/{name}".lstrip("/") for place, name in drawn)}
    for name in names:
        (root / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "x" / name).write_bytes(b"")
    try:
        found = one(pack(root / "x", root / f"x{ending}", "top/") if ending else root / "x", decoded=False)
    except InputError:
        return  # which is said
    there = set()
    for name in names:
        hidden = [k for k, part in enumerate(name.split("/")) if part.startswith((".", "__MACOSX"))]
        there.add("/".join(name.split("/")[: hidden[0] + 1]) if hidden else name)
    reported = sum(items.total() for items in found.counts.values())
    assert sum(map(len, found.names)) + reported == len(there)

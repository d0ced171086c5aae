"""The index of a folder: what it knows is what looking at all pictures gives, and it never knows it of other pictures."""

import hashlib
import os
import pickle
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnas.data import index as module
from dnas.data.index import Files, Index, _groups, index_file
from dnas.data.pictures import decode, survey
from dnas.data.sources.tree import Folder
from dnas.errors import InputError
from dnas.reporter import Silent


@dataclass
class Here:
    """Decoders in this process that note which pictures are looked at; may be interrupted at one of their tasks."""

    stop: int = 10**9
    seen: list[str] = field(default_factory=list)
    tasks: int = 0
    count = 1

    def begin(self, function, *arguments):
        self.tasks += 1
        if self.tasks == self.stop:
            raise KeyboardInterrupt
        self.seen += [name for name, _, _ in arguments[1]]
        return function(*arguments)

    def finish(self, task):
        return task


class Told(Silent):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(module, "GROUP", 4)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 6 and 5 pictures: groups of 4, 2, 4 and 1."""
    rng = np.random.default_rng(0)
    for name, count in (("a", 6), ("b", 5)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (8, 9 + k % 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{k}.png")
    return tmp_path / "pictures"


def names_in(folder):
    return [f"{name}/{file.name}" for name in "ab" for file in sorted((folder / name).iterdir())]


def opened(folder, reporter=None):
    names = names_in(folder)
    labels = np.array([0 if name.startswith("a") else 1 for name in names])
    return Index(Files.look(Folder(folder), names), labels, folder.parent / "cache" / "index.json", reporter)


def seen(folder):
    """Which pictures a new start looks at; what it then knows is right."""
    decoders = Here()
    counts = opened(folder).counts(3, 8, decoders)
    pixels = decode(Folder(folder), names_in(folder), 3, 8)
    expected = [[(pixels[:, c] == value).sum() for value in range(256)] for c in range(3)]
    assert np.array_equal(counts, expected)
    return decoders.seen


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain.png", "two words.png", "línea\nnueva.png", "𝔘.png", os.fsdecode(b"\xff.png")])
def test_any_name_comes_back(tmp_path, name):
    (tmp_path / "first").write_bytes(b"12")
    (tmp_path / name).write_bytes(b"123")
    files = Files.look(Folder(tmp_path), ["first", name])
    assert len(files) == 2
    (found, size, changed), first = files.at([1, 0])
    assert (found, size, changed) == (name, 3, (tmp_path / name).stat().st_mtime_ns)
    assert first[:2] == ("first", 2)


def test_a_file_that_is_not_there_is_no_error_yet(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert Files.look(Folder(tmp_path), ["dangling"]).at([0]) == [("dangling", -1, -1)]


def test_the_table_takes_little(tmp_path):
    names = [f"class {k % 7}/{k}.png" for k in range(1000)]
    files = Files.look(Folder(tmp_path), names)
    assert len(pickle.dumps(files)) < 60 * 1000


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=40), ordered=st.booleans())
def test_groups_are_short_runs_that_make_up_all(labels, ordered):
    labels = np.array(sorted(labels) if ordered else labels)
    groups = _groups(labels)
    assert [position for group in groups for position in group] == list(range(len(labels)))
    assert all(1 <= len(group) <= 4 for group in groups)
    if ordered:
        assert all(len(set(labels[list(group)])) == 1 for group in groups)


# --- what it knows ----------------------------------------------------------------------------------------------


def test_it_says_what_looking_at_all_pictures_says(folder):
    assert opened(folder).shape() == survey(Folder(folder), names_in(folder))
    assert sorted(seen(folder)) == names_in(folder)


def test_the_second_start_opens_no_picture(folder, monkeypatch):
    index = opened(folder)
    known = index.shape(), index.counts(3, 8, Here())
    for name in names_in(folder):  # the same size and time, and no picture any more
        path, status = folder / name, (folder / name).stat()
        path.write_bytes(b"?" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    decoders = Here()
    again = opened(folder)
    assert again.shape() == known[0] and np.array_equal(again.counts(3, 8, decoders), known[1])
    assert decoders.seen == []


def test_another_size_or_other_channels_are_another_look(folder):
    opened(folder).counts(3, 8, Here())
    for channels, size in ((1, 8), (3, 16)):
        decoders = Here()
        counts = opened(folder).counts(channels, size, decoders)
        assert len(decoders.seen) == 11 and counts.sum() == 11 * channels * size**2
    assert seen(folder) == []


def test_an_added_picture(folder):
    seen(folder)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "b" / "9.png")
    assert seen(folder) == ["b/4.png", "b/9.png"]
    assert seen(folder) == []


def test_a_removed_picture(folder):
    seen(folder)
    (folder / "a" / "5.png").unlink()
    assert seen(folder) == ["a/4.png"]


def test_a_renamed_picture(folder):
    seen(folder)
    (folder / "a" / "5.png").rename(folder / "a" / "6.png")
    assert seen(folder) == ["a/4.png", "a/6.png"]


@pytest.mark.parametrize("what", ["pixels", "time"])
def test_a_changed_picture(folder, what):
    seen(folder)
    path = folder / "b" / "1.png"
    status = path.stat()
    if what == "pixels":
        Image.new("RGB", (8, 8)).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert seen(folder) == [f"b/{k}.png" for k in range(4)]


def test_random_changes_are_all_noticed(folder):
    rng = random.Random(0)
    for step in range(20):
        name = rng.choice(names_in(folder))
        action = rng.choice(["remove", "paint", "add"])
        if action == "remove" and len(list((folder / name[0]).iterdir())) > 1:
            (folder / name).unlink()
        else:
            path = folder / (name if action == "paint" else f"{name[0]}/new {step}.png")
            Image.new("RGB", (8, 8), tuple(rng.randrange(256) for _ in range(3))).save(path)
        seen(folder)  # asserts that what is known is right


# --- damage and interruption --------------------------------------------------------------------------------------


def test_broken_pictures_are_all_named_and_the_others_looked_at_once(folder):
    broken = [f"b/{k}.png" for k in range(3)]
    originals = {name: (folder / name).read_bytes() for name in broken}
    for name in broken:
        (folder / name).write_bytes(originals[name][:40])
    looks = []
    for _ in range(2):
        looks.append(Here())
        with pytest.raises(InputError, match=r"^3 unreadable images .*'b/0.png', 'b/1.png', 'b/2.png'; remove"):
            opened(folder).counts(3, 8, looks[-1])
    assert [each.seen for each in looks] == [names_in(folder), broken]
    for name in broken:
        (folder / name).write_bytes(originals[name])
    assert seen(folder) == [f"b/{k}.png" for k in range(4)]


def test_an_interrupted_look_goes_on_where_it_was(folder):
    with pytest.raises(KeyboardInterrupt):
        opened(folder).counts(3, 8, Here(stop=4))
    rest = seen(folder)
    assert 0 < len(rest) < 11 and rest[-1] == "b/4.png"


def signed(text):
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"{}", signed(b"{"), signed(b"null"), signed(b"[]"), pickle.dumps({"a": 1}),
     signed(b'{"format": "dnas-index/1", "folder": "", "groups": {}}'),
     signed(b'{"format": "dnas-index/2", "folder": "", "groups": {"x": {"sides": {"a": 1}, "grey": true}}}')],
)  # fmt: skip
def test_another_file_in_its_place_is_no_index(folder, content):
    path = folder.parent / "cache" / "index.json"
    seen(folder)
    path.write_bytes(content)
    assert len(seen(folder)) == 11 and seen(folder) == []


def test_a_damaged_index_is_none(folder):
    path = folder.parent / "cache" / "index.json"
    seen(folder)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        place, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        assert len(seen(folder)) == 11
        path.write_bytes(whole[:place])
        assert len(seen(folder)) == 11
    path.write_bytes(whole)
    assert seen(folder) == []


def test_where_no_index_can_be_kept_that_is_said(folder):
    (folder.parent / "cache").write_text("a file")
    told = Told()
    assert opened(folder, told).counts(3, 8, Here()).sum() == 11 * 3 * 64
    assert len(told.lines) == 1 and "the index cannot be saved" in told.lines[0]


def test_each_folder_and_part_has_an_index_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {index_file(Path("c"), Path(root), part) for root in ("x", "y", "./x", str(tmp_path / "x"))
             for part in ("train", "test")}  # fmt: skip
    assert len(files) == 4

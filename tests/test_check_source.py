"""A package gives a kind of data set by an entry point, and the contract finds what is wrong with one."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_tools import idx_folder, no_network, refused, two_classes  # noqa: F401
from faults.harness import TINY, invoke, make_images
from PIL import Image

from dnas import plugins, testing
from dnas.data.sources import registry
from dnas.data.sources.protocol import Source

PAGE = Path(__file__).parents[1] / "docs" / "data.md"


@pytest.fixture(autouse=True)
def forget_sources():
    registry.DATA_SOURCES.forget()
    yield
    registry.DATA_SOURCES.forget()
    sys.modules.pop("my_sheets", None)


@pytest.fixture
def my_sheets(tmp_path, monkeypatch) -> Path:
    """Installs the example of docs/data.md as a package. Returns a data set of its kind."""
    code, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    assert toml == '[project.entry-points."dnas.data_sources"]\nsheets = "my_sheets:SHEETS"\n'
    package = tmp_path / "package"
    facts = package / "my_sheets-1.0.dist-info"
    facts.mkdir(parents=True)
    (package / "my_sheets.py").write_text(code, "utf-8")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my_sheets\nVersion: 1.0\n", "utf-8")
    (facts / "entry_points.txt").write_text("[dnas.data_sources]\nsheets = my_sheets:SHEETS\n", "utf-8")
    monkeypatch.syspath_prepend(package)
    rng = np.random.default_rng(0)
    (tmp_path / "sheets").mkdir()
    for part, rows in (("train", 4), ("test", 1)):
        for k, name in enumerate(("ring", "dot")):
            pixels = rng.integers(0, 128, (8 * rows, 8 * 8)).astype(np.uint8) + 100 * k
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "sheets" / f"sheet-{part}-{name}.png")
    return tmp_path / "sheets"


def test_the_example_of_the_page_keeps_the_contract_and_every_command_takes_it(my_sheets, tmp_path):
    testing.check_source("sheets", my_sheets)
    told = invoke("data", my_sheets, "--json").json
    assert (told["kind"], told["images"]) == ("sheets", {"train": 64, "test": 16})
    outcome = invoke("search", "--data", my_sheets, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 0 and "2 classes (ring, dot), 64 training images, 8×8, gray" in outcome.lines, outcome.err


def entry(monkeypatch, name: str, value: object) -> None:
    given = type("Entry", (), {"name": name, "value": "theirs:X", "load": lambda self: value})()
    monkeypatch.setattr(plugins, "entry_points", lambda group: [given] if group == registry.DATA_SOURCES.group else [])
    registry.DATA_SOURCES.forget()


def test_what_is_no_source_or_has_the_kind_of_another_is_refused(monkeypatch):
    entry(monkeypatch, "mine", "no source")
    with refused("'mine'", "must be a dnas.data.sources.protocol.Source", "'no source'"):
        registry.sources()
    entry(monkeypatch, "mine", Source(kind="yours"))
    with refused("with the kind 'mine'"):
        registry.sources()
    entry(monkeypatch, "folder", Source(kind="folder"))
    with refused("data source 'folder' of theirs:X has the same name as one of dnas"):
        registry.sources()


def read(path: Path, part: str):
    rng = np.random.default_rng(part == "test")
    return rng.integers(0, 256, (8, 1, 8, 8), dtype=np.uint8), np.arange(8) % 2


GOOD = Source(kind="mine", rank=1, holds=lambda path: (path / "mine").is_file(), arrays=read)


def calls(change):
    """`read`, of which each call gives something else."""
    count = iter(range(99))

    def changed(path, part):
        images, labels = read(path, part)
        return change(images, labels, next(count))

    return changed


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (GOOD, None),
        (replace(GOOD, arrays=None), "arrays or pictures"),
        (replace(GOOD, rank=5000), "is taken for folder"),
        (replace(GOOD, arrays=calls(lambda x, y, k: (x.astype(float), y))), "uint8"),
        (replace(GOOD, arrays=calls(lambda x, y, k: (x[:, :, :7], y))), "uint8"),
        (replace(GOOD, arrays=calls(lambda x, y, k: (x, y.astype(np.int32)))), "int64"),
        (replace(GOOD, arrays=calls(lambda x, y, k: (x, y[:7]))), "a label for each image"),
        (replace(GOOD, arrays=calls(lambda x, y, k: (np.roll(x, k, 0), y))), "the same images"),
        (replace(GOOD, classes=("a",)), "beyond its 1 classes"),
    ],
)
def test_the_contract_finds_what_is_wrong(monkeypatch, tmp_path, broken, words):
    (tmp_path / "x").mkdir()
    make_images(tmp_path / "x", each=4)
    (tmp_path / "x" / "mine").write_text("")
    entry(monkeypatch, "mine", broken)
    if words is None:
        testing.check_source("mine", tmp_path / "x")
        return
    with pytest.raises(AssertionError, match=words):
        testing.check_source("mine", tmp_path / "x")


def listed(change):
    """A source of pictures that lists class folders, and then changes that."""
    folder = next(source for source in registry.sources() if source.kind == "folder")

    def pictures(tree, part, classes):
        return change(folder.pictures(tree, part, classes), part, tree)

    return replace(folder, kind="mine", rank=1, pictures=pictures, given=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda listing, part, tree: listing, None),
        (
            lambda listing, part, tree: replace(listing, names=listing.names[:-1] + listing.names[:1]),
            "each image of train once",
        ),
        (lambda listing, part, tree: replace(listing, labels=listing.labels + 1), "beyond its 2 classes"),
        (lambda listing, part, tree: replace(listing, labels=listing.labels[1:]), "a label for each image"),
        (lambda listing, part, tree: replace(listing, classes=("a", "a")), "each once"),
        (
            lambda listing, part, tree: replace(listing, names=["class 0/0.png"], labels=listing.labels[:1]),
            "images to both splits",
        ),
    ],
)
def test_the_contract_of_pictures_finds_what_is_wrong(monkeypatch, tmp_path, change, words):
    make_images(tmp_path / "x", each=6)
    broken = listed(change)
    entry(monkeypatch, "mine", broken)
    if words is None:
        testing.check_source("mine", tmp_path / "x")
        return
    with pytest.raises(AssertionError, match=words):
        testing.check_source("mine", tmp_path / "x")


def test_a_source_that_writes_into_the_data_set_is_found(monkeypatch, tmp_path):
    def writes(path, part):
        (path / "cache").write_text("x")
        return read(path, part)

    make_images(tmp_path / "x", each=4)
    (tmp_path / "x" / "mine").write_text("")
    entry(monkeypatch, "mine", replace(GOOD, arrays=writes))
    with pytest.raises(AssertionError, match="must not write"):
        testing.check_source("mine", tmp_path / "x")

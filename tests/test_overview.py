"""Classes, counts and what is left out are told before a run begins, in one line each."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from faults.harness import invoke, make_images
from PIL import Image

from dnas.data.overview import overview
from dnas.data.splits import load_splits
from dnas.pipeline.inputs import check_runs
from dnas.reporter import Plain

DIGITS = "10 classes (0, 1, 2, …), 1,437 training"


def grow(root: Path, counts: dict[str, int]) -> Path:
    """Small color pictures, so many in each folder."""
    rng = np.random.default_rng(0)
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{k}.png")
    return root


def test_digits_in_one_line():
    train, info, test = load_splits("digits")
    assert overview(info, train, test) == [f"{DIGITS} and 360 test images, 8×8, gray"]
    assert overview(info, train) == [f"{DIGITS} images, 8×8, gray"]


def test_unbalanced_classes_are_told(tmp_path):
    counts = {"train/few": 2, "train/many": 8, "train/some": 5, "test/few": 1, "test/many": 1, "test/some": 1}
    train, info, test = load_splits(str(grow(tmp_path / "4", counts)))
    assert overview(info, train, test) == [
        "3 classes (few, many, some), 15 training and 3 test images, 8×8, color",
        "warning: unbalanced classes: from 2 training images (few) to 8 (many, 53% of all); see the balanced accuracy, and "
        "--class-weights balanced",
    ]
    train, info, test = load_splits(str(grow(tmp_path / "less", {**counts, "train/many": 7})))
    assert overview(info, train, test) == ["3 classes (few, many, some), 14 training and 3 test images, 8×8, color"]


@pytest.mark.parametrize("memory", ["whole", "stream"])
def test_copies_across_the_splits_are_told(tmp_path, memory):
    root = grow(tmp_path / "x y", {f"{part}/{name}": 4 for part in ("train", "test") for name in "ab"})
    for name in ("1.png", "2.png"):
        shutil.copy(root / "train" / "a" / name, root / "test" / "b" / name)
    train, info, test = load_splits(str(root), memory=memory)
    assert overview(info, train, test)[1:] == [
        "warning: 2 test images have the same pixels as a training image, so the test accuracy is too high; list them "
        f"with: dnas data '{root}'"
    ]
    assert len(overview(info, train)) == 1
    assert invoke("data", root, "--json").json["duplicates"]["exact"]["leaked"] == 2


def test_classes_that_the_test_lacks_are_told(tmp_path):
    root = grow(tmp_path / "x", {"train/a": 3, "train/b": 3, "train/c": 3, "test/b": 2})
    train, info, test = load_splits(str(root))
    assert overview(info, train, test)[1:] == ["warning: no test images of 2 classes: a, c"]


def test_odd_and_long_names_stay_on_one_line(tmp_path):
    long = "x" * 99
    root = grow(tmp_path, {"train/line\nbreak": 2, f"train/{long}": 2, f"test/{long}": 1})
    train, info, test = load_splits(str(root))
    assert overview(info, train, test)[0].startswith(f"2 classes ('line\\nbreak', {'x' * 29}…), 4 training and 1 test")


@pytest.mark.parametrize("command", [("run", "--no-baseline"), ("search",), ("train", "DARTS_V2")])
def test_every_run_prints_it_and_keeps_it(tmp_path, command):
    images = make_images(tmp_path / "images" / "Training", each=20)
    make_images(tmp_path / "images" / "Testing", each=5)
    (images / "class 0" / "notes.txt").write_text("words")
    given = {"--layers": "3", "--channels": "8", "--epochs": "1", "--batch-size": "20"}
    if command[0] == "train":
        options = ["--preset", "quick", *(f"-otrain.{key[2:].replace('-', '_')}={given[key]}" for key in given)]
    else:
        options = [text for pair in given.items() for text in pair]
    run = tmp_path / "run"
    outcome = invoke(*command, "--data", images.parent, *options, "--out", run)
    assert outcome.code == 0, outcome.err
    count = "40 training images" if command[0] == "search" else "40 training and 10 test images"
    for line in (f"2 classes (class 0, class 1), {count}, 8×8, gray", "left out: 1 file that is not an image (1 .txt)"):
        assert outcome.lines.count(line) == 1
        assert (run / "log.txt").read_text().count(line) == 1
    assert invoke("resume", run).code == 0


def test_comparisons_print_it_once(capsys):
    run = {"command": "search", "data": {"source": "digits"}, "method": "random"}
    check_runs([run, {**run, "seed": 1}], here=True, reporter=Plain())
    assert capsys.readouterr().err.splitlines().count(f"{DIGITS} images, 8×8, gray") == 1

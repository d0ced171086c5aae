"""What a run would read is told without running: classes, files left out, copies within and across splits, sources."""

from __future__ import annotations

import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from data_tools import cifar, idx_folder, no_network, picture, random_bytes, refused, two_classes, write  # noqa: F401
from faults.harness import invoke
from PIL import Image
from source_tools import zipped

import dnas
from dnas.data import copies
from dnas.data.inspection import inspect_data
from dnas.data.origins import shared_sources, source_of


def scene(seed: int, size: int = 32) -> Image.Image:
    """A smooth picture in color, as different from those of other seeds as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    fine = rng.integers(-12, 13, (size, size, 3))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + fine).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, quality: int = 80) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def split_folder(root: Path, train: int = 24, test: int = 6) -> Path:
    """Scenes in two classes."""
    for k in range(train):
        picture(root / "train" / "ab"[k % 2] / f"{k}.png", scene(k))
    for k in range(test):
        picture(root / "test" / "ab"[k % 2] / f"{k}.png", scene(1000 + k))
    return root


def names(copied) -> list[list[tuple[str, str, str]]]:
    return [[(each.part, each.name, each.label) for each in group] for group in copied.groups]


def test_a_clean_folder(tmp_path):
    found = inspect_data(str(split_folder(tmp_path / "x")))
    assert found.images == {"train": 24, "test": 6} and found.counts == {"train": (12, 12), "test": (3, 3)}
    assert (found.channels, found.image_size, found.resize, found.kind) == (3, 32, "crop", "folder")
    assert found.sizes() == [((32, 32), 30)] and found.modes() == [(("PNG", "RGB", 8), 30)]
    assert not found.left_out and not found.unreadable and not found.shared
    assert not found.exact.groups and not found.near.groups
    assert found.lacking("train") == found.lacking("test") == () and found.majority("train") == ("a", 0.5)


def test_the_mean_is_that_of_what_the_network_sees(tmp_path):
    found = inspect_data(str(split_folder(tmp_path / "x")))
    pixels = np.stack([np.asarray(scene(k)) for k in range(24)]).astype(float).mean(0).transpose(2, 0, 1)
    assert found.mean is not None and np.abs(found.mean - pixels).max() <= 0.5


def test_the_same_pixels_are_found_in_and_across_splits_whatever_the_file(tmp_path):
    root = split_folder(tmp_path / "x")
    shutil.copy(root / "train" / "a" / "0.png", root / "test" / "a" / "leak.png")
    picture(root / "train" / "b" / "1.bmp", scene(1))  # another format
    picture(root / "train" / "b" / "other class.png", scene(2))
    exact = inspect_data(str(root)).exact
    assert names(exact) == [
        [("train", "train/a/0.png", "a"), ("test", "test/a/leak.png", "a")],
        [("train", "train/a/2.png", "a"), ("train", "train/b/other class.png", "b")],
        [("train", "train/b/1.bmp", "b"), ("train", "train/b/1.png", "b")],
    ]
    assert (exact.leaked, exact.relabeled, exact.spare) == (1, 1, {"train": 2, "test": 0})


@pytest.mark.parametrize(
    ("changed", "mirrored"),
    [
        (lambda image: encoded(image), 0),
        (lambda image: image.resize((35, 35), Image.Resampling.BICUBIC), 0),
        (lambda image: encoded(image.resize((29, 29), Image.Resampling.BICUBIC), 90), 0),
        (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 1),
        (lambda image: encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), 1),
    ],
    ids=["encoded", "larger", "smaller", "mirrored", "mirrored and encoded"],
)
def test_near_copies_are_found(tmp_path, changed, mirrored):
    root = split_folder(tmp_path / "x")
    picture(root / "test" / "b" / "leak.png", changed(scene(0)))
    found = inspect_data(str(root))
    assert not found.exact.groups
    assert names(found.near) == [[("train", "train/a/0.png", "a"), ("test", "test/b/leak.png", "b")]]
    assert (found.near.leaked, found.near.relabeled, found.near.mirrored) == (1, 1, mirrored)


def test_a_leak_is_counted_once(tmp_path):
    """A test picture with an exact copy in training and near ones besides; a near copy of both members of a group."""
    root = split_folder(tmp_path / "x")
    shutil.copy(root / "train" / "a" / "0.png", root / "test" / "a" / "exact.png")
    picture(root / "train" / "a" / "near.png", encoded(scene(0)))
    picture(root / "test" / "a" / "too.png", encoded(scene(0), 70))
    found = inspect_data(str(root))
    assert found.exact.leaked == 1 and found.near.leaked == 1
    assert len(found.near.groups) == 1 and len(found.near.groups[0]) == 3


def test_pictures_that_all_look_alike_are_no_copies():
    """Of 400 smooth variations of one picture none stands out but the copy that was planted."""
    rng = np.random.default_rng(0)
    base, waves = rng.normal(0, 75, 16 * 16), rng.normal(0, 1.5, (12, 16 * 16))
    every = 128 + base + rng.normal(0, 1, (400, 12)) @ waves
    thumbs = np.concatenate([every, every[7:8] + rng.normal(0, 0.5, 256)]).clip(0, 255).round().astype(np.uint8)
    vectors = copies._vectors(thumbs[:, None])
    assert np.linalg.norm(vectors[0] - vectors[1:400], axis=1).max() <= copies.NEAR
    assert copies.near(thumbs.reshape(-1, 16, 16, 1)).positions.tolist() == [[7, 400]]


def test_the_tree_misses_no_pair():
    """Against all pairs compared, with a threshold on distances alone."""
    thumbs = np.stack([np.asarray(encoded(scene(k // 3), 95 - 7 * (k % 3)).resize((16, 16))) for k in range(60)])
    vectors = copies._vectors(thumbs)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    expected = [[i, j] for i in range(60) for j in range(i + 1, 60) if apart[i, j] <= copies.NEAR]
    found = copies.near(thumbs)
    assert found.positions.tolist() == expected and len(expected) == 60 and not found.mirrored.any()


def test_blank_pictures_are_no_near_copies_of_each_other():
    thumbs = np.full((10, 16, 16, 1), 255, np.uint8)
    thumbs[np.arange(10), np.arange(10), 0] = 250
    assert not len(copies.near(thumbs).positions)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("train/cat/patient12_001.png", "patient12"), ("S1-frame-07.jpg", "S1-frame"), ("img_7.png", ""), ("7.png", ""),
        ("DSC01234.JPG", ""), ("a/IMG_20200101_123456.jpg", "IMG_20200101"), ("cat12.png", ""), ("p3_left.png", ""),
        ("v12_34_56.png", "v12_34"), ("", ""), ("__1.png", ""), ("7_7.png", "7"),
    ],
)  # fmt: skip
def test_the_source_that_a_name_tells(name, source):
    assert source_of(name) == source


def test_sources_in_both_splits():
    train = [f"x/p{k}_{i}.png" for k in range(4) for i in range(3)] + ["x/class9_1.png"] * 20
    test = ["x/p1_9.png", "x/p2_8.png", "x/p2_9.png", "x/p7_1.png", "x/class9_2.png"]
    labels = [0] * 12 + [1] * 20, [0] * 4 + [1]
    found = shared_sources(train, test, *labels)
    assert [(each.name, each.train, each.test, each.examples) for each in found] == [
        ("p2", 3, 2, ("x/p2_0.png", "x/p2_8.png")),
        ("p1", 3, 1, ("x/p1_0.png", "x/p1_9.png")),
    ]  # class9 names the class, since all its pictures are of it


def test_what_is_left_out_is_counted_with_examples(tmp_path):
    root = split_folder(tmp_path / "x")
    for name in ("train/a/notes.txt", "train/a/.DS_Store", "__MACOSX/train/._a", "__MACOSX/x/._b", "test/b/Thumbs.db"):
        write(root / name, b"x")
    picture(root / "val" / "a" / "v.png", scene(5000))
    found = {each.reason: (each.files, each.examples) for each in inspect_data(str(root)).left_out}
    assert found == {
        "validation": (1, ("val/a/v.png",)),
        "not images": (2, ("train/a/notes.txt", "test/b/Thumbs.db")),
        "hidden": (3, ("__MACOSX", "train/a/.DS_Store")),
    }
    line = "left out: hidden files and folders: .DS_Store, __MACOSX (3 files in all), such as '__MACOSX', 'train/a/.DS_Store'"
    assert line in invoke("data", root, "--quiet").out.splitlines()


def test_unreadable_pictures_are_listed_and_not_counted(tmp_path):
    root = split_folder(tmp_path / "x")
    write(root / "train" / "a" / "0.png", b"")
    (root / "test" / "b" / "1.png").write_bytes((root / "test" / "b" / "1.png").read_bytes()[:200])
    found = inspect_data(str(root))
    assert [(each.part, each.name) for each in found.unreadable] == [
        ("train", "train/a/0.png"),
        ("test", "test/b/1.png"),
    ]
    assert found.unreadable[0].reason == "the file is empty"
    assert found.counts == {"train": (11, 12), "test": (3, 2)}
    outcome = invoke("data", root, "--quiet")
    assert outcome.code == 0 and "left out: 2 unreadable images" in outcome.out and "--skip-broken" in outcome.out


def test_every_form_of_data_is_looked_at(tmp_path):
    folder = split_folder(tmp_path / "folder")
    shutil.copy(folder / "train" / "a" / "0.png", folder / "test" / "a" / "leak.png")
    listed = tmp_path / "folder.csv"
    rows = [
        f"folder/{f.relative_to(folder)},{f.parent.name},{f.parent.parent.name}" for f in sorted(folder.rglob("*.png"))
    ]
    listed.write_text("\n".join(["path,label,split", *rows]))
    pixels = {
        f"{part}_{what}": np.stack(values)
        for part in ("train", "test")
        for what, values in (
            ("images", [np.asarray(Image.open(f)) for f in sorted((folder / part).rglob("*.png"))]),
            ("labels", [np.str_(f.parent.name) for f in sorted((folder / part).rglob("*.png"))]),
        )
    }
    np.savez(tmp_path / "arrays.npz", **pixels)
    for source in (folder, listed, tmp_path / "arrays.npz", zipped(folder, tmp_path / "folder.zip")):
        found = inspect_data(str(source))
        assert (found.images, found.exact.leaked, found.mean.shape) == ({"train": 24, "test": 7}, 1, (3, 32, 32)), (
            source
        )
    idx_folder(tmp_path / "idx")
    found = inspect_data(str(tmp_path / "idx"))
    assert found.images == {"train": 6, "test": 4} and found.image_size == 9
    found = inspect_data(str(cifar(tmp_path, "cifar10", packed=False)))
    assert found.images == {"train": 10, "test": 2} and found.classes[0] == "airplane"
    assert found.lacking("test") and found.kind == "cifar10"


def test_it_agrees_with_what_a_run_reads(tmp_path):
    from dnas.data.splits import load_splits

    root = tmp_path / "x"
    for k in range(12):
        picture(
            root / ("wide" if k % 2 else "high") / f"{k}.png", random_bytes(*((20, 50) if k % 2 else (50, 20)), seed=k)
        )
    found = inspect_data(str(root))
    train, info, test = load_splits(str(root), resize="auto")
    assert found.images == {"train": len(train), "test": len(test)} and found.classes == info.classes
    assert (found.channels, found.image_size, found.resize) == (info.channels, info.image_size, info.resize)
    assert found.mean is not None and np.abs(found.mean - train.images.float().mean(0).numpy()).max() <= 0.5


def test_the_command_tells_it_in_words_and_in_json(tmp_path):
    root = split_folder(tmp_path / "x")
    shutil.copy(root / "train" / "a" / "0.png", root / "test" / "b" / "leak.png")
    for k in range(90):
        picture(root / "train" / "b" / f"more {k}.png", scene(200 + k))
    outcome = invoke("data", root, "--quiet")
    assert outcome.code == 0
    for line in (
        "warning: 1 test image has copies among the training images (the same pixels), so the test accuracy is too high: "
        "'train: train/a/0.png' = 'test: test/b/leak.png'",
        "warning: 1 group of copies has several classes, of which all but one are wrong: "
        "'train: train/a/0.png' = 'test: test/b/leak.png'",
        "warning: unbalanced classes: from 12 training images (a) to 102 (b, 89% of all); see the balanced accuracy, and "
        "--class-weights balanced",
    ):
        assert line in outcome.out.splitlines()
    told = invoke("data", root, "--json")
    assert told.code == 0 and told.json == json.loads(json.dumps(dnas.inspect_data(str(root)).to_json()))
    assert told.json["duplicates"]["exact"]["leaked"] == 1 and told.json["majority"]["train"]["class"] == "b"
    assert told.json["classes"] == [{"name": "a", "train": 12, "test": 3}, {"name": "b", "train": 102, "test": 4}]


class Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_a_contact_sheet_as_a_picture_and_as_a_page(tmp_path):
    root = split_folder(tmp_path / "x & <y>")
    shutil.copy(root / "train" / "a" / "0.png", root / "test" / "a" / "leak.png")
    for sheet in ("sheet.png", "sheet.html"):
        assert invoke("data", root, "--quiet", "--sheet", tmp_path / sheet).code == 0
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.mode == "RGB" and image.width > 400
        colors = {image.getpixel((10, y)) for y in range(image.height)}
    assert len(colors) > 20  # pictures are there
    page = (tmp_path / "sheet.html").read_text("utf-8")
    parser = Sources()
    parser.feed(page)
    # 8 of each class, both copies, and the mean.
    assert sum(each.startswith("data:image/png") for each in parser.found) == 8 + 8 + 2 + 1
    assert all(each.startswith(("data:", "#")) for each in parser.found)
    assert "<y>" not in page and "test/a/leak.png" in page


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path):
    root = two_classes(tmp_path / "x")
    for arguments, words in (
        ([tmp_path / "none"], "neither a known data set nor a file or folder that exists"),
        ([root, "--sheet", "x.gif"], "--sheet must end in .png or .html, got 'x.gif'"),
        ([root, "--sheet", tmp_path / "no" / "x.png"], "does not exist; create it first"),
        ([root, "--data", root], "--data cannot be used with `dnas data`; type: dnas data"),
        ([root, "--data-memory", "whole"], "--data-memory cannot be used"),
        ([root, "--image-size", "4"], "--image-size"),
        ([root, "--resize", "bend"], "--resize"),
        (["digits", "--resize", "pad"], "--resize pad does not apply to 'digits'"),
    ):
        outcome = invoke("data", *arguments)
        assert outcome.code == 2 and words in outcome.err and len(outcome.lines) == 1, outcome.err
    with refused("contains neither class folders"):
        inspect_data(str(write(tmp_path / "empty" / "x.txt", b"x").parent))


def test_the_python_function_refuses_unknown_options():
    with pytest.raises(TypeError, match="datadir"):
        dnas.inspect_data("digits", datadir="x")

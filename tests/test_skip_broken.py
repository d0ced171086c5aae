"""--skip-broken goes on without images that cannot be read, says which, and changes nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tools import no_network, refused  # noqa: F401
from faults.harness import TINY, contents, invoke, make_images

from dnas.data.decoders import Decoders
from dnas.data.overview import overview
from dnas.data.splits import fingerprint, load_splits, load_test, load_train
from dnas.data.unreadable import Unreadable

BROKEN = {"train/class 0/3.png": b"", "train/class 1/4.png": bytes(50), "test/class 0/5.png": b"GIF"}


@pytest.fixture
def whole(tmp_path) -> Path:
    """48 training and 24 test images."""
    make_images(tmp_path / "images" / "train", each=24)
    make_images(tmp_path / "images" / "test", each=12, seed=1)
    return tmp_path / "images"


@pytest.fixture
def root(whole) -> Path:
    """The same, of which three are broken."""
    for name, content in BROKEN.items():
        (whole / name).write_bytes(content)
    return whole


@pytest.fixture(params=["whole", "stream"])
def memory(request) -> str:
    return request.param


def images_of(split) -> torch.Tensor:
    return split.batch(torch.arange(len(split)))


def test_the_rest_is_what_a_folder_without_them_has(root, memory, tmp_path):
    train, info, test = load_splits(str(root), skip_broken=True, memory=memory)
    assert [name for name, _ in (*train.skipped, *test.skipped)] == list(BROKEN)
    assert all(reason for _, reason in (*train.skipped, *test.skipped))
    without = tmp_path / "without"
    shutil.copytree(root, without)
    for name in BROKEN:
        (without / name).unlink()
    expected = load_splits(str(without), memory=memory)
    for split, other in ((train, expected[0]), (test, expected[2])):
        assert torch.equal(images_of(split), images_of(other)) and torch.equal(split.labels, other.labels)
        assert np.array_equal(split.digests(), other.digests())
        assert fingerprint(split) == fingerprint(other)
    assert (info.mean, info.std, info.classes) == (expected[1].mean, expected[1].std, expected[1].classes)
    train.close()
    test.close()


def test_nothing_else_changes_where_none_is_broken(whole, memory):
    one, other = (load_train(str(whole), memory=memory, skip_broken=skip)[0] for skip in (False, True))
    assert fingerprint(one) == fingerprint(other) and not other.skipped and one.left_out == other.left_out


def test_the_fingerprint_tells_which_are_left_out(root, memory):
    before = fingerprint(load_train(str(root), skip_broken=True, memory=memory)[0])
    assert fingerprint(load_train(str(root), skip_broken=True, memory=memory)[0]) == before
    (root / "train/class 0/9.png").write_bytes(b"")
    assert fingerprint(load_train(str(root), skip_broken=True, memory=memory)[0]) != before


def test_a_fifth_is_held_out_of_all_whether_broken_or_not(tmp_path):
    """So a picture that breaks moves no other one from training to test."""
    root = make_images(tmp_path / "images", each=30)
    listed = [load_test(str(root), load_train(str(root))[1])]
    (root / "class 0" / "3.png").write_bytes(b"")
    train, _, test = load_splits(str(root), skip_broken=True)
    kept = {tuple(image.flatten().tolist()) for image in images_of(listed[0])}
    assert {tuple(image.flatten().tolist()) for image in images_of(test)} <= kept
    assert len(train) + len(test) == 59


def test_an_index_remembers_them_and_looks_only_at_these_again(root, monkeypatch):
    load_train(str(root), skip_broken=True, memory="stream")
    asked: list[str] = []
    begin = Decoders.begin

    def counted(self, function, tree, files, *rest):
        asked.extend(name for name, *_ in files)
        return begin(self, function, tree, files, *rest)

    monkeypatch.setattr(Decoders, "begin", counted)
    train, _ = load_train(str(root), skip_broken=True, memory="stream")
    assert asked == ["train/class 0/3.png", "train/class 1/4.png"] and len(train.skipped) == 2
    with pytest.raises(Unreadable):
        load_train(str(root), memory="stream")


def test_more_than_a_tenth_is_refused(root, memory):
    for k in range(10, 13):
        (root / f"train/class 0/{k}.png").write_bytes(b"")
    with refused("5 unreadable images", "10% of the training images", "at most 10%", "train/class 0/3.png"):
        load_train(str(root), skip_broken=True, memory=memory)
    (root / "train/class 0/10.png").unlink()
    (root / "train/class 0/11.png").unlink()
    assert len(load_train(str(root), skip_broken=True, memory=memory)[0].skipped) == 3


def test_a_class_does_not_vanish(root):
    for k in range(1, 24):
        (root / f"train/class 1/{k}.png").unlink()
    (root / "train/class 1/0.png").write_bytes(b"")
    (root / "train/class 0/3.png").unlink()
    with refused("no readable training image is left in class 'class 1'"):
        load_train(str(root), skip_broken=True)


def test_without_it_the_error_names_it(root):
    outcome = invoke("run", "--data", root, *TINY)
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert outcome.err.endswith("; remove or repair them, or skip them with --skip-broken\n")


@pytest.mark.parametrize("memory", ["whole", "stream"])
def test_a_run_lists_them_and_resumes_to_the_same_bits(root, tmp_path, memory):
    options = ("--data", root, *TINY, "--skip-broken", "--no-baseline", "--data-memory", memory, "--finals", "0")
    run = tmp_path / "run"
    outcome = invoke("run", *options, "--out", run)
    assert outcome.code == 0, outcome.err
    line = "left out: unreadable images, skipped by --skip-broken: 1 in 'test/class 0', 1 in 'train/class 0', 1 in 'train/class 1'"
    assert line in outcome.lines and line in (run / "log.txt").read_text()
    listed = json.loads((run / "skipped_images.json").read_text())
    assert [(each["split"], each["file"]) for each in listed] == [(n.split("/")[0], n) for n in BROKEN]
    assert listed[0]["reason"] == "the file is empty"
    stopped = tmp_path / "stopped"
    assert invoke("run", *options, "--out", stopped, "--time-limit", "1ms").code == 75
    assert invoke("resume", stopped).code == 0
    assert contents(run) == contents(stopped)
    result = json.loads((run / "result.json").read_text())
    assert result["test_images"] == 23
    assert invoke("evaluate", run, "--json").json["test_accuracy"] == result["test_accuracy"]


def test_a_run_is_not_resumed_once_one_is_repaired(root, tmp_path):
    run = tmp_path / "run"
    options = ("--data", root, *TINY, "--skip-broken", "--no-baseline", "--time-limit", "1ms")
    assert invoke("run", *options, "--out", run).code == 75
    shutil.copy(root / "train/class 0/2.png", root / "train/class 0/3.png")
    outcome = invoke("resume", run)
    assert outcome.code == 2 and "have changed since it began" in outcome.err


def test_searches_trainings_and_studies_take_it(root, tmp_path):
    searched = invoke(
        "search",
        "--data",
        root,
        *TINY,
        "--skip-broken",
        "--out",
        tmp_path / "s",
        "--method",
        "random",
        "-osearch.trials=2",
    )
    assert searched.code == 0, searched.err
    assert [each["split"] for each in json.loads((tmp_path / "s" / "skipped_images.json").read_text())] == ["train"] * 2
    trained = invoke("train", tmp_path / "s", "--out", tmp_path / "t", "-otrain.epochs=1")
    assert trained.code == 0, trained.err  # the searched run hands it on
    assert len(json.loads((tmp_path / "t" / "skipped_images.json").read_text())) == 3


def test_what_is_told_of_them(root):
    train, info, test = load_splits(str(root), skip_broken=True)
    assert overview(info, train, test)[-1].startswith("left out: unreadable images, skipped by --skip-broken: ")

"""Whole runs on archives, arrays and lists: streamed and interrupted, they give the bits of the same class folders."""

from __future__ import annotations

import json
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from faults.harness import contents, invoke, make_images
from PIL import Image
from source_tools import zipped

import dnas
from dnas.errors import InputError, Interrupted
from dnas.reporter import Silent

FEW = {"layers": 3, "channels": 8, "epochs": 1, "batch_size": 24, "image_size": 8}
NAMES = ("architecture.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, images):
    """What a search leaves that held its images in memory."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    dnas.search(data=str(images), out=out, **FEW)
    return contents(out, NAMES)


def arrays(images: Path, folder: Path) -> Path:
    files = sorted(images.rglob("*.png"))
    folder.mkdir()
    np.save(folder / "images.npy", np.stack([np.asarray(Image.open(file)) for file in files]))
    np.save(folder / "labels.npy", np.array([file.parent.name for file in files]))
    return folder


def tarred(images: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(images, "top")
    return path


def listed(images: Path, path: Path) -> Path:
    rows = [{"mine": str(file.relative_to(images)), "kind": file.parent.name} for file in sorted(images.rglob("*.png"))]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Stops(Silent):
    """Ends a search at its first step, as by Ctrl-C."""

    def start(self, title, steps, done):
        self.title = title

    def step(self, step, shown):
        if "search" in self.title:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", ["zip", "tar", "arrays", "list"])
def test_a_stopped_and_streamed_search_goes_on_to_the_bits_of_class_folders(
    images, undisturbed, tmp_path, kind, monkeypatch
):
    make = {"zip": zipped, "tar": tarred, "arrays": arrays, "list": listed}[kind]
    source = make(images, tmp_path / {"zip": "x.zip", "tar": "x.tar", "arrays": "x", "list": "x.jsonl"}[kind])
    options = {"image_column": "mine", "label_column": "kind", "root": str(images)} if kind == "list" else {}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted):
        dnas.search(
            data=source.name, data_memory="stream", data_workers=1, out="run", reporter=Stops(), **options, **FEW
        )
    monkeypatch.chdir("/")
    dnas.resume(tmp_path / "run")
    assert contents(tmp_path / "run", NAMES) == undisturbed


def test_a_run_on_a_list_is_tested_by_its_own_columns(images, tmp_path):
    path = listed(images, tmp_path / "x.jsonl")
    result = dnas.run(
        data=str(path),
        image_column="mine",
        label_column="kind",
        root=str(images),
        out=tmp_path / "run",
        finals=0,
        **FEW,
    )
    for options in (
        (),
        ("--data", path),
        ("--data", path, "--root", images, "--image-column", "mine", "--label-column", "kind"),
    ):
        tested = invoke("evaluate", tmp_path / "run", *options, "--json").json
        assert tested["test_accuracy"] == result["test_accuracy"]
    assert "--image-column" in invoke("evaluate", tmp_path / "run", "--data", images, "--image-column", "mine").err


@pytest.mark.parametrize("memory", ["whole", "stream"])
def test_a_list_that_changed_is_not_resumed(images, tmp_path, memory):
    path = listed(images, tmp_path / "x.jsonl")
    columns = {"image_column": "mine", "label_column": "kind", "root": str(images)}
    with pytest.raises(Interrupted):
        dnas.search(data=str(path), data_memory=memory, out=tmp_path / "run", reporter=Stops(), **columns, **FEW)
    path.write_text("\n".join(path.read_text().split("\n")[:-4]))
    with pytest.raises(InputError, match="have changed since"):
        dnas.resume(tmp_path / "run")


@pytest.mark.parametrize(("name", "called"), [("hands.v2.zip", "hands"), ("hands.v2", "hands.v2")])
def test_a_run_is_called_by_its_data_without_what_a_file_ends_with(images, tmp_path, monkeypatch, name, called):
    monkeypatch.chdir(tmp_path)
    source = zipped(images, tmp_path / name) if name.endswith(".zip") else images.rename(tmp_path / name)
    try:
        dnas.search(data=str(source), **FEW)
    finally:
        if source.is_dir():
            source.rename(images)
    assert (tmp_path / "runs" / f"dnas-{called}-seed0" / "architecture.json").exists()

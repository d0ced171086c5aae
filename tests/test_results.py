"""What the functions return, against the run folders: fields, texts for a terminal and a notebook."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import FrozenInstanceError
from html.parser import HTMLParser

import numpy as np
import pytest
from faults.harness import invoke, make_images

import dnas
from dnas.api.results import result_of

FEW = {"layers": 3, "channels": 8, "epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("results") / "images")


@pytest.fixture(scope="module")
def ran(images, tmp_path_factory):
    return dnas.run(data=images, method="random", finals=0, out=tmp_path_factory.mktemp("results") / "<run>", **FEW)


def test_fields_are_those_of_the_run_folder(ran):
    content = json.loads((ran.run / "result.json").read_text())
    assert ran.to_dict() == content
    for name in ("seed", "test_accuracy", "test_images", "params", "macs", "method", "mapping", "data", "classes"):
        assert getattr(ran, name) == content[name] == ran[name], name
    assert ran.test_interval == tuple(content["test_interval"])
    assert ran.baseline is not None and ran.baseline.params == content["baseline"]["params"]
    assert ran.architecture == dnas.Architecture.load(ran.run / "architecture.json")
    assert dnas.params(ran.model()) == ran.params
    with pytest.raises(FrozenInstanceError):
        ran.seed = 1
    ran.to_dict()["per_class"].clear()
    assert ran["per_class"]
    assert ran == result_of(content) and len({ran, result_of(content)}) == 1
    assert ran != result_of({**content, "seed": 1})


def test_a_few_lines_and_no_more(ran):
    first, second, ours, theirs = repr(ran).splitlines()
    assert first == f"RunResult: {ran.run}"
    assert "random (" in second and second.endswith(", seed 0")
    assert f"{ran.test_accuracy:.4f}" in ours and f"{ran.params:,} parameters" in ours
    assert theirs.strip().startswith("random, same size") and f"{ran.baseline.test_accuracy:.4f}" in theirs


class Tags(HTMLParser):
    """Sees that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.words = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_notebook_sees_a_table_and_the_drawing(ran):
    tags = Tags()
    tags.feed(ran._repr_html_())
    assert not tags.open
    assert {f"{ran.test_accuracy:.4f}", f"{ran.macs:,}", "random, same size", str(ran.run)} <= set(tags.words)
    ((_, image),) = [each for each in tags.seen if each[0] == "img"]
    drawing = base64.b64decode(image["src"].partition(",")[2]).decode()
    assert drawing == (ran.run / "architecture.svg").read_text()
    assert "<run>" not in ran._repr_html_()  # a name is no tag


def test_a_result_without_its_folder_still_has_its_figures(ran, tmp_path):
    gone = result_of({**ran.to_dict(), "run": str(tmp_path / "gone")})
    assert "<img" not in gone._repr_html_() and f"{gone.test_accuracy:.4f}" in repr(gone)
    with pytest.raises(dnas.InputError):
        _ = gone.architecture


def test_each_command_has_its_kind(images, ran, tmp_path):
    searched = dnas.search(data=images, method="random", out=tmp_path / "search", **FEW)
    assert type(searched) is dnas.SearchResult and "test accuracy" not in repr(searched)
    assert "<img" in searched._repr_html_() and "<table" not in searched._repr_html_()
    assert dnas.resume(searched.run) == searched
    trained = dnas.train("resnet8", data=images, epochs=1, batch_size=16, width=0.25, out=tmp_path / "resnet8")
    assert type(trained) is dnas.TrainResult and trained.baseline is None and "resnet8  test accuracy" in repr(trained)
    with pytest.raises(dnas.InputError, match="resnet8 is a reference network"):
        _ = trained.architecture
    assert "<img" not in trained._repr_html_()
    assert type(dnas.resume(ran.run)) is dnas.RunResult


def test_a_study(images, tmp_path):
    out = tmp_path / "study"
    study = dnas.compare("random", data=images, seeds=1, out=out, processes=1, **FEW)
    assert study.failed == () and study.missing == () and study.folder == out
    assert study.to_dict() == json.loads((out / "study.json").read_text())
    assert [row["kind"] for row in study.rows] == ["searched", "random"]
    assert repr(study).startswith(f"StudyResult: {out}\n") and len(repr(study).splitlines()) == 3
    assert study._repr_html_().count("<table>") >= 1 and re.search(r"<td>random \(", study._repr_html_())
    again = dnas.resume(out)
    assert again == study and type(again) is dnas.StudyResult
    more = dnas.compare(["random"], data=images, seeds=2, out=out, processes=1, **FEW)
    assert len(more.rows[0]["searches"]) == 2
    typed = invoke(
        "compare", "--methods", "random", "--data", images, "--seeds", 2, "--out", out, "--layers", 3, "--channels", 8,
        "--epochs", 1, "--batch-size", 16, "--json",
    )  # fmt: skip
    assert typed.code == 0 and typed.json == more.to_dict()
    with pytest.raises(dnas.InputError, match="on_epoch do not apply to"):
        dnas.resume(out, on_epoch=print)
    with pytest.raises(dnas.InputError, match="data of compare must be a name or a path"):
        dnas.compare("random", data=(np.zeros((2, 9, 9)), [0, 1]), out=tmp_path / "never")
    for wrong in ({"processes": -1}, {"ray_retries": 2}, {"mappings": ["nope"]}):
        with pytest.raises(dnas.InputError):
            dnas.compare("random", data=images, out=tmp_path / "never", **wrong)


@pytest.mark.parametrize("wrong", [{"processes": 2}, {"ray": "auto"}])
def test_what_is_for_studies_is_refused_for_a_run(ran, wrong):
    with pytest.raises(dnas.InputError, match="does not apply to"):
        dnas.resume(ran.run, **wrong)

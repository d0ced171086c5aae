"""What names a network names the same one on the command line and in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.harness import invoke, make_images

import dnas
from dnas.pipeline.subjects import named, to_train
from dnas.space.architecture import Architecture
from dnas.space.published import load_published

TINY = {"channels": 4, "epochs": 1, "batch_size": 16, "layers": 3, "seed": 1}
FLAGS = ("--channels", 4, "--epochs", 1, "--batch-size", 16, "--layers", 3, "--seed", 1, "--quiet")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("subjects") / "images")


@pytest.fixture(scope="module")
def searched(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("subjects") / "search"
    dnas.search(data=images, out=out, method="random", layers=3, channels=4, epochs=1, batch_size=16,
                option=["search.trials=1"])  # fmt: skip
    return out


@pytest.mark.parametrize("kind", ["published", "file", "file as a text", "run", "architecture"])
def test_python_trains_whatever_the_command_line_trains(
    kind: str, images: Path, searched: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    load_published("DARTS_V2", 3).save(file)
    subject = {
        "published": "DARTS_V2", "file": file, "file as a text": str(file), "run": searched,
        "architecture": load_published("DARTS_V2", 3),
    }[kind]  # fmt: skip
    result = dnas.train(subject, data=images, out=tmp_path / "python", **TINY)
    typed = "DARTS_V2" if kind == "architecture" else subject
    outcome = invoke("train", typed, "--data", images, *FLAGS, "--out", tmp_path / "typed", "--json")
    assert outcome.code == 0, outcome.err
    wanted = Architecture.load(searched / "architecture.json") if kind == "run" else load_published("DARTS_V2", 3)
    for run in ("python", "typed"):
        assert Architecture.load(tmp_path / run / "architecture.json").layers == wanted.layers
    model = (tmp_path / "python" / "model.safetensors").read_bytes()
    assert model == (tmp_path / "typed" / "model.safetensors").read_bytes()
    assert result["test_accuracy"] == outcome.json["test_accuracy"]


@pytest.mark.parametrize(
    ("subject", "says"),
    [
        ("DARTS_v2", "unknown architecture 'DARTS_v2'; did you mean 'DARTS_V2'?"),
        ("vgg16bn", "did you mean 'vgg16-bn'?"),
        ("qqqqqqq", "choose from"),
        ("folder/a.json", "'folder/a.json' does not exist"),
    ],
)
def test_a_mistyped_name_is_met_with_the_closest(subject: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(dnas.InputError) as caught:
        dnas.train(subject, out=tmp_path / "never")
    assert says in str(caught.value)
    for command in ("train", "show"):
        outcome = invoke(command, subject)
        assert outcome.code == 2 and says in outcome.err and len(outcome.lines) == 1


def test_a_run_hands_on_its_preset_unless_another_is_given(searched: Path) -> None:
    given, subject = to_train(searched, {})
    assert subject.architecture is not None and given["handmade"] == ""
    assert subject.beneath({})["preset"] == "quick"
    assert subject.beneath({"preset": "paper"})["preset"] == "paper"


def test_a_published_pair_is_stacked_and_an_architecture_stays_as_deep_as_it_is() -> None:
    assert len(named("DARTS_V2").found) == 20 and len(named("DARTS_V2", 5).found) == 5
    own = load_published("DARTS_V2", 4)
    assert named(own).found == own and named(own).handmade == ""
    assert named("vgg16-bn").handmade == "vgg16-bn" and named("vgg16-bn").architecture is None

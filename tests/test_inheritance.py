"""Where a run is named, its data, image size, preset and training are the defaults; what the user gives goes before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tomllib
from faults.harness import invoke, make_images
from run_tools import make_run

import dnas
from dnas.data.splits import DataInfo
from dnas.pipeline.config import check_budget, resolve
from dnas.pipeline.inheritance import inherit, shape_of
from dnas.pipeline.overrides import nested
from dnas.pipeline.subjects import named
from dnas.pipeline.training_images import TRAINING_IMAGES_FILE
from dnas.settings import TrainSettings
from dnas.space.network_plan import Shape

TINY = ("--layers", 3, "--channels", 8, "--epochs", 1, "--batch-size", 16)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("inheritance") / "images", classes=3, each=20, size=12)


@pytest.fixture(scope="module")
def run(images: Path) -> Path:
    """A run at another size than that of the pictures, with settings that no preset has."""
    out = images.with_name("run")
    outcome = invoke(
        "run", "--data", images, "--image-size", 10, *TINY, "--train-channels", 6, "-o", "train.cutout=2",
        "-o", "train.learning_rate=0.07", "--no-baseline", "--data-dir", images.with_name("named"), "--out", out, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return out


def config(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text())


def info(source: str, size: int) -> DataInfo:
    return DataInfo(source, ("a", "b"), 1, size, (0.5,), (0.2,), flip=False)


# --- train


def test_train_repeats_the_training_of_a_run(run: Path, tmp_path: Path) -> None:
    """Nothing is said, so data, size, width and all settings are the run's: the network is, too."""
    outcome = invoke("train", run, "--out", tmp_path / "typed", "--json")
    assert outcome.code == 0, outcome.err
    result = dnas.train(run, out=tmp_path / "python")
    assert result["channels"] == outcome.json["channels"] == 6 and result["classes"] == 3
    first, second = config(run), config(tmp_path / "typed")
    assert second["data"] == first["data"] and second["train"] == first["train"]
    assert second["preset"] == first["preset"]
    ours = safetensors.numpy.load_file(run / "model.safetensors")
    for again in ("typed", "python"):
        theirs = safetensors.numpy.load_file(tmp_path / again / "model.safetensors")
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_options_and_files_go_before_the_run(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[train]\nlearning_rate = 0.03\nweight_decay = 0.01\n")
    given = {"channels": 4, "config": str(tmp_path / "c.toml"), "image_size": 9, "option": ["train.weight_decay=0.02"]}
    settings = named(run).beneath(nested("train", given))
    assert settings["train"] == {
        "channels": 4, "learning_rate": 0.03, "weight_decay": 0.02, "cutout": 2, "flip": "on", "epochs": 1,
        "batch_size": 16,
    }  # fmt: skip
    assert settings["data"] == {
        "source": str(images), "data_dir": str(images.with_name("named")), "image_size": 9, "resize": "crop",
        "image_column": "", "label_column": "", "root": "", "skip_broken": False,
    }  # fmt: skip


def test_other_data_comes_with_its_own_size_and_what_the_preset_chooses_for_it(run: Path) -> None:
    settings = named(run).beneath(nested("train", {"data": "digits"}))
    assert settings["data"]["source"] == "digits" and "image_size" not in settings["data"]
    # What the user once gave stays; pad, images, stem and what else was chosen for the other data does not.
    assert settings["train"] == {"channels": 6, "learning_rate": 0.07, "cutout": 2, "epochs": 1, "batch_size": 16}


@pytest.mark.skipif("flip" not in TrainSettings.model_fields, reason="flips are no setting")
def test_whether_images_are_mirrored_is_found_out_again_for_other_data() -> None:
    given = {"command": "train", "data": {"source": "cifar10"}, "train": {"flip": "on"}}
    first, _ = resolve(given, info("cifar10", 32), 5000, "print")
    assert inherit({"command": "train"}, Path("run"), first.to_toml())["train"]["flip"] == "on"
    assert "flip" not in inherit({"data": {"source": "digits"}}, Path("run"), first.to_toml())["train"]


def test_another_preset_is_another_training_on_the_same_data(run: Path, images: Path) -> None:
    settings = named(run).beneath(nested("train", {"preset": "paper"}))
    assert settings["preset"] == "paper" and not settings.get("train")
    assert settings["data"]["source"] == str(images) and settings["data"]["image_size"] == 10


def test_the_planned_steps_of_a_run_cut_off_no_epochs_that_are_given_and_leave_the_choice_to_a_budget() -> None:
    given = {"data": {"source": "cifar10"}, "train": {"epochs": 7, "steps": 50, "images": 960, "momentum": 0.8}}
    first, _ = resolve({**given, "command": "run"}, info("cifar10", 32), 5000, "print")
    planned = {"epochs": 7, "steps": 50, "images": 960}
    assert inherit({"command": "train"}, Path("run"), first.to_toml())["train"].items() >= planned.items()
    longer = inherit({"command": "train", "train": {"epochs": 30}}, Path("run"), first.to_toml())["train"]
    assert longer["epochs"] == 30 and "steps" not in longer and longer["images"] == 960
    budgeted = inherit({"command": "train", "budget": 60.0}, Path("run"), first.to_toml())
    assert not budgeted["train"].keys() & planned.keys() and budgeted["train"]["momentum"] == 0.8
    check_budget(budgeted)


@pytest.mark.parametrize("preset", ["quick", "shared", "paper"])
@pytest.mark.parametrize("method", ["dnas", "pc-darts"])
@pytest.mark.parametrize(("source", "size"), [("tiny-imagenet", 64), ("cifar10", 32), ("digits", 200)])
def test_all_of_a_training_is_found_again_whatever_chose_it(method: str, preset: str, source: str, size: int) -> None:
    given = {"preset": preset, "data": {"source": source}, "train": {"momentum": 0.8}}
    first, _ = resolve({**given, "command": "run", "method": method}, info(source, size), 5000, "print")
    settings = inherit({"command": "train"}, Path("run"), first.to_toml())
    assert settings["train"]["momentum"] == 0.8 and settings["preset"] == preset
    again, _ = resolve(settings, info(source, size), 5000, "print")
    assert again.train == first.train
    # A folder that has grown since is used whole, as it was.
    grown, _ = resolve(settings, info(source, size), 6000, "print")
    assert first.train is not None and grown.train is not None
    assert grown.train.images == (6000 if first.train.images == 5000 else first.train.images)


def test_the_training_of_a_search_is_that_which_a_run_would_have_gone_on_with() -> None:
    for method in ("dnas", "pc-darts"):
        given = {"preset": "paper", "method": method, "data": {"source": "cifar10"}}
        search, _ = resolve({**given, "command": "search"}, info("cifar10", 32), 5000, "print")
        whole, _ = resolve({**given, "command": "run"}, info("cifar10", 32), 5000, "print")
        settings = inherit({"command": "train"}, Path("run"), search.to_toml())
        again, _ = resolve(settings, info("cifar10", 32), 5000, "print")
        assert again.train == whole.train


def test_a_hand_made_network_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package that has it need not be here.
    monkeypatch.setattr("dnas.pipeline.config.environment", lambda handmade="": {"threads": 1})
    given = {
        "command": "train",
        "handmade": "vgg16-bn",
        "baseline": False,
        "train": {"epochs": 3, "label_smoothing": 0.2},
    }
    first, _ = resolve({**given, "data": {"source": "digits"}}, info("digits", 8), 1437, "print")
    settings = inherit({"command": "train", "handmade": "vgg16-bn", "baseline": False}, Path("run"), first.to_toml())
    again, _ = resolve(settings, info("digits", 8), 1437, "print")
    assert again.train == first.train and settings["train"] == {"epochs": 3, "label_smoothing": 0.2}


def test_a_folder_without_config_hands_nothing_on(tmp_path: Path) -> None:
    dnas.load_published("DARTS_V2", 3).save(tmp_path / "architecture.json")
    assert named(tmp_path).beneath({"command": "train"}) == {"command": "train"}
    assert named(tmp_path).shape() == named("DARTS_V2").shape() == Shape(36, 10, 32, 3, "cifar")


# --- show


def test_show_shows_the_network_of_the_run(run: Path) -> None:
    import json

    result = json.loads((run / "result.json").read_text())
    shown = invoke("show", run, "--json").json
    assert {key: shown[key] for key in ("channels", "classes", "image_size", "image_channels", "stem")} == {
        "channels": 6, "classes": 3, "image_size": 10, "image_channels": 1, "stem": "cifar",
    }  # fmt: skip
    assert (shown["params"], shown["macs"]) == (result["params"], result["macs"])
    other = invoke(
        "show", run, "--channels", 8, "--classes", 5, "--image-size", 20, "--image-channels", 3, "--json"
    ).json
    assert (other["channels"], other["classes"], other["image_size"], other["image_channels"]) == (8, 5, 20, 3)
    assert "at 6 channels, 3 classes, 10×10 images" in invoke("show", run).out


def test_what_an_older_run_is_known_to_be_is_shown(images: Path, tmp_path: Path) -> None:
    """Without a record the network's file has it, and without that result.json has the classes."""
    run = make_run(tmp_path / "run", images, record=False)
    assert shape_of(run, config(run)) == Shape(4, 3, 12, 1, "cifar", final_norm=True)
    (run / "model.safetensors").unlink()
    assert shape_of(run, config(run)) == Shape(4, 10, 12, 3, "cifar", final_norm=True)
    (run / "result.json").write_text('{"classes": 3}')
    assert shape_of(run, config(run)) == Shape(4, 3, 12, 3, "cifar", final_norm=True)


def test_a_search_is_shown_as_it_would_be_trained(images: Path, tmp_path: Path) -> None:
    outcome = invoke("search", "--data", images, *TINY, "--out", tmp_path / "search", "--json")
    assert outcome.code == 0, outcome.err
    shown = invoke("show", tmp_path / "search", "--json").json
    assert (shown["channels"], shown["classes"], shown["image_size"], shown["image_channels"]) == (16, 3, 12, 1)
    settings = named(tmp_path / "search").beneath(nested("train", {}))
    assert settings["data"]["source"] == str(images) and settings["preset"] == "quick" and settings["train"] == {}


def test_a_moved_run_folder_needs_no_record_to_hand_on_its_data(run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    (tmp_path / "moved" / TRAINING_IMAGES_FILE).unlink()
    assert named(tmp_path / "moved").beneath({})["data"]["source"] == str(images)

"""The setting `flip`: what "auto" becomes, that it acts in every loop, and that runs of before still go on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tools import idx_folder
from faults.harness import TINY, contents, invoke, make_images
from PIL import Image

import dnas
from dnas.data import mirroring
from dnas.data.augment import mirrors
from dnas.data.sources.protocol import Place
from dnas.data.sources.registry import sources
from dnas.data.splits import DataInfo, Split, load_train
from dnas.disk import read_toml
from dnas.methods.registry import create
from dnas.pipeline import flips
from dnas.pipeline.config import parse
from dnas.pipeline.overrides import nested
from dnas.runtime.session import Session
from dnas.searching.search import Search
from dnas.searching.trials import short_training
from dnas.settings import GradientSettings, TrainSettings, TrialSettings
from dnas.space.darts import DARTS
from dnas.training import build, trainer

TRAIN = ("train", "DARTS_V1", "--layers", 3, "--channels", 4, "--batch-size", 16, "-o", "train.auxiliary_weight=0")


def make_mirrored(folder, each=60, size=12, names=("left", "right")):
    """Wedges at any place, that point to the left or to the right, on noise; a third class points upwards."""
    rng = np.random.default_rng(0)
    for way, name in enumerate(names):
        place = folder / name
        place.mkdir(parents=True)
        for k in range(each):
            pixels = rng.integers(0, 90, (size, size))
            x, y = rng.integers(0, size - 7, 2)
            wedge = np.abs(np.arange(7) - 3)[:, None] <= np.arange(7) / 2
            shape = (wedge[:, ::-1], wedge, wedge.T[::-1])[way]
            pixels[y : y + 7, x : x + 7][shape] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{k:03d}.png")
    return folder


@pytest.fixture(scope="module")
def wedges(tmp_path_factory):
    return make_mirrored(tmp_path_factory.mktemp("wedges") / "wedges")


def trained(tmp_path, data, *options, name="run"):
    outcome = invoke(*TRAIN, "--data", data, *options, "--out", tmp_path / name, "--json")
    assert outcome.code == 0, outcome.err
    return outcome


# --- the case that the setting is for


def test_classes_that_are_mirror_images_are_learned_by_default(wedges, tmp_path):
    """With flips, which were always on for folders, a half is right; and the user reads why they are off."""
    options = ("--epochs", 10, "-o", "train.learning_rate=0.1", "-o", "train.cutout=0", "-o", "train.pad=0")
    outcome = trained(tmp_path, wedges, *options)
    assert outcome.json["test_accuracy"] > 0.8
    line = "flips off: mirrored 'left' looks like 'right', measured on 90 training images"
    assert line in outcome.err and line in (tmp_path / "run" / "log.txt").read_text()
    assert read_toml(tmp_path / "run" / "config.toml")["train"]["flip"] == "off"
    # Of 24 test images, one run can have many right by chance.
    mirrored = [
        trained(tmp_path, wedges, *options, "--flip", "on", "--seed", seed, name=f"mirrored-{seed}")
        for seed in range(3)
    ]
    assert sum(each.json["test_accuracy"] for each in mirrored) / 3 < 0.8


# --- what auto becomes


def test_a_folder_is_measured_and_both_stages_get_what_was_found(wedges, tmp_path):
    run = ("run", "--data", wedges, *TINY, "--no-baseline")
    assert invoke(*run, "--out", tmp_path / "auto").code == 0
    config = read_toml(tmp_path / "auto" / "config.toml")
    assert (config["search"]["flip"], config["train"]["flip"]) == ("off", "off")
    # A stage for which it was chosen keeps it.
    assert invoke(*run, "-o", "search.flip=on", "--out", tmp_path / "one").code == 0
    config = read_toml(tmp_path / "one" / "config.toml")
    assert (config["search"]["flip"], config["train"]["flip"]) == ("on", "off")


def test_the_pair_is_found_among_more_classes(tmp_path):
    data = make_mirrored(tmp_path / "data", names=("left", "right", "up"))
    outcome = trained(tmp_path, data, "--epochs", 1)
    assert "flips off: mirrored 'left' looks like 'right'" in outcome.err


def test_other_folders_keep_flips_and_that_is_said(tmp_path):
    data = make_images(tmp_path / "data")
    outcome = trained(tmp_path, data, "--epochs", 1)
    assert "flips on: mirroring confuses no classes, measured on 40 training images" in outcome.err
    few = make_images(tmp_path / "few", each=10)
    outcome = trained(tmp_path, few, "--epochs", 1, name="few-run")
    assert (
        "flips on: too few training images of each class to measure whether mirroring confuses classes" in outcome.err
    )


def test_a_choice_of_the_user_is_taken_and_nothing_is_measured(wedges, tmp_path, monkeypatch):
    monkeypatch.setattr(flips, "find_mirrored", lambda split: pytest.fail("measured"))
    for flip in ("on", "off", "alternate"):
        outcome = trained(tmp_path, wedges, "--epochs", 1, "--flip", flip, name=flip)
        assert "flips" not in outcome.err
        assert read_toml(tmp_path / flip / "config.toml")["train"]["flip"] == flip


def test_digits_and_idx_files_are_not_mirrored_and_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(flips, "find_mirrored", lambda split: pytest.fail("measured"))
    outcome = trained(tmp_path, "digits", "--epochs", 1, "-o", "train.images=32")
    assert "flips off, as usual for digits" in outcome.err
    idx_folder(tmp_path / "idx")
    outcome = trained(tmp_path, tmp_path / "idx", "--epochs", 1, name="idx-run")
    assert "flips off, as usual for IDX files" in outcome.err


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "fashion-mnist", "tiny-imagenet"])
def test_published_images_are_mirrored_as_usual(kind, monkeypatch):
    info = DataInfo(kind, ("a", "b"), 3, 8, (0.5,) * 3, (0.2,) * 3, True)
    monkeypatch.setattr(flips, "find_mirrored", lambda split: pytest.fail("measured"))
    monkeypatch.setattr(
        flips, "locate", lambda *asked, **more: Place(next(s for s in sources() if s.kind == kind), Path(kind))
    )
    config = parse({"data": {"source": kind}, "search": {}, "train": {}})
    config, line = flips.resolve_flips(config, None, info)
    assert (config.search.flip, config.train.flip, line) == ("on", "on", f"flips on, as usual for {kind}")


def test_of_ranks_the_first_one_measures(wedges, monkeypatch):
    """Another machine's last bits could decide otherwise."""
    split, info = load_train(str(wedges))
    config = parse({"command": "train", "data": {"source": str(wedges)}, "train": {}})
    told = []
    monkeypatch.setattr(flips.distributed, "leads", lambda: False)
    monkeypatch.setattr(flips.distributed, "from_first", lambda mine: told.append(mine) or ("off", "flips off"))
    monkeypatch.setattr(flips, "find_mirrored", lambda split: pytest.fail("measured"))
    config, line = flips.resolve_flips(config, split, info)
    assert (config.train.flip, line, len(told)) == ("off", "flips off", 1)


# --- options


def test_one_option_sets_both_stages_and_each_stage_has_its_own():
    assert nested("run", {"flip": "off"})["search"] == {"flip": "off"} == nested("run", {"flip": "off"})["train"]
    assert "search" not in nested("train", {"flip": "on"})
    settings = nested("run", {"flip": "off", "option": ["search.flip=on"]})
    assert (settings["search"]["flip"], settings["train"]["flip"]) == ("on", "off")


def test_another_word_is_refused_by_its_option(wedges, tmp_path):
    outcome = invoke(*TRAIN, "--data", wedges, "--flip", "maybe", "--out", tmp_path / "run")
    assert outcome.code == 2 and "--flip" in outcome.err and "'maybe'" in outcome.err
    assert not (tmp_path / "run").exists()


# --- that it acts


@pytest.mark.parametrize(("flip", "known", "expected"), [
    ("on", False, True), ("off", True, False), ("auto", True, True), ("auto", False, False), ("alternate", False, True),
])  # fmt: skip
def test_what_a_setting_means_for_a_loop(flip, known, expected):
    info = DataInfo("x", ("a", "b"), 1, 8, (0.5,), (0.2,), known)
    assert mirrors(flip, info) is expected


def noise(count=32):
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(images, torch.arange(count) % 2), DataInfo("x", ("0", "1"), 1, 8, (0.5,), (0.29,), True)


def test_it_acts_in_training():
    split, info = noise()
    architecture = dnas.load_published("DARTS_V1", 3)
    weights = {}
    for flip in ("auto", "on", "off"):
        settings = TrainSettings(channels=4, epochs=1, batch_size=16, auxiliary_weight=0, flip=flip).resolved(32, 8)
        network = build.built(architecture, settings, info, 0)
        trainer.train_network(network, settings, split, info, seed=0, session=Session(None, {}))
        weights[flip] = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert torch.equal(weights["auto"], weights["on"]) and not torch.equal(weights["on"], weights["off"])


def test_it_acts_in_a_search_on_a_supernet_and_in_trials():
    split, info = noise()
    for flip, expected in (("on", True), ("off", False), ("auto", True)):
        settings = GradientSettings(layers=3, channels=8, epochs=4, batch_size=8, flip=flip).resolved(32, 1.0, 8)
        search = Search(create("darts", None, {}, DARTS), settings, split, info, seed=0, device="cpu")
        assert search.recipe.flip is expected
        trials = TrialSettings(layers=3, channels=4, flip=flip).resolved(32, 0.0, 8)
        assert short_training(trials).flip == flip


# --- resuming


def test_a_resumed_run_decides_nothing_anew(wedges, tmp_path, monkeypatch):
    trained(tmp_path, wedges, "--epochs", 2)
    run = tmp_path / "run"
    whole = contents(run)
    (run / "result.json").unlink()
    monkeypatch.setattr(flips, "find_mirrored", lambda split: pytest.fail("measured"))
    assert invoke("resume", run).code == 0
    assert contents(run) == whole


def test_a_run_of_before_the_setting_goes_on_as_it_began(wedges, tmp_path):
    """Its config.toml has no `flip`; it was mirrored by the kind of its data, which is on for folders."""
    trained(tmp_path, wedges, "--epochs", 2, "--flip", "on", name="now")
    now, before = tmp_path / "now", tmp_path / "before"
    before.mkdir()
    for name in ("architecture.json", "config.toml"):
        lines = (now / name).read_text().splitlines(keepends=True)
        (before / name).write_text("".join(line for line in lines if line.strip() != 'flip = "on"'))
    assert "flip" not in (before / "config.toml").read_text()
    assert invoke("resume", before).code == 0
    assert contents(before) == contents(now)
    other = trained(tmp_path, wedges, "--epochs", 2, "--flip", "off", name="other")
    assert json.loads((tmp_path / "other" / "result.json").read_text()) == other.json
    assert contents(tmp_path / "other")["model.safetensors"] != contents(now)["model.safetensors"]


def test_all_runs_on_a_data_set_agree(wedges):
    """The measurement does not depend on the seed of a run, or on how many images it uses."""
    split, _ = load_train(str(wedges))
    assert mirroring.find_mirrored(split) == mirroring.find_mirrored(split)

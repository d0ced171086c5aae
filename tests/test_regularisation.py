"""Cutout, drop-path and random crops may follow from the passes over the images: the rule, and that it acts by the plan in force."""

import itertools
import math

import pytest
import torch
from torch import nn

from dnas.data.splits import DataInfo, Split
from dnas.errors import InputError
from dnas.pipeline.budget import planned
from dnas.pipeline.config import parse, resolve
from dnas.pipeline.presets import QUICK_MOST_EPOCHS, QUICK_RECIPE
from dnas.runtime.session import Session
from dnas.searching.trials import short_training
from dnas.settings import NetworkTrainSettings, TrainSettings, TrialSettings, padding, regularisation
from dnas.space.published import load_published
from dnas.training.build import built
from dnas.training.optimizers import optimizers
from dnas.training.trainer import Training, train_network

INFO = DataInfo("toy", ("a", "b"), 3, 32, (0.5,) * 3, (0.25,) * 3, False)
BY_PASSES = {"cutout": -2, "drop_path": -1.0}


def test_few_passes_have_the_quick_recipe_and_600_what_darts_has():
    for passes in (0.01, 1, 10, QUICK_MOST_EPOCHS):
        found = regularisation(passes, 32)
        assert (found.cutout, found.drop_path) == (QUICK_RECIPE["cutout"], QUICK_RECIPE["drop_path"]) == (0, 0.0)
    darts = TrainSettings().in_numbers(50_000, 32)
    for passes in (darts.epochs, 601, 10_000):
        found = regularisation(passes, 32)
        assert (found.cutout, found.drop_path) == (darts.cutout, darts.drop_path) == (16, 0.2)


def test_in_between_each_doubling_adds_as_much():
    doublings = [regularisation(25 * 2**k, 2_000) for k in range(5)]
    for before, after in itertools.pairwise(doublings):
        step = math.log(2) / math.log(24)
        assert after.drop_path - before.drop_path == pytest.approx(0.2 * step)
        assert after.cutout - before.cutout == pytest.approx(1_000 * step, abs=1)
    middle = regularisation(math.sqrt(25 * 600), 32)
    assert middle.cutout == 8 and middle.drop_path == pytest.approx(0.1)


def test_random_crops_begin_after_two_passes_and_are_whole_from_fifty_on():
    assert [padding(-2, 32, passes) for passes in (0.1, 1, 2)] == [0, 0, 0]
    assert padding(-2, 32, 10) == 2 and padding(-2, 64, 10) == 4  # the geometric mean of 2 and 50
    assert [padding(-2, 32, passes) for passes in (50, 600)] == [4, 4] == [padding(-1, 32)] * 2
    assert [padding(given, 32, 1) for given in (-1, 0, 5)] == [4, 0, 5]


def test_crops_follow_the_plan():
    settings = TrainSettings(pad=-2, images=1_000, batch_size=100, epochs=50).in_numbers(1_000, 32)
    assert settings.pad == -2 and settings.padding(32) == 4
    assert planned(settings, 100).padding(32) == 2 and planned(settings, 20).padding(32) == 0
    assert TrainSettings(pad=-1).in_numbers(1_000, 32).pad == 4


def test_what_is_in_force_follows_the_plan():
    settings = TrainSettings(**BY_PASSES, images=1_000, batch_size=100, epochs=600)
    assert settings.cutout_side(32) == 16 and settings.drop_path_rate(300) == pytest.approx(0.1)
    # Ended by its steps: 122.5 passes, about half way.
    for shorter in (settings.model_copy(update={"steps": 1_225}), planned(settings, 1_225)):
        assert shorter.passes == 122.5 and shorter.cutout_side(32) == 8
        top = regularisation(122.5, 32).drop_path
        assert shorter.drop_path_rate(60) == pytest.approx(top * 60 / shorter.epochs)
    few = planned(settings, 250)
    assert few.cutout_side(32) == 0 and {few.drop_path_rate(epoch) for epoch in range(25)} == {0.0}


def test_values_of_the_users_stay():
    settings = TrainSettings(cutout=5, drop_path=0.3, images=100, batch_size=10, epochs=10)
    assert settings.cutout_side(32) == 5 and settings.drop_path_rate(5) == pytest.approx(0.15)
    one = TrainSettings(cutout=-2, drop_path=0.3, images=100, batch_size=10, epochs=10)
    assert one.cutout_side(32) == 0 and one.drop_path_rate(5) == pytest.approx(0.15)


def test_a_configuration_keeps_the_rule_and_not_its_numbers():
    given = {"command": "train", "train": {**BY_PASSES, "epochs": 600}}
    config, _ = resolve(given, INFO, 1_000, "")
    written = config.to_toml()["train"]
    assert (written["cutout"], written["drop_path"]) == (-2, -1.0)
    assert parse({"command": "train", "train": written}).train == config.train
    assert config.train.cutout_side(32) == 16
    assert parse({"command": "train", "train": {**written, "epochs": 10}}).train.cutout_side(32) == 0


def noise(count=20):
    drawn = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Split(drawn, torch.arange(count) % 2)


def weights(epochs, steps, **changed):
    given = {**QUICK_RECIPE, "channels": 4, "batch_size": 10, "epochs": epochs, "steps": steps, **changed}
    settings = TrainSettings(**given).resolved(20, 32)
    network = built(load_published("DARTS_V1", 3), settings, INFO, 0)
    train_network(network, settings, noise(), INFO, seed=0, session=Session(None, {}))
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_training_of_few_passes_is_that_without_to_the_bit():
    assert torch.equal(weights(3, 0, **BY_PASSES), weights(3, 0))


def test_a_training_of_many_passes_is_that_with_the_numbers_to_the_bit():
    """Epochs of one step each."""
    rule = regularisation(60, 32)
    assert rule.cutout > 2 and rule.drop_path > 0.05
    given = {"batch_size": 20}
    found = weights(60, 0, **BY_PASSES, **given)
    assert torch.equal(found, weights(60, 0, cutout=rule.cutout, drop_path=rule.drop_path, **given))
    assert not torch.equal(found, weights(60, 0, **given))


def test_a_hand_made_network_has_the_cutout():
    settings = NetworkTrainSettings(cutout=-2, epochs=600, batch_size=10).resolved(20, 32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3_072, 2))
    assert Training(network, settings, noise(), INFO, 0, "train", "cpu").batches.recipe.cutout == 16


@pytest.mark.parametrize(("given", "passes", "color"), [
    (-1, 25, 0.0), (-1, 35.3553, 0.15), (-1, 50, 0.3), (-1, 600, 0.3), (0, 600, 0.0), (0.2, 1, 0.2),
])  # fmt: skip
def test_the_images_of_a_training_change_colors_by_its_passes(given, passes, color):
    """35.4 is the geometric mean of 25 and 50."""
    steps = round(1000 * passes)
    settings = NetworkTrainSettings(color=given, epochs=600, batch_size=2, steps=steps).resolved(2_000, 32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3_072, 2))
    recipe = Training(network, settings, noise(2_000), INFO, 0, "train", "cpu").batches.recipe
    assert recipe.color == pytest.approx(color, abs=1e-4)


@pytest.mark.parametrize(("given", "passes", "decay"), [
    (-1, 25, 0.0), (-1, 35.3553, 0.1), (-1, 50, 0.2), (-1, 600, 0.2), (0, 600, 0.0), (0.3, 1, 0.3),
])  # fmt: skip
def test_the_weight_decay_of_muon_follows_the_passes(given, passes, decay):
    steps = round(1000 * passes)
    settings = NetworkTrainSettings(
        optimizer="muon", muon_weight_decay=given, epochs=600, batch_size=2, steps=steps
    ).resolved(2_000, 32)
    (group,) = optimizers(nn.Conv2d(3, 8, 3), settings)["muon"].param_groups
    assert group["weight_decay"] == pytest.approx(decay, abs=1e-4)


def test_a_preset_may_leave_the_decay_of_muon_to_the_passes_without_muon():
    NetworkTrainSettings(muon_weight_decay=-1).check()
    with pytest.raises(ValueError, match="muon_weight_decay"):
        NetworkTrainSettings(muon_weight_decay=-0.5)


@pytest.mark.parametrize("color", [-0.5, 1.0])
def test_a_color_out_of_range_is_refused(color):
    with pytest.raises(ValueError, match="color"):
        NetworkTrainSettings(color=color)


@pytest.mark.parametrize(("passes", "pad"), [(2, 0), (10, 2), (600, 4)])
def test_the_images_of_a_training_are_cropped_by_its_passes(passes, pad):
    settings = NetworkTrainSettings(pad=-2, cutout=0, epochs=passes, batch_size=10).resolved(20, 32)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3_072, 2))
    assert Training(network, settings, noise(), INFO, 0, "train", "cpu").batches.recipe.pad == pad


@pytest.mark.parametrize("epochs", [2, 10])
def test_trials_are_cropped_by_their_passes(epochs):
    settings = TrialSettings(pad=-2, epochs=epochs, batch_size=10).resolved(40, 0.0, 32)
    assert short_training(settings).padding(32) == {2: 0, 10: 2}[epochs]


@pytest.mark.parametrize(
    ("name", "value"), [("cutout", -3), ("pad", -3), ("drop_path", -0.5), ("drop_path", -2.0), ("drop_path", 1.0)]
)
def test_other_values_are_refused(name, value):
    with pytest.raises(InputError, match=f"train.{name} must be"):
        parse({"train": {name: value}})

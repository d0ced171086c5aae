"""benchmarks/outcome.py pairs what shares a seed, and benchmarks/recipe.py changes what it says. Nothing is trained."""

from pathlib import Path

import outcome
import pytest
import recipe

from dnas.data.splits import DataInfo
from dnas.methods.registry import create
from dnas.pipeline.presets import preset_settings
from dnas.settings import TrainSettings
from dnas.space.darts import DARTS


def row(network, seed, accuracy):
    return outcome.Row(network, seed, accuracy, 1000, 10**6, 50.0)


def test_differences_are_those_of_one_seed_and_of_seeds_that_both_have():
    rows = [
        row("found", 0, 0.7),
        row("found", 1, 0.8),
        row("random", 1, 0.75),
        row("random", 0, 0.6),
        row("found", 2, 0.1),
    ]
    difference = outcome.differences(rows, ["random"])["random"]
    assert difference.count == 2
    assert difference.mean == pytest.approx(0.075)
    # Paired: 0.1 and 0.05, whose half difference is far below the spread of either network.
    assert difference.sd == pytest.approx(0.05 / 2**0.5)


def test_the_table_has_every_network_that_was_trained():
    rows = [row(name, seed, 0.5 + 0.1 * seed) for name in ("found", "random") for seed in (0, 1)]
    shown = outcome.table(outcome.Setting("x/pictures", 60.0, Path()), rows, ["random", "resnet8"])
    assert [*shown.columns[0].cells] == ["found", "random"]
    assert [*shown.columns[1].cells] == ["0.5500", "0.5500"]


@pytest.mark.parametrize("name", recipe.VARIANTS)
def test_a_variant_is_a_training_that_differs_from_the_recipe(name):
    info = DataInfo("x", tuple("abcdefghij"), 3, 32, (0.5,) * 3, (0.2,) * 3, True)
    quick = preset_settings("quick", create("dnas", None, {}, DARTS), info, 1000)["train"]
    made = recipe.settings_of(name, quick, 1000, 32)
    plain = recipe.settings_of(recipe.RECIPE, quick, 1000, 32)
    assert isinstance(made, TrainSettings) and (made != plain) == (name != recipe.RECIPE)


def test_every_variant_of_the_recipe_can_be_asked_for_by_its_name():
    assert not any("," in name for name in recipe.VARIANTS)
    with pytest.raises(SystemExit, match="--variants nobody is none of: recipe"):
        recipe.main(variants="cutout,nobody")

"""No architecture diverges with the quick preset's recipe: `benchmarks/every_architecture.py` for a handful."""

import math

import every_architecture as every
import pytest

from dnas.data.splits import load_train
from dnas.space.darts import DARTS

SHALLOW, DEEP = every.adversarial(3), every.adversarial(20)
CHANNELS, BATCH, STEPS = 2, 96, 12


@pytest.fixture(scope="module")
def digits():
    return load_train("digits")


def trained(case, digits, **changes):
    settings = every.recipe(*digits, CHANNELS, BATCH, STEPS).model_copy(update=changes)
    return every.train(case, settings, *digits, seed=0)


# Of the deep ones a wiring of every operation, and two mixtures.
@pytest.mark.parametrize("case", [*SHALLOW, *DEEP[1::3]], ids=lambda case: case.name)
def test_an_adversarial_architecture_trains(case, digits):
    training = trained(case, digits)
    assert len(training.losses) == STEPS and not training.fails(classes=10), training


def test_the_recipe_is_that_of_the_quick_preset(digits):
    settings = every.recipe(*digits, CHANNELS, BATCH, STEPS)
    assert {name: getattr(settings, name) for name in every.QUICK_RECIPE} == every.QUICK_RECIPE


def test_a_training_that_diverges_is_seen(digits):
    assert trained(SHALLOW[0], digits, learning_rate=1e3).fails(classes=10)
    assert trained(SHALLOW[0], digits, learning_rate=1e38).fails(classes=10)


@pytest.mark.parametrize(
    ("last", "error", "fails", "learns"),
    [
        (2.0, "", False, True),
        (2.9 * math.log(10), "", False, False),
        (3.1 * math.log(10), "", True, False),
        (math.nan, "", True, False),
        (2.0, "the loss is not finite", True, False),
    ],
)
def test_only_losses_after_the_tenth_step_count(last, error, fails, learns):
    training = every.Training("", (*[99.0] * every.SETTLED, last), error)
    assert (training.fails(10), training.learns(10)) == (fails, learns)


def test_adversarial_architectures_are_20_different_ones_of_the_space():
    for cases, layers in ((SHALLOW, 3), (DEEP, 20)):
        assert len({case.architecture for case in cases}) == 20
        assert {len(case.architecture) for case in cases} == {layers}
        assert all(case.architecture.space == DARTS.name for case in cases)
    star, chain, from_input = (case.architecture.layers[0].nodes for case in SHALLOW[:3])
    assert [{source for _, source in node} for node in star] == [{0, 1}] * 4
    assert [{source for _, source in node} for node in chain] == [{0, 1}, {1, 2}, {2, 3}, {3, 4}]
    assert [{source for _, source in node} for node in from_input] == [{0, 1}, {0, 2}, {0, 3}, {0, 4}]


def test_random_architectures_have_all_depths_and_are_drawn_by_the_seed():
    cases = every.random_ones(200, seed=0)
    assert {len(case.architecture) for case in cases} == set(range(3, 21))
    assert cases == every.random_ones(200, seed=0) != every.random_ones(200, seed=1)

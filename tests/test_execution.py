import math

import pytest

from dnas.errors import InputError
from dnas.execution import CHECKPOINT_SECONDS, DEFAULT, Execution, execution


def test_nothing_given_is_the_default():
    assert execution() == execution(None, None, None) == DEFAULT == Execution(CHECKPOINT_SECONDS, None, False)


def test_the_limit_counts_from_now_by_the_monotonic_clock(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 7.0)
    assert execution(0, 90, True) == Execution(0.0, 97.0, True)


@pytest.mark.parametrize("option", ["checkpoint_every", "time_limit"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "5", True, -math.inf])
def test_what_is_no_time_is_refused_by_its_name(option, value):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} is "):
        execution(**{option: value})


def test_a_limit_in_which_nothing_can_be_done_is_refused():
    with pytest.raises(InputError, match="--time-limit is 0 seconds"):
        execution(time_limit=0)

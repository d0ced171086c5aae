import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnas.study import verdict


def row(accuracy, low, high):
    return {"test_accuracy": accuracy, "test_interval": [low, high], "test_images": 100}


@pytest.mark.parametrize(
    ("ours", "other", "says", "never"),
    [
        (
            (0.9, 0.85, 0.95),
            (0.8, 0.75, 0.84),
            "searched network is better by 10.00 percentage points",
            "does not show",
        ),
        ((0.8, 0.75, 0.84), (0.9, 0.85, 0.95), "random network is better by 10.00 percentage points", "does not show"),
        (
            (0.9, 0.85, 0.95),
            (0.86, 0.8, 0.9),
            "+4.00 percentage points is not significant with 100 test images",
            "better",
        ),
        (
            (0.86, 0.8, 0.9),
            (0.9, 0.85, 0.95),
            "-4.00 percentage points is not significant with 100 test images",
            "better",
        ),
    ],
)
def test_a_run_is_judged_by_its_intervals(ours, other, says, never):
    text = verdict.of_run(row(*ours) | {"baseline": row(*other)})
    assert says in text and never not in text


def difference(low, high, p=None, a="a", b="b"):
    return {"a": a, "b": b, "mean": (low + high) / 2, "low": low, "high": high, "p_adjusted": p}


def test_a_difference_needs_an_interval_that_leaves_out_zero_and_a_small_adjusted_p():
    assert verdict.direction(difference(-0.02, -0.01)) == -1
    assert verdict.direction(difference(0.01, 0.02)) == 1
    assert verdict.direction(difference(-0.01, 0.02)) == 0
    assert verdict.direction(difference(0.0, 0.02)) == 0
    assert verdict.direction(difference(0.01, 0.02, p=0.2)) == 0
    assert verdict.direction(difference(0.01, 0.02, p=0.01)) == 1
    assert verdict.direction({"a": "a", "b": "b", "mean": 0.1, "low": None, "high": None}) is None


@given(st.floats(-1, 1), st.floats(0, 1), st.none() | st.floats(0, 1))
def test_turning_a_difference_round_turns_what_it_shows(mean, half, p):
    one = verdict.direction(difference(mean - half, mean + half, p))
    other = verdict.direction(difference(-mean - half, -mean + half, p))
    assert one is not None and one == -other


def study(errors, differences, of=None, missing=()):
    rows = [
        {"name": name, "of": (of or {}).get(name), "test_error": {"mean": mean, "low": None, "high": None}}
        for name, mean in errors.items()
    ]
    return {"rows": rows, "differences": differences, "missing": list(missing)}


def test_the_lowest_error_is_called_better_only_where_paired_differences_show_it():
    errors = {"a": 0.10, "b": 0.12, "c": 0.13}
    shown, open_ = difference(-0.03, -0.01), difference(-0.03, 0.01)
    lowest = verdict.of_study(study(errors, []))[0]
    assert "10.00%" in lowest and "it is not significantly better than any of the 2 others" in lowest
    one = [shown | {"b": "b"}, open_ | {"b": "c"}]
    assert "better than 1 of the 2 others" in verdict.of_study(study(errors, one))[0]
    # The same, told from the other side.
    turned = [difference(0.01, 0.03, a="b", b="a"), difference(0.01, 0.03, a="c", b="a")]
    assert "all 2 others" in verdict.of_study(study(errors, turned))[0]
    worse = [difference(0.01, 0.03, a="a", b=other) for other in "bc"]
    assert "not significantly better than any" in verdict.of_study(study(errors, worse))[0]


def test_searches_are_counted_against_their_own_controls_only():
    errors = dict.fromkeys("abcxyz", 0.1)
    of = {"x": "a", "y": "b", "z": "c"}
    differences = [
        difference(-0.03, -0.01, a="a", b="x"),  # the search did better
        difference(-0.03, -0.01, a="y", b="b"),  # worse, told from the control's side
        difference(-0.03, 0.01, a="c", b="z"),
        difference(-0.03, -0.01, a="a", b="c"),  # no control
    ]
    text = " ".join(verdict.of_study(study(errors, differences, of)))
    assert (
        "Of 3 comparisons of a search with its control, 1 favors the search, 1 favors the control, "
        "1 shows no significant difference." in text
    )


def test_what_is_missing_is_said():
    assert verdict.of_study(study({"a": None}, [], missing=["r"])) == [
        "There are no test results yet: 1 run of this study is not done yet."
    ]
    assert "2 runs of this study are not done yet" in verdict.of_study(study({"a": 0.1}, [], missing=["r", "s"]))[-1]
    assert "No search has been compared" in " ".join(verdict.of_study(study({"a": 0.1, "x": 0.1}, [], {"x": "a"})))


def test_no_conclusion_says_more_than_its_differences():
    """Whatever intervals hold zero: nothing is called better."""
    for means in itertools.permutations((0.1, 0.2, 0.3)):
        errors = dict(zip("abc", means, strict=True))
        differences = [difference(-0.1, 0.1, a=a, b=b) for a, b in itertools.combinations("abc", 2)]
        text = " ".join(verdict.of_study(study(errors, differences, {"b": "a", "c": "a"})))
        assert "favors" not in text and "favor the" not in text and "not significantly better than any" in text

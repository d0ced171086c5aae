"""Durations and numbers as people write them."""

from __future__ import annotations

import math
import re

import pytest
from faults.harness import TINY, invoke, make_images
from hypothesis import given
from hypothesis import strategies as st

import dnas
from dnas.disk import read_toml
from dnas.pipeline.config import parse
from dnas.pipeline.overrides import nested
from dnas.runtime.execution import execution
from dnas.units import MANY, TIMES, duration, whole_number


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0), ("90.5", 90.5), ("0", 0.0), (90, 90.0), (0.5, 0.5), ("1e3", 1000.0), ("500ms", 0.5), ("30s", 30.0),
        ("5m", 300.0), ("5 min", 300.0), ("5min", 300.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1.5 h", 5400.0),
        ("1d 2h 3m 4s", 93784.0), ("3H55M", 14100.0), (".5h", 1800.0), ("-5", -5.0),
    ],
)  # fmt: skip
def test_a_duration_is_a_number_of_seconds_or_a_sum_of_terms(text, seconds):
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "soon", "5x", "m", "5 5", "1h-5m", "-5m", "nan", "inf", math.nan, math.inf, True,
                                   None, [5], "5mm", "1:30"])  # fmt: skip
def test_anything_else_is_none(value):
    with pytest.raises(ValueError, match=re.escape(f"must be a duration such as 90, 5m or 1h30m, got {value!r}")):
        duration(value)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(TIMES))), min_size=1, max_size=4))
def test_terms_add_up(terms):
    wanted = sum(number * TIMES[unit] for number, unit in terms)
    assert duration("".join(f"{number}{unit}" for number, unit in terms)) == pytest.approx(wanted)
    assert duration(" ".join(f"{number} {unit.upper()}" for number, unit in terms)) == pytest.approx(wanted)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused_in_a_sentence(text):
    try:
        assert math.isfinite(duration(text))
    except ValueError as error:
        assert str(error).startswith("must be a duration")


def test_it_is_read_alike_on_the_command_line_in_a_file_and_in_python(tmp_path, monkeypatch):
    file = tmp_path / "c.toml"
    file.write_text('[search]\nseconds = "1h30m"\n')
    settings = [
        nested("search", {"config": str(file)}),
        nested("search", {"option": ["search.seconds=1h30m"]}),
        nested("search", {"search_seconds": "1h30m"}),
        nested("search", {"search_seconds": 5400}),
    ]
    assert [parse(given).search.seconds for given in settings] == [5400.0] * 4
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    assert execution("1m", "1h30m").deadline == 5400.0 and execution("1m").checkpoint_seconds == 60.0


def test_every_option_that_is_a_time_takes_one(tmp_path):
    images, run = make_images(tmp_path / "images"), tmp_path / "run"
    times = ("--search-seconds", "1h30m", "--checkpoint-every", "1m", "--time-limit", "2h")
    assert invoke("search", "--data", images, *TINY[:8], *times, "--out", run, "--quiet").code == 0
    assert read_toml(run / "config.toml")["search"]["seconds"] == 5400.0
    outcome = invoke("compare", "--methods", "random", "--ray", "nowhere:1", "--ray-timeout", "5x")
    assert outcome.code == 2 and "must be a duration such as 90, 5m or 1h30m, got '5x'" in outcome.err
    # Far enough for the address to be what is wrong.
    study = tmp_path / "study"
    outcome = invoke(
        "compare", "--methods", "random", "--data", images, "--ray", "a://b", "--ray-timeout", "5m", "--out", study
    )
    assert (
        outcome.code == 2 and "--ray must be auto, or HOST:PORT of the head of the cluster, got 'a://b'" in outcome.err
    )
    for command in ("run", "compare"):
        text = " ".join(invoke(command, "--help").out.split())
        assert text.count("5m") >= 3, text


def test_from_python(tmp_path):
    images = make_images(tmp_path / "images")
    with pytest.raises(dnas.Interrupted) as caught:
        dnas.search(data=images, layers=3, channels=8, epochs=2, batch_size=16, out=tmp_path / "run",
                    time_limit="1ms", checkpoint_every="0s", search_seconds="5m")  # fmt: skip
    assert caught.value.code == 75
    assert read_toml(tmp_path / "run" / "config.toml")["search"]["seconds"] == 300.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("78186", 78186), (78186, 78186), ("130k", 130_000), ("130 K", 130_000), ("1.2M", 1_200_000),
        ("0.001k", 1), ("1.1m", 1_100_000), (" 2g ", 2_000_000_000), ("-5", -5), ("1.0", 1),
    ],
)  # fmt: skip
def test_a_whole_number_may_have_a_unit(text, number):
    assert whole_number(text) == number and type(whole_number(text)) is int


@pytest.mark.parametrize("text", ["", "k", "1.5", "0.0001k", "1e3", "1_000", "130kk", "1.2.3M", "²", 1.0, True, None])
def test_what_is_no_whole_number_says_so(text):
    with pytest.raises(ValueError, match=r"^must be a whole number such as 78666, 130k or 1.2M, got "):
        whole_number(text)


@given(st.integers(0, 10**12), st.sampled_from(sorted(MANY)))
def test_a_unit_multiplies(number, unit):
    assert whole_number(f"{number}{unit}") == number * MANY[unit]

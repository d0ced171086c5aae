"""Several values of a limit: one search, and a network for each, as a run with that value alone would give it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from faults.harness import contents, invoke
from test_limited_runs import IMAGES, TINY, StopsIn

import dnas
from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.methods.registry import create
from dnas.pipeline.answers import _beats
from dnas.pipeline.overrides import nested
from dnas.searching.judging import Answer, answered, judged_in_rounds
from dnas.space.darts import DARTS

OPTIONS = {**IMAGES, "train.images": 128}
SEVERAL = {"max_params": "12k,5k", "option": OPTIONS, "finals": 3, "prior": "none", **TINY}


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    """Two networks of one search by gradients, with finals and controls."""
    folder = tmp_path_factory.mktemp("front") / "run"
    return dnas.run(method="darts", out=folder, **SEVERAL)


def test_each_answer_is_what_a_run_with_its_limit_alone_gives(front, tmp_path):
    assert isinstance(front, dnas.FrontResult) and [each["value"] for each in front.rows] == [5_000, 12_000]
    for value, result in zip((5_000, 12_000), front.runs, strict=True):
        alone = dnas.run(method="darts", out=tmp_path / str(value), **{**SEVERAL, "max_params": value})
        assert result.architecture == alone.architecture and result.params <= value
        for file in ("model.safetensors", "architecture.json", "architecture_parameters.safetensors"):
            assert (result.run / file).read_bytes() == (alone.run / file).read_bytes()
        for name in ("test_accuracy", "test_interval", "limits", "finals"):
            assert result[name] == alone[name]
        assert replace(result.baseline, seconds=0.0) == replace(alone.baseline, seconds=0.0)


def test_the_table_has_what_each_network_uses(front):
    stored = json.loads((front.run / "result.json").read_text())
    for row, result in zip(stored["answers"], front.runs, strict=True):
        assert row["limit"] == "params" and row["used"] == row["params"] == result.params <= row["value"]
        assert row["baseline"]["used"] == result.baseline.params <= row["value"]
    assert stored["params"] == stored["answers"][-1]["params"] and stored["answers"][-1]["run"] == "."
    assert "params ≤ 5,000" in repr(front) and "params ≤ 12,000" in front._repr_html_()
    assert front.to_dict() == stored


@pytest.mark.parametrize(("word", "times"), [("search", 1), ("finals", 2), ("baseline", 2)])
def test_an_interrupted_run_goes_on_to_the_same_bits(front, tmp_path, word, times):
    """The second finals and baselines are those of the smaller value."""
    with pytest.raises(Interrupted) as stopped:
        dnas.run(config=front.run / "config.toml", out=tmp_path / "run", reporter=StopsInThe(word, times))
    assert stopped.value.run == tmp_path / "run"
    again = dnas.resume(tmp_path / "run")
    assert isinstance(again, dnas.FrontResult)
    assert contents(tmp_path / "run") == contents(front.run)
    assert contents(tmp_path / "run" / "answers" / "params-5000") == contents(front.run / "answers" / "params-5000")


class StopsInThe(StopsIn):
    """Asks a run to stop at the first step of the stage that is the so manieth whose title has a word."""

    def __init__(self, word, times):
        super().__init__(word)
        self.left = times

    def start(self, title, steps, done):
        self.left -= self.word in title
        self.there = self.word in title and self.left == 0


def test_an_answer_is_a_run_like_any_other(front):
    inner = front.run / "answers" / "params-5000"
    assert invoke("resume", inner, "--json").json["params"] <= 5_000
    assert invoke("evaluate", inner, "--json").json["test_accuracy"] == front.rows[0]["test_accuracy"]
    shown = invoke("show", front.run)
    assert "params ≤ 5,000" in shown.out and "params-5000" in shown.out
    assert "params ≤" not in invoke("show", inner).out
    page = dnas_page(front.run)
    assert "Accuracy against cost" in page and "answers/params-5000" in page
    assert "Accuracy against cost" not in dnas_page(inner)


def dnas_page(folder):
    return Path(invoke("report", folder, "--json").json["report"]).read_text("utf-8")


def test_a_budget_is_for_all_networks_and_is_repeated_without_a_clock(tmp_path):
    options = {"search.channels": 4}
    given = {name: value for name, value in TINY.items() if name != "epochs"}
    first = dnas.run(
        method="gdas", mapping="shared", budget=6, baseline=False, option=options, max_params=[5_000, 12_000],
        finals=0, out=tmp_path / "run", **given,
    )  # fmt: skip
    plans = [each["plan"] for each in first.runs]
    assert 0 < sum(plan["seconds"] for plan in plans) < 6
    config = read_toml(tmp_path / "run" / "config.toml")
    assert config["budget"] == 0 and config["answers"][0]["steps"] == plans[0]["steps"]
    assert "2 networks of it" in (tmp_path / "run" / "log.txt").read_text()
    again = dnas.run(config=tmp_path / "run" / "config.toml", out=tmp_path / "again")
    assert [each.test_accuracy for each in again.runs] == [each.test_accuracy for each in first.runs]


def test_trials_take_turns_to_keep_to_each_value(tmp_path):
    option = {**OPTIONS, "search.trials": 4, "search.processes": 1, "search.epochs": 1}
    result = dnas.run(
        method="random", mapping="shared", max_macs="60k,150k", option=option, baseline=False, finals=0, **TINY,
        out=tmp_path / "run",
    )  # fmt: skip
    assert [row["used"] <= row["value"] for row in result.rows] == [True, True]
    assert result["architectures_evaluated"] == 4
    assert all(each["validation_accuracy"] is not None for each in result.runs)


def test_answers_are_the_best_of_those_that_keep_to_their_limits():
    class Limit:
        def __init__(self, most):
            self.most = most

        def allows(self, architecture):
            return architecture.cost <= self.most

    class Trained:
        in_space = True

        def __init__(self, cost):
            self.cost = cost

    class Tried:
        def __init__(self, cost, score):
            self.architecture, self.score = Trained(cost), score

    class Method:
        answers, feasible = (Limit(1), Limit(2), Limit(9)), None

    history = [Tried(9, 0.9), Tried(5, 0.5), Tried(2, 0.3), Tried(2, 0.4), Tried(1, None)]

    def best(known):
        return Answer(max(known, key=lambda trial: trial.score or 0).architecture.cost)

    # Nothing that is small enough for the first has a score, so all are its candidates.
    assert [each.architecture for each in answered(Method(), history, best)] == [9, 2, 9]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--max-params", "5k,12k", "--max-macs", "100k,200k"), "--max-params and --max-macs have several values"),
        (("--max-params", "5k,5k"), "must be one number, or several different ones above 0, got"),
        (("--max-ram", "5KB,x"), "--max-ram: must be a number of bytes"),
        (("--max-params", "100,12k"), "--max-params 100 cannot be met"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(tmp_path, given, said):
    outcome = invoke("run", "--layers", 4, "--out", tmp_path / "run", *given)
    assert outcome.code == 2 and said in outcome.err and len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [("search",), ("compare", "--methods", "random")])
def test_several_values_are_for_runs(tmp_path, command):
    outcome = invoke(*command, "--max-macs", "100k,200k", "--out", tmp_path / "run")
    assert outcome.code == 2 and "--max-macs can have several values only with `dnas run`" in outcome.err


def test_another_limit_forgets_what_was_planned(front, tmp_path):
    file = front.run / "config.toml"
    assert len(nested("run", {"config": str(file)})["answers"]) == 1
    assert "answers" not in nested("run", {"config": str(file), "max_params": "9k"})
    with pytest.raises(InputError, match="answers has 1 tables"):
        values = read_toml(file)
        values["limits"]["params"] = 9_000
        (tmp_path / "one.toml").write_text(tomli_w.dumps(values))
        dnas.run(config=tmp_path / "one.toml", out=tmp_path / "run")


def test_the_front_has_what_nothing_beats():
    rows = [{"used": u, "test_accuracy": a} for u, a in ((1, 0.5), (2, 0.5), (3, 0.7), (4, 0.6), (3, 0.7))]
    front = [not any(_beats(other, row) for other in rows) for row in rows]
    assert front == [True, False, True, False, True]


def test_candidates_take_turns_in_keeping_to_each_value():
    """So that every value has its share of candidates, however many each round proposes."""
    method = create("random", "full", {}, DARTS)
    turns = []

    class Within:
        def __init__(self, value):
            self.value = value

        def within(self, architecture):
            turns.append(self.value)
            return architecture

    method.answers = [Within(1), Within(2), Within(3)]
    judged_in_rounds(method, 3, 0, (), lambda number, candidates: [0.5] * len(candidates), limit=7)
    assert turns[:7] == [1, 2, 3, 1, 2, 3, 1]

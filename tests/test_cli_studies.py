import shlex

import pytest
from faults.harness import invoke

# --- studies -----------------------------------------------------------------------------------------------

FEW_IMAGES = ("--layers", 3, "--channels", 4, "--epochs", 1, "-o", "search.images=64", "-o", "train.images=64")


def test_compare_makes_a_study_that_resume_goes_on_with(tmp_path):
    study = tmp_path / "study"
    options = (
        "--deterministic",
        "--data",
        "digits",
        "--data-memory",
        "whole",
        "--preset",
        "quick",
        "-o",
        "search.trials=1",
    )
    arguments = ("--methods", "random", "--mappings", "full", "--seeds", 2, "--threads", 1, *FEW_IMAGES, *options)
    outcome = invoke("compare", *arguments, "--out", study, "--processes", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert [row["name"] for row in outcome.json["rows"]] == [
        "random (full)", "random (full), random, same size", "random (full), layers shuffled",
    ]  # fmt: skip
    assert all(len(row["searches"]) == 2 for row in outcome.json["rows"]) and not outcome.json["missing"]
    (study / "runs" / "random-full-s1" / "result.json").unlink()
    again = invoke("resume", study, "--json")
    assert again.code == 0, again.err
    assert [row["test_error"] for row in again.json["rows"]] == [row["test_error"] for row in outcome.json["rows"]]
    text = invoke("compare", *arguments, "--out", study, "--processes", 1)
    assert text.code == 0 and "layers shuffled" in text.out and "study" in text.out
    # The command that study.json and the page tell is of this study: it goes on with it, and finds all done.
    dnas, *told = shlex.split(outcome.json["command"])
    results = {file: file.stat().st_mtime_ns for file in study.glob("runs/*/result.json")}
    assert dnas == "dnas" and invoke(*told, "--out", study).code == 0
    assert {file: file.stat().st_mtime_ns for file in study.glob("runs/*/result.json")} == results
    assert invoke("report", study).code == 0 and (study / "report.html").exists()


def test_rank_says_how_measures_rank(tmp_path):
    arguments = ("--architectures", 4, "--methods", "spos", "--proxy-epochs", "2", *FEW_IMAGES, "--processes", 1)
    outcome = invoke("rank", *arguments, "--out", tmp_path / "ranking", "--json")
    assert outcome.code == 0, outcome.err
    assert [row["measure"] for row in outcome.json["rows"]] == ["full", "epochs-2", "supernet of spos", "parameters"]
    text = invoke("rank", *arguments, "--out", tmp_path / "ranking")
    assert text.code == 0 and "supernet of spos" in text.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--out", "study"), "--methods is empty"),
        (
            ("compare", "--methods", "dnas", "--method", "darts"),
            "--method cannot be used with `dnas compare`; use --methods",
        ),
        (("compare", "--methods", "dnas", "--seed", "3"), "--seed cannot be used with `dnas compare`; use --seeds"),
        (("compare", "--methods", "dnas", "--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("rank", "--mapping", "full"), "--mapping cannot be used with `dnas rank`; use --methods"),
        (
            ("rank", "--proxy-layers", "three"),
            "--proxy-layers must be whole numbers separated by commas, got 'three'",
        ),
        (("rank", "--architectures", "3"), "--architectures must be at least 4, got 3"),
    ],
)
def test_what_is_no_study_is_said_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke(*arguments)
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1

"""What is typed next: after a result, where nothing is typed, and at the end of a command's help."""

import json
import re
import shlex

import pytest
from faults.harness import invoke

from dnas.cli import entry, suggesting
from dnas.cli.app import app
from dnas.cli.suggesting import FIRST, after_run, after_study, at_start, lines

STUDY = {"missing": [], "settings": {"seeds": 4}}


def taken(command: str) -> None:
    """Fails unless the command line takes it."""
    dnas, *words = shlex.split(command)
    assert dnas == "dnas"
    entry.app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    "suggestions",
    [
        after_run({"run": "runs/a b"}),
        after_run({"run": "runs/a", "test_accuracy": 0.9}),
        after_study(STUDY, "my study"),
        after_study({**STUDY, "missing": ["x"]}, "study"),
        list(FIRST),
    ],
)
def test_what_is_suggested_is_taken(suggestions):
    assert len(suggestions) in (2, 3)
    for command, does in suggestions:
        taken(command)
        assert does and len(command) + len(does) < 120
    assert len({line.index(does) for line, (_, does) in zip(lines(suggestions), suggestions, strict=True)}) == 1


def test_a_search_is_trained_next_and_a_training_reported():
    assert [command for command, _ in after_run({"run": "r"})] == ["dnas train r", "dnas show r"]
    assert [command for command, _ in after_run({"run": "r", "test_accuracy": 1.0})] == [
        "dnas report r", "dnas train --from r",
    ]  # fmt: skip
    assert after_study(STUDY, "s")[1][0] == "dnas compare --resume s --seeds 8"
    assert after_study({**STUDY, "missing": ["x"]}, "s")[0][0] == "dnas resume s"


def test_a_page_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(suggesting, "find_spec", lambda package: package != "jinja2")
    assert after_run({"run": "r", "test_accuracy": 1.0})[0] == (
        "dnas report r", "write a report on this run; requires: pip install 'dnas[report]'",
    )  # fmt: skip


def test_dnas_alone_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = invoke()
    assert outcome.code == 0 and not outcome.err
    found = [line.strip() for line in outcome.out.splitlines() if line.startswith("  dnas")]
    assert [re.split(r"  +", line)[0] for line in found] == [command for command, _ in FIRST]
    assert len(outcome.out.splitlines()) < 10 and "dnas --help" in outcome.out


def test_dnas_alone_knows_the_last_run_and_the_study(tmp_path):
    import os

    for number, name in enumerate(("old", "a new")):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.toml").touch()
        os.utime(run / "config.toml", (number, number))
    assert at_start(tmp_path)[0][0] == "dnas resume 'runs/a new'"
    (tmp_path / "runs" / "a new" / "result.json").write_text(json.dumps({}))
    assert at_start(tmp_path)[0][0] == "dnas report 'runs/a new'"
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.toml").touch()
    assert at_start(tmp_path)[0][0] == "dnas report study" and at_start(tmp_path)[2:] == list(FIRST)


def test_a_mistyped_command_is_still_told_which_is_meant():
    outcome = invoke("rnu")
    assert outcome.code == 2 and len(outcome.lines) == 1 and '"run"' in outcome.err


@pytest.mark.parametrize("command", ["run", "train", "compare"])
def test_a_help_ends_with_three_examples_that_are_taken(command):
    outcome = invoke(command, "--help")
    shown = re.findall(rf"(?m)^\s*(dnas {command}.*?)\s*$", outcome.out.partition("Examples:")[2])
    assert len(shown) == 3 and outcome.out.count("# ") == 3
    for line in shown:
        taken(line)


def test_options_stand_in_groups():
    out = invoke("run", "--help").out
    titles = re.findall(r"╭─ (\w+) ─", out)
    assert titles == ["Data", "Search", "Training", "Run", "Execution", "Output"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell):
    script = app.generate_completion(prog_name="dnas", shell=shell)
    assert all(word in script for word in ("compare", "budget", "from", "resume"))

"""A study that grows: the same files as one that was asked for as a whole, and no run is made twice."""

import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from faults.harness import invoke

from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted, RunError
from dnas.reporter import Silent
from dnas.study import compare as module
from dnas.study.compare import compare
from dnas.study.design import StudySettings, networks, read_study, results
from dnas.study.growth import grown, joined
from dnas.study.jobs import read_failures
from dnas.study.tables import keep, summarise

RUN = {
    "device": "cpu",
    "search": {"layers": 3, "channels": 4, "epochs": 1, "images": 32, "batch_size": 16, "warmup_epochs": 0},
    "train": {"channels": 4, "epochs": 1, "images": 32, "batch_size": 16},
}
OPTIONS = (
    *("--threads", 1, "--processes", 1, "--layers", 3, "--channels", 4, "--epochs", 1, "--batch-size", 16),
    *("-o", "search.images=32", "-o", "search.warmup_epochs=0", "-o", "train.images=32"),
)
TIMES = ("run", "seconds", "search_seconds", "train_seconds", "peak_memory_bytes")
# Whose bytes depend on no clock.
SAME = ("*.toml", "architecture*", "*.safetensors", "metrics.jsonl")


def settings(**changes):
    return StudySettings(**{"methods": ["darts"], "seeds": 1, "threads": 1, "run": RUN, **changes})


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def contents(path: Path):
    """Of all files of a study that two makings of it have in common."""
    found = {file.relative_to(path): file.read_bytes() for end in SAME for file in path.rglob(end)}
    jsons = (file for file in path.rglob("*.json") if file.name in ("result.json", "study.json"))
    found |= {file.relative_to(path): timeless(json.loads(file.read_text())) for file in jsons}
    return {name: content for name, content in found.items() if "checkpoints" not in name.parts}


def stamps(path: Path):
    return {file: file.stat().st_mtime_ns for file in path.glob("runs/*/*") if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "study"
    asked = settings(methods=["darts", "gdas"], seeds=2, architectures=["DARTS_V2"])
    assert compare(path, asked, processes=1) == []
    keep(path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One method under its own mapping with one seed: a part of `whole`; not to be changed."""
    path = tmp_path_factory.mktemp("small") / "study"
    assert compare(path, settings(), processes=1) == []
    keep(path)
    return path


@pytest.fixture
def part(small, tmp_path):
    return shutil.copytree(small, tmp_path / "study")


class Stop(Silent):
    """Asks to stop when the first run is done."""

    def step(self, step, shown):
        signal.raise_signal(signal.SIGTERM)


def test_a_study_that_grew_is_the_one_that_was_asked_for_as_a_whole(whole, part):
    """By seeds, then by a method and an architecture; interrupted in between."""
    for more in ({"seeds": 2}, {"methods": ["gdas"], "architectures": ["DARTS_V2"]}):
        before = stamps(part)
        wanted = grown(part, StudySettings(**more))
        with pytest.raises(Interrupted):
            compare(part, wanted, processes=1, reporter=Stop())
        assert compare(part, wanted, processes=1) == []
        assert stamps(part).items() >= before.items()
    keep(part)
    ours, theirs = contents(part), contents(whole)
    assert ours.keys() == theirs.keys() and len(ours) > 50
    assert [name for name, content in ours.items() if content != theirs[name]] == []


def test_the_command_line_adds_what_is_given_and_keeps_the_rest(part, tmp_path):
    before = stamps(part)
    outcome = invoke("compare", "--resume", part, "--methods", "+gdas", "--processes", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert [row["name"] for row in outcome.json["rows"] if row["of"] is None] == ["darts (shared)", "gdas (shared)"]
    assert stamps(part).items() >= before.items()
    # What is given again as it is in the study is no difference; with no more, --resume goes on.
    (part / "runs" / "gdas-shared-s0" / "result.json").unlink()
    again = invoke("compare", "--resume", part, *OPTIONS, "--json")
    assert again.code == 0 and timeless(again.json) == timeless(outcome.json)
    # The command that the study tells makes it as a whole.
    dnas, *told = shlex.split(outcome.json["command"])
    assert dnas == "dnas" and invoke(*told, "--out", part).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", 12), "--epochs is 1 in {} and 12 here: leave it out or use another --out"),
        (
            ("--search-epochs", 2, "--preset", "shared"),
            "search.epochs is 1 in {0} and 2 here; --preset is quick in {0} and shared here: leave them out or use another --out",
        ),
        (("--data", "cifar10"), "--data is digits in {} and cifar10 here: leave it out or use another --out"),
        (("-o", "momentum=1"), "--option momentum is not given in {} and 1 here: leave it out or use another --out"),
        (("--seeds", 2, "--threads", 2), "--threads is 1 in {} and 2 here"),
        (("--methods", "nasnet", "--mappings", "decoupled"), "unknown setting search.warmup_epochs of method nasnet"),
        (("--mappings", "oval"), "unknown --mappings 'oval'"),
        (("--out", "study"), "--out study cannot be used with --resume {}"),
    ],
)
def test_a_setting_that_differs_is_named_with_both_values(arguments, message, small):
    before = contents(small)
    outcome = invoke("compare", "--resume", small, *arguments)
    assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
    assert message.format(small) in outcome.err
    assert contents(small) == before


def test_a_command_that_is_not_the_study_s_is_told_how_to_add_to_it(small):
    outcome = invoke("compare", "--methods", "darts", *OPTIONS[:8], "-o", "search.images=32", "--out", small)
    assert outcome.code == 2 and len(outcome.lines) == 1
    assert f"--epochs is 1 in {small} and not given here" in outcome.err
    assert f"add to it with --resume {small}, which keeps its settings, or use another --out" in outcome.err
    # Given as they are by default, or not at all, they are the same.
    same = {**RUN, "preset": "quick", "finals": 0, "data": {"source": "digits", "resize": "auto"}}
    assert joined(small, settings(run=same)) == read_study(small)


def test_a_study_only_grows(part):
    asked = settings(seeds=3, training_seeds=2)
    compared = joined(part, asked)
    assert (compared.seeds, compared.training_seeds) == (3, 2)
    (part / "study.toml").write_text((part / "study.toml").read_text().replace("seeds = 1", "seeds = 2", 1))
    with pytest.raises(InputError, match=r"--seeds is 2 in .* and 1 here: a study can only grow; leave it out"):
        grown(part, StudySettings(seeds=1))
    assert grown(part, StudySettings(methods=["gdas"])).seeds == 2  # none is given

    said = []
    reporter = Silent()
    reporter.say = said.append
    compare(part, settings(seeds=1), processes=1, reporter=reporter)
    assert len(results(part)) == 4 and f"{part} has 2 seeds, which is more than 1: they are kept" in said


def test_resume_says_which_command_adds(part):
    outcome = invoke("resume", part, "--seeds", 3)
    assert outcome.code == 2 and f"dnas compare --resume {part} --seeds 3" in outcome.err
    outcome = invoke("compare", "--methods", "+gdas", "--out", part.with_name("new"))
    assert outcome.code == 2 and "--methods +gdas adds to a study" in outcome.err and not part.with_name("new").exists()
    outcome = invoke("compare", "--resume", part.with_name("new"))
    assert outcome.code == 2 and "is not a study" in outcome.err


def test_each_method_s_own_mapping_stays_beside_those_that_are_added(small):
    before = networks(read_study(small))
    wanted = grown(small, StudySettings(mappings=["full"]))
    assert wanted == settings(mappings=["default", "full"]) and set(before) < set(networks(wanted))
    both = settings(methods=["dnas", "pc-darts"], mappings=["default", "shared"])
    assert list(both.searches()) == [("dnas", "decoupled"), ("dnas", "shared"), ("pc-darts", "shared")]


def test_a_method_that_supports_no_mapping_is_not_left_out_in_silence(tmp_path):
    with pytest.raises(InputError, match="--mappings decoupled: random supports none of them; add one of shared, full"):
        compare(tmp_path / "study", settings(methods=["darts", "random"], mappings=["decoupled"]), processes=1)


# --- reports at any time ---------------------------------------------------------------------------------------


def page_of(path):
    outcome = invoke("report", path)
    assert outcome.code == 0, outcome.err
    return (path / "report.html").read_text()


def test_a_report_of_an_interrupted_study_says_what_is_missing(part):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    wanted = grown(part, StudySettings(seeds=2, methods=["gdas"]))
    with pytest.raises(Interrupted):
        compare(part, wanted, processes=1, reporter=Stop())
    assert "gdas-shared-s0" in results(part)
    begun = part / "runs" / "darts-shared-s1"
    begun.mkdir()
    (begun / "config.toml").touch()
    states = {each["run"]: each["state"] for each in summarise(part)["unfinished"]}
    # study.json is of before, so the page is of the runs.
    page = page_of(part)
    assert "Started: darts-shared-s1<" in page and "To do: " in page and "1 of 2" in page
    assert states["darts-shared-s1"] == "begun" and states["gdas-shared-s1-random"] == "to do"
    assert states.keys() | results(part).keys() == {network.run() for network in networks(wanted)}


def test_a_report_of_a_study_without_a_result_is_there(tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    study = tmp_path / "study"
    with pytest.raises(Interrupted):
        compare(study, settings(), processes=1, reporter=Stop())
    for run in (study / "runs").iterdir():
        (run / "result.json").unlink(missing_ok=True)
    page = page_of(study)
    assert "There are no test results yet" in page and "darts-shared-s0-random" in page


def test_why_a_run_failed_is_kept_until_it_succeeds(part, monkeypatch):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    do = module.do

    def failing(run, **options):
        if run.path.name == "gdas-shared-s0":
            raise RunError("the loss is <not> finite")
        return do(run, **options)

    monkeypatch.setattr(module, "do", failing)
    outcome = invoke("compare", "--resume", part, "--methods", "+gdas", "--processes", 1)
    assert outcome.code == 1 and "failed.json for the reasons" in outcome.err
    assert "failed: gdas-shared-s0\n" in outcome.out and "to do: gdas-shared-s0-random\n" in outcome.out
    assert read_failures(part) == {"gdas-shared-s0": "the loss is <not> finite"}
    assert "Failed: gdas-shared-s0 (the loss is &lt;not&gt; finite)" in page_of(part)
    monkeypatch.setattr(module, "do", do)
    assert invoke("resume", part, "--processes", 1).code == 0
    assert not (part / "failed.json").exists() and not summarise(part)["unfinished"]


def test_tables_are_written_when_a_study_is_interrupted(tmp_path, monkeypatch):
    do, made = module.do, []

    def once(run, **options):
        if made:
            raise Interrupted(run.path, signal.SIGTERM)
        made.append(run)
        return do(run, **options)

    monkeypatch.setattr(module, "do", once)
    outcome = invoke("compare", "--methods", "darts", "--seeds", 1, *OPTIONS, "--out", tmp_path / "study")
    assert outcome.code == 143 and "dnas resume" in outcome.err
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert study["missing"] == ["darts-shared-s0-random"] and len(study["rows"]) == 1
    assert read_toml(tmp_path / "study" / "study.toml")["methods"] == ["darts"]

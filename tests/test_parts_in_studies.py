"""A study in which a method stands with a part and without: its runs, names, table, page, and what is refused."""

import shlex
import signal

import pytest
from faults.harness import invoke

from dnas.disk import read_toml
from dnas.errors import InputError, Interrupted
from dnas.pages.report import report
from dnas.reporter import Silent
from dnas.study.compare import compare
from dnas.study.design import Network, StudySettings, networks, read_study, results, run_overrides, with_all_parts
from dnas.study.ranking import RankingSettings, ranked
from dnas.study.tables import keep

RUN = {
    "device": "cpu",
    "data": {"source": "digits"},
    "search": {"layers": 3, "channels": 4, "epochs": 2, "images": 32, "warmup_epochs": 0, "batch_size": 16},
    "train": {"channels": 4, "epochs": 1, "images": 32, "batch_size": 16},
    "with_options": {"beta-decay": {"weight": 50.0}},
}
SEARCHES = ["darts-shared-s0", "darts+beta-decay-shared-s0"]


def study(**changes):
    return StudySettings(**{"methods": ["darts", "darts+beta-decay"], "seeds": 1, "run": RUN, **changes})


class AfterOne(Silent):
    """Asks to stop when one run is done."""

    def step(self, step, shown):
        signal.raise_signal(signal.SIGTERM)


def test_a_method_with_a_part_and_without_in_one_study(tmp_path):
    path = tmp_path / "study"
    with pytest.raises(Interrupted):
        compare(path, study(), processes=1, reporter=AfterOne())
    assert set(results(path)) == set(SEARCHES[:1])
    compare(path, read_study(path), processes=1)
    assert set(results(path)) == {f"{name}{control}" for name in SEARCHES for control in ("", "-random")}
    plain, with_part, control = (
        read_toml(path / "runs" / name / "config.toml") for name in (*SEARCHES, f"{SEARCHES[1]}-random")
    )
    assert (plain["with_parts"], plain["with_options"]) == ([], {})
    assert (with_part["with_parts"], with_part["with_options"]) == (["beta-decay"], {"beta-decay": {"weight": 50.0}})
    assert (plain["method"], plain["search"], plain["train"]) == tuple(
        with_part[key] for key in ("method", "search", "train")
    )
    assert control["with_parts"] == []
    summary = keep(path)
    assert [(row["name"], row["method"], row["with_parts"]) for row in summary["rows"]] == [
        ("darts (shared)", "darts", []),
        ("darts (shared), random, same size", "darts", []),
        ("darts+beta-decay (shared)", "darts", ["beta-decay"]),
        ("darts+beta-decay (shared), random, same size", "darts", ["beta-decay"]),
    ]
    pairs = [(row["a"], row["b"]) for row in summary["differences"]]
    assert ("darts (shared)", "darts+beta-decay (shared)") in pairs
    (ablation,) = (each for each in summary["practices"] if each["key"] == "ablation")
    assert ablation["met"]
    assert "darts+beta-decay (shared)" in (path / "table.md").read_text("utf-8")
    # The command that the study tells is this study: all of it is done.
    before = {file: file.stat().st_mtime_ns for file in path.glob("runs/*/result.json")}
    assert invoke(*shlex.split(summary["command"])[1:], "--out", path, "--processes", 1).code == 0
    assert {file: file.stat().st_mtime_ns for file in path.glob("runs/*/result.json")} == before
    page = report(path).read_text("utf-8")
    assert "darts+beta-decay (shared)" in page and "runs/darts%2Bbeta-decay-shared-s0" in page


def test_parts_of_all_methods_come_before_those_of_one_and_have_their_options():
    run = {"with_parts": ["oles"], "with_options": {"oles": {"steps": 3}, "beta-decay": {"weight": 3.0}}}
    settings = study(methods=["darts", "dnas+beta-decay"], seeds=1, run=run)
    assert list(settings.searches()) == [("darts+oles", "shared"), ("dnas+oles+beta-decay", "decoupled")]
    assert with_all_parts(["darts", "dnas+beta-decay"], {}) == ["darts", "dnas+beta-decay"]
    one, two, *_, control = networks(settings)
    assert [network.run() for network in (one, two)] == ["darts+oles-shared-s0", "dnas+oles+beta-decay-decoupled-s0"]
    ours, other = (run_overrides(settings, network, 0) for network in (one, two))
    assert (ours["method"], ours["with_parts"], ours["with_options"]) == ("darts", ["oles"], {"oles": {"steps": 3}})
    assert (other["method"], other["with_parts"]) == ("dnas", ["oles", "beta-decay"])
    assert other["with_options"] == run["with_options"]
    assert control.kind == "shuffled"
    assert not {"with_parts", "with_options", "method"} & run_overrides(settings, control, 0).keys()
    command = settings.command()
    assert "--methods darts,dnas+beta-decay" in command and "--with oles" in command
    assert "-o beta-decay.weight=3.0" in command and "-o oles.steps=3" in command


def test_options_of_a_part_are_added_with_the_method_that_has_it(tmp_path, monkeypatch):
    path = tmp_path / "study"
    path.mkdir()
    settings = study(methods=["darts"], run={**RUN, "with_options": {}})
    import tomli_w

    (path / "study.toml").write_text(tomli_w.dumps(settings.model_dump()), "utf-8")
    monkeypatch.setattr("dnas.study.compare.carry_out", lambda *arguments: [])
    compare(path, study(), processes=1)
    assert read_study(path).methods == ["darts", "darts+beta-decay"]
    assert read_study(path).run["with_options"] == RUN["with_options"]
    other = {**RUN, "with_options": {"beta-decay": {"weight": 1.0}}}
    for run, here in ((other, "1.0"), ({**RUN, "with_options": {}}, "not given")):
        with pytest.raises(InputError, match=f"beta-decay.weight is 50.0 in .* and {here} here"):
            compare(path, study(methods=["darts+beta-decay"], run=run), processes=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--methods", "dnas+olse"), "unknown --methods 'olse'; did you mean 'oles'?"),
        (("compare", "--methods", "lucky+oles"), "unknown --methods 'lucky'"),
        (("compare", "--methods", "dnas+oles+oles"), "--methods contains 'oles' twice; remove one"),
        (("compare", "--methods", "dnas+oles", "--with", "oles"), "--with contains 'oles' twice; remove one"),
        (("compare", "--methods", "random+oles"), "--methods oles requires a differentiable method"),
        (("compare", "--methods", "snas+oles"), "--methods oles cannot be used with search.update=single-level"),
        (
            ("compare", "--methods", "dnas,dnas+oles", "-o", "beta-decay.weight=1"),
            "--option beta-decay.… only applies to --with beta-decay, or METHOD+beta-decay among --methods",
        ),
        (("rank", "--methods", "dnas+projection"), "--with projection cannot be used with `dnas rank`"),
        (("search", "--method", "dnas+oles"), "--method dnas+oles must not contain parts; use dnas and"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = ("--preset", "paper") if "snas+oles" in arguments else ()
    outcome = invoke(*arguments, *preset)
    assert outcome.code == 2 and message in outcome.err and len(outcome.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_supernet_judges_with_a_part_and_without(tmp_path):
    from dnas.study import ranking

    run = {"with_options": {"oles": {"steps": 3}}, "search": {"layers": 3}}
    found = ranking._supernets(RankingSettings(methods=["darts", "darts+oles"], run=run))
    assert list(found) == ["darts", "darts+oles"]
    assert [(each["method"], each["with_parts"]) for each in found.values()] == [("darts", []), ("darts", ["oles"])]
    assert found["darts+oles"]["with_options"] == {"oles": {"steps": 3}} and found["darts"]["with_options"] == {}
    folder = tmp_path / "supernets" / "darts+oles"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"scores": [0.1, 0.2, 0.3, 0.4], "seconds": 4.0}', "utf-8")
    rows = ranked(tmp_path, RankingSettings(count=4, methods=["darts", "darts+oles"], run=run))["rows"]
    assert "supernet of darts+oles" in [row["measure"] for row in rows]


def test_a_file_s_options_of_parts_that_a_row_has_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("[with_options.oles]\nsteps = 3\n[with_options.perturbation]\nepsilon = 0.2\n")
    seen = []
    monkeypatch.setattr("dnas.cli.comparing.carry_out_study", lambda out, settings, *rest: seen.append(settings))
    assert invoke("compare", "--methods", "dnas,dnas+oles", "--with", "beta-decay", "--config", "c.toml").code == 0
    assert seen[0].run["with_options"] == {"oles": {"steps": 3}}
    assert run_overrides(seen[0], Network("searched", "dnas+beta-decay", "decoupled", 0), 0)["with_options"] == {}

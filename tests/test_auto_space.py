"""Runs in several spaces: who meets in the finals, which space wins and by how much, and what follows the winner."""

import json
import math

import numpy as np
import pytest
import tomli_w
from data_tools import refused
from faults.harness import contents, invoke, make_images
from run_tools import interrupt_finals

import dnas
from dnas.data.splits import DataInfo
from dnas.disk import read_toml
from dnas.errors import SettingError
from dnas.pipeline import config, entrants, spaces
from dnas.pipeline.overrides import nested
from dnas.rng import numpy_stream
from dnas.searching import finals
from dnas.space.architecture import Architecture
from dnas.space.chain import chain_space
from dnas.space.registry import CONTENDERS, SPACES, get_space, spaces_of
from dnas.space.sampling import sample
from dnas.study import verdict
from dnas.study.ranking import architectures
from dnas.study.ranking_design import RankingSettings
from dnas.supernet.worth import load_prior

INFO = DataInfo("plain", ("dark", "light"), 1, 16, (0.5,), (0.25,), flip=False)
FIRST, *OTHERS = CONTENDERS
ALL = len(CONTENDERS)
TINY = ("--layers", "3", "--epochs", "4", "--batch-size", "16", "--search-channels", "8")
AUTO = ("--space", "auto", "--finals", str(2 * ALL), "--prior", "none")


def drafted(**given):
    return config.draft({"command": "run", "space": "auto", **given})[0]


def resolved(**given):
    return config.resolve({"command": "run", "space": "auto", **given}, INFO, 2_000, "")


# --- who takes part


def test_the_spaces_are_listed_in_one_place():
    assert [space.name for space in spaces_of("auto")] == list(CONTENDERS)
    assert {"darts", "mobile", "resnet-d"} <= set(CONTENDERS) <= set(SPACES)
    assert [space.name for space in spaces_of("s2")] == ["s2"]
    with refused("'auto'", "reserved"):
        dnas.register(chain_space("auto", ("mbconv3", "mbconv6"), (3,)))
    with refused("--space auto", "dnas run", "one space"):
        get_space("auto")


def test_a_run_in_several_spaces_has_the_channels_and_places_of_each():
    found, method = resolved(budget=600.0)
    assert method.space.name == FIRST and found.finals == 2 * ALL
    assert found.widths == {name: get_space(name).quick_channels(300.0) for name in CONTENDERS}
    assert len(set(found.widths.values())) > 1
    for name, own in spaces.configs(found).items():
        alone = config.resolve({"command": "run", "space": name, "budget": 600.0, "prior": "none"}, INFO, 2_000, "")[0]
        assert own.space == name and own.train == alone.train
    assert spaces.searched(found).space == FIRST
    paper, _ = resolved(preset="paper", finals=ALL, train={"epochs": 2})
    assert len(set(paper.widths.values())) == 1  # papers have one width
    assert set(resolved(budget=60.0, train={"channels": 10})[0].widths.values()) == {10}


def test_settings_that_were_written_are_those_that_are_read():
    found, _ = resolved(budget=60.0)
    values = {**found.to_toml(), "environment": {}}
    again, _ = config.resolve(values, INFO, 2_000, "")
    assert (again.widths, again.train, again.search) == (found.widths, found.train, found.search)
    two = {FIRST: 8, OTHERS[0]: 6}
    few, method = resolved(budget=60.0, widths=dict(reversed(two.items())), finals=3)
    assert method.space.name == OTHERS[0] and few.train.channels == 6 and spaces.places(few) == {OTHERS[0]: 2, FIRST: 1}


@pytest.mark.parametrize("count", range(ALL, 3 * ALL + 2))
def test_places_are_shared_equally(count):
    places = spaces.places(drafted(finals=count))
    assert sum(places.values()) == count and max(places.values()) - min(places.values()) <= 1
    assert list(places.values()) == sorted(places.values(), reverse=True)


def test_the_known_network_of_each_space_takes_part():
    rng = numpy_stream(1, "found")
    found, other = (sample(get_space(FIRST), rng, 4) for _ in range(2))
    given, _ = resolved(finals=2 * ALL, mapping="decoupled", train={"epochs": 2})
    free = dict.fromkeys(CONTENDERS)
    those = entrants.of_spaces(given, found, [other], None, free)
    assert those[0].subject == found
    assert [each.config.space for each in those] == [name for name in CONTENDERS for _ in range(2)]
    assert all(each.subject.space == each.config.space and len(each.subject) == 4 for each in those)
    known = {"darts": ["DARTS_V2", "random"], "mobile": ["MobileNetV2 of 3 blocks", "random"]}
    known["resnet-d"] = ["found", "ResNet-D of 3 blocks"]
    for name, origins in known.items():
        assert [each.origin for each in those if each.config.space == name] == origins
    of_prior = entrants.of_spaces(given, found, [other], load_prior("pictures"), free)
    assert [each.origin for each in of_prior if each.config.space == "darts"] == ["prior", "DARTS_V2"]
    of_others = [[each for each in those if each.config.space != "darts"] for those in (those, of_prior)]
    assert of_others[0] == of_others[1]


# --- what is refused


def test_what_does_not_go_with_several_spaces_is_refused():
    for command in ("search", "train"):
        with refused("--space auto", f"dnas {command}", f"--space {FIRST}"):
            config.draft({"command": command, "space": "auto"})
    for given in ({"finals": 0}, {"train": {"epochs": 2}}):
        with refused("--space auto", "requires finals", f"--finals {2 * ALL}", f"--space {FIRST}"):
            drafted(**given)
    with refused(f"--finals {ALL - 1}", f"at least {ALL}", "mobile"):
        drafted(finals=ALL - 1)
    with refused("--max-latency", "--space auto", "--max-macs"):
        drafted(finals=8, limits={"latency": 0.1})
    with refused("several values", "--space auto"):
        drafted(finals=8, limits={"params": [5_000, 9_000]})
    with refused("widths", "'darts'", "remove it"):
        drafted(finals=8, space="darts", widths={"darts": 8})
    with refused("3", "even"):
        drafted(finals=8, widths={"darts": 3})
    with refused("unknown --space", "nothing"):
        drafted(finals=8, widths={"nothing": 4})


def test_a_study_in_several_spaces_is_refused(tmp_path):
    for command in (("compare", "--methods", "darts"), ("compare", "--methods", "darts", "--finals", "8"), ("rank",)):
        outcome = invoke(*command, "--space", "auto", "--out", tmp_path / "study")
        assert outcome.code == 2 and len(outcome.lines) == 1, outcome.err
        assert "--space auto" in outcome.err and "one space" in outcome.err and not (tmp_path / "study").exists()
    with refused("--space auto", "one space"):
        architectures(RankingSettings(run={"space": "auto"}))


# --- by how much it wins


def test_the_winner_is_compared_where_the_best_of_a_space_left():
    names = ["a", "a", "b", "b", "c", "c"]
    assert [each.share for each in finals.rounds(6)] == [0.005, 0.01, 0.02]
    scores = [[0.5, 0.6, 0.8], [0.4], [0.45, 0.62, 0.7], [0.3], [0.42], [0.44, 0.5]]
    rows = spaces.margins(names, scores, 0, 400)
    errors = [math.sqrt((p * (1 - p) + q * (1 - q)) / 400) for p, q in ((0.8, 0.7), (0.6, 0.5))]
    assert [(row["space"], row["share"], row["accuracy"], row["winner"]) for row in rows] == [
        ("b", 0.02, 0.7, 0.8),
        ("c", 0.01, 0.5, 0.6),
    ]
    assert [row["ahead"] for row in rows] == pytest.approx([0.1, 0.1])
    assert [row["standard_error"] for row in rows] == pytest.approx(errors)
    result = {"spaces": {"winner": "a", "images": 400, "others": rows}}
    assert verdict.of_spaces(result) == (
        "Of 3 spaces, a won the finals by 10.0 ± 3.0 percentage points over b (after 2% of the training) and "
        "10.0 ± 3.5 over c (after 1%), on 400 held-out images (± standard error)."
    )
    assert verdict.of_spaces({}) is verdict.of_spaces({"spaces": {"winner": "a", "images": 9, "others": []}}) is None


def test_a_space_that_diverged_is_behind_without_a_number():
    rows = spaces.margins(["a", "b", "b"], [[0.5, 0.6], [None], [None, None]], 0, 100)
    assert rows == [{"space": "b", "share": 0.02, "accuracy": None, "winner": 0.6}]
    text = verdict.of_spaces({"spaces": {"winner": "a", "images": 100, "others": rows}})
    assert text == "Of 2 spaces, a won the finals; the trainings of b diverged."


def test_a_simulation_has_the_standard_error_that_is_stated():
    """Two networks with independent errors."""
    rng = np.random.default_rng(0)
    p, q = rng.binomial(2_000, [[0.6], [0.5]], (2, 4_000)) / 2_000
    (row,) = spaces.margins(["a", "b"], [[0.6], [0.5]], 0, 2_000)
    assert row["standard_error"] == pytest.approx(float(np.std(p - q)), rel=0.05)


# --- runs


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("auto") / "images", classes=3)


@pytest.fixture
def wins(monkeypatch):
    """Let the last candidate of a space win."""
    judged = finals.Finals.judged

    def space(name):
        def decided(self, number, *arguments):
            assert judged(self, number, *arguments) is not None
            return 0.5 + 0.1 * (self.entrants[number].architecture.space == name) + number / 1_000

        monkeypatch.setattr(finals.Finals, "judged", decided)

    return space


@pytest.mark.parametrize("name", CONTENDERS)
def test_all_that_follows_the_finals_is_in_the_space_of_the_winner(images, tmp_path, wins, name):
    wins(name)
    run, limit = tmp_path / "run", "30k"
    more = ("--max-params", limit, "--train-epochs", "8")
    outcome = invoke("run", "--data", images, *TINY, *AUTO, *more, "--out", run, "--json")
    assert outcome.code == 0, outcome.err
    result, settings = outcome.json, read_toml(run / "config.toml")
    assert list(settings["widths"]) == list(CONTENDERS) and settings["space"] == "auto"
    ours = [k for k, each in enumerate(result["finals"]) if each["space"] == name]
    assert [k for k, each in enumerate(result["finals"]) if each.get("winner")] == ours[-1:]
    assert all(0 < each["params"] <= 30_000 for each in result["finals"])
    assert result["spaces"]["winner"] == name and result["spaces"]["images"] == finals.held_out(len(images_of(run)))
    assert [each["space"] for each in result["spaces"]["others"]] == [each for each in CONTENDERS if each != name]
    # The network, its limits and its baseline.
    architecture = Architecture.load(run / "architecture.json")
    assert architecture.space == name and result["channels"] == settings["widths"][name]
    assert result["params"] == result["finals"][ours[-1]]["params"] == result["limits"]["params"]["used"]
    assert Architecture.from_json(result["baseline"]["architecture"]).space == name
    assert abs(result["baseline"]["params"] / result["params"] - 1) <= 0.05 and result["baseline"]["params"] <= 30_000
    assert f"{name} won the finals by" in (page := invoke("report", run).out and (run / "report.html").read_text())
    assert page.count("won the finals by") == 1
    # What is done with it afterwards.
    shown = invoke("show", run, "--json").json
    assert (shown["params"], shown["channels"]) == (result["params"], result["channels"])
    assert sum(p.numel() for p in dnas.load(run).network.parameters()) == result["params"]
    assert invoke("evaluate", run, "--json").json["test_accuracy"] == result["test_accuracy"]
    assert invoke("export", run, "--format", "python", "--json").code == 0
    again = invoke("train", run, "--epochs", "1", "--out", tmp_path / "again", "--json")
    assert again.code == 0 and again.json["params"] == result["params"], again.err
    longer = invoke("train", "--from", run, "--epochs", "1", "--out", tmp_path / "longer", "--json")
    assert longer.code == 0 and longer.json["params"] == result["params"], longer.err
    derived = invoke("derive", run, "--out", tmp_path / "derived.json")
    assert derived.code == 0 and Architecture.load(tmp_path / "derived.json").space == FIRST


def images_of(run):
    return range(read_toml(run / "config.toml")["train"]["images"])


def test_a_run_that_is_stopped_again_and_again_or_repeated_has_the_same_bits(images, tmp_path, monkeypatch, wins):
    wins(OTHERS[0])
    given = ("run", "--data", images, *TINY, *AUTO, "--train-epochs", "16", "--max-params", "60k", "--no-baseline")
    whole = invoke(*given, "--out", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    again = invoke("run", "--config", tmp_path / "whole" / "config.toml", "--out", tmp_path / "again", "--json")
    assert again.code == 0 and contents(tmp_path / "again") == contents(tmp_path / "whole"), again.err
    interrupt_finals(monkeypatch)
    run, now = tmp_path / "stopped", ("--checkpoint-every", "0")
    outcome, stops = invoke(*given, "--out", run, *now), 0
    while outcome.code == 130:
        stops += 1
        outcome = invoke("resume", run, *now)
    assert outcome.code == 0 and stops >= 4, outcome.err
    assert contents(run) == contents(tmp_path / "whole")
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (run, tmp_path / "whole"))
    assert (ours["finals"], ours["spaces"]) == (theirs["finals"], theirs["spaces"])


def test_a_run_with_a_budget_is_repeated_by_its_plan(images, tmp_path, wins):
    wins("mobile")
    given = ("--data", images, "--layers", "3", "--space", "auto", "--budget", "8s", "--out", tmp_path / "run")
    first = invoke("run", *given, "--json")
    assert first.code == 0, first.err
    assert len(first.json["plan"]["finals"]) == 2 * ALL
    again = invoke("run", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again", "--json")
    assert again.code == 0, again.err
    model = [(tmp_path / each / "model.safetensors").read_bytes() for each in ("run", "again")]
    assert model[0] == model[1] and again.json["finals"] == first.json["finals"]
    assert again.json["baseline"]["test_accuracy"] == first.json["baseline"]["test_accuracy"]


def test_a_file_of_several_spaces_can_be_used_for_one(images, tmp_path):
    found, _ = resolved(budget=6000.0, train={"images": 40})
    file = tmp_path / "auto.toml"
    file.write_text(tomli_w.dumps({"command": "run", "space": "auto", "finals": 8, "widths": found.widths}))
    given = ("--data", images, *TINY, "--finals", "0", "--space", "mobile", "--no-baseline", "--json")
    outcome = invoke("run", *given, "--config", file, "--out", tmp_path / "one")
    alone = invoke("run", *given, "--out", tmp_path / "alone")
    assert outcome.code == 0 and outcome.json["channels"] == alone.json["channels"], outcome.err
    assert outcome.json["channels"] != found.widths["mobile"]
    again = nested("run", {"config": str(file), "space": "auto", "search_channels": 8})
    assert again["widths"] == found.widths
    assert "widths" not in nested("run", {"config": str(file), "train_channels": 8})
    outcome = invoke("search", "--data", images, "--config", file, "--out", tmp_path / "no")
    assert outcome.code == 2 and "--space auto does not apply to `dnas search`" in outcome.err


def test_limits_hold_in_each_space_and_leave_out_those_that_cannot_meet_them(monkeypatch):
    within, refusing = spaces.limits.within_limits, {OTHERS[-1]}

    def refuses(own, *arguments, **options):
        if own.space in refusing:
            raise SettingError("limits.params", "--max-params", " cannot be met")
        return within(own, *arguments, **options)

    free, _ = resolved(budget=60.0, limits={"params": 20_000})
    assert set(free.widths) == set(CONTENDERS)
    assert all(free.widths[name] <= get_space(name).quick_channels(30.0) for name in CONTENDERS)
    assert any(free.widths[name] < get_space(name).quick_channels(30.0) for name in CONTENDERS)
    for name, own in spaces.configs(free).items():
        alone = {"command": "run", "space": name, "budget": 60.0, "limits": {"params": 20_000}}
        assert config.resolve(alone, INFO, 2_000, "")[0].train.channels == own.train.channels
    monkeypatch.setattr(spaces.limits, "within_limits", refuses)
    few, _ = resolved(budget=60.0, limits={"params": 20_000})
    assert list(few.widths) == list(CONTENDERS)[:-1] and sum(spaces.places(few).values()) == 2 * ALL
    assert f"{OTHERS[-1]} cannot meet the limits" in spaces.sentence(few) and "cannot" not in spaces.sentence(free)
    refusing.add(FIRST)
    with refused("--max-params", "cannot be met"):
        resolved(budget=60.0, limits={"params": 20_000})

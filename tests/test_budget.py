"""A budget in time becomes a plan in steps: what it comes to, that it is kept, and that nobody looks at a clock then."""

import itertools
import json
import math
import time

import pytest
import torch
from data_tools import refused
from faults.harness import contents, invoke, make_images

import dnas
from dnas.data.splits import DataInfo, Split
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.methods.registry import create
from dnas.pipeline import budget, speed
from dnas.pipeline.budget import RESERVE, SEARCH_SHARE, SEARCH_SHARE_ALONE, Pace
from dnas.pipeline.config import check_budget, resolve
from dnas.pipeline.stages import PASSES, search_work
from dnas.runtime.names import BASELINE_PLAN_STAGE, FINALS_STAGE, PLAN_STAGE, SEARCH_STAGE, TRAIN_STAGE
from dnas.runtime.session import Session
from dnas.settings import SupernetSettings, TrainSettings, TrialSettings, train_over
from dnas.space.registry import get_space
from dnas.supernet import worth

INFO = DataInfo("plain", ("a", "b"), 3, 32, (0.5,) * 3, (0.25,) * 3, flip=False)
TINY = {"layers": 3, "channels": 8, "batch_size": 16}
FLAGS = ("--layers", "3", "--channels", "8", "--batch-size", "16")


def blank(count, size=8):
    return Split(torch.zeros(count, 3, size, size, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))


def configured(count=10_000, **given):
    return resolve({"budget": 600.0, **given}, INFO, count, "")


@pytest.fixture
def ticking(monkeypatch):
    """Each look at the clock is a hundredth of a second after the one before."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: next(ticks) / 100)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("budget") / "images", classes=3)


# --- sums


def test_steps_are_seconds_over_the_mean_pace():
    pace = Pace(full=0.4, half=0.1, share=0.5)
    assert pace.mean == pytest.approx(0.25)
    assert budget.steps_in(100.0, pace) == 400
    assert budget.steps_in(0.6, pace) == 2  # a step that does not fit whole is none
    assert budget.steps_in(0.01, pace) == 1
    assert Pace(0.4, 0.4, 0.0).mean == 0.4


def test_a_training_is_of_exactly_its_steps():
    settings = TrainSettings(images=1000, batch_size=96)
    for steps in (1, 10, 11, 12, 345):
        planned = budget.planned(settings, steps)
        assert planned.step_count == steps and planned.epochs == math.ceil(steps / 11)
    # A cosine over 600 epochs that is cut short stays one.
    short = TrainSettings(images=1000, batch_size=96, steps=12)
    assert budget.planned(short, 12) is short


@pytest.mark.parametrize("half", [0.0, 0.5])
@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("entrants", [1, 2, 5, 8])
@pytest.mark.parametrize(("average", "after"), [(0.0, 700), (0.2, 700 + 2_048)])
def test_all_costs_together_are_the_budget_without_its_reserve(entrants, baseline, half, average, after):
    config, _ = configured(baseline=baseline, train={"half_size": half, "batch_size": 96, "average": average})
    assert config.train.images == 10_000 and config.train.batch_size == 96
    full, small = 0.5, 0.125 if half else 0.5
    pace = Pace(full, small, half)
    seconds = budget.training_seconds(config, [pace] * entrants, blank(700), spent=95.0)
    steps = seconds / pace.mean  # not yet rounded down
    image, small_image = full * 105 / 10_000, small * 105 / 10_000  # of the passes forward and backward
    # Step by step: the search, each entrant's part in each round, the rest of the winner's training, and its test.
    cost, behind, left = 95.0, 0.0, entrants
    shares = {1: [], 2: [0.02], 5: [0.005, 0.01, 0.02], 8: [0.005, 0.01, 0.02]}[entrants]
    for share in shares:
        for _ in range(left):
            cost += (share - behind) * steps * small + 2_000 * small_image / 3
        behind, left = share, math.ceil(left / 2)
    cost += (half - behind if half else 0.0) * steps * small
    cost += (1 - half if half else 1 - behind) * steps * full
    cost += after * image / 3
    if baseline:
        cost += steps * pace.mean + after * image / 3
    assert cost == pytest.approx(600.0 * (1 - RESERVE))


def test_what_is_spent_before_a_training_is_said_in_a_line():
    config, _ = configured()
    with refused("--budget 10 min is spent before the training", "use a larger budget"):
        budget.training_seconds(config, [Pace(1.0, 1.0, 0.0)], blank(700), spent=590.0)


@pytest.mark.parametrize("command", ["run", "search", "train"])
def test_the_share_of_the_search(command):
    config, _ = configured(command=command)
    assert budget.search_seconds(config) == {"run": SEARCH_SHARE * 600.0, "search": 600.0, "train": 0.0}[command]
    alone, _ = configured(command=command, finals=0)
    assert budget.search_seconds(alone) == {"run": SEARCH_SHARE_ALONE * 600.0, "search": 600.0, "train": 0.0}[command]


@pytest.mark.parametrize("name", ["dnas", "darts-2nd", "spos", "enas", "evolution", "random"])
@pytest.mark.parametrize("pace", [1e-4, 2e-3, 2e-2, 0.2, 3.0])
def test_a_search_is_planned_to_take_its_time(monkeypatch, name, pace):
    """At an invented pace: by images where those suffice, else by epochs over all images."""
    count = 4_000
    monkeypatch.setattr(budget, "seconds_per_search_step", lambda *arguments, **options: pace)

    def per_trial(config, settings, train, info):
        return 10 * pace * settings.epochs * settings.images / settings.batch_size

    monkeypatch.setattr(budget.stages, "seconds_per_trial", per_trial)
    given = {"processes": 2} if name in ("evolution", "random") else {}
    config, method = configured(count, method=name, search=given, finals=0)
    found = budget.searching(config, method, blank(count), INFO)
    again, _ = configured(count, method=name, search={**found, **given})
    settings = again.search
    total = search_work(method, settings).total
    if isinstance(settings, TrialSettings):
        seconds = per_trial(again, settings, None, None) * total / 2
    else:
        assert isinstance(settings, SupernetSettings)
        seconds = pace * total / (PASSES[settings.update] if hasattr(settings, "update") else 1.0)
    wanted = SEARCH_SHARE_ALONE * 600 * (1 - RESERVE)
    if found["images"] == 4 * settings.batch_size:
        # The least that a search can see, so fewer epochs, and where that is not enough fewer that are judged.
        assert found["epochs"] == 1 or abs(seconds - wanted) <= 0.6 * seconds / found["epochs"]
    elif "epochs" not in found:
        assert seconds == pytest.approx(wanted, rel=0.15)
    else:
        assert found["images"] == count
        # Whole epochs.
        rounding = seconds / found["epochs"] / 2
        assert wanted * 0.85 - rounding <= seconds <= wanted * 1.15 + rounding


def test_a_search_that_would_mostly_judge_judges_fewer(monkeypatch):
    """Half of the time is left for the weights, and the search ends with its time: of 100 that spos would judge."""
    monkeypatch.setattr(budget, "seconds_per_search_step", lambda *arguments, **options: 0.2)
    config, method = configured(4_000, method="spos", finals=0, budget=300.0)
    found = budget.searching(config, method, blank(4_000), INFO)
    again, _ = configured(4_000, method="spos", search=found)
    wanted = SEARCH_SHARE_ALONE * 300 * (1 - RESERVE) / 0.2  # steps
    assert found["images"] == 256 and found["epochs"] == round(wanted / 2 / 2)  # two steps an epoch
    work = search_work(method, again.search)
    assert work.steps == 2 * found["epochs"] and work.total == found["steps"] == math.ceil(wanted)
    each = 128 / 64 / 3
    assert 45 < work.after / each < 60
    unlimited = again.search.model_copy(update={"steps": 0})
    assert search_work(method, unlimited).after == pytest.approx(100 * each)


# --- measuring


def test_the_median_step_without_the_first(ticking):
    def run(session):
        session.start("estimate", "try", 100)
        for step in range(100):
            next(iter(time.thread_time() for _ in range(3 if step != 4 else 50)))
            session.step_done(step + 1, {}, dict)

    assert speed._median_step(run, "cpu") == pytest.approx(0.02)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_search_that_ends_early_has_a_speed(ticking, steps):
    def run(session):
        session.start("estimate", "try", 100)
        for step in range(steps):
            session.step_done(step + 1, {}, dict)

    assert speed._median_step(run, "cpu") == pytest.approx(0.01)


def test_a_method_that_stops_its_own_search_is_tried(ticking):
    options = {"stop": "ranking", "patience": 1}
    method = create("darts-plus", None, options, get_space("darts"))
    given = {"method": "darts-plus", "options": options, "search": {**TINY, "architecture_learning_rate": 1e-12}}
    info = DataInfo("plain", ("a", "b"), 3, 8, (0.5,) * 3, (0.25,) * 3, flip=False)
    config, _ = resolve({"command": "search", **given}, info, 60, "")
    split = Split(torch.randint(0, 255, (60, 3, 8, 8), dtype=torch.uint8), torch.arange(60) % 2)
    seconds = speed.seconds_per_search_step(method, config.search, split, info, seed=0, device="cpu")
    assert seconds == pytest.approx(0.01)


# --- what is refused


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *[({"search": {name: 2}}, [name, "--budget"]) for name in ("epochs", "images", "seconds", "steps", "trials")],
        *[({"train": {name: 2}}, [name, "--budget"]) for name in ("epochs", "images", "steps")],
        ({"finals": 1}, ["--finals must be 0 or at least 2"]),
        ({"finals": 4, "command": "train"}, ["--finals 4 does not apply to `dnas train`"]),
        ({"finals": 4, "command": "search"}, ["--finals 4 does not apply to `dnas search`"]),
    ],
)
def test_what_a_budget_decides_is_refused_beside_it(given, words):
    with refused(*words):
        check_budget({"budget": 60.0, **given})
    if "finals" in given:
        with refused(*words):
            check_budget(given)
    else:
        check_budget(given)


def test_ranks_have_neither_budget_nor_finals(monkeypatch):
    monkeypatch.setattr("dnas.runtime.distributed.count", lambda: 2)
    with refused("--budget cannot be used with several ranks"):
        check_budget({"budget": 60.0})
    with refused("--finals trains candidates one by one"):
        check_budget({"finals": 3})


def test_the_command_line_refuses_in_a_line(images, tmp_path):
    for more in (("--epochs", "2"), ("--search-seconds", "5"), ("--train-epochs", "3"), ("-o", "train.images=20")):
        outcome = invoke("run", "--data", images, "--budget", "1m", *more, "--out", tmp_path / "run")
        assert outcome.code == 2 and len(outcome.lines) <= 2 and "--budget" in outcome.err, outcome.err
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="--finals holds out a fifth of"):
        few = make_images(tmp_path / "few", each=4)
        dnas.run(data=few, finals=2, epochs=1, batch_size=4, layers=3, channels=8, out=tmp_path / "run")


def test_finals_are_a_budgets_default():
    assert configured()[0].finals == 4
    assert configured(finals=0)[0].finals == 0
    assert configured(command="train")[0].finals == configured(command="search")[0].finals == 0
    assert configured(budget=0.0, preset="shared")[0].finals == 0


def test_epochs_stand_in_place_of_a_plans_steps():
    assert train_over({"epochs": 5}, {"steps": 90, "channels": 8}) == {"epochs": 5, "channels": 8}
    assert train_over({"channels": 4}, {"steps": 90}) == {"steps": 90, "channels": 4}
    assert train_over({"epochs": 5, "steps": 7}, {"steps": 90}) == {"epochs": 5, "steps": 7}


# --- runs


@pytest.mark.parametrize(("reach", "prior"), [(1e6, "pictures"), (0.0, "none")])
def test_a_run_with_a_budget_is_resumed_and_repeated_to_the_bits(images, tmp_path, monkeypatch, ticking, reach, prior):
    complete, stopped = Session.complete, []
    monkeypatch.setattr(worth, "REACH", reach)

    def stopping(self, *arguments):
        complete(self, *arguments)
        if self.folder is not None and self._stage not in stopped:
            stopped.append(self._stage)
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Session, "complete", stopping)
        outcome = invoke(
            "run", "--space", "darts", "--data", images, *FLAGS, "--budget", "2.5", "--finals", "3", "--out", run
        )
        while outcome.code == 130:
            assert read_toml(run / "config.toml")["budget"] == 2.5
            outcome = invoke("resume", run)
    assert outcome.code == 0, outcome.err
    assert stopped == [SEARCH_STAGE, PLAN_STAGE, FINALS_STAGE, TRAIN_STAGE, BASELINE_PLAN_STAGE, "baseline"]
    result, written = json.loads((run / "result.json").read_text()), read_toml(run / "config.toml")
    plan = result["plan"]
    (winner,) = (k for k, each in enumerate(result["finals"]) if each.get("winner"))
    assert plan["steps"] == plan["finals"][winner] > 1
    assert written["budget"] == 0 and written["finals"] == 3 and written["finals_steps"] == plan["finals"]
    assert written["prior"] == plan["prior"] == prior
    assert ("prior" in {each["origin"] for each in result["finals"]}) == (prior == "pictures")
    assert written["train"]["steps"] == plan["steps"] and written["baseline_steps"] == plan["baseline"]
    assert written["train"]["epochs"] == math.ceil(plan["steps"] / 5)  # 72 images in batches of 16

    def never(*arguments):
        raise AssertionError("nothing may be measured")

    for name in ("pace", "searching", "training_seconds"):
        monkeypatch.setattr(budget, name, never)
    monkeypatch.setattr(worth.Worth, "reaches", never)
    again = invoke("run", "--config", run / "config.toml", "--out", tmp_path / "again")
    assert again.code == 0, again.err
    assert contents(tmp_path / "again") == contents(run)
    assert read_toml(tmp_path / "again" / "config.toml") == written
    assert json.loads((tmp_path / "again" / "result.json").read_text())["finals"] == result["finals"]
    # A training has no finals, and more epochs are more steps.
    trained = invoke("train", run, "--config", run / "config.toml", "--epochs", "2", "--out", tmp_path / "longer")
    assert trained.code == 0, trained.err
    lines = [json.loads(line) for line in (tmp_path / "longer" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]


def test_a_budget_for_a_run_that_is_named(images, tmp_path, ticking):
    """What the run's own budget decided is not handed on."""
    found = dnas.search(data=images, budget="0.3", **TINY, out=tmp_path / "search")
    assert read_toml(tmp_path / "search" / "config.toml")["budget"] == 0
    first = dnas.train(found.architecture, data=images, budget=0.6, channels=8, batch_size=16, out=tmp_path / "one")
    again = dnas.train(tmp_path / "one", budget=0.4, out=tmp_path / "two")
    assert 1 < again["plan"]["steps"] < first["plan"]["steps"]
    config = read_toml(tmp_path / "two" / "config.toml")
    assert config["train"]["steps"] == again["plan"]["steps"] and config["train"]["channels"] == 8


def test_a_hand_made_network_has_a_budget(images, tmp_path, ticking):
    outcome = invoke(
        "train", "resnet8", "--data", images, "--budget", "1s", "--width", "0.25", "--out", tmp_path, "--json"
    )
    assert outcome.code == 0, outcome.err
    # 96 images a batch, so all 72; each step is a hundredth of a second, and the test of 18 a third of a quarter of it.
    seconds = outcome.json["plan"]["seconds"]
    assert 0.7 < seconds < 1 - RESERVE and outcome.json["plan"]["steps"] == math.floor(seconds / 0.01)
    assert read_toml(tmp_path / "config.toml")["train"]["steps"] == outcome.json["plan"]["steps"]


def test_the_plan_states_how_many_images_the_candidates_see():
    given, _ = resolve({"command": "run", "budget": 120.0, "baseline": False}, INFO, 50_000, "")
    assert given.train.steps_per_epoch == 782
    said = budget.sentence(given, 2.0, 95.0, [1000, 782, 1564], 3)
    assert "finals of 3, train for 95 s on 50,000 to 100,000 images (1.0 to 2.0 passes over 50,000)" in said
    assert "on 50,000 images (1.0 passes" in budget.sentence(given, 2.0, 95.0, [782], 1)

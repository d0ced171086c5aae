"""The total time is said before it is spent. Time passes only where a test lets it pass."""

import math

import pytest
from estimate_tools import (
    Lines,
    clock,  # noqa: F401
    close,
    read,
)
from hypothesis import given
from hypothesis import strategies as st

from dnas.data.splits import DataInfo
from dnas.errors import Interrupted
from dnas.methods.registry import create
from dnas.network.network import macs
from dnas.pipeline import stages
from dnas.runtime.estimate import MEASURED_SECONDS, SHORTEST_SECONDS, Estimate, Work
from dnas.runtime.execution import Execution
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import ESTIMATE_SECONDS, Session
from dnas.settings import TrainSettings
from dnas.space.darts import DARTS
from dnas.space.published import load_published
from dnas.training.build import built

# --- work


works = st.builds(
    Work,
    steps=st.integers(1, 40),
    cost=st.floats(0.1, 5),
    early_steps=st.integers(0, 50),
    early_cost=st.floats(0.1, 5),
    epoch_steps=st.integers(0, 9),
    epoch_cost=st.floats(0, 5),
    after=st.floats(0, 50),
)


@given(works)
def test_work_is_the_sum_over_its_steps(work):
    total = 0.0
    for step in range(work.steps):
        total += work.early_cost if step < work.early_steps else work.cost
        if work.epoch_steps and (step + 1) % work.epoch_steps == 0:
            total += work.epoch_cost
        assert work.until(step + 1) == pytest.approx(total)
    assert work.until(work.steps + 5) == work.until(work.steps)
    assert work.total == pytest.approx(total + work.after)
    assert work.times(3.0).total == pytest.approx(3 * work.total)


@given(works, st.floats(0.05, 100), st.floats(0, 30))
def test_a_stage_of_constant_costs_is_foretold_exactly(work, rate, start):
    """Whatever its first step takes besides, and whenever enough is known."""
    estimate = Estimate({"train": work}, lambda stage, known: None)
    now = 1e6
    estimate.enter("train", 0, now)
    taken = 0.0
    for step in range(1, work.steps + 1):
        now += rate * (work.until(step) - work.until(step - 1)) + (start if step == 1 else 0.0)
        taken = now - 1e6
        if estimate.due(step, now):
            sentence = estimate.tell(step, now, {"train": taken}, False)
            whole = start + rate * work.total
            assert (sentence is None) == (whole < SHORTEST_SECONDS) or whole == pytest.approx(SHORTEST_SECONDS)
            assert sentence is None or close(read(sentence)["in all"], whole, 1e-6)
            assert not estimate.due(step + 1, now + 1e6)
            return
    assert work.steps == 1 or rate * (work.until(work.steps) - work.until(1)) < MEASURED_SECONDS + 1e-3


# --- a run


def passed(session, clock, stage, steps, each, title=None):
    """A stage of so many steps of so many seconds."""
    session.start(stage, title or stage, steps)
    for step in range(1, steps + 1):
        clock.now += each
        session.step_done(step, {}, lambda: ({}, {}))
    session.complete({})


def run_of(stages_, price=lambda stage, known: None, folder=None, execution=None):
    session = Session(folder, {}, Lines(), execution or Execution(3600.0))
    session.estimate = Estimate(stages_, price)
    return session


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({})
        yield folder


THREE = {"search": Work(100), "train": Work(200), "baseline": Work(200)}


def test_each_stage_says_once_what_all_will_take(folder, clock):
    """Search 100 · 2 s, training 200 · 3 s where 4 s were expected, baseline as long as training, then 200 · 2 s."""

    def price(stage, known):
        return 800.0 if stage == "train" else known["train"]

    session = run_of(THREE, price, folder)
    passed(session, clock, "search", 100, 2.0)
    passed(session, clock, "train", 200, 3.0)
    passed(session, clock, "baseline", 200, 2.0)
    assert session.reporter.lines == [
        "about 30 min in all: search 3 min, training 13 min, baseline 13 min",
        "about 23 min in all: search 3 min, training 10 min, baseline 10 min",
        "about 20 min in all: search 3 min, training 10 min, baseline 7 min",
    ]
    assert session.reporter.titles == ["1/3 search", "2/3 train", "3/3 baseline"]
    logged = (folder.path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in logged] == session.reporter.lines


@pytest.mark.parametrize(("each", "steps"), [(0.19, 100), (4.0, 1), (4.0, 4), (0.02, 100)])
def test_nothing_is_said_of_a_run_that_is_over_soon(folder, clock, each, steps):
    session = run_of({"train": Work(steps)}, folder=folder)
    passed(session, clock, "train", steps, each)
    assert session.reporter.lines == []


def test_a_run_of_one_stage_names_no_parts(folder, clock):
    session = run_of({"train": Work(100)}, folder=folder)
    passed(session, clock, "train", 100, 2.0, "training")
    assert session.reporter.lines == ["about 3 min in all"] and session.reporter.titles == ["1/1 training"]


def test_it_is_said_within_seconds_of_the_first_step(folder, clock):
    session = run_of({"train": Work(1000)}, folder=folder)
    session.start("train", "training", 1000)
    for step in range(1, 1001):
        clock.now += 60.0 if step == 1 else 0.5
        session.step_done(step, {}, lambda: ({}, {}))
        if session.reporter.lines:
            break
    assert step == 1 + MEASURED_SECONDS / 0.5
    # The first step does not count as one of many.
    assert session.reporter.lines == ["about 9 min in all"]  # 60 + 999 / 2 s


def test_nothing_is_said_where_later_stages_are_unknown(folder, clock):
    session = run_of(THREE, lambda stage, known: None, folder)
    passed(session, clock, "search", 100, 2.0)
    assert session.reporter.lines == []


def test_a_stage_that_is_left_out_is_neither_counted_nor_numbered(folder, clock):
    session = run_of(THREE, lambda stage, known: 600.0, folder)
    passed(session, clock, "search", 100, 2.0)
    session.estimate.leave_out("baseline")
    passed(session, clock, "train", 200, 3.0)
    assert session.reporter.titles == ["1/3 search", "2/2 train"]
    assert session.reporter.lines[-1] == "about 13 min in all: search 3 min, training 10 min"


def test_a_resumed_run_says_what_is_left(folder, clock):
    first = run_of(THREE, lambda stage, known: 1200.0, folder, Execution(0.0))
    passed(first, clock, "search", 100, 2.0)
    first.start("train", "training", 200)
    for step in range(1, 51):
        clock.now += 3.0
        first.step_done(step, {}, lambda: ({}, {}))
    second = run_of(THREE, lambda stage, known: known["train"], folder)
    second.resume()
    assert second.start("train", "training", 200).state["step"] == 50
    for step in (51, 52):
        clock.now += 3.0
        second.step_done(step, {}, lambda: ({}, {}))
    # 148 steps of 3 s, and 200 of them.
    assert second.reporter.lines[-1] == "about 17 min left: training 7 min, baseline 10 min"


def test_the_limit_of_a_search_bounds_its_estimate(folder, clock):
    session = run_of({"search": Work(1000, seconds=300.0)}, folder=folder)
    session.start("search", "search", 1000)
    for step in range(1, 5):
        clock.now += 3.0
        session.step_done(step, {}, lambda: ({}, {}))
    assert session.reporter.lines == ["about 5 min in all"]


def test_the_time_of_an_estimate_is_no_stages_and_no_checkpoints(folder, clock):
    def price(stage, known):
        clock.now += 10.0  # what trying it takes
        return 60.0

    session = run_of(THREE, price, folder)
    passed(session, clock, "search", 100, 2.0)
    assert session.seconds["search"] == 200.0 and len(session.reporter.lines) == 1


def test_near_the_deadline_nothing_is_tried(folder, clock):
    def price(stage, known):
        raise AssertionError("tried")

    session = run_of(THREE, price, folder, Execution(3600.0, clock.now + ESTIMATE_SECONDS))
    session.start("search", "search", 100)
    with pytest.raises(Interrupted):
        for step in range(1, 101):
            clock.now += 2.0
            session.step_done(step, {}, lambda: ({}, {}))
    assert session.reporter.lines == []


# --- what a search and a training cost


INFO = DataInfo("digits", tuple("0123"), 1, 8, (0.5,), (0.3,), False)


def search_work(name, count=1000, **settings):
    method = create(name, None, {}, DARTS)
    values = method.Settings(batch_size=50, epochs=10, layers=3, channels=4, **settings)
    return stages.search_work(method, values.resolved(count, 1.0, 8))


@pytest.mark.parametrize(
    ("name", "settings", "total"),
    [
        # 10 epochs of 500 / 50 steps, 3 of them warm-up; 2 · 256 images watched after each.
        ("darts", {}, 30 + 70 * 2 + 10 * 2 * 256 / 50 / 3),
        ("darts", {"watch_images": 0}, 30 + 70 * 2),
        ("darts", {"watch_images": 0, "warmup_epochs": 0}, 200),
        ("darts", {"watch_images": 0, "update": "second-order"}, 30 + 70 * 5),
        # All 1,000 images move both.
        ("darts", {"watch_images": 0, "update": "single-level"}, 200),
        ("darts", {"watch_images": 0, "steps": 100}, 100),
        ("darts", {"watch_images": 0, "steps": 20}, 20),
        ("darts", {"watch_images": 0, "steps": 10**6}, 170),
        # 20 generations of 50 on 500 images.
        ("spos", {"watch_images": 0}, 100 + 1000 * 500 / 50 / 3),
        ("spos", {}, 100 + 1000 * 500 / 50 / 3),
        ("spos", {"steps": 130}, 130),
        # 5 rounds of 1,000 on 640 of 25,000 and 10 on all.
        ("rsws", {}, 100 + 5 * (1000 * 0.0256 + 10) * 500 / 50 / 3),
        ("random", {"trials": 30}, 30),
        # A trial is 10 · 10 steps and a validation pass, which costs a third.
        ("random", {"trials": 30, "steps": 1000}, math.ceil(1000 / (100 + 10 / 3))),
    ],
)
def test_the_work_of_a_search_in_closed_form(name, settings, total):
    assert search_work(name, **settings).total == pytest.approx(total)


def test_a_limit_in_seconds_is_that_of_the_work():
    assert search_work("darts", seconds=60.0).seconds == 60.0 and search_work("darts").seconds == math.inf


def test_the_work_of_a_training_in_closed_form():
    settings = TrainSettings(epochs=7, batch_size=50, channels=4).resolved(480, 8)
    work = stages.train_work(settings, 200)
    assert (work.steps, work.total) == (70, pytest.approx(70 + 200 / 48 / 3))


def test_the_baseline_costs_in_proportion_to_its_macs():
    settings = TrainSettings(epochs=7, batch_size=50, channels=4).resolved(480, 8)
    one, other = load_published("DARTS_V2", 4), load_published("PC_DARTS_cifar", 4)
    work = stages.train_work(settings, 200)
    estimate = Estimate({"train": work, "baseline": work}, lambda stage, known: None)
    stages.set_baseline(estimate, one, other, settings, INFO)
    counted = [macs(built(each, settings, INFO, 0), (1, 8, 8)) for each in (other, one)]
    assert estimate.stages["baseline"].total == pytest.approx(work.total * counted[0] / counted[1])
    stages.set_baseline(estimate, one, None, settings, INFO)
    assert list(estimate.stages) == ["train"]

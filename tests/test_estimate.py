"""The total time is said before it is spent. Time passes only where a test lets it pass."""

import json
import math
import signal

import pytest
import torch
from faults.harness import TINY, contents, invoke, make_images
from hypothesis import given
from hypothesis import strategies as st

from dnas import pipeline, ranks, stages, trials
from dnas.architecture import load_published
from dnas.checkpoint import newest
from dnas.config import parse, resolve
from dnas.data import DataInfo
from dnas.errors import InputError, Interrupted
from dnas.estimate import MEASURED_SECONDS, SHORTEST_SECONDS, Estimate, Work
from dnas.execution import Execution
from dnas.methods import create
from dnas.network import macs
from dnas.plan import Size
from dnas.progress import Silent
from dnas.runfolder import RunFolder
from dnas.session import ESTIMATE_SECONDS, Session
from dnas.settings import TrainSettings
from dnas.space import DARTS
from dnas.supernet_search import Search
from dnas.trainer import built


class Lines(Silent):
    def __init__(self):
        self.titles, self.lines = [], []

    def start(self, title, steps, done):
        self.titles.append(title)

    def say(self, text):
        self.lines.append(text)

    @property
    def estimates(self):
        return [line for line in self.lines if line.startswith("about ")]


class Clock:
    """The monotonic clock, which stands still."""

    def __init__(self, monkeypatch):
        self.now = 1e6
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def seconds(text):
    """The seconds of "75 s", "12 min" or "2.5 h", and by how much that was rounded at most."""
    number, unit = text.split()
    scale = {"s": 1, "min": 60, "h": 3600}[unit]
    step = {"s": 5, "min": 60, "h": 360}[unit]
    return float(number) * scale, step / 2 + 0.01


def close(text, wanted, share=0.0):
    said, rounding = seconds(text)
    return abs(said - wanted) <= rounding + share * wanted


def read(sentence):
    """{"in all" or "left": …, stage: …} of a sentence."""
    whole, _, parts = sentence.removeprefix("about ").partition(": ")
    number, unit, *kind = whole.split()
    return {" ".join(kind): f"{number} {unit}"} | dict(part.split(" ", 1) for part in parts.split(", ") if part)


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


# --- whole runs, on a clock that only the steps move


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("estimate") / "images", classes=2)


def slow_down(clock, monkeypatch):
    """A pass of a batch takes 5 s in a search, a step of a training 8 s; forward alone it is a third."""

    def taking(owner, name, cost):
        original = getattr(owner, name)

        def function(*arguments):
            clock.now += cost(*arguments)
            return original(*arguments)

        monkeypatch.setattr(owner, name, function)

    def accuracy(search, what, images=None, first=0):
        every = len(search.validation_part)
        batch = search.settings.weight_images / search.settings.steps_per_epoch
        return 5 / 3 * min(images or every, every) / batch

    def step_done(session, *arguments):
        clock.tried += 8.0 * (session._stage == "estimate")
        return 8.0 * (session._stage in ("train", "baseline", "estimate", "trial"))

    clock.tried = 0.0
    passes = {"second-order": 4}
    taking(Search, "weight_step", lambda search, step: 5.0)
    taking(Search, "architecture_step", lambda search, step: 5.0 * passes.get(search.settings.update, 1))
    taking(Search, "joint_step", lambda search, step: 5.0)
    taking(Search, "accuracy", accuracy)
    taking(Session, "step_done", step_done)
    taking(trials, "measure_accuracy", lambda network, split, *rest: 8 / 3 * len(split) / 12)
    taking(pipeline, "measure_accuracy", lambda network, split, *rest: 8 / 3 * len(split) / 16)
    # A step of the baseline takes as long.
    monkeypatch.setattr(stages, "size", lambda network, image_size: Size(1, 1, 1))
    return clock


@pytest.fixture
def slow(clock, monkeypatch):
    return slow_down(clock, monkeypatch)


COMMANDS = {
    "run": (("run",), ["1/3 search (dnas, decoupled)", "2/3 training", "3/3 baseline"]),
    "no-baseline": (("run", "--no-baseline"), ["1/2 search (dnas, decoupled)", "2/2 training"]),
    "search": (("search",), ["1/1 search (dnas, decoupled)"]),
    "train": (("train", "DARTS_V2"), ["1/1 training"]),
    "train-baseline": (("train", "DARTS_V2", "--baseline"), ["1/2 training", "2/2 baseline"]),
}


def titles(text):
    return [line.rsplit(":", 1)[0] for line in text.splitlines() if line[1:2] == "/"]


@pytest.mark.parametrize(("arguments", "wanted"), COMMANDS.values(), ids=COMMANDS)
def test_the_stages_of_each_command_are_numbered(tmp_path, images, arguments, wanted):
    outcome = invoke(*arguments, "--data", images, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert titles(outcome.err) == wanted
    assert "about" not in outcome.err  # it was over soon


def test_a_run_without_a_control_of_its_size_has_a_stage_less(tmp_path, images, monkeypatch):
    def none_found(*arguments):
        raise InputError("no random architecture of that size")

    monkeypatch.setattr(pipeline, "random_of_size", none_found)
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "run")
    assert titles(outcome.err) == ["1/3 search (dnas, decoupled)", "2/2 training"]


def test_the_last_sentence_has_the_names_of_the_stages(tmp_path, images, slow):
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "run")
    # 2 epochs of 2 steps, the second of which moves both, and 2 · 24 images watched after each; 2 epochs of 3 steps, and a test.
    assert "search 43 s, training 50 s, baseline 50 s; everything is in" in " ".join(outcome.out.split())


LONG = ("-o", "search.epochs=8", "-o", "train.epochs=8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", *LONG), 3),
        (("run", *LONG, "--mapping", "shared", "--train-layers", "5", "--search-steps", "20"), 3),
        (("run", *LONG, "--search-seconds", "200"), 3),
        (("search", *LONG[:2]), 1),
        (("search", *LONG[:2], "-o", "search.update=second-order"), 1),
        (("search", *LONG[:2], "--method", "spos", "-o", "population=5", "-o", "generations=3", "-o", "parents=2"), 1),
        (("search", "--method", "enas", "-o", "controller_steps=2", "-o", "aggregates=2", "-o", "finalists=3"), 1),
        (
            (
                "run",
                "--method",
                "random",
                "-o",
                "search.trials=9",
                "-o",
                "search.processes=1",
                *LONG[2:],
                "--search-steps",
                "20",
            ),
            3,
        ),
        (("train", "DARTS_V2", *LONG[2:], "--baseline"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_said_in_each_stage_is_what_it_takes(tmp_path, images, slow, arguments, said):
    began = slow.now
    outcome = invoke(arguments[0], *arguments[1:], "--data", images, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    sentences = [line for line in outcome.err.splitlines() if line.startswith("about ")]
    # A try of a training is no part of it.
    whole = slow.now - began - slow.tried
    assert len(sentences) == said
    assert all(close(read(sentence)["in all"], whole, 0.03) for sentence in sentences), (sentences, whole)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    taken = {"search": result["search_seconds"], "training": result["train_seconds"]}
    taken["baseline"] = result.get("baseline", {}).get("seconds")
    for sentence in sentences:
        for stage, text in read(sentence).items():
            assert stage == "in all" or close(text, taken[stage], 0.03), (sentence, taken)


def test_nothing_that_is_kept_depends_on_it(tmp_path, images, monkeypatch):
    """The same run: over soon, so that nothing is tried; on a slow clock; and with nobody to be told."""
    arguments = ("run", "--data", images, *TINY)
    assert invoke(*arguments, "--out", tmp_path / "short").code == 0
    slow_down(Clock(monkeypatch), monkeypatch)
    loud = invoke(*arguments, "--out", tmp_path / "loud")
    quiet = invoke(*arguments, "--out", tmp_path / "quiet", "--quiet")
    assert loud.err.count("about ") == 3 and quiet.err == ""
    assert (tmp_path / "quiet" / "log.txt").read_text().count(" about ") == 3
    assert contents(tmp_path / "short") == contents(tmp_path / "loud") == contents(tmp_path / "quiet")


class Stop(Lines):
    def step(self, step, shown):
        if step == 4:
            signal.raise_signal(signal.SIGTERM)


def test_no_checkpoint_depends_on_it(tmp_path, images, monkeypatch):
    values = {"data": {"source": str(images)}, "search": {"layers": 3, "channels": 8, "epochs": 4, "batch_size": 16}}

    def stopped(name):
        with pytest.raises(Interrupted):
            pipeline.start(values, out=tmp_path / name, reporter=(reporter := Stop()))
        return newest(tmp_path / name / "checkpoints")[0], reporter

    short, nobody = stopped("short")
    slow_down(Clock(monkeypatch), monkeypatch)
    long, told = stopped("long")
    assert nobody.estimates == [] and len(told.estimates) == 1
    assert short.tensors.keys() == long.tensors.keys()
    assert all(torch.equal(short.tensors[name], long.tensors[name]) for name in short.tensors)
    drop = ("seconds", "metrics_bytes")
    one, other = ({k: v for k, v in each.state.items() if k not in drop} for each in (short, long))
    assert one == other


@pytest.mark.parametrize("memory", ["whole", "stream"])
def test_a_training_is_tried_wherever_its_pictures_are(images, monkeypatch, memory):
    overrides = {"data": {"source": str(images), "memory": memory}, "search": {"layers": 3, "batch_size": 16}}
    data = pipeline.load_data(parse({**overrides, "search": None}))
    config, method = resolve(overrides, data.info, len(data.train), "", data.train.memory)
    expected = stages.estimate(config, method, data.train, data.test, data.info)
    assert data.train.memory == memory
    expected.enter("search", 0, 0.0)
    assert not expected.due(1, 0.0) and expected.due(2, 9.0)
    monkeypatch.setattr(ranks, "count", lambda: 2)
    # Of several ranks none may fail alone.
    assert expected.tell(2, 9.0, {"search": 9.0}, False) is None
    monkeypatch.undo()
    assert expected.tell(2, 9.0, {"search": 9.0}, False).startswith("about ")
    data.close()


def test_a_try_that_fails_ends_nothing(tmp_path, images, slow, monkeypatch):
    def short_of_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(stages, "built", short_of_memory)
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    # Of the search nothing is known; training measures itself.
    assert outcome.err.count("about ") == 2

import json
import signal

import pytest
import torch
from estimate_tools import (
    Clock,
    Lines,
    clock,  # noqa: F401
    close,
    read,
)
from faults.harness import TINY, contents, invoke, make_images

from dnas.errors import InputError, Interrupted
from dnas.pipeline import carry_out, stages
from dnas.pipeline import run as pipeline
from dnas.pipeline.config import parse, resolve
from dnas.pipeline.inputs import load_data
from dnas.runtime import distributed
from dnas.runtime.checkpoint import newest
from dnas.runtime.session import Session
from dnas.searching import trials
from dnas.searching.search import Search
from dnas.space.network_plan import Size

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
    taking(carry_out, "measure_accuracy", lambda network, split, *rest: 8 / 3 * len(split) / 16)
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

    monkeypatch.setattr(carry_out, "random_of_size", none_found)
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "run")
    assert titles(outcome.err) == ["1/3 search (dnas, decoupled)", "2/2 training"]


def test_the_last_sentence_has_the_names_of_the_stages(tmp_path, images, slow):
    outcome = invoke("run", "--data", images, *TINY, "--out", tmp_path / "run")
    # 2 epochs of 2 steps, the second of which moves both, and 2 · 24 images watched after each; 2 epochs of 3 steps, and a test.
    assert "search 43 s, training 50 s, baseline 50 s; results:" in " ".join(outcome.out.split())


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
    data = load_data(parse({**overrides, "search": None}))
    config, method = resolve(overrides, data.info, len(data.train), "", data.train.memory)
    expected = stages.estimate(config, method, data.train, data.test, data.info)
    assert data.train.memory == memory
    expected.enter("search", 0, 0.0)
    assert not expected.due(1, 0.0) and expected.due(2, 9.0)
    monkeypatch.setattr(distributed, "count", lambda: 2)
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

import json
import os
import pickle
import signal

import pytest
import torch

from dnas.errors import InputError, Interrupted
from dnas.reporter import Bars, Plain, Silent, reporter
from dnas.runtime.execution import Execution
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import SIGNALS, Session

CONFIG = {"seed": 0, "search": {"layers": 3, "rate": 0.1}}


class Spy(Silent):
    def __init__(self):
        self.lines, self.started = [], []

    def start(self, title, steps, done):
        self.started.append((title, steps, done))

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config(CONFIG)
        yield folder


def capture(value):
    return lambda: ({"weight": torch.full((2,), float(value))}, {"note": value})


def session(folder, config=CONFIG, seconds=0.0):
    return Session(folder, config, Spy(), Execution(seconds))


# --- checkpoints


def test_a_stage_is_resumed_at_its_last_checkpoint(folder):
    first = session(folder)
    assert first.start("search", "search", 9) is None
    for step in (1, 2, 3):
        first.metric(stage="search", step=step)
        first.step_done(step, {}, capture(step))
    first.metric(stage="search", step=4)  # after the checkpoint, so it will be written again

    second = session(folder)
    second.resume()
    checkpoint = second.start("search", "search", 9)
    assert checkpoint.state["step"] == 3 and checkpoint.state["loop"] == {"note": 3}
    assert torch.equal(checkpoint.tensors["weight"], torch.full((2,), 3.0))
    assert second.reporter.started == [("search", 9, 3)]
    lines = (folder.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_a_completed_stage_is_known_and_the_next_begins_anew(folder):
    first = session(folder)
    first.start("search", "search", 2)
    first.step_done(1, {}, capture(1))
    first.complete({"architecture": "a"})
    second = session(folder)
    second.resume()
    assert second.completed == {"search": {"architecture": "a"}}
    assert second.start("train", "train", 5) is None
    assert second.reporter.started == [("train", 5, 0)]


def test_the_checkpoint_of_another_stage_is_not_gone_on_from(folder):
    first = session(folder)
    first.start("train", "train", 5)
    first.step_done(2, {}, capture(2))
    second = session(folder)
    second.resume()
    assert second.start("baseline", "baseline", 5) is None
    # And it is not kept for a stage of that name that comes later.
    assert second.start("train", "train", 5) is None


def test_checkpoints_come_when_it_is_time_and_capture_is_called_for_no_other(folder):
    one = session(folder, seconds=3600)

    def refuse():
        raise AssertionError("captured")

    one.start("search", "search", 3)
    for step in (1, 2, 3):
        one.step_done(step, {}, refuse)
    assert not (folder.path / "checkpoints").exists()
    one.execution = Execution(0.0)
    one.step_done(4, {}, capture(4))
    assert folder.load_checkpoint()[0].state["step"] == 4


def test_time_adds_up_over_resumes(folder, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("dnas.runtime.session.time.monotonic", lambda: next(clock))
    first = session(folder)
    first.start("search", "search", 9)
    first.step_done(1, {}, capture(1))
    spent = first.seconds["search"]
    assert spent > 0
    second = session(folder)
    second.resume()
    assert second.seconds["search"] == spent
    second.start("search", "search", 9)
    second.step_done(2, {}, capture(2))
    assert second.seconds["search"] > spent


def test_a_wrong_clock_cannot_touch_the_times(folder, monkeypatch):
    """Times are of the monotonic clock: a jump of the other one changes nothing (F22)."""
    clock = iter(range(0, -(10**12), -(10**9)))  # an hour back at every look, and more
    monkeypatch.setattr("time.time", lambda: next(clock))
    one = session(folder)
    one.start("search", "search", 1)
    one.complete({})
    assert 0 <= one.seconds["search"] < 60


def test_each_difference_in_the_configuration_is_named(folder):
    first = session(folder)
    first.start("search", "search", 9)
    first.step_done(1, {}, capture(1))
    changed = {"seed": 1, "search": {"layers": 3, "rate": 0.2, "new": True}}
    with pytest.raises(InputError) as caught:
        session(folder, changed).resume()
    for words in ("seed was 0 and is 1", "search.rate was 0.1 and is 0.2", "search.new was None and is True"):
        assert words in str(caught.value)
    assert "layers" not in str(caught.value)
    gone = {"seed": 0}
    with pytest.raises(InputError, match="search was"):
        session(folder, gone).resume()


def test_without_a_checkpoint_it_starts_from_the_beginning(folder):
    folder.metric(stage="search", epoch=1)
    one = session(folder)
    one.resume()
    assert one.completed == {} and one.start("search", "search", 1) is None
    assert (folder.path / "metrics.jsonl").read_bytes() == b""
    assert "no checkpoint" in one.reporter.lines[0]


def test_a_damaged_newest_checkpoint_is_passed_over_and_it_is_said(folder):
    first = session(folder)
    first.start("search", "search", 9)
    for step in (1, 2):
        first.step_done(step, {}, capture(step))
    newest = max((folder.path / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    second = session(folder)
    second.resume()
    assert second.start("search", "search", 9).state["step"] == 1
    assert any(newest.stem in line for line in second.reporter.lines)


def test_without_a_folder_nothing_is_kept_and_time_is_counted():
    one = Session(None, {}, Spy(), Execution(0.0))
    one.start("search", "search", 1)
    one.metric(stage="search")
    one.step_done(1, {}, lambda: 1 / 0)
    one.complete({"a": 1})
    assert one.completed == {"search": {"a": 1}} and one.seconds["search"] >= 0


# --- signals


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_waits_for_the_step_and_its_checkpoint(folder, signum):
    one = session(folder, seconds=3600)
    one.start("search", "search", 9)
    with pytest.raises(Interrupted) as caught, one.signals():
        one.step_done(1, {}, capture(1))
        os.kill(os.getpid(), signum)
        assert one.signum == signum  # nothing else happened
        one.step_done(2, {}, capture(2))
    assert (caught.value.run, caught.value.signum, caught.value.code) == (folder.path, signum, 128 + signum)
    assert folder.load_checkpoint()[0].state["step"] == 2


def test_a_second_sigint_does_not_wait(folder):
    one = session(folder)
    one.start("search", "search", 9)
    reached = []
    with pytest.raises((Interrupted, KeyboardInterrupt)), one.signals():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(2)
    assert reached == [1]
    assert folder.load_checkpoint()[0] is None


def test_a_second_sigterm_waits_as_the_first_does(folder):
    one = session(folder)
    one.start("search", "search", 9)
    with pytest.raises(Interrupted), one.signals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        one.step_done(1, {}, capture(1))
    assert folder.load_checkpoint()[0].state["step"] == 1


def test_handlers_are_given_back(folder):
    before = [signal.getsignal(s) for s in SIGNALS]
    with pytest.raises(ZeroDivisionError), session(folder).signals():
        assert signal.getsignal(signal.SIGTERM) not in before
        _ = 1 / 0
    assert [signal.getsignal(s) for s in SIGNALS] == before


# --- the time limit


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch, folder, writing=0.0):
        self.now = 1e6
        monkeypatch.setattr("dnas.runtime.session.time.monotonic", lambda: self.now)
        save = folder.save_checkpoint

        def save_checkpoint(*arguments):
            self.now += writing
            save(*arguments)

        monkeypatch.setattr(folder, "save_checkpoint", save_checkpoint)


def loop(folder, clock, limit, durations, every=0.0, **options):
    """Steps of so many seconds from 0 on; the last step, the seconds that had passed, and the checkpoint's step."""
    began = clock.now
    one = Session(folder, CONFIG, Spy(), Execution(every, None if limit is None else began + limit))
    one.start("search", "search", len(durations), **options)
    with pytest.raises(Interrupted) as caught:
        for step, seconds in enumerate(durations, 1):
            clock.now += seconds
            one.step_done(step, {}, capture(step))
        raise AssertionError("it never stopped")
    assert caught.value.code == 75 and str(caught.value).endswith(f"dnas resume {folder.path}")
    assert pickle.loads(pickle.dumps(caught.value)).code == 75
    newest, _ = folder.load_checkpoint()
    assert newest.state["step"] == step
    return step, clock.now - began


@pytest.mark.parametrize(
    ("limit", "seconds", "writing", "stops"),
    [
        (100, 10, 0, 9),  # after step 9 at 90 s: a tenth would end at 100, which is no longer before it
        (101, 10, 0, 10),
        (100, 10, 2, 8),  # each step and its checkpoint take 12 s: the eighth ends at 96
        (96, 10, 2, 7),
        (1, 10, 0, 1),  # one step in any case, so that resuming again and again gets to the end
    ],
)
def test_it_ends_before_the_time_limit_and_no_step_earlier(folder, monkeypatch, limit, seconds, writing, stops):
    clock = Clock(monkeypatch, folder, writing)
    step, passed = loop(folder, clock, limit, [seconds] * 50)
    assert step == stops and (passed < limit or step == 1)


def test_the_longest_step_so_far_is_what_the_next_may_take(folder, monkeypatch):
    # The end of an epoch takes longer; the first step, in which kernels are compiled, foretells nothing.
    step, passed = loop(folder, Clock(monkeypatch, folder), 50, [25, 1, 1, 10] + [1] * 50)
    assert (step, passed) == (7, 40)


def test_a_step_that_others_can_stop_is_not_foreseen(folder, monkeypatch):
    step, passed = loop(folder, Clock(monkeypatch, folder), 50, [15] * 9, divisible=True)
    assert (step, passed) == (4, 60)


def test_without_a_limit_it_goes_on(folder, monkeypatch):
    with pytest.raises(AssertionError, match="never"):
        loop(folder, Clock(monkeypatch, folder), None, [1e9] * 9)


def test_who_came_to_stop_it_first_is_told(folder, monkeypatch):
    clock = Clock(monkeypatch, folder)
    one = Session(folder, CONFIG, Spy(), Execution(0.0, clock.now + 5))
    one.signum = signal.SIGTERM
    clock.now += 9
    assert one.stopping() and one.signum == signal.SIGTERM


# --- what is shown


def test_what_is_said_goes_to_the_user_and_to_the_log(folder):
    one = session(folder)
    one.say("half way")
    assert one.reporter.lines == ["half way"]
    assert (folder.path / "log.txt").read_text().endswith(" half way\n")


def test_plain_lines_go_to_stderr_without_escapes(capsys):
    one = Plain()
    one.start("search", 10, 4)
    one.step(5, {"loss": 0.5})
    one.metric({"epoch": 1, "loss": 0.123456, "list": [1], "table": {}})
    one.finish()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "search: 10 steps, 4 of them done\n  epoch 1  loss 0.1235\n"


@pytest.mark.parametrize("colour", [True, False])
def test_bars_respect_no_color_and_keep_stdout_clean(capsys, monkeypatch, colour):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    bars = Bars()
    bars.start("search", 3, 0)
    for step in (1, 2, 3):
        bars.step(step, {"loss": 0.5})
    bars.say("[not markup] done")
    bars.finish()
    out, err = capsys.readouterr()
    assert out == ""
    assert "[not markup] done" in err and "search" in err and "3/3" in err
    colours = ["\x1b[3", "\x1b[9", "\x1b[38;5"]
    assert any(code in err for code in colours) == colour


def test_the_reporter_fits_where_stderr_goes(monkeypatch):
    assert type(reporter(True)) is Silent
    assert type(reporter(False)) is Plain
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert type(reporter(False)) is Bars

"""Looking at a run from Python: every epoch's metrics, stopping, the logger, progress."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import threading
from types import SimpleNamespace

import pytest
from faults.harness import contents, make_images

import dnas
from dnas import reporter
from dnas.errors import ON_EPOCH, TIME_LIMIT, Interrupted

FEW = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 16}
NAMES = ("metrics.jsonl", "architecture.json", "model.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("on_epoch") / "images")


@pytest.fixture(scope="module")
def options(images):
    return {"data": images, "method": "gdas", "finals": 0, **FEW}


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_it_sees_what_metrics_jsonl_says_and_changes_nothing(options, tmp_path):
    seen = []
    plain = dnas.run(out=tmp_path / "plain", **options)
    watched = dnas.run(out=tmp_path / "watched", on_epoch=seen.append, **options)
    assert seen == lines(watched.run)
    assert [each["stage"] for each in seen] == ["search"] * 2 + ["train"] * 2 + ["baseline"] * 2
    assert contents(watched.run, NAMES) == contents(plain.run, NAMES)
    # A callback that changes what it is given changes the run not.
    dnas.run(out=tmp_path / "cleared", on_epoch=dict.clear, **options)
    assert contents(tmp_path / "cleared", NAMES) == contents(plain.run, NAMES)
    for stop in (1, 4):  # within a search, and at the end of a training
        run = tmp_path / f"stopped-{stop}"
        with pytest.raises(Interrupted, match="stopped by on_epoch; resume with: dnas resume") as caught:
            dnas.run(out=run, on_epoch=lambda metrics, run=run, stop=stop: len(lines(run)) == stop, **options)
        assert caught.value.run == run and caught.value.code == 75 and len(lines(run)) == stop
        dnas.resume(run)
        assert contents(run, NAMES) == contents(plain.run, NAMES)


def test_a_search_of_trials_stops_after_a_trial(images, tmp_path):
    options = {"data": images, "method": "random", **FEW, "epochs": 1, "option": {"search.trials": 3}}
    whole = dnas.search(out=tmp_path / "whole", **options)
    seen = []

    def second(metrics):
        seen.append(metrics)
        return metrics["trial"] == 2

    with pytest.raises(Interrupted):
        dnas.search(out=tmp_path / "run", on_epoch=second, **options)
    assert [each["trial"] for each in seen] == [1, 2]
    assert dnas.resume(tmp_path / "run").architecture == whole.architecture
    assert contents(tmp_path / "run", NAMES[:2]) == contents(tmp_path / "whole", NAMES[:2])


def test_an_error_of_the_callback_is_the_callers_and_the_run_goes_on(options, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        dnas.run(out=tmp_path / "run", on_epoch=lambda metrics: 1 / 0, **options)
    assert signal.getsignal(signal.SIGINT) is before
    assert dnas.resume(tmp_path / "run").test_images


def test_what_a_notebook_shows_of_an_interruption():
    stop = Interrupted("runs/a", signal.SIGINT)
    assert stop._render_traceback_() == ["interrupted; resume with: dnas.resume('runs/a')"]
    assert str(stop) == "interrupted; resume with: dnas resume runs/a" and stop.code == 130
    assert str(pickle.loads(pickle.dumps(Interrupted("r", ON_EPOCH)))).startswith("stopped by on_epoch")
    assert Interrupted("r", TIME_LIMIT)._render_traceback_()[0].startswith("time limit reached")


def test_in_a_thread_of_a_program_a_run_works(options, tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(dnas.search(out=tmp_path / "run", data=options["data"], **FEW))
    )
    thread.start()
    thread.join()
    assert isinstance(found[0], dnas.SearchResult)


def test_a_library_is_silent_and_its_logger_tells(images, tmp_path, caplog, capfd):
    with caplog.at_level(logging.DEBUG, "dnas"):
        dnas.search(data=images, out=tmp_path / "run", method="random", **FEW, option={"search.trials": 2})
    assert capfd.readouterr() == ("", "")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    log = [line.partition(" ")[2] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    assert said == log and said[0].endswith("search, preset quick, seed 0")
    metrics = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert any("'trial': 2" in text for text in metrics)
    assert {record.name for record in caplog.records} == {"dnas"}


def test_warnings_are_warnings(caplog):
    with caplog.at_level(logging.INFO, "dnas"):
        reporter.Logged().say("warning: begun with torch 1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_progress_is_shown_when_it_is_asked_for(images, tmp_path, capfd):
    dnas.search(data=images, out=tmp_path / "run", method="random", progress=True, **FEW, option={"search.trials": 2})
    out, err = capfd.readouterr()
    assert out == "" and "search, preset quick, seed 0" in err and "trial 2" in err
    with pytest.raises(dnas.InputError, match="progress=True cannot be used with reporter"):
        dnas.search(progress=True, reporter=reporter.Plain(), out=tmp_path / "never")


@pytest.mark.parametrize(
    ("jupyter", "widgets", "kind"), [(True, True, "Bars"), (True, False, "Plain"), (False, True, "Plain")]
)
def test_a_notebook_gets_bars_where_it_can_show_them(monkeypatch, jupyter, widgets, kind):
    import importlib.util
    import sys

    import rich.console

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: jupyter)
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: widgets or None if name == "ipywidgets" else known(name)
    )
    assert type(reporter.reporter(quiet=False)).__name__ == kind
    assert type(reporter.reporter(quiet=True)).__name__ == "Silent"

"""What TensorBoard shows is what metrics.jsonl says: each point once, none missing, whatever came in between."""

import json
import sys

import pytest

from dnas.errors import InputError, Interrupted
from dnas.pipeline import run as pipeline
from dnas.reporter import Silent
from dnas.runtime.execution import Execution
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.scalars import FOLDER, STEPS, Scalars
from dnas.runtime.session import Session


@pytest.fixture
def reader():
    """The scalars of a run folder as TensorBoard reads them: {stage: {tag: [(step, value), …]}}."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(run):
        found = {}
        for folder in sorted((run / FOLDER).iterdir()):
            events = EventAccumulator(str(folder))
            events.Reload()
            found[folder.name] = {
                tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
            }
        return found

    return read


def expected(run):
    """The same from metrics.jsonl. TensorBoard keeps 32 bits of a number."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = next(values[key] for key in STEPS if key in values)
        for key, value in values.items():
            if isinstance(value, float | int) and not isinstance(value, bool) and key not in STEPS:
                points = found.setdefault(values["stage"], {}).setdefault(key, [])
                points.append((step, pytest.approx(value, rel=1e-6)))
    return found


LINES = [
    {"stage": "search", "epoch": 1, "loss": 2.5, "skips": 3, "scores": [[1.0]], "none": None, "yes": True},
    {"stage": "search", "epoch": 2, "loss": 1.5, "skips": 4},
    {"stage": "train", "epoch": 1, "loss": 0.5},
    {"stage": "note", "text": "without a step"},
]


def written(folder, lines):
    for line in lines:
        folder.metric(**line)


def test_numbers_go_there_by_stage_and_nothing_else(tmp_path, reader):
    scalars = Scalars(tmp_path)
    for line in LINES:
        scalars.add(line)
    scalars.close()
    assert reader(tmp_path) == {
        "search": {"loss": [(1, 2.5), (2, 1.5)], "skips": [(1, 3), (2, 4)]},
        "train": {"loss": [(1, 0.5)]},
    }


def test_what_a_checkpoint_did_not_know_is_there_once(tmp_path, reader):
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({})
        first = Session(folder, {}, None, Execution(0.0, tensorboard=True))
        first.start("search", "search", 9)
        first.metric(**LINES[0])
        first.step_done(1, {}, lambda: ({}, {}))
        first.metric(stage="search", epoch=2, loss=9.9)  # lost, and made again with another number
        second = Session(folder, {}, None, Execution(0.0, tensorboard=True))
        second.resume()
        with second.signals():
            second.start("search", "search", 9)
            second.metric(**LINES[1])
            second.complete({})
    assert reader(tmp_path / "run") == expected(tmp_path / "run")
    assert reader(tmp_path / "run")["search"]["loss"] == [(1, 2.5), (2, 1.5)]


def test_a_reader_of_the_old_file_drops_its_points(tmp_path, reader):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars = Scalars(tmp_path)
    for line in LINES[:2]:
        scalars.add(line)
    scalars.flush()
    watching = EventAccumulator(str(tmp_path / FOLDER / "search"))
    watching.Reload()
    assert len(watching.Scalars("loss")) == 2
    again = Scalars(tmp_path)  # no metrics.jsonl: nothing is known any more
    again.add(LINES[1])
    again.close()
    watching.Reload()
    assert [event.step for event in watching.Scalars("loss")] == [2]


def test_a_clock_that_was_set_back_changes_nothing(tmp_path, reader):
    """TensorBoard reads the files in the order of the times in their names."""
    scalars = Scalars(tmp_path)
    scalars.add(LINES[0])
    scalars.close()
    (file,) = (tmp_path / FOLDER / "search").iterdir()
    file.rename(file.with_name("events.out.tfevents.9999999999.host.1.0"))
    again = Scalars(tmp_path)
    again.add(LINES[1])
    again.close()
    assert reader(tmp_path)["search"]["loss"] == [(2, 1.5)]


def overrides(**changes):
    tiny = {"layers": 3, "channels": 8, "epochs": 2, "batch_size": 64}
    return {"search": {**tiny, "images": 64}, "train": {**tiny, "images": 64}, "baseline": False, **changes}


class StopAt(Silent):
    def __init__(self, left):
        self.left = left

    def step(self, step, shown):
        import signal

        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("before", [True, False])
def test_of_a_run_that_was_interrupted_all_is_there(tmp_path, reader, before):
    """Also what was before the option was given."""
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        pipeline.start(overrides(), out=run, reporter=StopAt(3), execution=Execution(tensorboard=before))
    pipeline.resume(run, execution=Execution(tensorboard=True))
    shown = reader(run)
    assert shown == expected(run) and {"search", "train"} == shown.keys()
    assert [step for step, _ in shown["train"]["loss"]] == [1, 2]


def test_without_the_package_it_is_said_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'dnas\[tensorboard\]'"):
        pipeline.start(overrides(), out=tmp_path / "run", execution=Execution(tensorboard=True))
    assert not (tmp_path / "run").exists()

"""A search by trials: the same whatever the number of processes, and whatever came in between."""

import json
import os
import signal

import pytest
import torch

from dnas.errors import Diverged, InputError, Interrupted, RunError
from dnas.methods.registry import create
from dnas.pipeline import run as pipeline
from dnas.reporter import Silent
from dnas.runtime.checkpoint import newest
from dnas.runtime.session import Session
from dnas.runtime.workers import WorkerDied
from dnas.searching.trials import TrialJob, run_trial, search_by_trials, short_training
from dnas.settings import Recipe, TrialSettings
from dnas.space.darts import DARTS
from dnas.testing.planted import pictures
from dnas.testing.whole_run import _contents as contents

SMALL = {"layers": 3, "channels": 4, "epochs": 2, "batch_size": 16, "images": 64, "trials": 5}


def overrides(**search):
    return {"command": "search", "method": "random", "mapping": "full", "search": {**SMALL, **search}}


class Stop(Silent):
    """Asks the run to stop after some steps of its own and of its trials."""

    def __init__(self, after):
        self.left = after

    def step(self, step, shown):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run with one process, and all that it leaves."""
    run = tmp_path_factory.mktemp("whole") / "run"
    pipeline.start(overrides(processes=1), out=run)
    return run


def trials(run):
    return {path.name: json.loads((path / "result.json").read_text()) for path in sorted((run / "trials").iterdir())}


def test_every_trial_has_a_folder_with_its_accuracy(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines] == [1, 2, 3, 4, 5]
    assert trials(whole) == {f"{line['trial']:04d}": {"accuracy": line["accuracy"]} for line in lines}
    for folder in (whole / "trials").iterdir():
        # Its weights are of no use any more; what it was like is kept.
        assert not (folder / "checkpoints").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    result = json.loads((whole / "result.json").read_text())
    # 5 trials of 2 epochs of 32 images and a forward pass over the other 32, in batches of 16.
    assert result["step_equivalents"] == pytest.approx(5 * (2 * 32 + 32 / 3) / 16)
    assert result["architectures_evaluated"] == 5 and result["search_seconds"] > 0


def test_the_number_of_processes_changes_no_byte(whole, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # so that each of two processes has one, as the test run has
    try:
        pipeline.start(overrides(processes=2), out=tmp_path / "two")
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "two") == contents(whole)
    assert trials(tmp_path / "two") == trials(whole)


def test_interrupted_within_a_trial_it_goes_on_there(whole, tmp_path, monkeypatch):
    # 2 epochs of 2 steps a trial, and one of the search: the 8th is in the second trial.
    with pytest.raises(Interrupted, match=f"dnas resume {tmp_path / 'run'}$"):
        pipeline.start(overrides(processes=1), out=tmp_path / "run", reporter=Stop(8))
    assert sorted(path.name for path in (tmp_path / "run" / "trials").iterdir()) == ["0001", "0002"]
    checkpoint, _ = newest(tmp_path / "run" / "trials" / "0002" / "checkpoints")
    assert checkpoint.state["stage"] == "trial" and checkpoint.state["step"] == 3
    steps = Stop(0)
    pipeline.resume(tmp_path / "run", reporter=steps)
    assert -steps.left == 1 + 1 + 3 * 5  # the rest of the second trial, and three more
    assert contents(tmp_path / "run") == contents(whole)


def test_a_stop_reaches_trials_in_other_processes(whole, tmp_path):
    run = tmp_path / "run"
    torch.set_num_threads(2)
    try:
        with pytest.raises(Interrupted, match=f"dnas resume {run}$"):
            pipeline.start(overrides(processes=2), out=run, reporter=Stop(2))
        torch.set_num_threads(2)
        pipeline.resume(run)
    finally:
        torch.set_num_threads(1)
    assert contents(run) == contents(whole) and trials(run) == trials(whole)


def test_a_candidate_is_trained_by_the_recipe_of_the_settings():
    other = {
        "schedule": "linear", "warmup": 0.5, "nesterov": True, "optimizer": "muon", "muon_learning_rate": 0.01,
        "muon_weight_decay": 0.1,
        "norm_decay": False, "label_smoothing": 0.2, "final_norm": True,
    }  # fmt: skip
    assert set(other) == {*Recipe.model_fields, "final_norm"} - {"decay"}
    training = short_training(settings(**other))
    assert {name: getattr(training, name) for name in other} == other
    assert short_training(settings(schedule="exponential", decay=0.5, learning_rate_min=0.001)).decay == 0.5
    with pytest.raises(InputError, match="search.decay=0.5 only applies to search.schedule=exponential, not cosine"):
        settings(decay=0.5)


def settings(**changes):
    return TrialSettings(**{**SMALL, **changes}).resolved(64, 0.0, 8)


def search(evaluate=None, **changes):
    split, info = pictures(64)
    method = create("random", "full", {}, DARTS)
    return search_by_trials(
        method, settings(**changes), split, info, seed=0, session=Session(None, {}), evaluate=evaluate
    )


def test_a_trial_that_fails_is_recorded_and_survived(tmp_path, monkeypatch):
    seen = []

    def evaluate(architecture):
        seen.append(architecture)
        if len(seen) in (1, 3):
            raise Diverged("the loss is nan")
        return len(seen) / 10

    found = search(evaluate)
    assert found.architecture == seen[4] and found.cost["architectures_evaluated"] == 5

    def always(architecture):
        raise WorkerDied("killed")

    with pytest.raises(RunError, match="none of the 5 candidates could be evaluated"):
        search(always)


def test_what_is_no_failure_of_a_trial_ends_the_search():
    def evaluate(architecture):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(evaluate)


def test_a_diverged_trial_is_not_trained_again(tmp_path, monkeypatch):
    split, info = pictures(64)
    shape = settings()
    architecture = search(lambda architecture: 0.5).architecture
    job = TrialJob(
        architecture, short_training(shape), split.subset(torch.arange(32)), split, info, 0, "t", "cpu", tmp_path, {}
    )
    trained = []

    def diverging(*arguments, **options):
        trained.append(1)
        raise Diverged("the loss is nan at step 3")

    monkeypatch.setattr("dnas.searching.trials.train_network", diverging)
    for _ in range(2):
        with pytest.raises(Diverged, match="the loss is nan at step 3"):
            run_trial(job)
    assert trained == [1]
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result\.json is not a JSON object"):
        run_trial(job)


@pytest.mark.parametrize(("steps", "judged"), [(1, 1), (5, 2), (9, 2), (10, 3), (0, 5)])
def test_a_budget_in_steps_ends_a_search(steps, judged):
    # A trial costs (2 · 32 + 32 / 3) / 16 = 4.67 steps; none begins once the budget is spent.
    assert search(lambda architecture: 0.5, steps=steps).cost["architectures_evaluated"] == judged


def test_a_process_that_dies_costs_its_trial_alone(tmp_path):
    run = tmp_path / "run"
    # As by an operator, or where memory runs out.
    torch.set_num_threads(2)
    try:
        pipeline.start(overrides(processes=2), out=run, reporter=Kill())
    finally:
        torch.set_num_threads(1)
    accuracies = [json.loads(line)["accuracy"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    # Its trial was begun again, alone.
    assert len(accuracies) == 5 and None not in accuracies


class Kill(Silent):
    """Kills one process of this one's, once."""

    def __init__(self):
        self.done = False

    def step(self, step, shown):
        if not self.done:
            import psutil

            workers = [p for p in psutil.Process().children() if "loky" in " ".join(p.cmdline())]
            workers = [p for p in workers if "resource_tracker" not in " ".join(p.cmdline())]
            os.kill(workers[0].pid, signal.SIGKILL)
            self.done = True

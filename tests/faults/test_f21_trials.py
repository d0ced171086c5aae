"""F21. Where a trial or a run of a study fails or hangs, its process or the driver is killed, the others finish; a resume runs only
what is missing, nothing is counted twice, and the bits are those of an undisturbed study.

A process that is killed costs its own job alone: tests/test_workers.py. Trials that diverge: tests/test_trials.py."""

import json
import os
import random
import signal
import time

import psutil
import pytest
from faults.harness import PATIENCE, Command, run_command

from dnas.runtime import workers
from dnas.runtime.workers import Workers

TRIALS = (
    "--method", "random", "--layers", "3", "--channels", "4", "--epochs", "2", "--batch-size", "16",
    "-o", "search.trials=4",
)  # fmt: skip
STUDY = ("--methods", "dnas", "--seeds", "1", "--layers", "3", "--channels", "8", "--epochs", "1", "--batch-size", "16")


def results(folder):
    return {path.parent.name: path for path in sorted(folder.glob("*/result.json"))}


def mark(path):
    """What changes when a file is written again."""
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns


# --- trials


@pytest.fixture(scope="module")
def searched(tmp_path_factory, images):
    """A search by trials, one after another and undisturbed: its metrics and what its trials say."""
    folder = tmp_path_factory.mktemp("f21")
    run = folder / "run"
    arguments = ("search", "--data", images, *TRIALS, "-o", "search.processes=1", "--out", run)
    assert run_command(folder, *arguments).code == 0
    return outcome(run)


def outcome(run):
    trials = {name: path.read_bytes() for name, path in results(run / "trials").items()}
    return (run / "metrics.jsonl").read_bytes(), (run / "architecture.json").read_bytes(), trials


def processes_of(pid):
    """The processes in which a driver has its trials trained."""
    found = [child for child in psutil.Process(pid).children(recursive=True) if "loky" in " ".join(child.cmdline())]
    return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.full)])
def test_a_driver_that_is_killed_takes_its_processes_along_and_counts_no_trial_twice(
    tmp_path, images, searched, processes
):
    run = tmp_path / "run"
    arguments = ("search", "--data", images, *TRIALS, "-o", f"search.processes={processes}", "--out", run)
    with Command(tmp_path, *arguments) as driver:
        driver.until(lambda: results(run / "trials"))
        children = processes_of(driver.pid)
        os.kill(driver.pid, signal.SIGKILL)
        assert driver.wait().code == -signal.SIGKILL
    assert len(children) == (2 if processes == 2 else 0)
    assert not psutil.wait_procs(children, PATIENCE)[1], "they end by themselves"
    before = {name: mark(path) for name, path in results(run / "trials").items()}
    assert before
    assert run_command(tmp_path, "resume", run).code == 0
    after = {name: mark(path) for name, path in results(run / "trials").items()}
    assert before.items() <= after.items(), "what was done is not done again"
    assert outcome(run) == searched
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["trial"] for line in lines] == [1, 2, 3, 4]


def hang_or_answer(job):
    if job == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if job == "fail":
        raise ValueError("a defect")
    return job


def test_of_a_job_that_hangs_the_others_finish_and_the_driver_can_stop(monkeypatch):
    monkeypatch.setattr(workers, "GRACE", 0.5)
    jobs = ["hang", "fail", *range(5)]
    done = {}
    with Workers(2, 1) as pool:
        for one in pool.run(hang_or_answer, jobs, lambda: len(done) == 6):
            done[one.index] = one
        assert not [child for child in psutil.Process().children(recursive=True) if child.status() == "stopped"]
    assert [done[index].result for index in range(2, 7)] == list(range(5))
    assert isinstance(done[1].error, ValueError) and 0 not in done


# --- a study


def study_files(path):
    """What its runs found, without times."""
    found = {}
    for name, file in results(path / "runs").items():
        for inner in ("architecture.json", "model.safetensors", "metrics.jsonl"):
            found[name, inner] = (file.parent / inner).read_bytes()
    return found


@pytest.fixture(scope="module")
def whole_study(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("study")
    arguments = ("compare", "--data", images, *STUDY, "--processes", "1", "--out", folder / "study")
    assert run_command(folder, *arguments).code == 0
    return study_files(folder / "study")


def test_a_study_whose_driver_is_killed_makes_what_is_missing_and_no_more(tmp_path, images, whole_study):
    study = tmp_path / "study"
    arguments = ("compare", "--data", images, *STUDY, "--processes", "1", "--out", study)
    with Command(tmp_path, *arguments) as driver:
        driver.until(lambda: len(results(study / "runs")) == 1)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    before = {name: mark(path) for name, path in results(study / "runs").items()}
    assert 1 <= len(before) < 3
    # By its own time limit it stops after the first step that is left, again and again, as in a job that is requeued.
    codes = [run_command(tmp_path, "resume", study, "--processes", "1", "--time-limit", "0.05").code for _ in range(2)]
    assert codes == [75, 75]
    assert run_command(tmp_path, "resume", study, "--processes", "1").code == 0
    assert before.items() <= {name: mark(path) for name, path in results(study / "runs").items()}.items()
    assert study_files(study) == whole_study
    # Where all is done, a job script that is started once more ends well, and needs not even the images.
    files = {path: path.read_bytes() for path in study.rglob("*.json")}
    images.rename(images.with_name("away"))
    try:
        outcome = run_command(tmp_path, "resume", study, "--json")
    finally:
        images.with_name("away").rename(images)
    assert outcome.code == 0 and outcome.json["missing"] == []
    assert {path: path.read_bytes() for path in study.rglob("*.json")} == files


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_study_in_two_processes_killed_again_and_again(tmp_path, images, whole_study):
    study, rng, kills = tmp_path / "study", random.Random(4), 0
    arguments = ("compare", "--data", images, *STUDY, "--processes", "2", "--out", study)
    for _ in range(20):
        with Command(tmp_path, *arguments) as driver:
            driver.process.join(rng.uniform(3, 12))
            if driver.process.exitcode is not None:
                break
            children = processes_of(driver.pid)
            # Now the driver, now one of those that do the work.
            victim = rng.choice([driver.pid, *(child.pid for child in children)])
            os.kill(victim, signal.SIGKILL)
            kills += 1
            if victim != driver.pid:
                time.sleep(0.5)
                os.kill(driver.pid, signal.SIGKILL)
            psutil.wait_procs(children, PATIENCE)
    assert run_command(tmp_path, "resume", study).code == 0
    assert kills and study_files(study) == whole_study

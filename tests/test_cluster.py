"""Tasks of a Ray cluster; what they have in common with processes is in test_workers.py, and whole studies in faults/."""

import contextlib
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w
import torch
from faults.harness import invoke
from test_study import study

from dnas.errors import InputError, Interrupted
from dnas.runtime.runfolder import RunFolder
from dnas.runtime.session import Session
from dnas.runtime.workers import WorkerDied, Workers
from dnas.study import cluster
from dnas.study.cluster import Cluster, RaySettings
from dnas.study.compare import compare
from dnas.study.design import StudySettings
from dnas.study.jobs import workers_for

NEVER = lambda: False


@dataclass(frozen=True)
class Job:
    """What a job does in its first attempt, and where it notes that it had one; the second succeeds."""

    path: Path
    fault: str


def attempt(job):
    if (job.path / "begun").exists():
        return torch.get_num_threads()
    (job.path / "begun").touch()
    if job.fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.fault == "node shut down":
        raise Interrupted(job.path, signal.SIGTERM)
    if job.fault == "hung":
        threading.Event().wait()
    raise AssertionError(job.fault)


def run_without_end(path):
    """A loop as that of a run, whose session alone ends it."""
    with RunFolder(path, 60.0) as folder:
        session = Session(folder, {})
        session.start("train", "no end", 10**9)
        with session.signals():
            (path / "begun").touch()
            patience = threading.Event()
            for step in range(1, 10**9):
                patience.wait(0.01)
                session.step_done(step, {}, lambda: ({}, {}))


@pytest.mark.parametrize(("fault", "timeout"), [("killed", None), ("node shut down", None), ("hung", 1.0)])
def test_what_is_lost_is_tried_again(ray_cluster, tmp_path, fault, timeout):
    said = []
    settings = RaySettings(ray_cluster.address, retries=1, timeout=timeout)
    with Cluster(settings, tmp_path, threads=2, say=said.append) as workers:
        (outcome,) = workers.run(attempt, [Job(tmp_path, fault)], NEVER)
    assert (outcome.index, outcome.result, outcome.error) == (0, 2, None)
    assert len(said) == 1 and said[0].startswith(f"{tmp_path.name} was lost and is tried again in 1 s (1 of 1): ")


def test_no_more_often_than_was_asked_for(ray_cluster, tmp_path):
    with Cluster(RaySettings(ray_cluster.address, retries=0), tmp_path) as workers:
        (outcome,) = workers.run(attempt, [Job(tmp_path, "killed")], NEVER)
        assert isinstance(outcome.error, WorkerDied) and "process or node was lost: WorkerCrashed" in str(outcome.error)
        # An error of the job itself is no loss.
        (tmp_path / "begun").unlink()
        (outcome,) = workers.run(attempt, [Job(tmp_path, "mistake")], NEVER)
        assert isinstance(outcome.error, AssertionError) and "in attempt" in str(outcome.error.__cause__)


def test_a_run_that_is_told_to_stop_has_a_checkpoint(ray_cluster, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with Cluster(RaySettings(ray_cluster.address), tmp_path) as workers:
        (outcome,) = workers.run(run_without_end, [run], (run / "begun").exists)
    assert isinstance(outcome.error, Interrupted) and outcome.error.run == run
    with RunFolder(run) as folder:
        checkpoint, damaged = folder.load_checkpoint()
    assert checkpoint.state["step"] >= 1 and not damaged


def test_when_the_block_is_left_what_runs_gets_its_checkpoint(ray_cluster, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(KeyError), Cluster(RaySettings(ray_cluster.address), tmp_path) as workers:
        for _ in workers.run(when_begun_or_without_end, [("run", run), ("wait", run)], NEVER):
            raise KeyError
    with RunFolder(run) as folder:
        assert folder.load_checkpoint()[0].state["step"] >= 1
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "ray.log"}


def when_begun_or_without_end(job):
    kind, path = job
    if kind == "run":
        return run_without_end(path)
    patience = threading.Event()
    while not (path / "begun").exists():
        patience.wait(0.01)
    return None


def test_a_folder_that_is_not_shared_is_refused(ray_cluster, tmp_path, monkeypatch):
    # As where the node has another file system at this place.
    monkeypatch.setattr(cluster, "_locked", lambda probe: contextlib.nullcontext())
    name = socket.gethostname()
    with pytest.raises(InputError, match=f"^{tmp_path}: node {name} has no access to this folder .*; give --out"):
        Cluster(RaySettings(ray_cluster.address), tmp_path).__enter__()
    # As where locks hold on one machine only.
    monkeypatch.setattr(cluster, "_locked", lambda probe: contextlib.nullcontext(probe.touch()))
    with pytest.raises(InputError, match=f"^{tmp_path}: node {name} obtained a lock that this machine holds"):
        Cluster(RaySettings(ray_cluster.address), tmp_path).__enter__()


def test_a_node_that_came_late_must_share_the_folder_too(ray_cluster, tmp_path):
    with Cluster(RaySettings(ray_cluster.address), tmp_path, at_once=1) as workers:
        outcomes = workers.run(hide, [tmp_path, tmp_path], NEVER)
        assert next(outcomes).result == 1
        with pytest.raises(InputError, match=f"^{tmp_path}: node {socket.gethostname()} has no access to this folder"):
            next(outcomes)


def hide(folder):
    """Takes away what is looked for; says how much that was."""
    found = list(folder.glob(".cluster-*"))
    for file in found:
        file.unlink()
    return len(found)


def test_a_run_that_no_node_has_room_for_is_refused(ray_cluster, tmp_path):
    with pytest.raises(InputError, match="no node has the 64 CPUs and 1 GPUs that a run needs"):
        Cluster(RaySettings(ray_cluster.address), tmp_path, threads=64, gpus=1).__enter__()


def test_no_cluster_is_one_line(tmp_path):
    pytest.importorskip("ray", reason="needs the extra dnas[cluster]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"^--ray {address}: no cluster at {address} \(.*ray start --head"):
            Cluster(RaySettings(address), tmp_path).__enter__()


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"^--ray requires ray; install it with: pip install 'dnas\[cluster\]'"):
        compare(tmp_path / "study", study(), ray=RaySettings())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"address": ""}, "--ray must be auto, or HOST:PORT of the head of the cluster, got ''"),
        ({"address": "ray://head:10001"}, "--ray must be auto, .*, got 'ray://head:10001'"),
        ({"retries": -1}, "--ray-retries must be at least 0, got -1"),
        ({"timeout": 0.0}, "--ray-timeout must be a number of seconds above 0, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        RaySettings(**given)


def test_options_of_a_cluster_are_refused_without_one(tmp_path):
    study = tmp_path / "study"
    for option, value in (("--ray-timeout", "5.0"), ("--ray-retries", "0")):
        outcome = invoke("compare", "--methods", "random", "--out", study, option, value)
        assert (outcome.code, outcome.lines) == (
            2, [f"error: {option} {value} only applies to a cluster; also give --ray, or leave it out"]
        )  # fmt: skip
    assert not study.exists()
    outcome = invoke("resume", tmp_path, "--ray", "auto")
    assert outcome.code == 2 and "--ray does not apply to" in outcome.err


def test_threads_are_those_of_the_study_wherever_it_is_made(tmp_path):
    before = torch.get_num_threads()
    try:
        pool = workers_for(tmp_path, {}, 2, 3, None, None)
        assert isinstance(pool, Workers) and (pool.processes, pool.threads) == (2, 3)
        on_cluster = workers_for(tmp_path, {"device": "cuda"}, 0, 3, RaySettings(), None)
        assert (on_cluster.threads, on_cluster.gpus) == (3, 1)
        # Not those of this machine, which makes no run.
        torch.set_num_threads(2)
        default = workers_for(tmp_path, {"device": "cpu"}, 0, 0, RaySettings(), None)
        assert (default.threads, default.gpus) == (1, 0)
        workers_for(tmp_path, {}, 1, 1, None, None)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_threads_of_a_study_do_not_change(tmp_path):
    settings = StudySettings(methods=["random"], run={"data": {"source": "nowhere"}}, threads=2)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.toml").write_text(tomli_w.dumps(settings.model_dump()))
    for threads, message in ((2, "nowhere"), (0, "nowhere"), (3, "--threads is 2 in .* and 3 here")):
        with pytest.raises(InputError, match=message):
            compare(tmp_path / "study", settings.model_copy(update={"threads": threads}))

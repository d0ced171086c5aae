"""Jobs in this process, in several and on a cluster: all outcomes once, whatever dies."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from dnas.errors import InputError, Interrupted
from dnas.runtime.workers import WorkerDied, Workers
from dnas.study.cluster import Cluster, RaySettings

NEVER = lambda: False


@pytest.fixture(params=["here", "processes", "ray"])
def workers(request, tmp_path_factory):
    """Who runs jobs, two at a time where that is possible, with one thread each."""
    if request.param != "ray":
        return Workers(1 if request.param == "here" else 2, 1)
    cluster = request.getfixturevalue("ray_cluster")
    return Cluster(RaySettings(cluster.address, retries=0), tmp_path_factory.mktemp("shared"), at_once=2)


several = pytest.mark.parametrize("workers", ["processes", "ray"], indirect=True)


def square(number):
    return number * number


def threads(number):
    return os.getpid(), torch.get_num_threads()


def by_pid(outcomes):
    return {outcome.index: outcome for outcome in outcomes}


def picky(number):
    """Some jobs fail, and some take their process with them."""
    if number == "refused":
        raise InputError("no such thing")
    if number == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == "interrupted":
        raise Interrupted(Path("runs/one"), signal.SIGTERM)
    return number


def meets(folder):
    """Ends when two jobs run at the same time, which each learns from the other's file."""
    (folder / str(os.getpid())).touch()
    patience = threading.Event()
    for _ in range(6000):
        if len(list(folder.iterdir())) == 2:
            return True
        patience.wait(0.01)
    return False


def until_told(folder):
    """A run that ends by a signal alone; says by which."""
    told = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.append(number))
    (folder / str(os.getpid())).touch()
    patience = threading.Event()
    while not told:
        patience.wait(0.01)
    return signal.Signals(told[0]).name


def test_every_job_has_its_outcome(workers):
    with workers:
        outcomes = by_pid(workers.run(square, range(7), NEVER))
        assert {index: outcome.result for index, outcome in outcomes.items()} == {n: n * n for n in range(7)}
        assert [o.result for o in workers.run(square, [5], NEVER)] == [25]  # processes are used again
        assert not list(workers.run(square, [], NEVER))


def test_one_process_is_this_one_and_others_have_their_threads():
    with Workers(1, 3) as workers:
        (outcome,) = workers.run(threads, [0], NEVER)
        assert outcome.result == (os.getpid(), torch.get_num_threads())
    with Workers(2, 3) as workers:
        (outcome,) = workers.run(threads, [0], NEVER)
        assert outcome.result[0] != os.getpid() and outcome.result[1] == 3


@several
def test_jobs_run_at_the_same_time(workers, tmp_path):
    with workers:
        assert [outcome.result for outcome in workers.run(meets, [tmp_path, tmp_path], NEVER)] == [True, True]


def test_an_error_is_an_outcome_and_others_go_on(workers):
    jobs = [1, "refused", 2, 3]
    with workers:
        outcomes = by_pid(workers.run(picky, jobs, NEVER))
    assert [outcomes[index].result for index in (0, 2, 3)] == [1, 2, 3]
    assert isinstance(outcomes[1].error, InputError) and str(outcomes[1].error) == "no such thing"


@pytest.mark.parametrize("workers", ["here", "processes"], indirect=True)
def test_what_a_run_says_of_its_interruption_comes_through_as_it_was(workers):
    jobs = [1, "interrupted", 3]
    with workers:
        outcomes = by_pid(workers.run(picky, jobs, NEVER))
    assert (outcomes[0].result, outcomes[2].result) == (1, 3)
    assert isinstance(outcomes[1].error, Interrupted)
    assert (outcomes[1].error.run, outcomes[1].error.signum) == (Path("runs/one"), signal.SIGTERM)
    assert "dnas resume" in str(outcomes[1].error)


@several
def test_only_the_job_that_kills_its_process_fails(workers):
    jobs = [1, 2, "killed", 3, 4, "killed", 5]
    with workers:
        outcomes = by_pid(workers.run(picky, jobs, NEVER))
    assert sorted(outcomes) == list(range(7))
    for index, job in enumerate(jobs):
        if job == "killed":
            assert isinstance(outcomes[index].error, WorkerDied)
        else:
            assert outcomes[index].result == job


def test_where_it_is_stopped_no_job_begins(workers):
    begun = []

    def jobs():
        for number in range(100):
            begun.append(number)
            yield number

    done = []
    with workers:
        for outcome in workers.run(square, jobs(), lambda: bool(done)):
            done.append(outcome)
    room = getattr(workers, "processes", 2)
    assert len(begun) <= len(done) + room and len(done) <= 2 * room


@several
def test_who_runs_is_told_to_stop(workers, tmp_path):
    with workers:
        running = lambda: len(list(tmp_path.iterdir())) == 2
        outcomes = list(workers.run(until_told, [tmp_path] * 4, running))
    assert [outcome.result for outcome in outcomes] == 2 * ["SIGTERM" if isinstance(workers, Workers) else "SIGINT"]


@several
def test_what_runs_ends_when_the_block_is_left(workers, tmp_path):
    with pytest.raises(KeyError), workers:
        for _ in workers.run(begins_or_follows, [(tmp_path, True), (tmp_path, False)], NEVER):
            raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def begins_or_follows(job):
    """One says that it has begun; the other ends after that."""
    folder, begins = job
    if begins:
        (folder / "begun").touch()
    patience = threading.Event()
    for _ in range(6000):
        if (folder / "begun").exists():
            break
        patience.wait(0.01)

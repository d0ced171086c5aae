"""Threads of OpenMP spin for a short while only, in every process of dnas, unless the user has said otherwise."""

import os
import pickle
import re
import subprocess
import sys

import pytest

from dnas.runtime.waiting import BOUNDED, SPINS, VARIABLES
from dnas.runtime.workers import Workers
from dnas.study import cluster

# What the OpenMP of torch prints when it is loaded: not what the environment has, but what it has read there.
SHOWN = {"OMP_DISPLAY_ENV": "verbose"}
FIRST = "import sys, dnas; assert 'torch' not in sys.modules; import torch"


def run(*arguments, **given):
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | given
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)


def spins(text):
    """The distinct numbers of looks that copies of libgomp print."""
    found = set(map(int, re.findall(r"GOMP_SPINCOUNT = '(\d+)'", text)))
    if not found and "OPENMP DISPLAY ENVIRONMENT" not in text:
        pytest.skip("torch's OpenMP is not libgomp")
    return found


def settings(_):
    """What a worker has."""
    import torch  # noqa: F401

    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def test_the_openmp_of_torch_is_told_before_it_is_loaded():
    assert spins(run("-c", FIRST, **SHOWN).stderr) == {SPINS}


def test_the_command_line_tells_it():
    assert spins(run("-m", "dnas", "methods", **SHOWN).stderr) == {SPINS}


@pytest.mark.parametrize("name", VARIABLES)
def test_what_a_user_has_set_stays_and_nothing_is_added(name):
    value = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_LIBRARY": "throughput"}.get(name, "7")
    code = f"import os, dnas; print({{n: os.environ[n] for n in {VARIABLES} if n in os.environ}})"
    assert run("-c", code, **{name: value}).stdout.strip() == str({name: value})


@pytest.mark.parametrize(("given", "looks"), [({"GOMP_SPINCOUNT": "7"}, 7), ({"OMP_WAIT_POLICY": "PASSIVE"}, 0)])
def test_the_openmp_of_torch_follows_the_user(given, looks):
    assert spins(run("-c", FIRST, **SHOWN, **given).stderr) == {looks}


def test_where_torch_is_imported_first_nothing_is_changed():
    code = f"import os, torch, dnas; assert not [name for name in {VARIABLES} if name in os.environ]"
    run("-c", code)


def test_workers_wait_likewise_even_of_a_process_that_does_not(monkeypatch, capfd):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_DISPLAY_ENV", "verbose")
    with Workers(2, 1) as workers:
        assert [outcome.result for outcome in workers.run(settings, [0, 1], lambda: False)] == [BOUNDED, BOUNDED]
    assert spins(capfd.readouterr().err) == {SPINS}


def test_workers_keep_what_the_user_has_set(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with Workers(2, 1) as workers:
        outcomes = list(workers.run(settings, [0, 1], lambda: False))
    assert [outcome.result for outcome in outcomes] == [{"OMP_WAIT_POLICY": "PASSIVE"}] * 2


def test_a_process_that_is_sent_a_task_of_a_cluster_loads_dnas_before_torch():
    """As Ray sends it."""
    code = f"import pickle, sys; pickle.loads({pickle.dumps(cluster._attempt)}); assert 'torch' in sys.modules"
    assert spins(run("-c", code, **SHOWN).stderr) == {SPINS}


def test_tasks_of_a_cluster_wait_likewise(ray_cluster, tmp_path):
    settings_of_ray = cluster.RaySettings(ray_cluster.address, retries=0)
    with cluster.Cluster(settings_of_ray, tmp_path, at_once=2) as workers:
        outcomes = list(workers.run(settings, [0], lambda: False))
    assert [outcome.result for outcome in outcomes] == [BOUNDED]

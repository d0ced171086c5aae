"""F21, on a Ray cluster. A study of which a node is killed, or whose driver is killed or told to stop, has in the end every
run once, with the bits that it has on the process pool."""

import contextlib
import signal
import subprocess
import sys

import pytest
from test_study import outcomes, study

from dnas.errors import Interrupted
from dnas.reporter import Silent
from dnas.study.cluster import RaySettings
from dnas.study.compare import compare
from dnas.study.design import read_study, results

NAMES = {f"darts-full-s{seed}{control}" for seed in range(4) for control in ("", "-random", "-shuffled")}


class Teller(Silent):
    """Keeps what is said, and does something at a step of what is begun as number `title`."""

    def __init__(self, title=0, step=0, action=None):
        self.said, self.at, self.action, self.titles = [], (title, step), action, 0

    def start(self, title, steps, done):
        self.titles += 1

    def step(self, step, shown):
        if (self.titles, step) == self.at:
            self.action()

    def say(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The study, made on the process pool."""
    path = tmp_path_factory.mktemp("pool") / "study"
    assert compare(path, study(seeds=4, threads=1), processes=2) == []
    return path


def files(path):
    names = ("metrics.jsonl", "architecture.json", "model.safetensors")
    return {str(f.relative_to(path)): f.read_bytes() for f in (path / "runs").glob("*/*") if f.name in names}


@pytest.mark.full
def test_a_node_dies_in_the_middle_of_a_study(ray_cluster, undisturbed, tmp_path):
    second = ray_cluster.add_node(num_cpus=3, object_store_memory=80 * 2**20)
    # All searches have ended, all nodes are at work with controls, and as many wait.
    teller = Teller(2, 1, lambda: ray_cluster.remove_node(second, allow_graceful=False))
    failed = compare(tmp_path / "study", study(seeds=4), ray=RaySettings(ray_cluster.address), reporter=teller)
    assert failed == [] and set(results(tmp_path / "study")) == NAMES
    assert any("was lost and is tried again" in said for said in teller.said)
    assert outcomes(tmp_path / "study") == outcomes(undisturbed)
    # Every step of every run once, and the same bits.
    assert files(tmp_path / "study") == files(undisturbed)


@pytest.mark.full
def test_the_driver_dies_and_another_makes_what_is_missing(ray_cluster, undisturbed, tmp_path):
    path = tmp_path / "study"
    numbers = {"layers": 6, "channels": 4, "epochs": 1, "images": 64, "batch_size": 32}
    options = [
        f"--option={s}.{k}={v}"
        for s in ("search", "train")
        for k, v in numbers.items()
        if (s, k) != ("train", "layers")
    ]
    options += ["--option=search.warmup_epochs=0", "--option=search.watch_images=16", "--option=partial_channels=1"]
    arguments = ["--methods=darts", "--mappings=full", "--data=digits", "--preset=quick", "--device=cpu", "--seeds=4"]
    command = [
        sys.executable,
        "-m",
        "dnas",
        "compare",
        *arguments,
        *options,
        "--out",
        path,
        "--ray",
        ray_cluster.address,
    ]
    driver = subprocess.Popen([str(part) for part in command])
    try:
        while not results(path):
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert driver.wait(0.05) is None, "it has ended before it had a result"
    finally:
        driver.kill()
        driver.wait()
    made = {name: (path / "runs" / name / "result.json").stat().st_mtime_ns for name in results(path)}
    assert 0 < len(made) < 12

    assert compare(path, read_study(path), ray=RaySettings(ray_cluster.address)) == []
    assert set(results(path)) == NAMES
    # One that ended while its driver died may have come in between.
    assert all((path / "runs" / name / "result.json").stat().st_mtime_ns == time for name, time in made.items())
    assert outcomes(path) == outcomes(undisturbed)
    assert files(path) == files(undisturbed)


@pytest.mark.full
def test_the_driver_is_told_to_stop(ray_cluster, undisturbed, tmp_path):
    path = tmp_path / "study"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"dnas resume {path}$") as stop:
        teller = Teller(1, 1, lambda: signal.raise_signal(signal.SIGTERM))
        compare(path, study(seeds=4), ray=RaySettings(ray_cluster.address), reporter=teller)
    assert stop.value.signum == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    assert 0 < len(results(path)) < 12
    compare(path, study(seeds=4), processes=2)
    assert files(path) == files(undisturbed)

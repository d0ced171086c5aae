"""F04. A full disk ends a run with 1 and one line that says so; the older checkpoint is intact, and once there is space the
run goes on to the same bits."""

import errno
import math
import os
import resource
from functools import partial

import pytest
from faults.harness import TINY, at_step, contents, run_command
from torch import Tensor

from dnas.checkpoint import newest


def assert_failed_once_and_resumes(folder, images, undisturbed, fault, words):
    run = folder / "run"
    outcome = run_command(folder, "run", "--data", images, *TINY, "--quiet", "--out", run, fault=fault)
    assert outcome.code == 1, outcome.err
    assert outcome.out == ""
    assert len(outcome.lines) == 1 and outcome.lines[0].startswith("error: "), outcome.err
    for word in words:
        assert word in outcome.err
    checkpoint, damaged = newest(run / "checkpoints")
    assert not damaged
    assert checkpoint is None or all(finite(tensor) for tensor in checkpoint.tensors.values())
    assert not (run / "result.json").exists()
    outcome = run_command(folder, "resume", run)
    assert outcome.code == 0, outcome.err
    assert contents(run) == undisturbed
    return checkpoint


def finite(tensor: Tensor) -> bool:
    return math.isfinite(float(tensor.double().abs().sum()))


def test_no_space_for_a_checkpoint(tmp_path, images, undisturbed):
    """The system's own limit on the size of files: the writes really fail, in the middle of the file."""
    fault = partial(at_step, "search", 3, partial(limit_file_size, 20_000))
    checkpoint = assert_failed_once_and_resumes(
        tmp_path, images, undisturbed, fault, ("checkpoints", "File too large", "space")
    )
    assert (checkpoint.state["stage"], checkpoint.state["step"]) == ("search", 2)


def test_no_space_for_the_metrics(tmp_path, images, undisturbed):
    fault = partial(at_step, "train", 5, limit_to_the_metrics)
    checkpoint = assert_failed_once_and_resumes(tmp_path, images, undisturbed, fault, ("metrics.jsonl",))
    assert (checkpoint.state["stage"], checkpoint.state["step"]) == ("train", 5)


@pytest.mark.parametrize("name", ["architecture.json", "model.safetensors", "result.json"])
def test_no_space_for_a_result(tmp_path, images, undisturbed, name):
    """fsync reports what write has not: a disk that is full though it took the bytes."""
    fault = partial(no_space_for, name)
    assert_failed_once_and_resumes(tmp_path, images, undisturbed, fault, (name, "No space left on device"))


def test_no_space_for_the_configuration_leaves_no_run(tmp_path, images):
    run = tmp_path / "run"
    fault = partial(no_space_for, "config.toml")
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--quiet", "--out", run, fault=fault)
    assert outcome.code == 1 and len(outcome.lines) == 1
    assert not (run / "config.toml").exists()
    # The same folder can be used once there is space.
    assert run_command(tmp_path, "run", "--data", images, *TINY, "--quiet", "--out", run).code == 0


def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def limit_to_the_metrics():
    """From the end of this step's checkpoint on, the next line of metrics does not fit."""
    from dnas.runfolder import RunFolder

    original = RunFolder.save_checkpoint

    def save_checkpoint(self, *arguments):
        original(self, *arguments)
        limit_file_size(self.metrics_bytes() + 10)

    RunFolder.save_checkpoint = save_checkpoint


def no_space_for(name):
    from dnas import checkpoint, runfolder

    original, fsync = checkpoint.write_atomically, os.fsync

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_atomically(path, data):
        os.fsync = full if path.name == name else fsync
        try:
            original(path, data)
        finally:
            os.fsync = fsync

    runfolder.write_atomically = write_atomically

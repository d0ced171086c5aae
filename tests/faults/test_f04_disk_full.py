"""F04. A full disk ends a run with 1 and one line that says so; the older checkpoint is intact, and once there is space the
run goes on to the same bits."""

import errno
import math
import os
import resource
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoint_tools import assert_holds, count_system_calls, exit_status_of, names, posix, save_number
from faults.harness import TINY, at_step, contents, run_command
from torch import Tensor

from dnas.errors import RunError
from dnas.runtime.checkpoint import newest, save


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
    from dnas.runtime.runfolder import RunFolder

    original = RunFolder.save_checkpoint

    def save_checkpoint(self, *arguments):
        original(self, *arguments)
        limit_file_size(self.metrics_bytes() + 10)

    RunFolder.save_checkpoint = save_checkpoint


def no_space_for(name):
    from dnas.runtime import checkpoint, runfolder

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


# --- every system call of a checkpoint write


def refuse(monkeypatch: pytest.MonkeyPatch, call: int, code: int) -> None:
    """The `call`-th system call of a write and all after it fail with `code`, save deletions."""
    calls = 0

    def tick(name: str) -> None:
        nonlocal calls
        if name == "unlink":
            return
        calls += 1
        if calls >= call:
            raise OSError(code, os.strerror(code))

    count_system_calls(monkeypatch, tick)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_error_at_any_system_call_keeps_the_older_checkpoint(code: int, tmp_path: Path) -> None:
    failures = 0
    for call in range(1, 100):
        folder = tmp_path / str(call)
        save_number(folder, 1)
        try:
            with pytest.MonkeyPatch.context() as monkeypatch:
                refuse(monkeypatch, call, code)
                save_number(folder, 2)
        except RunError as error:
            failures += 1
            assert str(folder) in str(error) and "\n" not in str(error)
            assert os.strerror(code) in str(error) and "the previous checkpoint is intact" in str(error)
            assert ("once there is space" in str(error)) == (code == errno.ENOSPC)
        else:
            break
        loaded, warnings = newest(folder)
        assert not warnings and loaded is not None
        assert_holds(loaded, loaded.sequence)
        save_number(folder, 5)
        assert_holds(newest(folder)[0], 5)
        assert len(names(folder)) == 4
    assert failures > 10


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_number(tmp_path, 1)
    before = names(tmp_path)
    plain_fsync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # the manifest's; 1 and 2 are the tensors' and the folder's
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"00000002\.json"):
        save_number(tmp_path, 2)
    assert names(tmp_path) == before
    save_number(tmp_path, 2)
    assert_holds(newest(tmp_path)[0], 2)


@posix
def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    save_number(tmp_path, 1)

    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        with pytest.raises(RunError, match="once there is space"):
            save(tmp_path, 2, {"large": torch.zeros(10_000)}, {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert_holds(newest(tmp_path)[0], 1)
        assert len(names(tmp_path)) == 2
        save_number(tmp_path, 2)

    assert exit_status_of(child) == 0
    assert_holds(newest(tmp_path)[0], 2)

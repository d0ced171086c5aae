"""F02. `kill -9` before any system call of a checkpoint write leaves the older or the newer checkpoint, never neither."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from checkpoint_tools import assert_holds, count_system_calls, exit_status_of, names, posix, save_number

from dnas.disk import write_atomically
from dnas.runtime.checkpoint import newest, next_sequence


def kill_at(fatal: int) -> None:
    """This process dies just before its `fatal`-th system call from now."""
    calls = 0

    def tick(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    count_system_calls(pytest.MonkeyPatch(), tick)


@posix
@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_killed_before_any_system_call_the_older_or_the_newer_loads(earlier: int, tmp_path: Path) -> None:
    """With none, one and two checkpoints before, so that the deletion of the oldest is killed as well."""
    seen = set()
    for fatal in range(1, 100):
        folder = tmp_path / str(fatal)
        for number in range(1, earlier + 1):
            save_number(folder, number)

        def write_and_die(folder: Path = folder, fatal: int = fatal) -> None:
            kill_at(fatal)
            save_number(folder, earlier + 1)

        status = exit_status_of(write_and_die)
        assert status in (0, -signal.SIGKILL)
        loaded, warnings = newest(folder)
        assert not warnings, "a killed write leaves nothing damaged"
        sequence = loaded.sequence if loaded else 0
        assert sequence in (earlier, earlier + 1)
        if sequence:
            assert_holds(loaded, sequence)
        for manifest in folder.glob("0*.json"):
            assert manifest.with_suffix(".safetensors").exists(), "no manifest outlives its tensors"
        seen.add(sequence)
        # What the kill left must not be in the way of going on.
        following = next_sequence(folder)
        save_number(folder, following)
        assert_holds(newest(folder)[0], following)
        assert len(names(folder)) == (4 if sequence else 2)
        if status == 0:
            break
    assert seen == {earlier, earlier + 1}
    assert fatal > 14, "every call was reached"


@posix
def test_a_file_that_is_overwritten_is_the_old_or_the_new(tmp_path: Path) -> None:
    seen = set()
    for fatal in range(1, 100):
        path = tmp_path / f"{fatal}.toml"
        path.write_bytes(b"old")

        def write_and_die(path: Path = path, fatal: int = fatal) -> None:
            kill_at(fatal)
            write_atomically(path, b"the new content")

        status = exit_status_of(write_and_die)
        seen.add(path.read_bytes())
        if status == 0:
            break
    assert seen == {b"old", b"the new content"}


@posix
def test_the_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power failure, which no test here can cause, depends on."""
    calls: list[str] = []
    count_system_calls(monkeypatch, calls.append)
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["open", "write", "write", "fsync", "replace", "open", "fsync"]

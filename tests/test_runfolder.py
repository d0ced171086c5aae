"""The run folder: one writer, whole files, metrics that never hold half a line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dnas.disk import read_toml
from dnas.errors import InputError, RunError
from dnas.runtime.runfolder import RunFolder, fresh_path, read_metrics

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "runs" / "one") as folder:
        folder.write_config({"seed": 0})
        yield folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- create and reopen -----------------------------------------------------------------------------


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a" / "b").close()
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty").close()
    # What is left when `create` is killed before the configuration is written is not a run yet.
    (tmp_path / "empty" / ".config.toml.0123456789abcdef.tmp").write_text("x")
    RunFolder.create(tmp_path / "empty").close()
    assert names(tmp_path / "empty") == {".lock"}


def test_create_refuses_what_exists(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as folder:
        folder.write_config({})
    with pytest.raises(InputError, match="choose another folder or `dnas resume") as caught:
        RunFolder.create(tmp_path / "run")
    assert f"--out '{tmp_path / 'run'}' already exists" in one_line(caught)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(InputError, match=r"already exists; choose another folder$"):
            RunFolder.create(path)
    assert names(tmp_path) == {"file", "run"}, "a refusal leaves nothing behind"
    with pytest.raises(InputError, match="cannot create --out"):
        RunFolder.create(tmp_path / "file" / "run")


def test_create_looks_again_once_it_has_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    plain_mkdir = Path.mkdir

    def mkdir_after_another_run(self: Path, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", plain_mkdir)
        with RunFolder.create(path) as folder:
            folder.write_config({"seed": 1})
        plain_mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir_after_another_run)
    with pytest.raises(InputError, match="exists"):
        RunFolder.create(path)
    with RunFolder.reopen(path) as folder:
        assert folder.read_config() == {"seed": 1}


def test_reopen_refuses_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"no config\.toml") as caught:
            RunFolder.reopen(path)
        assert str(path) in one_line(caught)
    assert names(tmp_path) == set()


def test_a_closed_folder_takes_no_more_writes(run: RunFolder) -> None:
    run.close()
    run.close()
    for write in ("json", "metric", "log", "checkpoint"):
        with pytest.raises(AssertionError, match="closed"):
            WRITES[write](run)


# --- files -----------------------------------------------------------------------------------------


def test_files_come_back_as_written(run: RunFolder) -> None:
    config = {"seed": 3, "rate": 0.1 + 0.2, "name": 'ü "x"\n', "search": {"layers": [6, 13], "on": True}}
    run.write_config(config)
    assert run.read_config() == config
    run.write_json("result.json", {"accuracy": 1 / 3})
    assert json.loads((run.path / "result.json").read_bytes()) == {"accuracy": 1 / 3}
    run.write_text("architecture.svg", "<svg>é</svg>\n")
    run.write_bytes("model.safetensors", b"\0\r\n")
    assert (run.path / "architecture.svg").read_bytes() == "<svg>é</svg>\n".encode()
    assert (run.path / "model.safetensors").read_bytes() == b"\0\r\n"
    for name in ("../outside", "a/b", "", ".."):
        with pytest.raises(AssertionError):
            run.write_bytes(name, b"")


@pytest.mark.parametrize("data", [b"a = ", b"\xff", b"a = 1\na = 2", b"a = " + b"[" * 10_000], ids=repr)
def test_broken_toml_is_the_users_error(data: bytes, run: RunFolder) -> None:
    (run.path / "config.toml").write_bytes(data)
    with pytest.raises(InputError, match="is not valid TOML") as caught:
        run.read_config()
    assert str(run.path / "config.toml") in one_line(caught)


def test_missing_toml_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_toml(tmp_path / "no.toml")


def test_fresh_path_is_the_first_that_is_free(tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        found.append(fresh_path(tmp_path, "dnas-digits"))
        found[-1].mkdir()
    assert [path.name for path in found] == ["dnas-digits", "dnas-digits-2", "dnas-digits-3"]


# --- metrics and log -------------------------------------------------------------------------------


def test_metrics_keep_their_order_and_their_floats(run: RunFolder) -> None:
    run.metric(step=1, loss=0.1 + 0.2, accuracy=1 / 3, tiny=5e-324, name="ü\n")
    run.metric(b=1, a=None)
    metrics = read_metrics(run.path / "metrics.jsonl")
    first = {"step": 1, "loss": 0.1 + 0.2, "accuracy": 1 / 3, "tiny": 5e-324, "name": "ü\n"}
    assert metrics == [first, {"b": 1, "a": None}]
    assert list(metrics[0]) == list(first)
    data = (run.path / "metrics.jsonl").read_bytes()
    assert data.count(b"\n") == 2 and len(data) == run.metrics_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, {"a": -float("inf")}]])
def test_a_metric_that_is_not_finite_is_refused(value: Any, run: RunFolder) -> None:
    with pytest.raises(AssertionError):
        run.metric(loss=value)
    assert run.metrics_bytes() == 0


def test_f08_a_torn_last_line_is_skipped_and_then_cut_off(run: RunFolder) -> None:
    run.metric(step=1)
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    torn = json.dumps({"step": 2, "loss": 0.25}).encode()
    for length in range(1, len(torn) + 1):
        path.write_bytes(whole + torn[:length])
        assert read_metrics(path) == [{"step": 1}]
    # A disk that lost power may also hold zeros up to a line end.
    path.write_bytes(whole + b"\0\0\n")
    assert read_metrics(path) == [{"step": 1}]

    path.write_bytes(whole + torn[:5])
    run.close()
    with RunFolder.reopen(run.path) as again:
        again.metric(step=2)
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_a_torn_first_line_is_cut_off_too(run: RunFolder) -> None:
    (run.path / "metrics.jsonl").write_bytes(b'{"st')
    run.close()
    with RunFolder.reopen(run.path) as again:
        assert again.metrics_bytes() == 0


@pytest.mark.parametrize("damaged", [b"", b'{"a": ', b"[1]", b'{"a": NaN}', b"\xff", b"[" * 10_000])
def test_a_damaged_earlier_line_is_named(damaged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for rest in (b'{"a": 3}\n', b'{"a": 3}\n{"a', b'{"a'):
        path.write_bytes(b'{"a": 1}\n' + damaged + b"\n" + rest)
        with pytest.raises(InputError, match="line 2 of ") as caught:
            read_metrics(path)
        assert str(path) in one_line(caught)
    with pytest.raises(InputError, match="cannot read"):
        read_metrics(tmp_path / "missing")


def test_rewind_drops_what_the_checkpoint_did_not_know(run: RunFolder) -> None:
    run.metric(step=1)
    known = run.metrics_bytes()
    run.metric(step=2)
    run.rewind_metrics(known)
    run.metric(step=3)
    assert read_metrics(run.path / "metrics.jsonl") == [{"step": 1}, {"step": 3}]
    with pytest.raises(RunError, match=f"but {10**6} at the checkpoint") as caught:
        run.rewind_metrics(10**6)
    assert "metrics.jsonl" in one_line(caught)
    run.rewind_metrics(0)
    assert run.metrics_bytes() == 0


def test_the_log_has_times_and_metrics_have_none(run: RunFolder) -> None:
    run.log("epoch 1 of 2")
    run.log("a file named \udcff")
    first, second = (run.path / "log.txt").read_text("utf-8").splitlines()
    assert first.endswith(" epoch 1 of 2") and first[4] == "-" and "T" in first
    assert second.endswith(r"\udcff")


# --- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints_are_numbered_and_know_the_metrics(run: RunFolder) -> None:
    assert run.load_checkpoint() == (None, [])
    for step in (1, 2, 3):
        run.metric(step=step)
        run.save_checkpoint({"w": torch.full((2,), float(step))}, {"step": step})
    known = run.metrics_bytes()
    run.metric(step=4)
    loaded, warnings = run.load_checkpoint()
    assert loaded is not None and not warnings
    assert loaded.sequence == 3 and loaded.state == {"step": 3, "metrics_bytes": known}
    assert torch.equal(loaded.tensors["w"], torch.tensor([3.0, 3.0]))
    assert len(names(run.path / "checkpoints")) == 4

    (run.path / "checkpoints" / "00000003.safetensors").write_bytes(b"damaged")
    loaded, warnings = run.load_checkpoint()
    assert loaded is not None and loaded.sequence == 2 and len(warnings) == 1
    run.rewind_metrics(loaded.state["metrics_bytes"])
    run.save_checkpoint({}, {"step": 3})
    loaded, warnings = run.load_checkpoint()
    assert loaded is not None and loaded.sequence == 4 and not warnings


# --- F04, F05: the system refuses ------------------------------------------------------------------

WRITES: dict[str, Callable[[RunFolder], object]] = {
    "config": lambda run: run.write_config({}),
    "json": lambda run: run.write_json("result.json", 1),
    "metric": lambda run: run.metric(step=1),
    "metrics_bytes": lambda run: run.metrics_bytes(),
    "rewind": lambda run: run.rewind_metrics(0),
    "log": lambda run: run.log("text"),
    "checkpoint": lambda run: run.save_checkpoint({}, {}),
}


@posix
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_f05_a_vanished_folder_is_one_line(write: Callable[[RunFolder], object], run: RunFolder) -> None:
    run.save_checkpoint({}, {})
    shutil.rmtree(run.path)
    with pytest.raises(RunError, match="can be resumed once it can be written again") as caught:
        write(run)
    assert str(run.path) in one_line(caught)
    assert not run.path.exists(), "it is not made again"


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_f05_a_read_only_folder_is_one_line(
    write: Callable[[RunFolder], object], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    # Not by chmod: root, as in most containers, may write anyway.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match="Read-only") as caught:
        write(run)
    one_line(caught)


def test_f05_a_lock_that_cannot_be_written_is_one_line(run: RunFolder) -> None:
    run.close()
    (run.path / ".lock").unlink(missing_ok=True)
    (run.path / ".lock").mkdir()
    with pytest.raises(RunError, match=r"\.lock") as caught:
        RunFolder.reopen(run.path)
    one_line(caught)


@posix
def test_f04_a_metric_that_met_a_full_disk_leaves_no_half_line(run: RunFolder) -> None:
    import resource

    run.metric(step=1)
    limit = run.metrics_bytes() + 5
    program = f"""
import resource, signal, sys
from pathlib import Path
from dnas.errors import RunError
from dnas.runtime.runfolder import RunFolder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = RunFolder.reopen(Path({str(run.path)!r}))
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, unlimited[1]))
try:
    run.metric(step=2, text="longer than five bytes")
except RunError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
run.metric(step=3)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    run.close()
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "metrics.jsonl" in child.stdout and "once there is space" in child.stdout
    assert read_metrics(run.path / "metrics.jsonl") == [{"step": 1}, {"step": 3}]


# --- F11: one writer -------------------------------------------------------------------------------


def test_f11_a_second_opener_in_this_process_is_refused(run: RunFolder) -> None:
    with pytest.raises(InputError, match=f"in use by process {os.getpid()} on "):
        RunFolder.reopen(run.path)
    run.metric(step=1)  # the refused one took nothing away
    with pytest.raises(InputError, match="in use"):
        RunFolder.reopen(run.path)
    run.close()
    RunFolder.reopen(run.path).close()


HOLDER = """
import sys
from pathlib import Path
from dnas.runtime.runfolder import RunFolder
assert "torch" not in sys.modules, "a run folder alone must open quickly"
with RunFolder.reopen(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_f11_a_live_owner_in_another_process_is_named_and_a_killed_one_is_succeeded(run: RunFolder) -> None:
    run.close()
    command = [sys.executable, "-c", HOLDER, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"in use by process {owner.pid} on .*; wait for it or stop it"):
            RunFolder.reopen(run.path)
        for damaged in ("", "[]", '{"pid": 1}'):
            (run.path / ".owner.json").write_text(damaged)
            with pytest.raises(InputError, match="in use by another process"):
                RunFolder.reopen(run.path)
        owner.kill()
        owner.wait()
    if hasattr(signal, "SIGKILL"):
        assert owner.returncode == -signal.SIGKILL
    with RunFolder.reopen(run.path) as successor:
        assert json.loads((successor.path / ".owner.json").read_bytes())["pid"] == os.getpid()


@posix
def test_f11_of_many_that_create_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    """Forked children wait for a pipe to close, to start together; the winner holds on till the end."""
    start_read, start_write = os.pipe()
    end_read, end_write = os.pipe()
    result_read, result_write = os.pipe()
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(start_write)
                os.close(end_write)
                os.read(start_read, 1)
                try:
                    held = RunFolder.create(tmp_path / "deep" / "run")
                    assert held.path.is_dir()
                    os.write(result_write, b"w")
                except InputError:
                    os.write(result_write, b"l")
                os.read(end_read, 1)
            finally:
                os._exit(0)
        children.append(pid)
    os.close(start_write)
    results = b"".join(os.read(result_read, 1) for _ in children)
    os.close(end_write)
    for pid in children:
        os.waitpid(pid, 0)
    for descriptor in (start_read, end_read, result_read, result_write):
        os.close(descriptor)
    assert sorted(results) == sorted(b"w" + b"l" * 7)

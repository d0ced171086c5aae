"""Checkpoints: round trips are bit-exact, and no kill, fault or damage is ever loaded silently wrong."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnas import checkpoint
from dnas.checkpoint import newest, next_sequence, pack_optimizer, save, unpack_optimizer, write_atomically
from dnas.errors import InputError, RunError

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def contents(number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(number))
    return {"weights": weights, "step": torch.tensor(float(number))}, {"step": number, "loss": number / 7}


def save_number(folder: Path, number: int, keep: int = 2) -> None:
    save(folder, number, *contents(number), keep=keep)


def assert_same_bits(one: Tensor, other: Tensor) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape
    if one.numel():
        flat = [x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for x in (one, other)]
        assert torch.equal(*flat)


def assert_holds(loaded: checkpoint.Checkpoint | None, number: int) -> None:
    assert loaded is not None and loaded.sequence == number
    tensors, state = contents(number)
    assert loaded.state == state and loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(loaded.tensors[name], tensor)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- round trips -----------------------------------------------------------------------------------


def test_every_kind_of_tensor_comes_back_bit_by_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    tensors = {
        "transposed": base.t(),
        "every second column": base[:, ::2],
        "shares storage": base,
        "shares storage too": base[1:3],
        "expanded": torch.ones(1, 3).expand(4, 3),
        "channels last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "0-dim": torch.tensor(3.25),
        "empty": torch.empty(0, 3),
        "bfloat16": torch.randn(5).bfloat16(),
        "float16": torch.randn(5).half(),
        "float64": torch.randn(5, dtype=torch.float64),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    save(tmp_path / "c", 1, tensors, {})
    loaded, warnings = newest(tmp_path / "c")
    assert loaded is not None and not warnings and loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert_same_bits(loaded.tensors[name], tensor)
        loaded.tensors[name].zero_()  # writable, and no longer sharing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=40, deadline=None)
@given(state=st.dictionaries(st.text(), json_values, max_size=4))
def test_state_comes_back_exactly(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("state")
    save(folder, 1, {}, state)
    loaded, warnings = newest(folder)
    # The text form tells 1 from 1.0 and -0.0 from 0.0, and shows the order of keys.
    assert loaded is not None and not warnings and json.dumps(loaded.state) == json.dumps(state)


@pytest.mark.parametrize("state", [{"a": float("nan")}, {"a": (1, 2)}, {1: "a"}])
def test_state_that_would_not_come_back_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        save(tmp_path / "c", 1, {}, state)
    assert newest(tmp_path / "c") == (None, [])


def test_the_two_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    leftovers = [".00000009.json.0123456789abcdef.tmp", "00000000.safetensors"]
    for name in [*leftovers, "notes.txt"]:
        (folder / name).write_text("x")
    for number in (1, 2, 3, 7):
        save_number(folder, number)
    expected = ["00000003.json", "00000003.safetensors", "00000007.json", "00000007.safetensors", "notes.txt"]
    assert names(folder) == expected
    assert_holds(newest(folder)[0], 7)
    with pytest.raises(AssertionError):
        save_number(folder, 7)


def test_a_damaged_checkpoint_does_not_push_out_the_last_good_one(tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    flip(tmp_path / "00000002.safetensors", 100, 1)
    save_number(tmp_path, 3)
    (tmp_path / "00000003.json").write_bytes(b"")
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert len(warnings) == 2
    assert "00000003.json" in warnings[0] and "00000002.json" in warnings[1]


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path: Path) -> None:
    assert newest(tmp_path / "missing") == (None, [])
    assert newest(tmp_path) == (None, [])
    assert next_sequence(tmp_path / "missing") == 1


def test_tensors_without_a_manifest_are_no_checkpoint_but_their_number_is_taken(tmp_path: Path) -> None:
    save_number(tmp_path, 4)
    (tmp_path / "00000009.safetensors").write_bytes((tmp_path / "00000004.safetensors").read_bytes())
    assert_holds(newest(tmp_path)[0], 4)
    assert next_sequence(tmp_path) == 10


# --- F02: killed at every stage --------------------------------------------------------------------


class CountingFile(io.FileIO):
    """An unbuffered file whose write is two system calls, each counted."""

    def __init__(self, path: Path, mode: str, tick: Callable[[str], None]) -> None:
        tick("open")
        super().__init__(str(path), mode)
        self.tick = tick

    def write(self, data: Any) -> int:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.tick("write")
            super().write(part)
        return len(data)


def count_system_calls(monkeypatch: pytest.MonkeyPatch, tick: Callable[[str], None]) -> None:
    """Calls `tick` with its name before each system call of a checkpoint write that changes the disk."""

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            tick(name)
            return call(*args, **kwargs)

        return wrapper

    plain_open = Path.open

    def open_counted(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return plain_open(path, mode, *args, **kwargs) if mode[0] == "r" else CountingFile(path, mode, tick)

    monkeypatch.setattr(Path, "open", open_counted)
    for owner, name in [(Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "fsync"), (os, "open")]:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))


def kill_at(fatal: int) -> None:
    """This process dies just before its `fatal`-th system call from now."""
    calls = 0

    def tick(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    count_system_calls(pytest.MonkeyPatch(), tick)


def exit_status_of(child: Callable[[], None]) -> int:
    """What a forked child that runs `child` ends with: 0, 1 after an exception, or minus the signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@posix
@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_f02_killed_before_any_system_call_the_older_or_the_newer_loads(earlier: int, tmp_path: Path) -> None:
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
def test_f02_a_file_that_is_overwritten_is_the_old_or_the_new(tmp_path: Path) -> None:
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
def test_f02_the_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power failure, which no test here can cause, depends on."""
    calls: list[str] = []
    count_system_calls(monkeypatch, calls.append)
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["open", "write", "write", "fsync", "replace", "open", "fsync"]


# --- F04, F05: the system refuses ------------------------------------------------------------------


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
def test_f04_an_error_at_any_system_call_keeps_the_older_checkpoint(code: int, tmp_path: Path) -> None:
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


def test_f04_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_f04_a_real_limit_of_the_system(tmp_path: Path) -> None:
    import resource

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


def test_f05_a_vanished_run_folder_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can be resumed"):
        save_number(tmp_path / "run" / "checkpoints", 1)
    assert names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="file modes")
def test_a_written_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "atomic", b"x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- F06, F07: damage and impostors ----------------------------------------------------------------


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


def test_f06_no_flipped_bit_or_truncation_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for number in (1, 2):
        save_number(folder, number)
    draw = random.Random(0)
    for path in (folder / "00000002.json", folder / "00000002.safetensors"):
        original = path.read_bytes()
        for trial in range(150):
            if trial % 3 == 0:
                path.write_bytes(original[: draw.randrange(len(original))])
            else:
                flip(path, draw.randrange(len(original)), draw.randrange(8))
            loaded, warnings = newest(folder)
            assert_holds(loaded, 1)
            assert len(warnings) == 1 and str(folder / "00000002.json") in warnings[0]
            path.write_bytes(original)
        for impostor in (b"", original + b"\0", original * 2, original[::-1]):
            path.write_bytes(impostor)
            assert_holds(newest(folder)[0], 1)
            path.write_bytes(original)
    assert_holds(newest(folder)[0], 2)


def test_f06_files_that_are_missing_swapped_or_folders(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for number in (1, 2):
        save_number(folder, number)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def restored() -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name, data in whole.items():
            (folder / name).write_bytes(data)

    def refused() -> None:
        loaded, warnings = newest(folder)
        assert_holds(loaded, 1)
        assert len(warnings) == 1

    (folder / "00000002.safetensors").unlink()
    refused()
    (folder / "00000002.safetensors").mkdir()
    refused()
    restored()
    (folder / "00000002.json").unlink()
    (folder / "00000002.json").mkdir()
    refused()
    restored()
    (folder / "00000002.safetensors").write_bytes(whole["00000001.safetensors"])
    refused()
    restored()
    (folder / "00000002.json").write_bytes(whole["00000001.json"])
    refused()
    restored()
    for name in ("00000001.json", "00000002.json"):
        (folder / name).write_text("{}")
    loaded, warnings = newest(folder)
    assert loaded is None and len(warnings) == 2


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


HUGE_HEADER = struct.pack("<Q", 2**62) + b"{}"
LONG_HEADER = struct.pack("<Q", 10**6) + b"{" + b" " * (10**6 - 1)
GREEDY_TENSOR = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
IMPOSTORS = {
    "pickle": pickle.dumps(Bomb()),
    "huge header": HUGE_HEADER,
    "long header": LONG_HEADER,
    "greedy tensor": struct.pack("<Q", len(GREEDY_TENSOR)) + GREEDY_TENSOR,
    "deep header": struct.pack("<Q", 10**5) + b"[" * 10**5,
    "empty": b"",
}


def forged_manifest(number: int, data: bytes) -> bytes:
    body = {
        "format": checkpoint.FORMAT,
        "sequence": number,
        "file": f"{number:08d}.safetensors",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "state": {},
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**body, "checksum": hashlib.sha256(text).hexdigest()}).encode()


@pytest.mark.parametrize("forged", [False, True], ids=["manifest as it was", "manifest forged to match"])
@pytest.mark.parametrize("data", IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_f07_an_impostor_of_the_tensors_is_refused_quickly(data: bytes, forged: bool, tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    (tmp_path / "00000002.safetensors").write_bytes(data)
    if forged:
        (tmp_path / "00000002.json").write_bytes(forged_manifest(2, data))
    started = time.monotonic()
    loaded, warnings = newest(tmp_path)
    assert time.monotonic() - started < 2
    assert_holds(loaded, 1)
    assert len(warnings) == 1 and "\n" not in warnings[0]


@pytest.mark.parametrize(
    "text",
    [b"[" * 10**6, b"1" * 10**5, b'{"a":NaN}', b'{"a":1e999}', b"\xff\xfe", b"null", pickle.dumps(Bomb())],
)
def test_f07_an_impostor_of_the_manifest_is_refused(text: bytes, tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    (tmp_path / "00000002.json").write_bytes(text)
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert len(warnings) == 1


def test_f07_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    save_number(tmp_path, 1)
    with (tmp_path / "00000002.json").open("wb") as file:
        file.truncate(2**40)  # a sparse file: reading it would take memory, having it does not
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert "limit" in warnings[0]


def test_f07_huge_tensors_are_not_read(tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    with (tmp_path / "00000002.safetensors").open("r+b") as file:
        file.truncate(2**40)
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert f"has {2**40} bytes instead of" in warnings[0]


@posix
@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["00000002.json", "00000002.safetensors"])
def test_f07_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    (tmp_path / "00000002.json").write_bytes(forged_manifest(2, b""))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert "not a regular file" in warnings[0]


def test_another_format_version_is_refused_not_passed_over(tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    path = tmp_path / "00000002.json"
    body = json.loads(path.read_bytes())
    del body["checksum"]
    body["format"] = "dnas-checkpoint/2"
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({**body, "checksum": hashlib.sha256(text).hexdigest()}))
    with pytest.raises(InputError, match="dnas-checkpoint/2"):
        newest(tmp_path)


# --- optimisers ------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=3e-4),
    "plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, betas=(0.5, 0.999), weight_decay=1e-3),
    "amsgrad": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, amsgrad=True),
}


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 3))
    network.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.5)))
    network.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))  # never gets a gradient
    network[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        (network(x) * network.scale).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("stop", [0, 3])
def test_going_on_is_bit_equal_to_not_having_stopped(kind: str, stop: int, tmp_path: Path) -> None:
    straight = small_network()
    train(straight, OPTIMIZERS[kind](straight.parameters()), range(6))

    stopped = small_network()
    optimizer = OPTIMIZERS[kind](stopped.parameters())
    train(stopped, optimizer, range(stop))
    tensors, state = pack_optimizer("weights", optimizer)
    weights = {f"network.{name}": value for name, value in stopped.state_dict().items()}
    save(tmp_path, 1, {**weights, **tensors, "weights.other": torch.ones(1)}, {"weights": state})

    loaded, _ = newest(tmp_path)
    assert loaded is not None
    resumed = small_network()
    resumed.load_state_dict({name: loaded.tensors[f"network.{name}"] for name in resumed.state_dict()})
    optimizer = OPTIMIZERS[kind](resumed.parameters())
    unpack_optimizer("weights", optimizer, loaded.tensors, loaded.state["weights"])
    for parameter, entries in optimizer.state.items():
        for name, entry in entries.items():
            assert name == "step" or entry.stride() == parameter.stride()
    del loaded
    gc.collect()
    train(resumed, optimizer, range(stop, 6))
    for expected, actual in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert_same_bits(actual, expected)


def test_hyperparameters_stay_those_of_the_new_optimizer() -> None:
    network = small_network()
    optimizer = OPTIMIZERS["sgd"](network.parameters())
    train(network, optimizer, range(2))
    packed = pack_optimizer("w", optimizer)
    fresh = torch.optim.SGD(network.parameters(), lr=0.7, momentum=0.3)
    unpack_optimizer("w", fresh, *packed)
    assert fresh.param_groups[0]["lr"] == 0.7 and fresh.param_groups[0]["momentum"] == 0.3


def test_an_optimizer_of_another_kind_number_or_shape_is_refused() -> None:
    def packed(make: str, *shapes: int) -> tuple[torch.optim.Optimizer, dict[str, Tensor], dict[str, Any]]:
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        optimizer = OPTIMIZERS[make](parameters)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return optimizer, *pack_optimizer("w", optimizer)

    _, tensors, state = packed("adam", 3, 4)
    for make, shapes in [("sgd", (3, 4)), ("adam", (3,)), ("adam", (3, 5))]:
        with pytest.raises(RunError, match="resume with the options") as caught:
            unpack_optimizer("w", packed(make, *shapes)[0], tensors, state)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"w\.1\.step"):
        unpack_optimizer("w", packed("adam", 3, 4)[0], {**tensors, "w.1.step": torch.zeros(4)}, state)

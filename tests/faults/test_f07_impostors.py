"""F07. A pickle, a zip bomb, a huge header or tensors of wrong shape in place of ours are refused, quickly, in bounded memory, and
nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_tools import assert_holds, forged_manifest, posix, save_number
from faults.harness import TINY, invoke, newest_number, run_command, send_at

from dnas.runtime.checkpoint import newest


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


@pytest.mark.parametrize("forged", [False, True], ids=["manifest as it was", "manifest forged to match"])
@pytest.mark.parametrize("data", IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_an_impostor_of_the_tensors_is_refused_quickly(data: bytes, forged: bool, tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    (tmp_path / "00000002.safetensors").write_bytes(data)
    if forged:
        (tmp_path / "00000002.json").write_bytes(forged_manifest(2, data))
    started = time.process_time()
    loaded, warnings = newest(tmp_path)
    assert time.process_time() - started < 2
    assert_holds(loaded, 1)
    assert len(warnings) == 1 and "\n" not in warnings[0]


@pytest.mark.parametrize(
    "text",
    [b"[" * 10**6, b"1" * 10**5, b'{"a":NaN}', b'{"a":1e999}', b"\xff\xfe", b"null", pickle.dumps(Bomb())],
)
def test_an_impostor_of_the_manifest_is_refused(text: bytes, tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    (tmp_path / "00000002.json").write_bytes(text)
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert len(warnings) == 1


def test_a_huge_manifest_is_not_read(tmp_path: Path) -> None:
    save_number(tmp_path, 1)
    with (tmp_path / "00000002.json").open("wb") as file:
        file.truncate(2**40)  # a sparse file: reading it would take memory, having it does not
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert "limit" in warnings[0]


def test_huge_tensors_are_not_read(tmp_path: Path) -> None:
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
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    for number in (1, 2):
        save_number(tmp_path, number)
    (tmp_path / "00000002.json").write_bytes(forged_manifest(2, b""))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    loaded, warnings = newest(tmp_path)
    assert_holds(loaded, 1)
    assert "not a regular file" in warnings[0]


# --- in a run folder ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory, images):
    run = tmp_path_factory.mktemp("f07") / "run"
    assert run_command(run.parent, "run", "--data", images, *TINY, "--out", run).code == 0
    return run


def refused(arguments: tuple[Any, ...], *words: str) -> None:
    # What is imported at a first time is no part of the question.
    invoke(*arguments)
    tracemalloc.start()
    began = time.process_time()
    try:
        outcome = invoke(*arguments)
        assert time.process_time() - began < 2 and tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert outcome.code == 2 and outcome.out == "", outcome
    assert len(outcome.lines) == 1 and outcome.lines[0].startswith("error: ")
    for word in words:
        assert word in outcome.err, outcome.err


@pytest.mark.parametrize("data", IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_an_impostor_of_the_model_is_refused(finished: Path, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(("evaluate", tmp_path), "model.safetensors")


def changed_model(finished: Path, folder: Path, tensors: Any = None, **changes: Any) -> None:
    """The trained network with other tensors, or with something else about it in the header."""
    file = finished / "model.safetensors"
    with safetensors.safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["dnas"])
    weights = safetensors.torch.load_file(file)
    name = next(name for name in weights if name.endswith("weight"))
    if tensors is not None:
        weights[name] = tensors(weights[name])
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights, {"dnas": json.dumps(facts | changes)}))


@pytest.mark.parametrize("change", [lambda t: t[:1], lambda t: t[..., None], lambda t: torch.zeros(0)])
def test_a_model_with_a_tensor_of_another_shape_is_refused(finished: Path, tmp_path: Path, change: Any) -> None:
    changed_model(finished, tmp_path, change)
    refused(("evaluate", tmp_path), "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 2**20},
        {"channels": 0},
        {"channels": "8"},
        {"channels": None},
        {"stem": "x"},
        {"format": 7},
        {"data": []},
    ],
)
def test_a_model_that_says_what_is_not_so_is_refused_before_it_is_built(
    finished: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    changed_model(finished, tmp_path, **changes)
    refused(("evaluate", tmp_path), "model.safetensors")


def test_a_checkpoint_with_a_tensor_of_another_shape_is_refused(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("run", "--data", images, *TINY, "--out", run)
    assert run_command(tmp_path, *arguments, fault=send_at("train", 3, signal.SIGTERM)).code == 143
    number = newest_number(run)
    tensors = safetensors.torch.load_file(run / "checkpoints" / f"{number:08d}.safetensors")
    name = next(name for name in tensors if name.startswith("network.") and tensors[name].dim() == 4)
    tensors[name] = tensors[name].repeat(2, 1, 1, 1)
    data = safetensors.torch.save(tensors)
    manifest = json.loads((run / "checkpoints" / f"{number:08d}.json").read_text())
    (run / "checkpoints" / f"{number:08d}.safetensors").write_bytes(data)
    (run / "checkpoints" / f"{number:08d}.json").write_bytes(forged_manifest(number, data, manifest["state"]))
    outcome = invoke("resume", run, "--quiet")
    assert outcome.code in (1, 2) and len(outcome.lines) == 1 and "internal error" not in outcome.err, outcome.err
    assert name.removeprefix("network.") in outcome.err

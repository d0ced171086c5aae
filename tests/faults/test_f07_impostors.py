"""F07. A pickle, a zip bomb, a huge header or tensors of wrong shape in place of ours are refused, quickly, in bounded memory, and
nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from checkpoint_tools import assert_holds, forged_manifest, posix, save_number

from dnas.checkpoint import newest


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
    started = time.monotonic()
    loaded, warnings = newest(tmp_path)
    assert time.monotonic() - started < 2
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

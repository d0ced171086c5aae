"""Checkpoints of small known content, system calls counted and refused, and processes that die at one of them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dnas.runtime import checkpoint
from dnas.runtime.checkpoint import save

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


def flip(path: Path, byte: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[byte] ^= 1 << bit
    path.write_bytes(data)


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


def forged_manifest(number: int, data: bytes, state: dict[str, Any] | None = None) -> bytes:
    body = {
        "format": checkpoint.FORMAT,
        "sequence": number,
        "file": f"{number:08d}.safetensors",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "state": state or {},
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({**body, "checksum": hashlib.sha256(text).hexdigest()}).encode()

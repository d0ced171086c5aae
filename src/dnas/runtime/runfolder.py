"""The folder of a run on disk: who may write to it, and how its files are written.

config.toml architecture.json architecture.svg training_images.safetensors model.safetensors result.json
origin.safetensors origin_images.safetensors
                 written whole, atomically
trials/          the runs of a multi-trial search, one per trial
metrics.jsonl    one JSON object per line, append-only, byte-for-byte reproducible
log.txt          for people; the only file with wall-clock times
checkpoints/     see `checkpoint.py`
.lock            locked by the operating system as long as the owner is alive
.owner.json      the owner, for the message to other processes
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import tomli_w
from filelock import FileLock, Timeout

from dnas.disk import TEMPORARY_NAME, parse_object, read_toml, remove_temporaries, write_atomically, writing
from dnas.errors import InputError, InUse, RunError
from dnas.runtime import checkpoint
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.names import CHECKPOINTS, CONFIG_FILE, LOG_FILE, METRICS_FILE

if TYPE_CHECKING:
    from torch import Tensor


LOCK_FILES = {".lock", ".owner.json"}
_NUMBERS = re.compile(r"\[\n\s*([-+.,\deE\s]+?)\n\s*\]")  # indented; strings in JSON contain no line breaks


class RunFolder:
    """A run folder that only this process may write to, until `close` or the end of the `with` block.

    Created by `create` or `reopen`, or inside a folder of another run. Every method that writes raises RunError with a
    one-line message on a system error.
    """

    def __init__(self, path: Path, patience: float = 0.0, *, writes: bool = True) -> None:
        """Args:
        patience: Seconds to wait for an owner that is about to exit.
        writes: If False, another process of the same run writes: nothing is locked, and methods that write do
            nothing.
        """
        self.path, self.writes = path, writes
        self._lock = _take_lock(path, patience) if writes else FileLock(path / ".lock")
        if not writes:
            return
        try:
            self.write_json(".owner.json", {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()})
            with writing(path):
                remove_temporaries(path)
                _drop_torn_line(self._metrics)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Create a run folder and its parents. An existing folder is used if it is empty.

        Raises InputError if `path` is not empty, cannot be created, or another process has just taken it.
        """
        refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot create --out {str(path)!r} ({error.strerror or error}); choose another folder"
            ) from error
        folder = cls(path)
        try:
            # Check again under the lock: another run may have started and ended since the first check.
            refuse_used(path)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path, patience: float = 0.0) -> RunFolder:
        """Open the folder of an earlier run. Raises InputError if it is not a run folder, or if its owner is alive."""
        if not (path / CONFIG_FILE).is_file():
            raise InputError(f"{str(path)!r} is not a run folder (no config.toml); give the folder of an earlier run")
        return cls(path, patience)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder; further calls do nothing. `.lock` stays, because deleting it would let two owners in."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.path / ".owner.json").unlink()
            self._lock.release()

    # --- files written whole

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write `data` to the file `name` in this folder, atomically."""
        assert Path(name).name == name and name not in ("", ".."), "files of a run are in its folder"
        if not self.writes:
            return
        assert self._lock.is_locked, "the run folder is closed"
        write_atomically(self.path / name, data)

    def write_text(self, name: str, text: str) -> None:
        """Write a text like `write_bytes`, in UTF-8, with unchanged line ends."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON like `write_bytes`, indented, with lists of numbers on one line. Numbers must be finite."""
        text = json.dumps(value, indent=2, allow_nan=False)
        text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
        self.write_text(name, text + "\n")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.toml. No value may be None, since TOML has no null."""
        self.write_text(CONFIG_FILE, tomli_w.dumps(config))

    def read_config(self) -> dict[str, Any]:
        """Return the content of config.toml. Raises InputError with the file and the line if it is not valid TOML."""
        return read_toml(self.path / CONFIG_FILE)

    # --- metrics.jsonl and log.txt

    @property
    def _metrics(self) -> Path:
        return self.path / METRICS_FILE

    def metric(self, **values: Any) -> None:
        """Append one line, with keys in the given order. Values are JSON and reproducible: no times."""
        try:
            line = json.dumps(values, allow_nan=False)
        except ValueError as error:
            raise AssertionError(f"a metric must be finite JSON, got {values}") from error
        self._append(self._metrics, line + "\n")

    def metrics_bytes(self) -> int:
        """Flush metrics.jsonl to disk and return its length in bytes."""
        with writing(self._metrics), self._metrics.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def rewind_metrics(self, length: int) -> None:
        """Truncate metrics.jsonl to its `length` in bytes at a checkpoint; the lines after it will be written again.

        Raises RunError if the file is shorter than that.
        """
        if not self.writes:
            return
        with writing(self._metrics), self._metrics.open("ab") as file:
            size = file.tell()
            if size < length:
                raise RunError(
                    f"{str(self._metrics)!r} has {size} bytes, but {length} at the checkpoint; restore it or start "
                    "a new run"
                )
            file.truncate(length)
            os.fsync(file.fileno())

    def log(self, text: str) -> None:
        """Append `text` to log.txt, after the local time."""
        self._append(self.path / LOG_FILE, f"{_now()} {text}\n")

    def _append(self, path: Path, text: str) -> None:
        if not self.writes:
            return
        assert self._lock.is_locked, "the run folder is closed"
        data = text.encode(errors="backslashreplace")
        # Opened for every line: if the folder vanished, lines to an open file would be lost silently.
        with writing(path), path.open("ab", buffering=0) as file:
            length = file.tell()
            try:
                # A write is only partial if the disk, quota or size limit is reached in the middle.
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                # A partial line would damage the next line.
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise

    # --- checkpoints

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Save the next checkpoint, with "metrics_bytes" in its state for `rewind_metrics`."""
        if not self.writes:
            return
        assert self._lock.is_locked, "the run folder is closed"
        assert "metrics_bytes" not in state
        folder = self.path / CHECKPOINTS
        known = {**state, "metrics_bytes": self.metrics_bytes()}
        checkpoint.save(folder, checkpoint.next_sequence(folder), tensors, known)

    def has_checkpoints(self) -> bool:
        return (self.path / CHECKPOINTS).exists()

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints, once their result is saved."""
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)

    def load_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest intact checkpoint, if any, and a sentence for each newer one that is damaged."""
        return checkpoint.newest(self.path / CHECKPOINTS)


def fresh_path(root: Path, stem: str) -> Path:
    """Return the first of `root/stem`, `root/stem-2`, `root/stem-3`, … that does not exist."""
    path, number = root / stem, 1
    while path.exists():
        number += 1
        path = root / f"{stem}-{number}"
    return path


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, also of a running run: an incomplete last line is left out.

    Raises InputError with the line number if an earlier line is damaged, and if the file cannot be read.
    """
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"cannot read {str(path)!r} ({error.strerror or error}); give a run's metrics.jsonl"
        ) from error
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics.append(parse_object(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not tail:
                break
            raise InputError(
                f"line {number} of {str(path)!r} is damaged ({error}); delete the line or restore the file"
            ) from error
    return metrics


def _drop_torn_line(path: Path) -> None:
    # The next line must not be appended to a partial line that a kill left.
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def refuse_used(path: Path) -> None:
    """Raise InputError if `path` exists and is not an empty folder."""
    # Lock files and temporary files of a killed `create` do not count as a run.
    try:
        free = not path.exists() or (path.is_dir() and all(_leftover(entry.name) for entry in path.iterdir()))
    except OSError as error:
        raise InputError(f"cannot read --out {str(path)!r} ({error.strerror or error}); choose another") from error
    if not free:
        resume = f" or `dnas resume {path}`" if (path / CONFIG_FILE).exists() else ""
        raise InputError(f"--out {str(path)!r} already exists; choose another folder{resume}")


def _leftover(name: str) -> bool:
    return name in LOCK_FILES or TEMPORARY_NAME.fullmatch(name) is not None


def _take_lock(path: Path, patience: float) -> FileLock:
    lock = FileLock(path / ".lock", timeout=patience, thread_local=False, is_singleton=False)
    with writing(path / ".lock"):
        try:
            lock.acquire()
        except Timeout:
            raise InUse(f"{str(path)!r} is in use by {_owner(path)}; wait for it or stop it") from None
    return lock


def _owner(path: Path) -> str:
    try:
        owner = parse_object((path / ".owner.json").read_bytes())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        # The owner has taken the lock, but not yet written its name.
        return "another process"

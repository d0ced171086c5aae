"""One run's folder on disk: who may write in it, and how each of its files is written.

config.toml architecture.json architecture.svg training_images.safetensors model.safetensors result.json
origin.safetensors origin_images.safetensors
                 written whole, atomically
trials/          the runs that a search made, one a trial
metrics.jsonl    one JSON object a line, append-only, the same bytes for the same run
log.txt          for people; the only file with wall-clock times
checkpoints/     see `checkpoint.py`
.lock            locked by the operating system for as long as the owner lives
.owner.json      who that is, for the message to others
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
_NUMBERS = re.compile(r"\[\n\s*([-+.,\deE\s]+?)\n\s*\]")  # indented; no text in JSON has a line's end


class RunFolder:
    """A run folder that this process alone may write, until `close` or the end of the `with` block.

    Made by `create` or `reopen`, or in a folder that another run keeps. Every method that writes raises RunError, one
    line, when the system refuses.
    """

    def __init__(self, path: Path, patience: float = 0.0, *, writes: bool = True) -> None:
        """Args:
        patience: Seconds to wait for an owner that is about to leave.
        writes: Without, it is another process of the same run that writes: nothing is locked, and all that would be
            written is left out.
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
        """A new run folder, with its parents. An empty folder is taken as it is.

        Raises InputError when `path` holds anything, cannot be made, or another process has just taken it.
        """
        refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--out {path} cannot be made ({error.strerror or error}); choose another folder"
            ) from error
        folder = cls(path)
        try:
            # Again, now that nobody else can: another run may have come and gone since the first look.
            refuse_used(path)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path, patience: float = 0.0) -> RunFolder:
        """The folder of an earlier run. Raises InputError when it is none, or when its owner is alive."""
        if not (path / CONFIG_FILE).is_file():
            raise InputError(
                f"{path} is not a run folder, since it has no config.toml; give the folder of an earlier run"
            )
        return cls(path, patience)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the folder back; further calls do nothing. `.lock` stays: deleting it would let two in."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.path / ".owner.json").unlink()
            self._lock.release()

    # --- files written whole

    def write_bytes(self, name: str, data: bytes) -> None:
        """Makes `data` the content of the file `name` of this folder, atomically."""
        assert Path(name).name == name and name not in ("", ".."), "files of a run lie in its folder"
        if not self.writes:
            return
        assert self._lock.is_locked, "the run folder is closed"
        write_atomically(self.path / name, data)

    def write_text(self, name: str, text: str) -> None:
        """As `write_bytes`, in UTF-8, with the line ends that `text` has."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """As `write_bytes`, indented for people, a list of numbers in one line. `value` is JSON; numbers are finite."""
        text = json.dumps(value, indent=2, allow_nan=False)
        text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
        self.write_text(name, text + "\n")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.toml; TOML has no null, so no value may be None."""
        self.write_text(CONFIG_FILE, tomli_w.dumps(config))

    def read_config(self) -> dict[str, Any]:
        """What config.toml holds. Raises InputError, naming the file and the line, when it is not TOML."""
        return read_toml(self.path / CONFIG_FILE)

    # --- metrics.jsonl and log.txt

    @property
    def _metrics(self) -> Path:
        return self.path / METRICS_FILE

    def metric(self, **values: Any) -> None:
        """Appends one line, keys in the order given. Values are JSON, the same for the same run: no times."""
        try:
            line = json.dumps(values, allow_nan=False)
        except ValueError as error:
            raise AssertionError(f"a metric must be finite JSON, got {values}") from error
        self._append(self._metrics, line + "\n")

    def metrics_bytes(self) -> int:
        """The length of metrics.jsonl, in bytes, once what was written has reached the disk."""
        with writing(self._metrics), self._metrics.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def rewind_metrics(self, length: int) -> None:
        """Cuts metrics.jsonl to the `length` bytes that a checkpoint knew; what followed is written again.

        Raises RunError when the file is shorter than that.
        """
        if not self.writes:
            return
        with writing(self._metrics), self._metrics.open("ab") as file:
            size = file.tell()
            if size < length:
                raise RunError(
                    f"{self._metrics} has {size} bytes and the checkpoint knew {length}; put the file back "
                    "as it was, or start a new run"
                )
            file.truncate(length)
            os.fsync(file.fileno())

    def log(self, text: str) -> None:
        """Appends `text` to log.txt with the local time before it."""
        self._append(self.path / LOG_FILE, f"{_now()} {text}\n")

    def _append(self, path: Path, text: str) -> None:
        if not self.writes:
            return
        assert self._lock.is_locked, "the run folder is closed"
        data = text.encode(errors="backslashreplace")
        # Opened for every line: through a file kept open, lines for a folder that vanished would go nowhere.
        with writing(path), path.open("ab", buffering=0) as file:
            length = file.tell()
            try:
                # A file takes all of it unless its disk, quota or size limit is reached in the middle.
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                # Half a line would damage the line that comes after it.
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise

    # --- checkpoints

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Saves the next checkpoint. Its state gets "metrics_bytes", for `rewind_metrics`."""
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
        """Removes them, where what they led to is kept."""
        shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)

    def load_checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, if any, and a sentence for each damaged newer one."""
        return checkpoint.newest(self.path / CHECKPOINTS)


def fresh_path(root: Path, stem: str) -> Path:
    """`root/stem`, or `root/stem-2`, `root/stem-3`, …: the first that does not exist."""
    path, number = root / stem, 1
    while path.exists():
        number += 1
        path = root / f"{stem}-{number}"
    return path


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, also of a live run: a last line that is not whole is left out.

    Raises InputError, naming the line, when an earlier one is damaged, and when the file cannot be read.
    """
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); give a run folder's file") from error
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics.append(parse_object(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not tail:
                break
            raise InputError(
                f"line {number} of {path} is damaged ({error}); delete the line or restore the file"
            ) from error
    return metrics


def _drop_torn_line(path: Path) -> None:
    # The next line must not be glued to half a line that a kill left.
    if path.exists():
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def refuse_used(path: Path) -> None:
    """Raises InputError where `path` is taken: it exists and is not an empty folder."""
    # What a killed `create` leaves, lock files and temporary files, is not a run.
    try:
        free = not path.exists() or (path.is_dir() and all(_leftover(entry.name) for entry in path.iterdir()))
    except OSError as error:
        raise InputError(f"cannot read --out {path} ({error.strerror or error}); choose another folder") from error
    if not free:
        resume = f" or `dnas resume {path}`" if (path / CONFIG_FILE).exists() else ""
        raise InputError(f"--out {path} exists; choose another folder{resume}")


def _leftover(name: str) -> bool:
    return name in LOCK_FILES or TEMPORARY_NAME.fullmatch(name) is not None


def _take_lock(path: Path, patience: float) -> FileLock:
    lock = FileLock(path / ".lock", timeout=patience, thread_local=False, is_singleton=False)
    with writing(path / ".lock"):
        try:
            lock.acquire()
        except Timeout:
            raise InUse(f"{path} is in use by {_owner(path)}; wait for it or stop it") from None
    return lock


def _owner(path: Path) -> str:
    try:
        owner = parse_object((path / ".owner.json").read_bytes())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        # It is between taking the lock and writing its name.
        return "another process"

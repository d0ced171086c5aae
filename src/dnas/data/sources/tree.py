"""What holds the files of a data set: a folder, an archive, or a file by itself. Listed and opened with care."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol
from zipfile import BadZipFile

from dnas.errors import InputError

# What file systems and archives leave in folders.
_SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class Entry(NamedTuple):
    """Something in a folder. Of links `folder` says where they lead."""

    name: str
    folder: bool
    link: bool = False


class Tree(Protocol):
    """Folders and files; names are relative to it, with "/". Can be sent to a process that decodes."""

    @property
    def path(self) -> Path:
        """The folder, or the archive."""

    @property
    def held(self) -> str:
        """Why its pictures can only be held in memory, as the end of a sentence; "" if they can be streamed."""

    def scan(self, folder: str) -> Iterator[Entry]:
        """What lies directly in a folder, "" for the top, in any order. Raises OSError."""

    def open(self, name: str) -> IO[bytes]:
        """A file, from which can be read at any place. Raises OSError, or what a damaged archive raises."""

    def status(self, name: str) -> tuple[int, int]:
        """Bytes of a file, and the time of its last change in nanoseconds; its archive's. Raises OSError."""


@dataclass(frozen=True)
class Folder:
    """A folder.

    Attributes:
        only: The one file that is looked at, if it was given by itself; others are opened where it names them.
    """

    path: Path
    only: str = ""
    held: str = ""

    def scan(self, folder: str) -> Iterator[Entry]:
        if self.only:
            yield from [Entry(self.only, folder=False)] if not folder else []
            return
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                yield Entry(entry.name, _is_folder(entry), entry.is_symlink())

    def open(self, name: str) -> IO[bytes]:
        return open_regular(self.path / name)

    def status(self, name: str) -> tuple[int, int]:
        # A Path an image would take most of the time.
        found = os.stat(os.path.join(self.path, name))  # noqa: PTH116, PTH118
        return found.st_size, found.st_mtime_ns


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def open_regular(path: Path) -> IO[bytes]:
    if not os.path.lexists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    return path.open("rb")


def is_hidden(name: str) -> bool:
    """Whether an entry of a folder is one that no listing looks at, by its name."""
    return name.startswith(".") or name in _SYSTEM


def plain(name: str) -> bool:
    """Whether it names something in its folder, not elsewhere."""
    return name not in (".", "..") and "/" not in name and "\\" not in name


def text(tree: Tree, name: str) -> str:
    try:
        with tree.open(name) as stream:
            return stream.read(2**26).decode()
    except (OSError, UnicodeDecodeError, BadZipFile, zlib.error) as error:
        raise InputError(f"{name} in {str(tree.path)!r} cannot be read ({error}); fetch it again") from error


def is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # no permission, or a name too long to exist
        return False


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False

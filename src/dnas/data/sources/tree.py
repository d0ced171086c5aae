"""Containers of the files of a data set: a folder, an archive, or a single file, with safe listing and opening."""

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

# Entries that file systems and archives leave in folders.
_SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")


class Entry(NamedTuple):
    """Entry of a folder. For links, `folder` describes the target."""

    name: str
    folder: bool
    link: bool = False


class Tree(Protocol):
    """Folders and files; names are relative to the tree, with "/". Can be pickled for decoder processes."""

    @property
    def path(self) -> Path:
        """Path of the folder or archive."""

    @property
    def held(self) -> str:
        """Reason why its images cannot be streamed, as the end of a sentence; "" if they can."""

    def scan(self, folder: str) -> Iterator[Entry]:
        """Yield the direct content of a folder, "" for the top, in any order. Raises OSError."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file for random access. Raises OSError, or the errors of a damaged archive."""

    def status(self, name: str) -> tuple[int, int]:
        """Return the bytes of a file, and its (or its archive's) modification time in nanoseconds. Raises OSError."""


@dataclass(frozen=True)
class Folder:
    """Tree of a folder.

    Attributes:
        only: The given file, if a single file was given; others are opened if it refers to them.
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
        # One Path per image would take most of the time.
        found = os.stat(os.path.join(self.path, name))  # noqa: PTH116, PTH118
        return found.st_size, found.st_mtime_ns


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading. Raises OSError for anything else, such as a pipe, which would block."""
    if not os.path.lexists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not path.is_file():
        raise OSError("not a regular file")  # opening a pipe would block forever
    return path.open("rb")


def is_hidden(name: str) -> bool:
    """Return True if listings ignore an entry of a folder, by its name."""
    return name.startswith(".") or name in _SYSTEM


def plain(name: str) -> bool:
    """Return True if a name refers to an entry of its folder, not elsewhere."""
    return name not in (".", "..") and "/" not in name and "\\" not in name


def text(tree: Tree, name: str) -> str:
    """Return the text of a file in a folder or archive. Raises InputError if it cannot be read."""
    try:
        with tree.open(name) as stream:
            return stream.read(2**26).decode()
    except (OSError, UnicodeDecodeError, BadZipFile, zlib.error) as error:
        raise InputError(f"{name} in {str(tree.path)!r} cannot be read ({error}); fetch it again") from error


def is_dir(path: Path) -> bool:
    """Return True if a path is a folder that can be accessed."""
    try:
        return path.is_dir()
    except OSError:  # no permission, or a name too long to exist
        return False


def is_file(path: Path) -> bool:
    """Return True if a path is a file that can be accessed."""
    try:
        return path.is_file()
    except OSError:
        return False

"""A folder or an archive of files, listed and opened with care."""

from __future__ import annotations

import stat
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dnas.data.sources.listing import is_picture, look_below
from dnas.errors import InputError

LARGEST_MEMBER = 2**28  # bytes of a file in an archive


@dataclass(frozen=True)
class Tree:
    """The folder or archive that holds the pictures; names are relative to it."""

    path: Path
    images: Callable[[str], list[str]]  # the pictures anywhere below a folder, sorted
    open: Callable[[str], IO[bytes]]


@contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    if is_dir(path):
        yield Tree(path, lambda folder: look_below(path, folder).names, lambda name: open_regular(path / name))
        return
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error
    top = path.stem + "/"
    with archive:
        for member in archive.infolist():
            refuse_member(path, member.filename, stat.S_ISLNK(member.external_attr >> 16))
            if member.file_size > LARGEST_MEMBER:
                raise InputError(
                    f"{str(path)!r} has the member {member.filename!r} of {member.file_size} bytes, more than any "
                    "picture has; fetch the archive again"
                )
        names = sorted(name.removeprefix(top) for name in archive.namelist() if is_picture(name))

        def images(folder: str) -> list[str]:
            # "0" is the character after "/", so these are all the names that start with the folder.
            return names[bisect_left(names, folder + "/") : bisect_left(names, folder + "0")]

        yield Tree(path, images, lambda name: archive.open(top + name))


def open_regular(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise OSError("not a regular file")  # opening a pipe would wait for ever
    return path.open("rb")


def plain(name: str) -> bool:
    """Whether it names something in its folder, not elsewhere."""
    return name not in (".", "..") and "/" not in name and "\\" not in name


def text(tree: Tree, name: str) -> str:
    try:
        with tree.open(name) as stream:
            return stream.read(2**26).decode()
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as error:
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


def refuse_member(archive: Path, name: str, link: bool) -> None:
    """Raises InputError for what no data set's archive holds: a link, an absolute name or one that has `..`.

    Archives are read and never unpacked, so it could do no harm; but what it is made for is not to be trusted.
    """
    parts = name.replace("\\", "/").split("/")
    outside = parts[0] == "" or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":")
    if link or outside:
        what = "is a link" if link else "leads out of the archive"
        raise InputError(f"{str(archive)!r} has the member {name!r}, which {what}; fetch the archive again")

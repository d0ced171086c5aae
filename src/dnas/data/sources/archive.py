"""Archives, read without unpacking them to disk: .zip (including .npz), .tar, and .tar packed by gzip, bzip2 or xz.

Archives are untrusted. Paths out of the archive, links, and implausibly large unpacked sizes are therefore errors when
it is opened.
"""

from __future__ import annotations

import errno
import io
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dnas.data.memory import amount, require_memory
from dnas.data.sources.listing import LIST_ENDINGS, is_picture
from dnas.data.sources.parts import is_part
from dnas.data.sources.protocol import Place
from dnas.data.sources.tree import Entry, Folder, Tree, is_dir, is_hidden
from dnas.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

ZIP_ENDINGS = (".zip", ".npz")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
LARGEST_MEMBER = 2**28  # bytes of an image
LARGEST_NOTES = 2**16  # bytes
# An archive may unpack to this many bytes, or to this many times its size.
EXPANDED, EXPANSION = 2**30, 200
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")


def open_tree(path: Path) -> Tree:
    """Open a path: a folder, an archive (by the ending of its name), or a single file.

    Raises InputError for an archive that is damaged, or that has members that no data set needs.
    """
    if is_dir(path):
        return Folder(path)
    name = path.name.lower()
    if name.endswith(ZIP_ENDINGS) or name.endswith(TAR_ENDINGS):
        tree = Archive(path)
        _content(path)
        return tree
    return Folder(path.parent, only=path.name)


def tree_of(place: Place) -> Tree:
    """Return the tree with the files of a place. Raises InputError like `open_tree`."""
    return place.tree or open_tree(place.path)


@dataclass(frozen=True)
class _Content:
    """Content of an archive.

    Attributes:
        sizes: Size of each file in bytes.
        folders: Entries of each folder.
        read: Returns the bytes of a file; None if this requires unpacking all files.
        top: Prefix of the names: the folder that contains everything else, if there is one.
    """

    sizes: dict[str, int]
    folders: dict[str, list[Entry]]
    read: Callable[[str], bytes] | None
    top: str


@dataclass(frozen=True)
class Archive:
    """Tree of an archive. Its names are cached in this process until other archives replace them."""

    path: Path
    _unpacked: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    @property
    def held(self) -> str:
        packed = _content(self.path).read is None
        return (
            "is a compressed .tar, which is loaded into memory; unpack it, or pack it as .zip or .tar" if packed else ""
        )

    def scan(self, folder: str) -> Iterator[Entry]:
        entries = _content(self.path).folders.get(folder)
        if entries is None:
            raise _missing(folder)
        yield from entries

    def open(self, name: str) -> IO[bytes]:
        content = _content(self.path)
        if name not in content.sizes:
            raise _missing(name)
        if content.read is not None:
            return io.BytesIO(content.read(content.top + name))  # completely, so that its checksum is verified
        with self._lock:
            if not self._unpacked:
                self._unpacked.update(_unpack(self.path, sum(content.sizes.values())))
        return io.BytesIO(self._unpacked[content.top + name])

    def status(self, name: str) -> tuple[int, int]:
        content = _content(self.path)
        if name not in content.sizes:
            raise _missing(name)
        return content.sizes[name], self.path.stat().st_mtime_ns


def _missing(name: str) -> OSError:
    return FileNotFoundError(errno.ENOENT, "No such file in the archive", name)


def _content(path: Path) -> _Content:
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=2)
def _read(path: Path, size: int, changed: int, inode: int) -> _Content:
    """Read the content of an archive, cached by size, modification time and inode."""
    try:
        return _zip(path, size) if path.name.lower().endswith(ZIP_ENDINGS) else _tar(path, size)
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error}); fetch it again") from error


@dataclass
class _Names:
    """Names of the members of an archive, checked one by one."""

    path: Path
    size: int
    total: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    folders: dict[str, dict[str, Entry]] = field(default_factory=lambda: {"": {}})

    def add(self, name: str, *, size: int, folder: bool, link: bool) -> str:
        """Return the name of a member in the tree. Raises InputError for members that no data set needs."""
        refuse_member(self.path, name, link)
        parts = _parts(name)
        plain = "/".join(parts)
        if folder:
            self._place(parts, folder=True)
            return plain
        if is_picture(plain) and size > LARGEST_MEMBER:
            raise InputError(
                f"{str(self.path)!r} has the member {name!r} of {size} bytes, too large for an "
                "image; fetch the archive again"
            )
        if plain in self.sizes:
            raise InputError(f"{str(self.path)!r} has the member {name!r} twice; pack it again")
        self.total += size
        if self.total > max(EXPANDED, EXPANSION * self.size):
            raise InputError(
                f"{str(self.path)!r} of {amount(self.size)} would unpack to more than {amount(self.total)}, above "
                f"{EXPANSION} times its size; pack it without compression if that is right"
            )
        self.sizes[plain] = size
        self._place(parts, folder=False)
        return plain

    def _place(self, parts: list[str], *, folder: bool) -> None:
        for depth, part in enumerate(parts):
            inner = folder or depth + 1 < len(parts)
            self.folders["/".join(parts[:depth])].setdefault(part, Entry(part, inner))
            if inner:
                self.folders.setdefault("/".join(parts[: depth + 1]), {})

    def unwrapped(self, read: Callable[[str], bytes] | None) -> _Content:
        """Return the content below the folder with all usable files, since no folder in an archive can be selected."""
        for name in self.sizes.keys() & self.folders.keys():
            raise InputError(f"{str(self.path)!r} has {name!r} as a file and as a folder; pack it again")
        top, beside = "", list[tuple[Entry, str]]()
        while True:
            shown = [entry for entry in self.folders[top].values() if not is_hidden(entry.name)]
            inner = [entry.name for entry in shown if entry.folder]
            if len(inner) != 1 or is_part(inner[0]) or any(_is_used(entry.name) for entry in shown if not entry.folder):
                break
            below = self.folders[_joined(top, inner[0])]
            if not any(entry.folder or _is_list_or_array(entry.name) for entry in below.values()):
                break  # one class folder, or images and no classes
            others = [entry for entry in self.folders[top].values() if entry.name != inner[0]]
            beside += [(entry, _joined(top, entry.name)) for entry in others]
            top = _joined(top, inner[0])
        folders = {name: list(entries.values()) for name, entries in self.folders.items()}
        sizes = self.sizes
        if top:
            folders = {name[len(top) + 1 :]: found for name, found in folders.items() if name.startswith(top + "/")}
            folders[""] = [*(entry for entry, _ in beside), *self.folders[top].values()]
            for entry, place in beside:
                for name, inside in self.folders.items():
                    if f"{name}/".startswith(f"{place}/"):
                        folders.setdefault(entry.name + name[len(place) :], list(inside.values()))
            sizes = {name[len(top) + 1 :]: size for name, size in sizes.items() if name.startswith(top + "/")}
        return _Content(sizes, folders, read, top and top + "/")


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _is_used(name: str) -> bool:
    return is_picture(name) or _is_list_or_array(name)


def _is_list_or_array(name: str) -> bool:
    return name.lower().endswith((".npy", *LIST_ENDINGS))


def _zip(path: Path, size: int) -> _Content:
    archive = zipfile.ZipFile(path)
    names, stored = _Names(path, size), dict[str, zipfile.ZipInfo]()
    for member in archive.infolist():
        if member.flag_bits & 1:
            raise InputError(f"{str(path)!r} is encrypted; unpack it and give the folder")
        link = stat.S_ISLNK(member.external_attr >> 16)
        name = names.add(member.filename, size=member.file_size, folder=member.is_dir(), link=link)
        stored[name] = member
    return names.unwrapped(lambda name: archive.read(stored[name]))


class Member(tarfile.TarInfo):
    """Member of an archive, with a limit for extended headers of the next one, such as long names."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in tarfile.REGULAR_TYPES and member.size > LARGEST_NOTES:
            raise tarfile.ReadError(f"{member.size} bytes of extended headers for one member")
        return member


def _tar(path: Path, size: int) -> _Content:
    with path.open("rb") as stream:
        packed = stream.read(8).startswith(_PACKED)
    names, offsets = _Names(path, size), dict[str, int]()
    # A stream, since seeking back in a compressed archive means decompressing it again from the start.
    with tarfile.open(path, "r|*", tarinfo=Member) as archive:
        for member in archive:
            if member.issparse():
                raise InputError(f"{str(path)!r} has the sparse member {member.name!r}; pack it without --sparse")
            link = member.issym() or member.islnk()
            name = names.add(member.name, size=member.size, folder=member.isdir(), link=link)
            offsets[name] = member.offset_data
    return names.unwrapped(None if packed else lambda name: _span(path, offsets[name], names.sizes[name]))


def _span(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        found = stream.read(size)
    if len(found) < size:
        raise EOFError("the archive is truncated")
    return found


def _unpack(path: Path, total: int) -> dict[str, bytes]:
    """Unpack all files of a .tar, which have `total` bytes together."""
    require_memory(total, f"the files in {str(path)!r}", "unpack it, or pack it as .zip or .tar")
    contents = {}
    with tarfile.open(path, "r|*", tarinfo=Member) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                contents["/".join(_parts(member.name))] = stream.read()
    return contents


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def refuse_member(archive: Path, name: str, link: bool) -> None:
    """Raise InputError for members that no data set needs: a link, an absolute name or one with `..`.

    Archives are read and never unpacked, so that such a member is harmless; but its archive should not be trusted.
    """
    parts = name.replace("\\", "/").split("/")
    outside = parts[0] == "" or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":")
    if link or outside:
        what = "is a link" if link else "leads out of the archive"
        raise InputError(f"{str(archive)!r} has the member {name!r}, which {what}; fetch the archive again")

"""Unreadable images: the reason for each, and the error that lists all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dnas.errors import InputError

SHOWN = 20
MOST_SKIPPED = 0.1  # of the images of a split; if more are broken, the problem is not in single files
_TAIL = 16  # bytes; no complete JPEG ends in this many zeros
_CHUNK = 2**20
Broken = tuple[str, str]  # name of an image below the folder of the data set, and the reason why it cannot be read


class Unreadable(InputError):
    """Some images of a data set cannot be read. The message lists up to 20 of them with the reason.

    Attributes:
        path: Folder or archive.
        broken: All unreadable images.
        channels, size: Requested channels and side length.
        remedy: Advice for the user.
    """

    def __init__(
        self,
        path: Path,
        broken: Sequence[Broken],
        channels: int,
        size: int,
        remedy: str = "remove or repair them, or skip them with --skip-broken",
    ) -> None:
        super().__init__(path, broken, channels, size, remedy)  # so that it can be pickled
        self.path, self.broken, self.channels, self.size = path, list(broken), channels, size
        self.remedy = remedy

    def __str__(self) -> str:
        shown = self.broken[:SHOWN]
        reasons = {reason for _, reason in self.broken}
        # A common reason is given once.
        common = f" ({shown[0][1]})" if len(reasons) == 1 and len(self.broken) > 1 else ""
        names = ", ".join(repr(name) if common else f"{name!r} ({reason})" for name, reason in shown)
        left = len(self.broken) - len(shown)
        more = f" and {left:,} more, which --debug lists" if left else ""
        images = "image" if len(self.broken) == 1 else "images"
        return f"{len(self.broken):,} unreadable {images} in {str(self.path)!r}{common}: {names}{more}; {self.remedy}"

    def lines(self) -> list[str]:
        """Return one line per image."""
        return [f"{name!r}: {reason}" for name, reason in self.broken]


def require_whole(path: Path, broken: Sequence[Broken], channels: int, size: int) -> None:
    """Raise Unreadable if there are broken images."""
    if broken:
        raise Unreadable(path, broken, channels, size)


def require_few(path: Path, broken: Sequence[Broken], count: int, part: str, channels: int, size: int) -> None:
    """Raise Unreadable if more than a tenth of the `count` images of a split are broken."""
    if len(broken) > MOST_SKIPPED * count:
        word = {"train": "training", "test": "test"}.get(part, "given")
        share = f"{100 * len(broken) / count:.0f}% of the {word} images, but --skip-broken skips at most"
        raise Unreadable(
            path, broken, channels, size, f"these are {share} {100 * MOST_SKIPPED:.0f}%: remove or repair them"
        )


def require_jpeg_end(stream: IO[bytes]) -> None:
    """Raise OSError for a JPEG file that ends in zeros instead of an end marker, as after an interrupted copy.

    libjpeg decodes the zeros as a gray area.
    """
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - _TAIL))
    if any(stream.read(_TAIL)):
        return
    stream.seek(0)
    content = stream.read()
    if content.find(b"\xff\xd9", max(0, _scan(content))) < 0:
        zeros = len(content) - len(content.rstrip(b"\0"))
        raise OSError(f"the JPEG is incomplete: its last {zeros:,} bytes are zeros, as after an interrupted copy")


def _scan(content: bytes) -> int:
    """Return the start of the first scan of a JPEG, after the segments, whose thumbnails have their own end marker."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big") if content[place + 1] != 0xFF else 1
    return place


def why(error: Exception, stream: IO[bytes] | None) -> str:
    """Return the reason why an image cannot be read, in one line: the library's message, and a look at the file.

    Args:
        stream: The file, if it could be opened.
    """
    from PIL import UnidentifiedImageError

    known = isinstance(error, OSError) and error.errno is not None
    text = os.strerror(error.errno) if known and isinstance(error, OSError) and error.errno else str(error)
    # Without the name of the unidentified file or object.
    text = " ".join(text.partition(" <" if isinstance(error, UnidentifiedImageError) else "\0")[0].split())
    text = text or type(error).__name__
    look = _look(stream) if stream is not None and not known else ""
    return look if look in ("the file is empty", "filled with zeros") else text + (look and f"; {look}")


def _look(stream: IO[bytes]) -> str:
    """Describe what is unusual about a file that cannot be decoded; "" if nothing is found."""
    try:
        stream.seek(0)
        start = stream.read(16)
        if not start:
            return "the file is empty"
        if start[4:8] == b"ftyp":  # the MP4 family, which includes AVIF and HEIC
            return f"its content is {start[8:12].decode('latin-1').strip().upper()}"
        if not any(start):
            while chunk := stream.read(_CHUNK):
                if any(chunk):
                    return ""
            return "filled with zeros"
        stream.seek(0, os.SEEK_END)
        size = stream.tell()
        stream.seek(max(0, size - _TAIL))
        return "the file ends in zeros" if not any(stream.read(_TAIL)) else ""
    except Exception:  # a damaged member of an archive; the reason is already known
        return ""

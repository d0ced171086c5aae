"""Pictures that cannot be read: why one cannot, and the error that lists all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from dnas.errors import InputError

SHOWN = 20
MOST_SKIPPED = 0.1  # of the images of a split; where more are broken, something else is wrong than single files
_TAIL = 16  # bytes; in no whole JPEG are so many zeros in place of its end
_CHUNK = 2**20
Broken = tuple[str, str]  # a picture's name below the folder of the data set, and why it cannot be read


class Unreadable(InputError):
    """Pictures of a data set cannot be read. The message has up to 20 of them with the reason.

    Attributes:
        path: The folder or archive.
        broken: All of them.
        channels, size: What pictures were to become.
        remedy: What to do.
    """

    def __init__(
        self,
        path: Path,
        broken: Sequence[Broken],
        channels: int,
        size: int,
        remedy: str = "remove or repair them, or go on without them by --skip-broken",
    ) -> None:
        super().__init__(path, broken, channels, size, remedy)  # so that it can be sent between processes
        self.path, self.broken, self.channels, self.size = path, list(broken), channels, size
        self.remedy = remedy

    def __str__(self) -> str:
        shown = self.broken[:SHOWN]
        reasons = {reason for _, reason in self.broken}
        # A reason that all of them share is given once.
        common = f" ({shown[0][1]})" if len(reasons) == 1 and len(self.broken) > 1 else ""
        names = ", ".join(repr(name) if common else f"{name!r} ({reason})" for name, reason in shown)
        left = len(self.broken) - len(shown)
        more = f" and {left:,} more, which --debug lists" if left else ""
        images = "image" if len(self.broken) == 1 else "images"
        return f"{len(self.broken):,} unreadable {images} in {str(self.path)!r}{common}: {names}{more}; {self.remedy}"

    def lines(self) -> list[str]:
        """One line per picture."""
        return [f"{name!r}: {reason}" for name, reason in self.broken]


def require_whole(path: Path, broken: Sequence[Broken], channels: int, size: int) -> None:
    """Raises Unreadable if there are broken pictures."""
    if broken:
        raise Unreadable(path, broken, channels, size)


def require_few(path: Path, broken: Sequence[Broken], count: int, part: str, channels: int, size: int) -> None:
    """Raises Unreadable if more than a tenth of the `count` pictures of a split are broken."""
    if len(broken) > MOST_SKIPPED * count:
        word = {"train": "training", "test": "test"}.get(part, "given")
        share = f"{100 * len(broken) / count:.0f}% of the {word} images, where --skip-broken goes on without at most"
        raise Unreadable(
            path, broken, channels, size, f"these are {share} {100 * MOST_SKIPPED:.0f}%: remove or repair them"
        )


def require_jpeg_end(stream: IO[bytes]) -> None:
    """Raises OSError for a JPEG file that ends in zeros where its end should be, as a copy that broke off leaves it.

    libjpeg decodes the zeros, to a gray area.
    """
    stream.seek(0, os.SEEK_END)
    stream.seek(max(0, stream.tell() - _TAIL))
    if any(stream.read(_TAIL)):
        return
    stream.seek(0)
    content = stream.read()
    if content.find(b"\xff\xd9", max(0, _scan(content))) < 0:
        zeros = len(content) - len(content.rstrip(b"\0"))
        raise OSError(f"the JPEG has no end: its last {zeros:,} bytes are zeros, as after a copy that broke off")


def _scan(content: bytes) -> int:
    """Where the first scan of a JPEG begins, after the segments, in which thumbnails have an end of their own."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big") if content[place + 1] != 0xFF else 1
    return place


def why(error: Exception, stream: IO[bytes] | None) -> str:
    """Why a picture could not be read, in one line: in the words of the library, and what its file looks like.

    Args:
        stream: The file, if it could be opened.
    """
    from PIL import UnidentifiedImageError

    known = isinstance(error, OSError) and error.errno is not None
    text = os.strerror(error.errno) if known and isinstance(error, OSError) and error.errno else str(error)
    # Without the name of the file or object that could not be identified.
    text = " ".join(text.partition(" <" if isinstance(error, UnidentifiedImageError) else "\0")[0].split())
    text = text or type(error).__name__
    look = _look(stream) if stream is not None and not known else ""
    return look if look in ("the file is empty", "filled with zeros") else text + (look and f"; {look}")


def _look(stream: IO[bytes]) -> str:
    """What is odd about a file that cannot be decoded: "" if nothing is found."""
    try:
        stream.seek(0)
        start = stream.read(16)
        if not start:
            return "the file is empty"
        if start[4:8] == b"ftyp":  # the family of MP4, of which AVIF and HEIC are
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
    except Exception:  # a damaged member of an archive; the reason is known without this
        return ""

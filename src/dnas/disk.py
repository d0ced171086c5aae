"""Files on disk: atomic writes, and reads that check the format."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from dnas.errors import InputError, RunError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]


TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
NO_FOLDER_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


# --- writing ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block (full disk, read-only, vanished) into a RunError about `path`."""
    try:
        yield
    except OSError as error:
        cure = "there is space" if error.errno in NO_SPACE else "it can be written again"
        raise RunError(
            f"cannot write {path} ({error.strerror or error}): the previous checkpoint is intact, "
            f"and the run can be resumed once {cure}"
        ) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of the file `path` by `data`.

    At any moment, and after a kill at any moment, the file has its old or its new content. After the return the new
    content survives power loss. Raises RunError if the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with writing(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Write the entries of a folder to disk, on systems that support it."""
    # Windows cannot open a folder, and some network file systems cannot fsync one.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_FSYNC:
            raise
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete the temporary files of killed writes in `folder`. Only its one writer may call this. Raises OSError."""
    for path in sorted(folder.iterdir()):
        if TEMPORARY_NAME.fullmatch(path.name):
            path.unlink()


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raises InputError, with the path, if it cannot be read or is not TOML."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML ({error}); correct it") from error
    return table


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises InputError, with the path, if it cannot be read or is not an object."""
    try:
        return parse_object(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON object ({error}); restore the file") from error


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the object in a line of JSON. Raises ValueError for anything else, including NaN."""
    value: Any = json.loads(line, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")

"""Folders whose content nobody but this user, and root, can have put there: only from these is a library loaded."""

from __future__ import annotations

import os
import stat
from pathlib import Path

WRITE, SEARCH = 2, 1
MOST_LINKS = 40  # as in Linux


def secured(folder: Path) -> bool:
    """Return True if `folder` is ours alone: no link, mode 0700, below folders that nobody else can write to.

    Missing folders are created, and a folder of ours that others could only read is closed to them. Nothing else is
    changed. Windows has no such modes; there the user's profile, where caches lie, is closed by its access list.
    """
    try:
        if not hasattr(os, "getuid"):
            folder.mkdir(parents=True, exist_ok=True)
            return True
        missing, at = [], folder
        while not os.path.lexists(at):
            missing.append(at)
            at = at.parent
        if not out_of_reach(at):
            return False
        for new in reversed(missing):
            new.mkdir(0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or not out_of_reach(folder):
            return False
        if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
            folder.chmod(0o700)
        return True
    except OSError:
        return False


def owned(file: Path) -> bool:
    """Return True if `file` is a regular file of this user, and no link."""
    try:
        status = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def out_of_reach(path: Path, sticky: bool = False) -> bool:
    """Return True if no other user can change what is found under `path`, nor its parents and the links on the way.

    With `sticky`, a folder like /tmp may be among the parents: others can write there, but not replace what is ours.

    Raises OSError if `path` does not exist.
    """
    if not hasattr(os, "getuid"):
        return True
    path = path.absolute()
    at, rest, links = Path(path.anchor), list(path.parts[1:]), 0
    closed = False  # others cannot get further down than here
    while True:
        status = at.lstat()
        if status.st_uid not in (0, os.getuid()):
            return False
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                return False
            # Once more from the top: the link's own folder was looked at, its target was not.
            target = at.parent / at.readlink()
            at, rest, closed = Path(target.anchor), [*target.parts[1:], *rest], False
            continue
        if not closed and _others_may(status, WRITE) and not (sticky and rest and status.st_mode & stat.S_ISVTX):
            return False
        if not rest:
            return True
        closed = closed or not _others_may(status, SEARCH)
        name = rest.pop(0)
        at, closed = (at.parent, False) if name == ".." else (at / name, closed)


def _others_may(status: os.stat_result, permission: int) -> bool:
    """Whether a mode gives a permission to anyone but its owner."""
    if status.st_mode & permission:
        return True
    return bool(status.st_mode & permission << 3) and not _private_group(status.st_gid)


def _private_group(gid: int) -> bool:
    """Whether a group is the one that many systems give each user: of the user's name, and nobody else in it."""
    try:
        import grp
        import pwd

        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except (ImportError, KeyError):
        return False
    return gid == user.pw_gid != 0 and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}

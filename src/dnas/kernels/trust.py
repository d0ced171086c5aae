"""Folders to which only this user and root can write. Libraries are loaded only from such folders."""

from __future__ import annotations

import os
import stat
from pathlib import Path

WRITE, SEARCH = 2, 1
MOST_LINKS = 40  # as in Linux


def secured(folder: Path) -> bool:
    """Return True if `folder` is only ours: no link, mode 0700, below folders that no other user can write to.

    Missing folders are created, and if others can only read a folder of ours, they lose this permission. Nothing else
    is changed. Windows has no such modes; there the profile of the user, with its caches, is protected by its access
    list.
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
    """Return True if `file` is a regular file of this user, not a link."""
    try:
        status = file.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def out_of_reach(path: Path, sticky: bool = False) -> bool:
    """Return True if no other user can change the target of `path`, its parents or the links on the way.

    With `sticky`, a folder like /tmp may be among the parents: others can write there, but not replace our files.

    Raises OSError if `path` does not exist.
    """
    if not hasattr(os, "getuid"):
        return True
    path = path.absolute()
    at, rest, links = Path(path.anchor), list(path.parts[1:]), 0
    closed = False  # others have no access below this folder
    while True:
        status = at.lstat()
        if status.st_uid not in (0, os.getuid()):
            return False
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MOST_LINKS:
                return False
            # Again from the top: the folder of the link was checked, but not its target.
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
    """Return True if a mode gives a permission to anyone except the owner."""
    if status.st_mode & permission:
        return True
    return bool(status.st_mode & permission << 3) and not _private_group(status.st_gid)


def _private_group(gid: int) -> bool:
    """Return True if a group is the private group of the user: with the user's name and no other member."""
    try:
        import grp
        import pwd

        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except (ImportError, KeyError):
        return False
    return gid == user.pw_gid != 0 and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}

"""Which folders libraries are loaded from: those that nobody else can have written to."""

import os
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dnas.doctor import compiler
from dnas.kernels import native, trust

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners and modes here")

STRANGER, SHARED, OWN = 54321, 54322, 54323  # a user, a group of several, this user's own group


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder below root's own ones, as a home is; and what others have of it, {path: (user, group)}."""
    others = {}
    real = Path.lstat

    def lstat(path):
        found = real(path if path not in tmp_path.parents else Path("/"))
        if path in others:
            user, group = others[path]
            found = os.stat_result((*found[:4], found[4] if user is None else user, group, *found[6:]))
        return found

    monkeypatch.setattr(Path, "lstat", lstat)
    monkeypatch.setattr(trust, "_private_group", lambda gid: gid == OWN)
    folder = tmp_path / "home"
    folder.mkdir(0o755)
    tmp_path.chmod(0o755)
    return folder, others


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_cache_is_closed_to_others(home):
    folder, _ = home
    cache = folder / ".cache" / "dnas" / "kernels"
    before = os.umask(0)
    try:
        assert trust.secured(cache)
    finally:
        os.umask(before)
    assert [mode(path) for path in (cache, cache.parent, cache.parent.parent)] == [0o700] * 3
    assert trust.secured(cache)


@pytest.mark.parametrize(
    ("found", "trusted"), [(0o700, True), (0o755, True), (0o750, True), (0o777, False), (0o1777, False), (0o775, False)]
)
def test_an_existing_cache(home, found, trusted):
    """One that others could read is closed; one that they could write to is left as it is."""
    folder, others = home
    cache = folder / "kernels"
    cache.mkdir()
    cache.chmod(found)
    others[cache] = None, SHARED
    assert trust.secured(cache) == trusted
    assert mode(cache) == (0o700 if trusted else found)


@pytest.mark.parametrize("found", [0o777, 0o1777, 0o775, 0o757])
def test_a_parent_that_others_can_write_to(home, found):
    folder, others = home
    others[folder] = None, SHARED
    folder.chmod(found)
    cache = folder / "dnas" / "kernels"
    assert not trust.secured(cache)
    assert not (folder / "dnas").exists()  # not even begun
    folder.chmod(0o755)
    assert trust.secured(cache)
    folder.chmod(found)
    assert not trust.secured(cache)


def test_groups(home):
    folder, others = home
    cache = folder / "inner" / "kernels"
    others[folder], others[folder / "inner"] = (None, OWN), (None, OWN)
    folder.chmod(0o775)
    assert trust.secured(cache)  # by a group of this user's own
    (folder / "inner").chmod(0o770)
    others[folder / "inner"] = None, SHARED
    assert not trust.secured(cache)
    folder.chmod(0o750)  # others do not get down there
    assert trust.secured(cache)
    others[folder] = None, SHARED
    assert not trust.secured(cache)


@pytest.mark.parametrize("whose", ["home", "kernels"])
def test_a_folder_of_somebody_else_is_neither_used_nor_changed(home, monkeypatch, whose):
    folder, others = home
    cache = folder / "kernels"
    cache.mkdir(0o755)
    others[folder if whose == "home" else cache] = STRANGER, SHARED
    assert not trust.secured(cache)
    assert mode(cache) == 0o755
    others.clear()
    assert trust.secured(cache)


def test_a_folder_of_root_is_a_parent_and_no_cache(home, monkeypatch):
    folder, others = home
    cache = folder / "kernels"
    cache.mkdir(0o700)
    monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    others[folder], others[cache] = (0, 0), (STRANGER, SHARED)
    assert trust.secured(cache)
    others[cache] = 0, 0
    assert not trust.secured(cache)


def test_links(home, tmp_path):
    folder, _ = home
    safe, open_to_all = tmp_path / "safe", tmp_path / "open"
    for target in (safe, open_to_all):
        (target / "kernels").mkdir(parents=True, mode=0o700)
    open_to_all.chmod(0o777)
    for target, trusted in (
        (safe, True),
        (open_to_all, False),
        (Path("..") / "safe", True),
        (Path("..") / "open", False),
    ):
        (folder / "dnas").symlink_to(target)
        assert trust.secured(folder / "dnas" / "kernels") == trusted
        (folder / "dnas").unlink()
    (folder / "kernels").symlink_to(safe / "kernels")
    assert not trust.secured(folder / "kernels")  # the cache itself
    (folder / "round").symlink_to("round")
    assert not trust.secured(folder / "round" / "kernels")
    (folder / "nowhere").symlink_to("missing")
    assert not trust.secured(folder / "nowhere" / "kernels")


def test_what_is_no_folder_or_cannot_be_made(home, monkeypatch):
    folder, _ = home
    (folder / "file").write_text("")
    assert not trust.secured(folder / "file")
    assert not trust.secured(folder / "file" / "kernels")
    monkeypatch.setattr(Path, "mkdir", lambda *a, **k: (_ for _ in ()).throw(PermissionError("read-only")))
    assert not trust.secured(folder / "kernels")


def test_without_owners_the_profile_is_the_caches_protection(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "getuid")
    assert trust.secured(tmp_path / "dnas" / "kernels") and (tmp_path / "dnas" / "kernels").is_dir()
    (tmp_path / "file").write_text("")
    assert trust.owned(tmp_path / "file") and trust.out_of_reach(tmp_path)


def test_files(home):
    folder, others = home
    file = folder / "library.so"
    assert not trust.owned(file)
    file.write_text("")
    assert trust.owned(file)
    (folder / "link.so").symlink_to(file)
    assert not trust.owned(folder / "link.so") and not trust.owned(folder)
    others[file] = STRANGER, SHARED
    assert not trust.owned(file)


def test_the_own_group_of_a_user():
    import grp
    import pwd

    user = pwd.getpwuid(os.getuid())
    for group in grp.getgrall():
        expected = (
            group.gr_gid == user.pw_gid != 0 and group.gr_name == user.pw_name and group.gr_mem in ([], [user.pw_name])
        )
        assert trust._private_group(group.gr_gid) == expected
    assert not trust._private_group(2**31 - 7)


def test_a_folder_in_tmp_can_be_ones_own_for_a_moment(home):
    folder, _ = home
    folder.chmod(0o1777)
    own = folder / "dnas-kernels-x"
    own.mkdir(0o700)
    assert trust.out_of_reach(own, sticky=True) and not trust.out_of_reach(own)
    assert not trust.out_of_reach(folder, sticky=True)  # /tmp itself
    folder.chmod(0o777)
    assert not trust.out_of_reach(own, sticky=True)


# --- libraries -----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """Nothing is loaded yet, as in a new process."""
    if not native.available():
        pytest.skip("no C compiler on this machine")

    def forget():
        native._built.cache_clear()
        native._version.cache_clear()

    forget()
    yield forget
    forget()


def load():
    library = native.library("depthwise", REAL="double")
    assert library is not None
    return Path(library._name)


def gradient_is_right():
    x, w = torch.ones(1, 2, 4, 4).double(), torch.ones(2, 1, 3, 3).double().requires_grad_()
    from dnas.kernels import depthwise

    depthwise(x, w).sum().backward()
    return w.grad[0, 0, 1, 1].item() == 16


def test_the_cache_is_closed_and_used_again(home, fresh, monkeypatch):
    folder, _ = home
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    first = load()
    assert first.parent == folder / "dnas" / "kernels" and mode(first.parent) == 0o700
    written = first.stat().st_mtime_ns
    fresh()
    assert load() == first and first.stat().st_mtime_ns == written
    assert not compiler().advice


def test_a_file_that_is_not_ours_is_made_again(home, fresh, monkeypatch):
    folder, others = home
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    path = load()
    planted = folder / "planted.so"
    shutil.copy(path, planted)
    path.unlink()
    path.symlink_to(planted)
    fresh()
    assert load() == path and not path.is_symlink() and gradient_is_right()
    others[path] = STRANGER, SHARED
    before = path.stat().st_ino
    fresh()
    assert load() == path and path.stat().st_ino != before


def test_nothing_in_the_shared_temporary_folder_is_loaded_or_left(home, fresh, monkeypatch, tmp_path):
    """Of what others can foresee, nothing is looked at: neither a folder by the user's number, nor one made before."""
    folder, _ = home
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    foreseen = shared / f"dnas-kernels-{os.getuid()}"
    foreseen.mkdir()
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))  # no cache can be there
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    path = load()
    assert path.parent.parent == shared and path.parent != foreseen
    assert list(shared.iterdir()) == [foreseen] and not list(foreseen.iterdir())
    assert gradient_is_right()
    assert "writable only by you" in compiler().advice


def test_a_temporary_folder_whose_owner_could_be_replaced_is_not_used(home, fresh, monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    assert native.library("depthwise", REAL="double") is None
    assert gradient_is_right()  # by torch


def test_another_version_of_the_compiler_builds_its_own(home, fresh, monkeypatch):
    folder, _ = home
    version = folder / "version"
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    program = folder / "cc"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec cat {shlex.quote(str(version))}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("CC", str(program))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    found = set()
    for text in ("cc 1.0", "cc 1.1", "cc 1.0"):
        version.write_text(text)
        fresh()
        found.add(load())
    assert len(found) == 2


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_a_cache_home_that_is_no_absolute_path_is_none(home, monkeypatch, value):
    folder, _ = home
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    assert native.cache_folder() == folder / ".cache" / "dnas" / "kernels"


def test_a_program_that_is_no_compiler_is_none(fresh, monkeypatch):
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert native.library("depthwise", REAL="double") is None
    monkeypatch.setenv("CC", sys.executable)
    fresh()
    assert native.library("depthwise", REAL="double") is None

"""F25. Locale, hash seed, `python -O`, a missing HOME and another time zone change no bit of a run; a closed or abandoned stdout or
stderr is a clean exit."""

import os
import subprocess
import sys

import pytest
from faults.harness import TINY, contents

ENVIRONMENTS = {
    "locale": ({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ()),
    "hash seed": ({"PYTHONHASHSEED": "12345"}, ()),
    "optimised": ({}, ("-O",)),
    "without docstrings": ({}, ("-OO",)),
    "no HOME": ({"HOME": None, "USER": None, "LOGNAME": None}, ()),
    "time zone": ({"TZ": "XXX-13:45"}, ()),
    "isolated": ({"PYTHONSAFEPATH": "1"}, ("-X", "dev")),
}


def environment(changes):
    changed = {**os.environ, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def dnas(*arguments, changes=None, flags=(), **options):
    command = [sys.executable, *flags, "-m", "dnas", *map(str, arguments)]
    return subprocess.run(command, env=environment(changes or {}), capture_output=True, **options)


def same(folder, images, undisturbed, changes, flags):
    run = folder / "run"
    done = dnas("run", "--data", images, *TINY, "--out", run, changes=changes, flags=flags, cwd=folder)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert contents(run) == undisturbed
    # With letters that an ASCII locale lacks.
    done = dnas("show", run, changes=changes, flags=flags)
    assert done.returncode == 0 and done.stdout, done.stderr.decode(errors="replace")


def test_all_at_once(tmp_path, images, undisturbed):
    changes, flags = {}, ["-O"]
    for more, _ in ENVIRONMENTS.values():
        changes |= more
    same(tmp_path, images, undisturbed, changes, flags)


@pytest.mark.full
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_alone(tmp_path, images, undisturbed, name):
    same(tmp_path, images, undisturbed, *ENVIRONMENTS[name])


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "| head -c 1", "2>&1 | head -c 1", "<&- >/dev/full"])
def test_no_one_reads_what_is_written(tmp_path, redirection):
    """`>&-` closes it, `head` leaves early, /dev/full takes nothing."""
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full")
    file = tmp_path / "architecture.json"
    command = f"{sys.executable} -m dnas show DARTS_V2 --layers 300 {redirection}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1, done.stderr
    # What was asked for was not written to a full disk, which is an error; to nobody it need not be.
    assert done.returncode == (1 if "full" in redirection else 0), done.stderr
    assert not file.exists()


@pytest.mark.parametrize(
    "redirection", [">&- 2>&-", *(pytest.param(one, marks=pytest.mark.full) for one in (">&-", "2>&-", "<&-"))]
)
def test_a_run_that_no_one_reads(tmp_path, images, undisturbed, redirection):
    """Its files are opened under the numbers of the closed ones."""
    arguments = " ".join(["run", "--data", f"'{images}'", *TINY, "--out", f"'{tmp_path / 'run'}'"])
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m dnas {arguments} {redirection}"], capture_output=True)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == undisturbed

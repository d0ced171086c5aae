"""F05. A run folder that becomes read-only or vanishes ends the run with 1 and one line, no traceback; it is not made again, and
where it comes back the run goes on to the same bits."""

import errno
import os
import shutil
from functools import partial
from pathlib import Path

import pytest
from checkpoint_tools import names, save_number
from faults.harness import TINY, at_step, contents, run_command

from dnas.errors import RunError


@pytest.mark.parametrize(("stage", "step"), [("search", 2), ("train", 3)])
def test_a_folder_that_vanishes(tmp_path, images, undisturbed, stage, step):
    run, away = tmp_path / "run", tmp_path / "away"
    fault = partial(at_step, stage, step, partial(shutil.move, run, away))
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--quiet", "--out", run, fault=fault)
    assert outcome.code == 1 and outcome.out == ""
    assert len(outcome.lines) == 1 and str(run) in outcome.err and "Traceback" not in outcome.err
    assert not run.exists()
    shutil.move(away, run)
    assert run_command(tmp_path, "resume", run).code == 0
    assert contents(run) == undisturbed


def test_a_folder_that_becomes_read_only(tmp_path, images, undisturbed):
    run = tmp_path / "run"
    fault = partial(at_step, "train", 2, read_only)
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--quiet", "--out", run, fault=fault)
    assert outcome.code == 1 and outcome.out == ""
    assert len(outcome.lines) == 1 and "Read-only file system" in outcome.err and str(run) in outcome.err
    assert run_command(tmp_path, "resume", run).code == 0
    assert contents(run) == undisturbed


def read_only():
    """Every file that is opened for writing is refused. Not by chmod: root, as in most containers, may write anyway."""
    original = Path.open

    def refused(path, mode="r", *arguments, **options):
        if mode[0] != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return original(path, mode, *arguments, **options)

    Path.open = refused


def test_a_vanished_run_folder_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can be resumed"):
        save_number(tmp_path / "run" / "checkpoints", 1)
    assert names(tmp_path) == []

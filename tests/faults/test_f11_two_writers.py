"""F11. Two processes on one run folder: the second is refused, with the owner's process id; a dead owner's folder is taken
over."""

import os
import signal
from functools import partial

from faults.harness import TINY, Command, at_step, contents, invoke, newest_number, run_command


def test_a_live_owner_is_named_and_a_dead_one_is_taken_over(tmp_path, images, undisturbed):
    run = tmp_path / "run"
    with Command(
        tmp_path, "run", "--data", images, *TINY, "--out", run, fault=partial(at_step, "train", 2, stop)
    ) as first:
        # 4 + 1 checkpoints of the search, one of the training; then it stands still and holds the folder.
        first.until(lambda: newest_number(run) == 6)
        before = contents(run, ("config.toml", "metrics.jsonl", "architecture.json"))
        for arguments in (("resume", run), ("resume", run, "--json")):
            outcome = invoke(*arguments)
            assert outcome.code == 2 and outcome.out == ""
            assert len(outcome.lines) == 1 and f"process {first.pid} on " in outcome.err
        outcome = invoke("run", "--data", images, *TINY, "--out", run)
        assert outcome.code == 2 and len(outcome.lines) == 1 and str(run) in outcome.err
        assert contents(run, tuple(before)) == before
        assert first.process.exitcode is None
        os.kill(first.pid, signal.SIGKILL)
        assert first.wait().code == -signal.SIGKILL
    assert run_command(tmp_path, "resume", run).code == 0
    assert contents(run) == undisturbed


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)

"""F01. `kill -9` at any moment loses at most the work since the last checkpoint, damages nothing, and going on gives the
same bits as not having stopped."""

import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from faults.harness import PATIENCE, TINY, Command, contents, dies_after, newest_number, run_command

from dnas.runtime.checkpoint import newest


def survives(folder: Path, images: Path, kills: list[tuple[int, float]], more: tuple[str, ...] = ()) -> list[str]:
    """Kill a run (number of the checkpoint, processor seconds after it) times, resume it to its end.

    Gives the stages in which a kill left the run.
    """
    run, stages = folder / "run", []
    start = ("run", "--data", images, *TINY, *more, "--out", run)
    for after, seconds in kills:
        arguments = ("resume", run) if (run / "config.toml").exists() else start
        outcome = run_command(folder, *arguments, fault=dies_after(after, seconds))
        if outcome.code == 0:
            break
        assert outcome.code == -signal.SIGPROF, outcome.err
        checkpoint, damaged = newest(run / "checkpoints")
        assert not damaged
        stages.append("" if checkpoint is None else checkpoint.state["stage"])
    outcome = run_command(folder, "resume", run)
    assert outcome.code == 0, outcome.err
    assert not [path.name for path in run.rglob("*.tmp")]
    return stages


def test_a_run_killed_in_every_stage_ends_with_the_same_bits(tmp_path, images, undisturbed):
    rng = random.Random(1)
    # A step takes some 30 ms, a third of it for the checkpoint.
    kills = [(k, rng.uniform(0, 0.03)) for k in (0, 2, 4, 7, 10, 14, 17)]
    stages = survives(tmp_path, images, kills)
    assert {"search", "train", "baseline"} <= set(stages) and len(stages) >= 6
    assert contents(tmp_path / "run") == undisturbed


def test_kill_9_from_outside_at_the_start_and_in_mid_run(tmp_path, images, undisturbed):
    run, rng = tmp_path / "run", random.Random(2)
    arguments = ("run", "--data", images, *TINY, "--out", run)
    for wanted in (0, 3, 9):
        with Command(tmp_path, *arguments) as command:
            command.until(lambda wanted=wanted: newest_number(run) >= wanted)
            command.process.join(rng.uniform(0, 0.02))
            command.process.kill()
            command.process.join(PATIENCE)
            assert command.process.exitcode == -signal.SIGKILL
        if (run / "config.toml").exists():
            arguments = ("resume", run)
    assert run_command(tmp_path, *arguments).code == 0
    assert contents(run) == undisturbed


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_fifty_kills_at_random_moments(tmp_path, images):
    longer = ("-o", "search.epochs=40", "-o", "train.epochs=20")
    whole = tmp_path / "whole"
    assert run_command(tmp_path, "run", "--data", images, *TINY, *longer, "--out", whole).code == 0
    rng = random.Random(3)
    # Every attempt writes at least one checkpoint of 203, so it gets on; it is killed soon after.
    stages = survives(tmp_path, images, [(1, rng.uniform(0, 0.05)) for _ in range(204)], longer)
    counts = Counter(stages)
    print("kills survived:", dict(counts))
    assert counts["search"] >= 50 and counts["train"] + counts["baseline"] >= 50
    assert contents(tmp_path / "run") == contents(whole)

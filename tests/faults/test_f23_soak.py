"""F23. Over thousands of steps resident memory stays flat within 2 %, so do open files, and metrics.jsonl grows by the same with every
epoch."""

import json
import statistics
from functools import partial

import pytest
from faults.harness import PATIENCE, TINY, run_command

EVERY = 3  # steps between two looks


def watch(file):
    """Writes down resident memory and open files every few steps."""
    import gc

    import psutil

    from dnas.runtime.session import Session

    original, process, calls = Session.step_done, psutil.Process(), []

    def step_done(self, *arguments):
        original(self, *arguments)
        calls.append(1)
        if len(calls) % EVERY == 0:
            # What waits for the collector is not lost; when it comes is not the question.
            gc.collect()
            with file.open("a") as out:
                out.write(json.dumps([process.memory_info().rss, process.num_fds(), self._stage]) + "\n")

    Session.step_done = step_done
    # The steps that are tried to foretell the training's time take some MiB once, whenever they come.
    Session._foretell = lambda self, *arguments: None


def soaked(folder, images, epochs, *more):
    run, seen = folder / "run", folder / "seen.jsonl"
    arguments = ("run", "--data", images, *TINY, "-o", f"search.epochs={epochs}", "-o", f"train.epochs={epochs}", *more)
    arguments = (*arguments, "--no-baseline", "--checkpoint-every", 0.5, "--out", run)
    outcome = run_command(folder, *arguments, fault=partial(watch, seen), seconds=10 * PATIENCE)
    assert outcome.code == 0, outcome.err
    looks = [json.loads(line) for line in seen.read_text().splitlines()]
    for stage in ("search", "train"):
        memory, files = zip(*((rss, count) for rss, count, where in looks if where == stage), strict=True)
        third = len(memory) // 3
        assert third >= 4
        # The first third fills caches and pools.
        early, late = statistics.median(memory[third : 2 * third]), statistics.median(memory[2 * third :])
        print(
            f"{stage}: {len(memory) * EVERY} steps, {early / 2**20:.1f} MiB, then {late / 2**20:.1f}; {files[-1]} open files"
        )
        assert abs(late / early - 1) <= 0.02, (stage, early, late)
        assert len(set(files)) == 1, (stage, set(files))
        lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if f'"{stage}"' in line]
        assert len(lines) == epochs
        halves = [sum(map(len, part)) for part in (lines[: epochs // 2], lines[epochs // 2 :])]
        # Numbers of epochs and small rates need more digits.
        assert halves[1] / halves[0] < 1.25
    assert len(list((run / "checkpoints").iterdir())) == 4
    return len(looks) * EVERY


@pytest.mark.full
def test_some_hundred_steps(tmp_path, images):
    assert soaked(tmp_path, images, 22) >= 100


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_thousands_of_steps(tmp_path, images):
    assert soaked(tmp_path, images, 1200) >= 5000

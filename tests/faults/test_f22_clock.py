"""F22. A wall clock that jumps, a changed time zone and a leap second have no effect on results, budgets, limits or the time between
checkpoints: all of those go by the monotonic clock."""

import itertools
import json
import os
import re
import time
from functools import partial

import pytest
from faults.harness import TINY, contents, newest_number, run_command

BUDGETS = ("--search-seconds", "3600", "--time-limit", "3600")


@pytest.mark.parametrize(
    "jumps", [(10**9, -(10**9)), (-(10**6),), (1, 0, -1, 3600, -3600)], ids=["far", "back", "small"]
)
def test_a_clock_that_jumps_at_every_look(tmp_path, images, undisturbed, jumps):
    run = tmp_path / "run"
    arguments = ("run", "--data", images, *TINY, *BUDGETS, "--checkpoint-every", "3600", "--out", run)
    outcome = run_command(tmp_path, *arguments, fault=partial(jump, jumps))
    assert outcome.code == 0, outcome.err
    assert contents(run) == undisturbed
    # One at the end of each of the three stages: no jump made it time for another.
    assert newest_number(run) == 3
    result = json.loads((run / "result.json").read_text())
    assert 0 <= result["search_seconds"] < 3600 and 0 <= result["train_seconds"] < 3600


def jump(jumps):
    wall, steps = time.time, itertools.cycle(jumps)
    time.time = lambda: wall() + next(steps)


def test_a_time_zone_that_changes_under_way(tmp_path, images, undisturbed):
    run = tmp_path / "run"
    assert run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, fault=change_zones).code == 0
    assert contents(run) == undisturbed
    lines = (run / "log.txt").read_text().splitlines()
    # Each line says of which zone its time is, or continues the one before.
    zones = {match[1] for line in lines if (match := re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}([+-]\d\d:\d\d) ", line))}
    assert len(zones) > 1


def change_zones():
    from dnas.runtime.session import Session

    original, zones = Session.step_done, itertools.cycle(["UTC", "XXX-14", "XXX+12", "XXX-5:45", "XXX+3YYY"])

    def step_done(self, *arguments):
        os.environ["TZ"] = next(zones)
        time.tzset()
        self.say("a step")
        original(self, *arguments)

    Session.step_done = step_done


def test_the_time_limit_is_not_reached_by_a_jump_and_is_by_time(tmp_path, images, undisturbed):
    """The monotonic clock, on the other hand, counts: an hour of it is an hour."""
    run = tmp_path / "run"
    arguments = ("run", "--data", images, *TINY, "--time-limit", "3600", "--out", run)
    outcome = run_command(tmp_path, *arguments, fault=an_hour_passes)
    assert outcome.code == 75
    assert outcome.lines[-1] == f"time limit reached; resume with: dnas resume {run}"
    assert run_command(tmp_path, "resume", run, "--time-limit", "3600").code == 0
    assert contents(run) == undisturbed


def an_hour_passes():
    from dnas.runtime.session import Session

    original, real, late = Session.step_done, time.monotonic, [0.0]
    time.monotonic = lambda: real() + late[0]

    def step_done(self, step, *rest):
        late[0] = 3600.0 * (self._stage == "train" and step == 2)
        original(self, step, *rest)

    Session.step_done = step_done

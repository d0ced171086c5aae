import math

import pytest
from faults.harness import TINY, contents, invoke, make_images

import dnas
from dnas.errors import InputError
from dnas.runtime.execution import CHECKPOINT_SECONDS, DEFAULT, Execution, execution


def test_nothing_given_is_the_default():
    assert execution() == execution(None, None, None) == DEFAULT == Execution(CHECKPOINT_SECONDS, None, False)


def test_the_limit_counts_from_now_by_the_monotonic_clock(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 7.0)
    assert execution(0, 90, True) == Execution(0.0, 97.0, True)


@pytest.mark.parametrize("option", ["checkpoint_every", "time_limit"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, "soon", "-1m", True, -math.inf])
def test_what_is_no_time_is_refused_by_its_name(option, value):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} must be "):
        execution(**{option: value})


def test_a_limit_in_which_nothing_can_be_done_is_refused():
    with pytest.raises(InputError, match="--time-limit must be above 0, got 0"):
        execution(time_limit=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("execution") / "images")


def test_it_is_no_part_of_the_configuration_and_each_resume_may_give_another(tmp_path, images):
    plain, run = tmp_path / "plain", tmp_path / "run"
    start = ("run", "--data", images, *TINY, "--quiet", "--no-baseline", "--out")
    assert invoke(*start, plain).code == 0
    outcome = invoke(*start, run, "--checkpoint-every", "0", "--time-limit", "0.001", "--json")
    assert (outcome.code, outcome.out) == (75, "") and outcome.lines[-1].endswith(f"resume with: dnas resume {run}")
    assert (run / "config.toml").read_bytes() == (plain / "config.toml").read_bytes()
    # As a job script would, that is started again and again; every time it gets on by a step at least.
    codes = [invoke("resume", run, "--time-limit", "0.001", "--quiet").code for _ in range(3)]
    assert codes == [75, 75, 75]
    assert invoke("resume", run, "--checkpoint-every", "5", "--time-limit", "3600", "--quiet").code == 0
    assert contents(run) == contents(plain)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for _ in range(2):
        outcome = invoke("resume", run, "--json", "--time-limit", "0.001")
        assert outcome.code == 0 and outcome.json["run"] == str(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_from_python_it_is_the_same(tmp_path, images):
    options = {"data": images, "layers": 3, "channels": 8, "epochs": 2, "batch_size": 16, "out": tmp_path / "run"}
    with pytest.raises(dnas.Interrupted) as caught:
        dnas.search(**options, time_limit=1e-3, checkpoint_every=0)
    assert caught.value.code == 75
    assert dnas.resume(tmp_path / "run", time_limit=3600)["command"] == "search"
    with pytest.raises(TypeError, match="layers"):
        dnas.resume(tmp_path / "run", layers=3)


@pytest.mark.parametrize("command", ["run", "search", "train", "resume", "compare", "rank"])
def test_every_command_that_executes_takes_them_and_says_what_is_wrong(tmp_path, command):
    subject = {"train": ["DARTS_V2"], "resume": [tmp_path]}.get(command, [])
    for option in ("--time-limit", "--checkpoint-every"):
        outcome = invoke(command, *subject, option, "-1")
        assert outcome.code == 2 and len(outcome.lines) == 1 and option in outcome.err, outcome.err

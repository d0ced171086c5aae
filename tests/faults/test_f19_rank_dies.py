"""F19. A rank of a distributed run dies, at any step: all ranks end within a bound, and not with 0; going on gives the
same result as an undisturbed run."""

import signal

import pytest
from faults.harness import TINY, contents, run_ranks, send_at

from dnas.runtime.runfolder import read_metrics

# A kill of a whole machine that takes rank 0, which writes, and of one that takes another.
DEATHS = [("search", 2, 1), ("search", 3, 0), ("train", 2, 1), ("train", 5, 0)]


@pytest.fixture(scope="module")
def undisturbed_ranks(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("ranks")
    for outcome in run_ranks(folder, "run", "--data", images, *TINY, "--no-baseline", "--out", folder / "run"):
        assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.mark.parametrize(("stage", "step", "rank"), DEATHS)
def test_the_others_end_and_the_run_goes_on(tmp_path, images, undisturbed_ranks, stage, step, rank):
    run = tmp_path / "run"
    faults = [send_at(stage, step, signal.SIGKILL) if r == rank else None for r in range(2)]
    arguments = ("run", "--data", images, *TINY, "--no-baseline", "--out", run)
    outcomes = run_ranks(tmp_path, *arguments, faults=faults)
    assert outcomes[rank].code == -signal.SIGKILL
    survivor = outcomes[1 - rank]
    assert survivor.code == 1 and "another rank was lost" in survivor.lines[-1], survivor.err
    for outcome in run_ranks(tmp_path, "resume", run):
        assert outcome.code == 0, outcome.err
    assert contents(run) == contents(undisturbed_ranks)


def test_what_two_began_one_can_end(tmp_path, images, undisturbed_ranks):
    """A batch keeps its parts, so only the order of sums changes; the log says so."""
    run = tmp_path / "run"
    fault = send_at("train", 2, signal.SIGKILL)
    run_ranks(tmp_path, "run", "--data", images, *TINY, "--no-baseline", "--out", run, faults=[None, fault])
    (outcome,) = run_ranks(tmp_path, "resume", run, faults=[None])
    assert outcome.code == 0, outcome.err
    assert "begun on 2 ranks, resumed on 1: batches keep their parts" in (run / "log.txt").read_text()
    found, wanted = (read_metrics(each / "metrics.jsonl") for each in (run, undisturbed_ranks))
    for line, other in zip(found, wanted, strict=True):
        assert line.keys() == other.keys()
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_all_stop_at_the_same_step_when_one_is_told_to(tmp_path, images, undisturbed_ranks):
    run = tmp_path / "run"
    arguments = ("run", "--data", images, *TINY, "--no-baseline", "--out", run)
    outcomes = run_ranks(tmp_path, *arguments, faults=[None, send_at("search", 2, signal.SIGTERM)])
    assert [outcome.code for outcome in outcomes] == [143, 143], outcomes
    assert "dnas resume" in outcomes[0].err and outcomes[1].err == ""
    for outcome in run_ranks(tmp_path, "resume", run):
        assert outcome.code == 0, outcome.err
    assert contents(run) == contents(undisturbed_ranks)


def test_one_rank_writes_and_speaks(tmp_path, images, undisturbed_ranks):
    lines = (undisturbed_ranks / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4  # two epochs of a search, and of a training
    first, second = run_ranks(tmp_path, "evaluate", undisturbed_ranks, "--json")
    assert first.code == second.code == 0 and first.json["test_images"] and second.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("run", "--method", "random"),
            "--method random trains candidates one by one and cannot be used with torchrun",
        ),
        (("run", "-o", "search.parts=3"), "search.parts=3 cannot be divided among 2 ranks"),
        (("run", "-o", "search.batch_size=2"), "cannot be split into 2 parts of two or more"),
        (("compare", "--methods", "dnas"), "torchrun executes a single run"),
    ],
)
def test_what_ranks_cannot_do_is_refused(tmp_path, images, arguments, message):
    command, *more = arguments
    given = ("--data", images, *TINY, "--out", tmp_path / "run", *more)
    first, second = run_ranks(tmp_path, command, *given)
    assert first.code == second.code == 2, (first, second)
    assert message in first.lines[-1] and second.lines[-1].startswith("error: rank 1: ")

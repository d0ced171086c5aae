"""F03. SIGTERM, SIGUSR1 and SIGINT end a run at its next step, after a checkpoint, with 143, 138 and 130 and the line to type; a
second SIGINT ends it at once. Going on gives the same bits."""

import signal

import pytest
from faults.harness import TINY, contents, run_command, send_at

from dnas.runtime.checkpoint import newest


@pytest.mark.parametrize(
    ("signum", "code", "stage", "step"),
    [
        (signal.SIGTERM, 143, "search", 2),
        (signal.SIGINT, 130, "train", 3),
        (signal.SIGTERM, 143, "baseline", 6),
        (signal.SIGUSR1, 128 + signal.SIGUSR1, "train", 1),
    ],
)
def test_a_signal_stops_after_a_checkpoint(tmp_path, images, undisturbed, signum, code, stage, step):
    run = tmp_path / "run"
    fault = send_at(stage, step, signum)
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, "--json", fault=fault)
    assert outcome.code == code
    assert outcome.out == ""
    assert outcome.lines[-1] == f"interrupted; resume with: dnas resume {run}"
    assert "Traceback" not in outcome.err
    checkpoint, damaged = newest(run / "checkpoints")
    assert not damaged and (checkpoint.state["stage"], checkpoint.state["step"]) == (stage, step)
    assert not (run / "result.json").exists()

    outcome = run_command(tmp_path, "resume", run)
    assert outcome.code == 0, outcome.err
    assert f"resuming {stage} at step {step}" in outcome.err
    assert contents(run) == undisturbed


def test_a_second_sigint_stops_at_once_and_can_be_resumed(tmp_path, images, undisturbed):
    run = tmp_path / "run"
    fault = send_at("train", 3, signal.SIGINT, signal.SIGINT)
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, fault=fault)
    assert outcome.code == 130
    assert "Traceback" not in outcome.err
    checkpoint, damaged = newest(run / "checkpoints")
    # At once: the checkpoint of this step is not written.
    assert not damaged and (checkpoint.state["stage"], checkpoint.state["step"]) == ("train", 2)

    assert run_command(tmp_path, "resume", run).code == 0
    assert contents(run) == undisturbed


def test_a_second_sigint_still_names_the_line_to_type(tmp_path, images):
    run = tmp_path / "run"
    fault = send_at("search", 1, signal.SIGINT, signal.SIGINT)
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, fault=fault)
    assert f"dnas resume {run}" in outcome.lines[-1]


def test_sigint_before_the_run_has_begun_leaves_no_run(tmp_path, images):
    run = tmp_path / "run"
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, fault=_interrupt_while_loading)
    assert outcome.code == 130
    assert outcome.lines == ["error: interrupted"]
    assert not run.exists()


def _interrupt_while_loading():
    from dnas.pipeline import inputs

    original = inputs.load_splits

    def load_splits(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return original(*arguments, **options)

    inputs.load_splits = load_splits

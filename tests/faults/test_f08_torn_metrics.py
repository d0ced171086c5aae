"""F08. A metrics.jsonl whose last line is torn is read back without it and appended to as if it had never been."""

import pytest
from faults.harness import TINY, contents, dies_after, run_command

from dnas.runtime.runfolder import read_metrics


@pytest.mark.parametrize("tail", [b'{"stage": "train", "epoch": 1}\n\x00\x00\x00', b'{"stage": 7}\n' * 50])
def test_what_follows_the_checkpoint_is_written_again(tmp_path, images, undisturbed, tail):
    run = tmp_path / "run"
    # Checkpoint 8 is that of the third step of the training: the end of its first epoch.
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--out", run, fault=dies_after(8, 0.001))
    assert outcome.code < 0, outcome.err
    whole = [line for line in read_metrics(run / "metrics.jsonl") if line["stage"] in ("search", "train")]
    assert [(line["stage"], line["epoch"]) for line in whole] == [("search", 1), ("search", 2), ("train", 1)]
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    if not tail.endswith(b"\n"):
        assert read_metrics(run / "metrics.jsonl")[:3] == whole
    assert run_command(tmp_path, "resume", run).code == 0
    assert contents(run) == undisturbed

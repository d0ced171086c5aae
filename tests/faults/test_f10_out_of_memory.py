"""F10. Out of memory at step t: exit 1 and one line with what to turn down; the run can be resumed."""

from functools import partial

import pytest
from faults.harness import TINY, at_step, contents, run_command


@pytest.mark.parametrize("kind", ["processor", "device", "python"])
def test_the_error_names_what_to_turn_down(tmp_path, images, undisturbed, kind):
    run, fault = tmp_path / "run", partial(at_step, "train", 3, partial(exhaust, kind))
    outcome = run_command(tmp_path, "run", "--data", images, *TINY, "--quiet", "--out", run, fault=fault)
    assert outcome.code == 1
    assert len(outcome.lines) == 1 and outcome.lines[0].startswith("error: "), outcome.err
    for word in ("memory", "--batch-size", "--channels", "--layers"):
        assert word in outcome.err
    assert run_command(tmp_path, "resume", run).code == 0
    assert contents(run) == undisturbed


def exhaust(kind):
    import torch

    if kind == "processor":
        # What torch says on Linux when malloc fails; asked for here, more than any machine has.
        torch.empty(2**60, dtype=torch.uint8)
    if kind == "device":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    raise MemoryError

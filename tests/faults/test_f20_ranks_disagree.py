"""F20. Ranks disagree on the architecture parameters: detected at the next check, and the run stops with a message."""

import pytest
from faults.harness import TINY, run_ranks


def disturb():
    """After its second step this rank has other architecture parameters."""
    import torch

    from dnas.searching.search import Search

    original = Search.step

    def step(self, number):
        loss = original(self, number)
        if number == 1:
            with torch.no_grad():
                self.architecture[0].view(-1)[0] += 1e-6
        return loss

    Search.step = step


@pytest.mark.parametrize("rank", [0, 1])
def test_disagreement_is_found_at_the_next_checkpoint(tmp_path, images, rank):
    run = tmp_path / "run"
    faults = [disturb if r == rank else None for r in range(2)]
    for outcome in run_ranks(tmp_path, "search", "--data", images, *TINY, "--out", run, faults=faults):
        assert outcome.code == 1, outcome
        assert "search, step 2: rank 1 differs from rank 0 in mapping." in outcome.lines[-1], outcome.err
    # The last checkpoint is from before, and leads to an architecture.
    for outcome in run_ranks(tmp_path, "resume", run):
        assert outcome.code == 0, outcome.err
    assert (run / "architecture.json").exists()

"""`random`: uniform draws by their number, and the best of them."""

from collections import Counter

import pytest

from dnas.errors import RunError
from dnas.methods.protocol import Trial
from dnas.methods.registry import create
from dnas.space.darts import DARTS
from dnas.space.protocol import layer_kinds

ACTS = {}


def history_of(scores, method, layers=5, seed=0, at_once=64):
    """What a search by this method would know with these scores, where so many of its proposals are judged at once."""
    history = []
    while rest := scores[len(history) :][:at_once]:
        candidates = method.propose(history, layers, seed)
        history += [Trial(candidate.architecture, score) for candidate, score in zip(candidates, rest, strict=False)]
    return history


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_candidates_are_uniform_and_functions_of_seed_and_number(mapping):
    method = create("random", mapping, {}, DARTS)
    history = history_of([0.5] * 300, method)
    again = history_of([0.9] * 70, method, at_once=7)  # whatever the scores, and however many are judged at once
    assert [trial.architecture for trial in history[:70]] == [trial.architecture for trial in again]
    assert history[0].architecture != history_of([0.5], method, seed=1)[0].architecture
    assert len({trial.architecture for trial in history}) == 300
    kinds = layer_kinds(5)
    for trial in history:
        genes = set(zip(kinds, trial.architecture.layers, strict=True))
        assert len(genes) == (2 if mapping == "shared" else 5)
    operations = Counter(
        op for trial in history for cell in set(trial.architecture.layers) for node in cell.nodes for op, _ in node
    )
    expected = operations.total() / 7
    assert all(abs(count - expected) < 5 * expected**0.5 for count in operations.values()) and len(operations) == 7


def test_the_first_of_the_best_is_chosen_and_failures_are_passed_over():
    method = create("random", None, {}, DARTS)
    history = history_of([0.1, None, 0.7, 0.7, 0.3], method)
    assert method.choose(history) == history[2].architecture
    with pytest.raises(RunError, match="none of the 2 candidates could be evaluated"):
        method.choose(history_of([None, None], method))

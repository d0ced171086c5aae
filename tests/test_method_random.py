"""`random`: uniform draws by their number, and the best of them."""

from collections import Counter

import pytest

from dnas.errors import RunError
from dnas.methods import Trial, create
from dnas.space import DARTS, layer_kinds

ACTS = {}


def history_of(scores, method, layers=5, seed=0):
    """What a search by this method would know with these scores."""
    history = []
    for score in scores:
        candidate = method.propose(history, layers, seed)[0]
        history.append(Trial(candidate.architecture, score))
    return history


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_candidates_are_uniform_and_functions_of_seed_and_number(mapping):
    method = create("random", mapping, {}, DARTS)
    history = history_of([0.5] * 300, method)
    again = history_of([0.9] * 300, method)  # whatever the scores
    assert [trial.architecture for trial in history] == [trial.architecture for trial in again]
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
    with pytest.raises(RunError, match="none of 2 candidates could be judged"):
        method.choose(history_of([None, None], method))

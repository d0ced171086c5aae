"""`benchmarks/oracle.py` without the surrogate: what it is asked, how methods are driven, what is counted."""

import math

import oracle as benchmark
import pytest

from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell


def skips(architecture):
    """A toy: the share of slots without a skip connection, over all cells."""
    ops = [op for cell in architecture.layers for node in cell.nodes for op, _ in node]
    return 1 - ops.count("skip_connect") / len(ops)


def test_inputs_are_edges_in_their_order_then_the_states_that_nodes_read():
    names = [name.removeprefix(benchmark.PREFIX) for name in benchmark.INPUTS]
    assert len(names) == 34 and names[2] == "edge_normal_2" and names[27] == "edge_reduce_13"
    assert names[28:] == [f"inputs_node_{kind}_{state}" for kind in ("normal", "reduce") for state in (3, 4, 5)]
    first, second = (("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 0), ("dil_conv_3x3", 2))
    normal = Cell((first, second, (("skip_connect", 1), ("skip_connect", 3)), first))
    values = benchmark.values(normal, Cell((first,) * 4))
    got = {name: values[benchmark.PREFIX + name] for name in names if values[benchmark.PREFIX + name] != "#na#"}
    assert got == {
        "edge_normal_0": "sep_conv_3x3", "edge_normal_1": "skip_connect",
        "edge_normal_2": "max_pool_3x3", "edge_normal_4": "dil_conv_3x3",
        "edge_normal_6": "skip_connect", "edge_normal_8": "skip_connect",
        "edge_normal_9": "sep_conv_3x3", "edge_normal_10": "skip_connect",
        **{f"edge_reduce_{edge}": "sep_conv_3x3" for edge in (0, 2, 5, 9)},
        **{f"edge_reduce_{edge}": "skip_connect" for edge in (1, 3, 6, 10)},
        "inputs_node_normal_3": "0_2", "inputs_node_normal_4": "1_3", "inputs_node_normal_5": "0_1",
        **{f"inputs_node_reduce_{state}": "0_1" for state in (3, 4, 5)},
    }  # fmt: skip


def test_a_smaller_cell_repeats_its_nodes():
    a, b = (("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 0), ("dil_conv_3x3", 2))
    assert [benchmark.whole(Cell(nodes)).nodes for nodes in ((a,), (a, b), (a, b, a))] == [
        (a, a, a, a), (a, b, a, b), (a, b, a, a)
    ]  # fmt: skip


def test_an_oracle_that_is_wrong_of_known_cells_is_refused():
    with pytest.raises(ValueError, match=r"uniform 8\d\.\d\d %, not 92.42 %: are its inputs in order"):
        benchmark.check(skips)


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_methods_see_their_proposals_scores_and_no_more_trials_than_there_are(name):
    method = create(name, "shared", {}, DARTS)
    method.budget = 70
    made = benchmark.run(method, skips, 70, 3)
    assert made["trials"] == len(made["accuracies"]) == 70 and made["seconds"] >= 0
    first = method.uniform(numpy_stream(3, "candidate", 0), benchmark.LAYERS)
    assert made["accuracies"][0] == skips(first)


def test_small_cells_are_trials_but_not_the_best():
    method = create("pnas", None, {"ensemble": 1, "units": 4, "predictor_steps": 1}, DARTS)
    method.budget = 9
    accuracies = benchmark.run(method, skips, 9, 0)["accuracies"]
    assert accuracies[:6] == [None] * 6 and None not in accuracies[6:] and len(accuracies) == 9


def test_gains_are_paired_by_seed():
    def of(*tops):
        return [{"accuracies": [None, top - 0.1, top], "seconds": 2.0, "trials": 3} for top in tops]

    rows = benchmark.summary({"random": of(0.5, 0.7), "other": of(0.6, 0.9)})
    assert rows["random"]["best"] == pytest.approx(60) and "gain" not in rows["random"]
    assert rows["random"]["best_error"] == pytest.approx(10)
    assert rows["other"]["gain"] == pytest.approx(15) and rows["other"]["gain_error"] == pytest.approx(5)
    assert math.isnan(benchmark.error([1.0]))

"""Agreement beyond chance: 0 in the mean over the uniform law of a space, 1 where architectures are equal."""

from itertools import combinations, product

import pytest

from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.agreement import agreement
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS, Space
from dnas.space.darts_cell import Cell
from dnas.space.protocol import reduction_layers
from dnas.space.registry import SPACES

SMALL = Space("free", 2, 2, ("max_pool_3x3", "skip_connect", "sep_conv_3x3"))
# Edges and operations that two uniform cells of DARTS have in common: k²/n of nodes with n inputs, of which k are kept.
EDGES = 4 / 2 + 4 / 3 + 4 / 4 + 4 / 5


def uniform(space, seed, layers=6):
    return sampling.sample(space, numpy_stream(seed, "agreement"), layers)


def network(cells, space="free"):
    return Architecture(tuple(cells), reduction_layers(len(cells)), space)


def all_cells(space):
    nodes = [
        [tuple(zip(ops, sources, strict=True)) for ops in product(space.primitives, repeat=2)]
        for n in range(space.nodes)
        for sources in [*combinations(range(n + 2), 2)]
    ]
    # Node 0 has one pair of inputs, node 1 three.
    first, second = nodes[0], [node for group in nodes[1:] for node in group]
    return [Cell(pair) for pair in product(first, second)]


@pytest.mark.parametrize("space", SPACES.values(), ids=list(SPACES))
def test_equal_architectures_agree_wholly_and_uniform_ones_by_chance(space):
    one = uniform(space, 0)
    same = agreement([one, one], space)
    assert (same.operations, same.edges) == (1, 1)
    assert same.operations_by_layer == same.edges_by_layer == (1,) * 6
    # Pairs of uniform architectures do not correlate; a standard deviation of one is below 0.15 in every space.
    drawn = agreement([uniform(space, seed) for seed in range(20)], space)
    spread = 0.15 / (20 * 19 / 2) ** 0.5
    assert abs(drawn.operations) < 4 * spread and abs(drawn.edges) < 4 * spread


def test_the_mean_over_all_cells_of_a_space_is_exactly_chance():
    cells = all_cells(SMALL)
    assert len(cells) == SMALL.possible_layers() == 243
    one = network([cells[100]] * 3)
    means = [agreement([one, network([cell] * 3)], SMALL) for cell in cells]
    assert sum(mean.operations for mean in means) == pytest.approx(0, abs=1e-9)
    assert sum(mean.edges for mean in means) == pytest.approx(0, abs=1e-9)


def test_one_other_operation_counts_in_its_layer_by_hand():
    one = uniform(DARTS, 0)
    nodes = [list(node) for node in one.layers[4].nodes]
    operation, source = nodes[3][1]
    nodes[3][1] = (next(op for op in DARTS.primitives if op != operation), source)
    cells = [*one.layers]
    cells[4] = Cell(tuple(tuple(node) for node in nodes))
    other = network(cells, "darts")
    found = agreement([one, other], DARTS)
    chance = EDGES / 7
    assert found.edges == 1 and found.edges_by_layer == (1,) * 6
    assert found.operations_by_layer[4] == pytest.approx((7 - chance) / (8 - chance))
    assert found.operations_by_layer[:4] == (1,) * 4 and found.operations_by_layer[5] == 1
    assert found.operations == pytest.approx((47 - 6 * chance) / (48 - 6 * chance))


def test_other_inputs_by_hand():
    def cell(last):
        return Cell(
            ((("skip_connect", 0), ("skip_connect", 1)),) * 3 + ((("skip_connect", last), ("skip_connect", 4)),)
        )

    found = agreement([network([cell(0)] * 3, "darts"), network([cell(1)] * 3, "darts")], DARTS)
    assert found.edges == pytest.approx((7 - EDGES) / (8 - EDGES))
    assert found.operations == pytest.approx((7 - EDGES / 7) / (8 - EDGES / 7))


def test_an_input_that_a_threshold_left_out_counts_half():
    """Of nodes with 2 and with 1 of two edges: 1 in common of 1.5, and 1 by chance; 1/3 of it with the operation."""
    full = Cell(((("skip_connect", 0), ("skip_connect", 1)), (("skip_connect", 0), ("skip_connect", 1))))
    left = Cell(((("skip_connect", 0),), (("skip_connect", 0), ("skip_connect", 1))))
    found = agreement([network([full] * 3), network([left] * 3)], SMALL)
    assert found.edges == pytest.approx((3 - 1 - 4 / 3) / (3.5 - 1 - 4 / 3))
    assert found.operations == pytest.approx((3 - 1 / 3 - 4 / 9) / (3.5 - 1 / 3 - 4 / 9))


def test_the_operations_of_an_edge_are_its_own():
    """In S2 every edge has two of all operations, so that chance is a half of the edges'."""
    space = SPACES["s2"]
    one, two = uniform(space, 1), uniform(space, 2)
    slots = [
        {(k, n, slot) for k, c in enumerate(a.layers) for n, node in enumerate(c.nodes) for slot in node}
        for a in (one, two)
    ]
    common = len(slots[0] & slots[1])
    chance = 6 * EDGES / 2
    assert agreement([one, two], space).operations == pytest.approx((common - chance) / (48 - chance))


def test_of_several_it_is_the_mean_over_pairs_and_of_one_there_is_none():
    drawn = [uniform(DARTS, seed) for seed in range(4)]
    pairs = [agreement(pair, DARTS) for pair in combinations(drawn, 2)]
    found = agreement(drawn, DARTS)
    assert found.operations == pytest.approx(sum(pair.operations for pair in pairs) / 6)
    assert found.edges_by_layer[2] == pytest.approx(sum(pair.edges_by_layer[2] for pair in pairs) / 6)
    assert agreement(drawn[:1], DARTS) is None and agreement([], DARTS) is None


def test_where_chance_gives_equality_there_is_nothing_to_agree_on():
    space = Space("free", 1, 2, ("skip_connect",))
    one = network([Cell(((("skip_connect", 0), ("skip_connect", 1)),))] * 3)
    found = agreement([one, one], space)
    assert (found.operations, found.edges) == (0, 0)

from itertools import combinations, product

from hypothesis import given, settings
from hypothesis import strategies as st
from method_bananas_tools import architectures, method

from dnas.methods.bananas import paths
from dnas.space.architecture import stack
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.published import load_published

# --- the path encoding -------------------------------------------------------------------------------------
SIZE = 2801  # paths of an input: 1 + 7 + 7² + 7³ + 7⁴


def brute_force(cell):
    """Every way over the nodes, as (input, operation, …): try all increasing sequences of them, and all slots."""
    found = set()
    for length in range(1, 5):
        for route in combinations(range(4), length):
            for slots in product(range(2), repeat=length):
                edges = [cell.nodes[n][s] for n, s in zip(route, slots, strict=True)]
                sources = [source for _, source in edges]
                if sources[0] < 2 and sources[1:] == [n + 2 for n in route[:-1]]:
                    found.add((sources[0], *(op for op, _ in edges)))
    return found


def decoded(index):
    """The inverse of the encoding: (input, operation, …), by division."""
    source, rest = divmod(index, SIZE)
    operations = []
    while rest:
        rest, digit = divmod(rest - 1, 7)
        operations.append(DARTS.primitives[digit])
    return (source, *operations)


def test_the_paths_of_darts_v2_are_those_of_a_brute_force():
    genotype = load_published("DARTS_V2", 8)
    normal, reduction = genotype.layers[0], genotype.layers[2]
    assert {decoded(i) for i in paths(normal, DARTS)} == brute_force(normal)
    assert {decoded(i) for i in paths(reduction, DARTS)} == brute_force(reduction)
    assert brute_force(normal) == {
        (0, "sep_conv_3x3"), (1, "sep_conv_3x3"), (0, "skip_connect"),
        (0, "sep_conv_3x3", "dil_conv_3x3"), (1, "sep_conv_3x3", "dil_conv_3x3"),
    }  # fmt: skip
    encoding = method().encoding(genotype)
    assert encoding == {*paths(normal, DARTS), *(2 * SIZE + i for i in paths(reduction, DARTS))}
    assert max(encoding) < 4 * SIZE == 11_204


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_the_paths_of_any_cell_are_those_of_a_brute_force(seed):
    cell = architectures(1, seed)[0].layers[0]
    assert {decoded(i) for i in paths(cell, DARTS)} == brute_force(cell)


def test_an_index_is_the_published_one():
    """s · P + Σ_j q^j (o_j + 1), for o = max_pool 0, skip_connect 2, dil_conv_5x5 6."""
    cell = Cell(
        (
            (("max_pool_3x3", 1), ("max_pool_3x3", 0)),
            (("skip_connect", 2), ("max_pool_3x3", 0)),
            (("dil_conv_5x5", 3), ("max_pool_3x3", 0)),
            (("max_pool_3x3", 0), ("max_pool_3x3", 1)),
        )
    )
    from_0 = {1, 1 + 7 * 3, 1 + 7 * 3 + 49 * 7, 1 + 7 * 7}
    assert paths(cell, DARTS) == from_0 | {SIZE + i for i in (1, 1 + 7 * 3, 1 + 7 * 3 + 49 * 7)}


def test_cells_that_differ_in_the_names_of_their_nodes_have_one_encoding_and_others_their_own():
    a, b = (("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 0), ("dil_conv_3x3", 1))
    one = Cell((a, b, (("avg_pool_3x3", 2), ("sep_conv_5x5", 3)), (("skip_connect", 3), ("max_pool_3x3", 4))))
    same = Cell((b, a, (("sep_conv_5x5", 2), ("avg_pool_3x3", 3)), (("skip_connect", 2), ("max_pool_3x3", 4))))
    other = Cell((b, a, (("sep_conv_5x5", 2), ("avg_pool_3x3", 3)), (("skip_connect", 3), ("max_pool_3x3", 4))))
    made = method()
    encodings = [made.encoding(stack(cell, a_cell, 4)) for cell, a_cell in ((one, one), (same, one), (one, same))]
    assert one != same and encodings[0] == encodings[1] == encodings[2]
    assert made.encoding(stack(other, one, 4)) not in encodings
    assert made.encoding(stack(one, other, 4)) not in encodings
    swapped = Cell(tuple(tuple(reversed(node)) for node in one.nodes))
    assert made.encoding(stack(swapped, one, 4)) == encodings[0]


def test_the_encoding_by_edges_is_the_operation_of_each_edge():
    """Edges of node n begin at 0, 2, 5 and 9; of an edge the operations in their order; then the reduction's 98."""
    a, b = (("max_pool_3x3", 0), ("skip_connect", 1)), (("sep_conv_3x3", 1), ("dil_conv_5x5", 3))
    cell = Cell((a, a, b, b))
    order = list(DARTS.primitives)
    slots = [(0, "max_pool_3x3"), (1, "skip_connect"), (2, "max_pool_3x3"), (3, "skip_connect"),
             (6, "sep_conv_3x3"), (8, "dil_conv_5x5"), (10, "sep_conv_3x3"), (12, "dil_conv_5x5")]  # fmt: skip
    places = {7 * edge + order.index(op) for edge, op in slots}
    assert method().edges(stack(cell, cell, 4)) == places | {98 + place for place in places}
    free = architectures(1, shared=False)[0]
    assert len(method("full").edges(free)) == 8 * 4 and max(method("full").edges(free)) < 98 * 4


def test_free_layers_have_an_encoding_each():
    made = method("full")
    (architecture,) = architectures(1, shared=False)
    encoding = made.encoding(architecture)
    for k, cell in enumerate(architecture.layers):
        assert {i - k * 2 * SIZE for i in encoding if k * 2 * SIZE <= i < (k + 1) * 2 * SIZE} == paths(cell, DARTS)
    assert max(encoding) < 4 * 2 * SIZE
    shared = architectures(1)[0]
    assert len(made.encoding(shared)) > len(method().encoding(shared))

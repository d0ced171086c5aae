"""The search space: its size, uniform sampling, neighbours and mutations."""

import json
from collections import Counter
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from dnas.errors import InputError
from dnas.rng import numpy_stream
from dnas.settings import MIN_LAYERS
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS, Space
from dnas.space.darts_cell import Cell
from dnas.space.protocol import layer_kinds, reduction_layers
from dnas.space.registry import SPACES, get_space


def rng(seed=0):
    return numpy_stream(seed, "sample")


def uniform(counts, cells):
    """Whether counts over `cells` equally likely values pass a χ² test at 1e-6 (fixed seeds: it passes or not)."""
    total = sum(counts.values())
    expected = total / cells
    assert expected > 5 and len(counts) <= cells
    statistic = sum((counts[key] - expected) ** 2 / expected for key in counts) + (cells - len(counts)) * expected
    return statistic < chi2.ppf(1 - 1e-6, cells - 1)


def difference(one, two):
    """The (layer, node) where two architectures differ, with the slots that only each of them has."""
    return [
        ((k, n), set(a) - set(b), set(b) - set(a))
        for k, (x, y) in enumerate(zip(one.layers, two.layers, strict=True))
        for n, (a, b) in enumerate(zip(x.nodes, y.nodes, strict=True))
        if a != b
    ]


def test_edges_are_node_major():
    assert DARTS.edges == tuple((n, s) for n in range(4) for s in range(n + 2))
    assert DARTS.node_edges == ((0, 2), (2, 5), (5, 9), (9, 14))
    assert DARTS.primitives == (
        "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    )  # fmt: skip


def test_a_layer_has_as_many_genes_as_the_paper_counts():
    assert DARTS.possible_layers() == 49 * 147 * 294 * 490 == 1_037_664_180
    assert DARTS.count(3) == 1_037_664_180**3
    assert [len(str(DARTS.count(layers))) - 1 for layers in (8, 14, 20)] == [72, 126, 180]


@pytest.mark.parametrize(("nodes", "inputs", "ops"), [(1, 1, 3), (2, 2, 2), (3, 2, 1), (2, 1, 2)])
def test_the_count_equals_an_enumeration_of_small_spaces(nodes, inputs, ops):
    space = Space("small", nodes, inputs, DARTS.primitives[:ops])
    slots = [
        [
            tuple(zip(names, sources, strict=True))
            for sources in combinations(range(n + 2), inputs)
            for names in product(space.primitives, repeat=inputs)
        ]
        for n in range(nodes)
    ]
    genes = set(product(*slots))
    assert len(genes) == space.possible_layers()
    assert all(space.objection(gene) is None for gene in genes)


@pytest.mark.parametrize(
    ("layers", "expected"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 3)), (8, (2, 5)), (14, (4, 9)), (20, (6, 13))]
)
def test_reductions_lie_at_the_thirds(layers, expected):
    assert reduction_layers(layers) == expected


@pytest.mark.parametrize("layers", [-1, 0, 1, 2])
def test_too_few_layers_are_refused(layers):
    assert MIN_LAYERS == 3
    with pytest.raises(InputError, match=f"layers must be at least 3, got {layers}"):
        reduction_layers(layers)


@given(seed=st.integers(0, 2**31), layers=st.integers(3, 20))
@settings(deadline=None, max_examples=30)
def test_samples_are_valid_and_a_function_of_the_generator(seed, layers):
    one, again = sampling.sample(DARTS, rng(seed), layers), sampling.sample(DARTS, rng(seed), layers)
    assert one == again
    assert one.in_space and len(one) == layers and one.reductions == reduction_layers(layers)
    assert all(DARTS.objection(cell.nodes) is None for cell in one.layers)
    # Plain types, so that it can be saved.
    assert Architecture.from_json(json.loads(one.dumps())) == one


def test_samples_are_uniform_over_operations_and_input_pairs():
    cells = sampling.sample(DARTS, rng(), 1000).layers + sampling.sample(DARTS, rng(1), 1000).layers
    for n in range(4):
        pairs = Counter(tuple(source for _, source in cell.nodes[n]) for cell in cells)
        assert set(pairs) == set(combinations(range(n + 2), 2))
        if n:
            assert uniform(pairs, (n + 2) * (n + 1) // 2)
        for s in range(2):
            assert uniform(Counter(cell.nodes[n][s][0] for cell in cells), 7)
        assert uniform(Counter(tuple(op for op, _ in cell.nodes[n]) for cell in cells), 49)
    assert uniform(Counter((cell.nodes[0][0][0], cell.nodes[3][1][0]) for cell in cells), 49)


def test_the_uniformity_test_would_notice_a_bias():
    assert not uniform(Counter({0: 330, 1: 270, 2: 200, 3: 200}), 4)


@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_neighbours_differ_in_one_operation_or_one_input(seed):
    """60 a layer: per slot 6 other operations, and n other inputs at node n."""
    architecture = sampling.sample(DARTS, rng(seed), 3)
    neighbours = sampling.neighbours(DARTS, architecture)
    assert len(neighbours) == 3 * sum(2 * (6 + n) for n in range(4)) == 180
    assert len(set(neighbours)) == 180 and architecture not in neighbours
    inputs = 0
    for other in neighbours:
        assert other.in_space and other.reductions == architecture.reductions
        ((_, gone, come),) = difference(architecture, other)
        ((op, source),), ((new_op, new_source),) = gone, come
        assert (op == new_op) != (source == new_source)
        inputs += op == new_op
    assert inputs == 3 * 2 * (0 + 1 + 2 + 3)


def test_neighbourhood_is_symmetric():
    architecture = sampling.sample(DARTS, rng(), 3)
    for other in sampling.neighbours(DARTS, architecture)[::7]:
        assert architecture in sampling.neighbours(DARTS, other)


def test_mutations_are_neighbours_of_both_kinds_in_all_places():
    architecture = sampling.sample(DARTS, rng(), 3)
    neighbours = set(sampling.neighbours(DARTS, architecture))
    generator = rng(1)
    places, kinds, seen = Counter(), Counter(), set()
    for _ in range(3000):
        child = sampling.mutate(DARTS, generator, architecture)
        assert child in neighbours
        seen.add(child)
        (((k, n), ((op, _),), ((new_op, _),)),) = difference(architecture, child)
        places[k, n] += 1
        kinds[n > 0, op == new_op] += 1
    assert uniform(places, 12)
    assert seen == neighbours
    assert kinds[False, True] == 0  # node 0 has no other input
    assert uniform(Counter({kind: kinds[True, kind] for kind in (False, True)}), 2)


def test_mutation_is_a_function_of_the_generator_and_leaves_its_parent():
    architecture = sampling.sample(DARTS, rng(), 5)
    text = architecture.dumps()
    assert sampling.mutate(DARTS, rng(3), architecture) == sampling.mutate(DARTS, rng(3), architecture)
    assert architecture.dumps() == text


GENE = [[("skip_connect", 0), ("skip_connect", 1)]] * 4


@pytest.mark.parametrize(
    ("gene", "says"),
    [
        (GENE[:3], "3 nodes"),
        ([*GENE[:3], GENE[0][:1]], "node 3 has 1 inputs"),
        ([*GENE[:2], [("none", 0), ("skip_connect", 1)], GENE[0]], "node 2, slot 0: operation 'none'"),
        ([[("skip_connect", 0), ("skip_connect", 2)], *GENE[1:]], "node 0, slot 1: input 2 does not exist"),
        ([*GENE[:3], [("skip_connect", 0), ("max_pool_3x3", 0)]], "node 3, slot 1: input 0 is used twice"),
    ],
)
def test_objections_name_the_place(gene, says):
    assert says in DARTS.objection(gene)
    assert DARTS.objection(GENE) is None
    assert Cell(tuple(map(tuple, GENE))).concat == (2, 3, 4, 5)


# --- spaces with edges of their own ---------------------------------------------------------------------------


def test_the_spaces_of_robustdarts_have_its_candidates():
    """Zela et al. 2020, §3; S1 was written down from the authors' lists, so here are its sizes and some of its pairs."""
    s1 = SPACES["s1"]
    assert s1.possible_layers() == s1.possible_layers(True) == 4 * 3 * 4 * 6 * 4 * 10 * 4 == 4**4 * 1 * 3 * 6 * 10
    assert s1.choices(False, 0) == ("skip_connect", "dil_conv_3x3")
    assert s1.choices(False, 5) == ("max_pool_3x3", "skip_connect")
    assert s1.choices(False, 13) == ("dil_conv_3x3", "dil_conv_5x5")
    assert s1.choices(True, 0) == ("max_pool_3x3", "avg_pool_3x3")
    assert s1.choices(True, 6) == ("max_pool_3x3", "sep_conv_3x3")
    assert [len(edges) for edges in s1.per_edge] == [14, 14]
    assert {len(choices) for edges in s1.per_edge for choices in edges} == {2}
    assert SPACES["s2"].primitives == SPACES["s3"].primitives == ("skip_connect", "sep_conv_3x3")
    assert (SPACES["s2"].none, SPACES["s3"].none) == (False, True)
    assert SPACES["s4"].primitives == ("noise", "sep_conv_3x3")
    with pytest.raises(InputError, match=r"unknown --space 's5'; choose from darts, s1"):
        get_space("s5")


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("shared", [False, True])
def test_samples_and_mutants_lie_in_their_space(name, shared):
    space = SPACES[name]
    for seed in range(40):
        one = sampling.sample(space, rng(seed), 5, shared=shared)
        other = sampling.mutate(space, rng(seed), one, shared=shared)
        assert one.space == other.space == name and one != other
        kinds = layer_kinds(5)
        for architecture in (one, other):
            for kind, cell in zip(kinds, architecture.layers, strict=True):
                for (first, _), node in zip(space.node_edges, cell.nodes, strict=True):
                    assert all(op in space.choices(bool(kind), first + source) for op, source in node)
            if shared:
                assert len(set(zip(kinds, architecture.layers, strict=True))) == 2
        changed = difference(one, other)
        places = {(k, n) for (k, n), _, _ in changed}
        if shared:
            assert len({n for _, n in places}) == 1 and len({kinds[k] for k, _ in places}) == 1
        else:
            assert len(places) == 1
        assert all(len(gone) == len(new) == 1 for _, gone, new in changed)


def test_an_operation_that_an_edge_has_not_is_named():
    s1 = SPACES["s1"]
    genes = list(sampling.sample(s1, rng(), 3).layers)
    genes[0] = Cell(((("sep_conv_3x3", 0), ("skip_connect", 1)), *genes[0].nodes[1:]))
    with pytest.raises(
        InputError, match="layer 0, node 0, slot 0: input 0 of a reduction must use|input 0 of a normal layer must use"
    ):
        Architecture(tuple(genes), reduction_layers(3), "s1")

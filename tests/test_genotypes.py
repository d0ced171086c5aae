import re

import pytest
from architecture_tools import MAX, SEP, SKIP, architectures, written
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.errors import InputError
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture, at_depth, layer_pair, parse_genotype, stack
from dnas.space.chain import Block
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.published import load_published, published

# --- the literature's genotypes ------------------------------------------------------------------------------


def test_all_22_genotypes_are_there():
    assert len(published()) == 22


def triples(genes):
    """Pairs or triples of a genotype as (operation, to-state, from-state)."""
    return [tuple(gene) if len(gene) == 3 else (gene[0], 2 + i // 2, gene[1]) for i, gene in enumerate(genes)]


@pytest.mark.parametrize("name", published())
def test_a_published_genotype_survives_the_way_to_layers_and_back(name):
    """Node by node as a set: the order inside a node is not part of an architecture."""
    entry = published()[name]
    architecture = load_published(name)
    assert len(architecture) == 20 and architecture.reductions == (6, 13)
    assert architecture.origin["published"] == name
    genotype = architecture.to_darts()
    assert Architecture.from_darts(**genotype) == Architecture(
        architecture.layers, architecture.reductions, architecture.space
    )
    for kind in ("normal", "reduce"):
        assert sorted(triples(genotype[kind])) == sorted(triples(entry[kind]))
        live = architecture.layers[0 if kind == "normal" else 6].live_states
        assert genotype[f"{kind}_concat"] == [state for state in entry[f"{kind}_concat"] if state in live]


def test_the_space_marks_what_lies_outside_of_it():
    """Five nodes, isolated nodes, `none`, or an input twice; the others are DARTS' space."""
    inside = {name for name in published() if load_published(name).in_space}
    assert inside >= {
        "DARTS_V1", "DARTS_V2", "SNAS_mild", "GDAS_V1", "PC_DARTS_cifar", "PC_DARTS_image", "P-DARTS", "MdeNAS",
    }  # fmt: skip
    assert not inside & {"NASNet-A", "AmoebaNet-A", "ENASNet", "PNASNet-5", "BANANAS", "SNAS_aggressive"}
    with pytest.raises(InputError, match="'darts' space"):
        Architecture(load_published("BANANAS").layers, (6, 13), "darts")


def test_a_known_genotype_layer_by_layer():
    """DARTS_V2 as its paper draws it (figures 4 and 5)."""
    layers = load_published("DARTS_V2", 8).layers
    normal = (
        ((SEP, 0), (SEP, 1)),
        ((SEP, 0), (SEP, 1)),
        ((SKIP, 0), (SEP, 1)),
        ((SKIP, 0), ("dil_conv_3x3", 2)),
    )
    assert all((cell.nodes == normal) == (k not in (2, 5)) for k, cell in enumerate(layers))
    assert layers[2] == layers[5]
    assert layers[2].nodes[0] == ((MAX, 0), (MAX, 1))


def test_an_unknown_published_name_is_met_with_the_closest():
    with pytest.raises(InputError, match=r"unknown published architecture 'DARTS_v2'; did you mean 'DARTS_V2'"):
        load_published("DARTS_v2")


def test_a_node_without_inputs_is_dead_and_so_is_all_that_it_alone_feeds():
    cell = Cell((((SEP, 0),), (), ((SEP, 3),), ((SEP, 1), (SKIP, 4)), ((SKIP, 2),)))
    assert cell.live_states == (0, 1, 2, 5, 6)
    assert cell.concat == (2, 5, 6)
    assert Cell(cell.nodes, (2, 3, 5)).concat == (2, 5)


def test_triples_leave_room_for_nodes_that_none_reaches():
    genes = [[SEP, 2, 0], [SKIP, 4, 1], [MAX, 4, 3]]
    architecture = Architecture.from_darts(genes, genes, 3)
    assert architecture.layers[0].nodes == (((SEP, 0),), (), ((SKIP, 1), (MAX, 3)), ())
    assert architecture.layers[0].concat == (2, 4)
    assert not architecture.in_space
    genotype = architecture.to_darts()
    assert sorted(genotype["normal"]) == sorted(genes)
    assert Architecture.from_darts(**genotype, layers=3) == architecture


@pytest.mark.parametrize(
    ("normal", "says"),
    [
        ([], "normal must be a list"),
        ("sep_conv_3x3", "normal must be a list"),
        (None, "normal must be a list"),
        ([[SEP, 0]], "has 1 pairs, but each node has two"),
        ([[SEP, 0], [SEP, 1, 2]], "expected an (operation, input) pair, got"),
        ([[SEP, 0], [SEP, True]], "expected an (operation, input) pair, got"),
        ([[SEP, 0], [0, 1]], "expected an (operation, input) pair, got"),
        ([[SEP, 0], "s1"], "expected an (operation, input) pair, got"),
        ([[SEP, 1, 0]], "to-states must be between 2 and 33"),
        ([[SEP, 10**9, 0]], "to-states must be between 2 and 33"),
        ([[SEP, 0], [SEP, 2]], "layer 0, node 0, slot 1: input 2 does not exist"),
        ([["conv", 0], [SEP, 1]], "layer 0, node 0, slot 0: unknown operation 'conv'"),
    ],
)
def test_wrong_genotypes_are_refused(normal, says):
    with pytest.raises(InputError, match=re.escape(says)):
        Architecture.from_darts(normal, [[SEP, 0], [SEP, 1]], 3)


TEXT = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0)], normal_concat={concat}, "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1)], reduce_concat={concat})"
)


@pytest.mark.parametrize("concat", ["range(2, 3)", "[2]", "range(3)", "range(2, 3, 1)", "(2,)"])
def test_genotype_texts_are_read(tmp_path, concat):
    pair = Architecture.from_darts([[SKIP, 0], [SEP, 1]], [[MAX, 0], [MAX, 1]], 20)
    assert parse_genotype(TEXT.format(concat=concat)) == pair
    assert Architecture.load(written(tmp_path, "\n  " + TEXT.format(concat=concat) + "\n")) == pair


def test_a_genotype_text_of_the_literature_is_read():
    text = (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
        "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
        "normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
        "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
        "('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
    )
    assert parse_genotype(text) == load_published("DARTS_V2")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('echo')",
        "Genotype(normal=__import__('os').getcwd(), reduce=[])",
        "Genotype(normal=[].append(1), reduce=[])",
        "Genotype(normal=open('x'), reduce=[])",
        "Genotype(normal=PRIMITIVES, reduce=[])",
        "Genotype(normal=[x for x in (1,)], reduce=[])",
        "Genotype(normal=(lambda: 1)(), reduce=[])",
        "Genotype(**{'normal': []})",
        "Genotype([], [])",
        "Genotype.make(normal=[], reduce=[])",
        "Genotype(normal=[], reduce=[], other=[])",
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)])",
        "Genotype()",
        "Genotype",
        "x = Genotype()",
        "",
        "range(2, 6)",
        "Genotype(normal={[]: 1}, reduce=[])",
        *[
            TEXT.format(concat=concat)
            for concat in (
                "range()",
                "range(2, 3, 1, 1)",
                "range(2, 3, 0)",
                "range(10**9)",
                "range(1000000000)",
                "range('a')",
                "range(True)",
                "range(x)",
                "range(len('ab'))",
                "5",
                "None",
                "'23'",
                "[2.0]",
                "[True]",
            )
        ],
    ],
)
def test_texts_that_are_no_plain_genotype_are_refused_and_never_evaluated(text, monkeypatch):
    evaluated = []
    with monkeypatch.context() as patch:
        for name in ("os.system", "os.getcwd", "builtins.open", "builtins.eval", "builtins.exec"):
            patch.setattr(name, lambda *_, name=name, **__: evaluated.append(name))
        with pytest.raises(InputError):
            parse_genotype(text)
    assert not evaluated


# --- depth -----------------------------------------------------------------------------------------------------


@given(architecture=architectures(), layers=st.integers(3, 30))
@settings(deadline=None, max_examples=20)
def test_stacking_copies_a_pair_by_layer_type(architecture, layers):
    normal, reduction = architecture.layers[0], architecture.layers[1]
    stacked = stack(normal, reduction, layers)
    assert stacked.reductions == (layers // 3, 2 * layers // 3) and stacked.in_space
    for k, cell in enumerate(stacked.layers):
        assert cell == (reduction if k in stacked.reductions else normal)
    assert layer_pair(stacked) == (normal, reduction)
    assert at_depth(stacked, 12) == stack(normal, reduction, 12)
    assert at_depth(stacked, 0) is stacked and at_depth(stacked, layers) is stacked


def test_genes_that_differ_by_layer_have_no_pair_no_genotype_and_no_other_depth():
    architecture = sampling.sample(DARTS, numpy_stream(0, "test"), 8)
    assert layer_pair(architecture) is None
    assert at_depth(architecture, 8) is architecture
    with pytest.raises(InputError, match="--layers 9 does not match the architecture's 8 layers"):
        at_depth(architecture, 9)
    with pytest.raises(InputError, match="are not cells, so this architecture has no genotype"):
        Architecture((Block("basic", 0),) * 4, (1, 2), "resnet").to_darts()
    with pytest.raises(InputError, match="no genotype"):
        architecture.to_darts()
    # Without a reduction there is no pair either.
    assert layer_pair(Architecture(architecture.layers[:1] * 3, ())) is None


def test_a_pair_needs_three_layers():
    with pytest.raises(InputError, match="layers must be at least 3, got 2"):
        load_published("DARTS_V2", 2)

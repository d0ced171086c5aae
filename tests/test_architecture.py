"""Architectures as data: the file format `dnas-architecture/1`, refusals, and the literature's genotypes."""

import dataclasses
import json
import re

import pytest
from architecture_tools import MAX, SEP, SKIP, architectures, written
from hypothesis import given, settings
from hypothesis import strategies as st

from dnas.errors import InputError
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture
from dnas.space.darts_cell import Cell
from dnas.space.protocol import reduction_layers
from dnas.space.published import load_published, published

NODES = (((SEP, 0), (SKIP, 1)), ((SEP, 0), (SEP, 2)), ((MAX, 1), (SKIP, 3)), ((SEP, 2), (SEP, 4)))


def value(depth=3, **changes):
    """A right JSON value, to be broken."""
    nodes = lambda: [[list(slot) for slot in node] for node in NODES]
    return {
        "format": "dnas-architecture/1",
        "space": "darts",
        "reductions": list(reduction_layers(depth)),
        "layers": [{"nodes": nodes()} for _ in range(depth)],
        "origin": {"method": "test"},
    } | changes


# --- identity ----------------------------------------------------------------------------------------------


@given(architecture=architectures(), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_the_order_in_which_a_nodes_inputs_are_written_does_not_matter(architecture, seed):
    rng = numpy_stream(seed, "shuffle")
    shuffled = Architecture(
        tuple(
            Cell(tuple(tuple(node[i] for i in rng.permutation(2)) for node in cell.nodes))
            for cell in architecture.layers
        ),
        architecture.reductions[::-1],
    )
    assert shuffled == architecture and hash(shuffled) == hash(architecture)
    assert shuffled.dumps().split('"origin"')[0] == architecture.dumps().split('"origin"')[0]
    assert all(node[0][1] < node[1][1] for cell in shuffled.layers for node in cell.nodes)


@given(one=architectures(), two=architectures())
@settings(deadline=None, max_examples=30)
def test_architectures_are_equal_exactly_when_their_genes_are(one, two):
    assert (one == two) == (one.layers == two.layers)
    assert one == Architecture(one.layers, one.reductions)


def test_every_part_but_the_origin_belongs_to_the_identity():
    base = Architecture.from_json(value())
    assert Architecture.from_json(value(origin={"method": "other"})) == base
    assert hash(Architecture.from_json(value(origin={}))) == hash(base)
    assert Architecture.from_json(value(reductions=[2])) != base
    assert Architecture.from_json(value(space="free")) != base
    changed = value()
    changed["layers"][2]["nodes"][3][0][0] = SKIP
    assert Architecture.from_json(changed) != base
    assert len({base, Architecture.from_json(value()), Architecture.from_json(changed)}) == 2


def test_an_architecture_cannot_be_changed():
    architecture = Architecture.from_json(value())
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.layers = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.layers[0].nodes = ()
    assert isinstance(architecture.layers, tuple) and isinstance(architecture.layers[0].nodes[0][0], tuple)


def test_a_reduction_named_twice_is_refused_or_counts_once():
    try:
        twice = Architecture.from_json(value(reductions=[1, 2, 2]))
    except InputError:
        return
    assert twice == Architecture.from_json(value(reductions=[1, 2]))


# --- the file ----------------------------------------------------------------------------------------------


@given(architecture=architectures())
@settings(deadline=None, max_examples=30)
def test_json_gives_back_the_same_architecture(architecture):
    text = architecture.dumps()
    again = Architecture.from_json(json.loads(text))
    assert again == architecture
    assert again.origin == architecture.origin
    assert again.dumps() == text
    assert json.loads(text) == architecture.to_json()


def test_the_file_is_the_contract_of_the_design(tmp_path):
    architecture = Architecture.from_json(value())
    architecture.save(tmp_path / "architecture.json")
    text = (tmp_path / "architecture.json").read_text()
    assert json.loads(text) == value()
    assert list(json.loads(text)) == ["format", "space", "reductions", "layers", "origin"]
    assert len(text.splitlines()) == 3 + 4  # a line a layer
    assert Architecture.load(tmp_path / "architecture.json") == architecture


@pytest.mark.parametrize("name", published())
def test_published_architectures_survive_the_file(tmp_path, name):
    architecture = load_published(name, 5)
    architecture.save(tmp_path / "a.json")
    assert Architecture.load(tmp_path / "a.json") == architecture


# --- refusals ----------------------------------------------------------------------------------------------


def broken(layer, node, slot, content):
    wrong = value(depth=4)
    wrong["layers"][layer]["nodes"][node][slot] = content
    return wrong


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (["conv_9x9", 0], "unknown operation 'conv_9x9'"),
        (["none", 0], "operation 'none' is not in the 'darts' space"),
        (["sep_conv_7x7", 0], "operation 'sep_conv_7x7' is not in the 'darts' space"),
        ([SEP, 4], "input 4 does not exist; the inputs of node 2 are 0 to 3"),
        ([SEP, -1], "input -1 does not exist"),
        ([SEP, 10**30], "does not exist"),
        ([SEP, 3], "input 3 is used twice"),
        ([SEP, True], "must be an [operation, input] pair"),
        ([SEP, 1.0], "must be an [operation, input] pair"),
        ([SEP, "1"], "must be an [operation, input] pair"),
        ([SEP, None], "must be an [operation, input] pair"),
        ([1, SEP], "must be an [operation, input] pair"),
        ([SEP], "must be an [operation, input] pair"),
        ([SEP, 1, 2], "must be an [operation, input] pair"),
        ({SEP: 1}, "must be an [operation, input] pair"),
        (SEP, "must be an [operation, input] pair"),
        (None, "must be an [operation, input] pair"),
    ],
)
def test_a_wrong_slot_is_refused_with_layer_node_and_slot(content, says):
    with pytest.raises(InputError, match=re.escape(says)) as refusal:
        Architecture.from_json(broken(3, 2, 0, content))
    assert re.search(r"layer 3, node 2, slot [01]", str(refusal.value))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_node_with_another_number_of_inputs_is_refused(count):
    wrong = value()
    wrong["layers"][1]["nodes"][2] = [[SEP, i] for i in range(count)]
    with pytest.raises(InputError, match="layer 1, node 2 has"):
        Architecture.from_json(wrong)


@pytest.mark.parametrize("count", [0, 3, 5, 33, 10_000])
def test_a_cell_with_another_number_of_nodes_is_refused(count):
    wrong = value()
    wrong["layers"][1]["nodes"] = [[[SEP, 0], [SEP, 1]]] * count
    with pytest.raises(InputError, match="layer 1, "):
        Architecture.from_json(wrong)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "dnas-architecture/2"}, "format must be 'dnas-architecture/1', got 'dnas-architecture/2'"),
        ({"format": None}, "got None"),
        ({"space": "nasbench"}, "unknown space 'nasbench'"),
        ({"space": 3}, "space must be a string"),
        ({"space": ["darts"]}, "space must be a string"),
        ({"reductions": 1}, "reductions must be a list of integers"),
        ({"reductions": None}, "reductions must be a list of integers"),
        ({"reductions": [1, True]}, "reductions must be a list of integers"),
        ({"reductions": [1, 2.0]}, "reductions must be a list of integers"),
        ({"reductions": [1, 3]}, "reduction layer 3 does not exist"),
        ({"reductions": [-1]}, "reduction layer -1 does not exist"),
        ({"layers": []}, "1 to 1000 layers, got 0"),
        ({"layers": {}}, "layers must be a list"),
        ({"layers": None}, "layers must be a list"),
        ({"layers": [[]]}, "layer 0 must be an object"),
        ({"layers": [{"nodes": 4}]}, "layer 0 must be an object"),
        ({"layers": [{"nodes": [4]}]}, "layer 0, node 0 must be a list"),
        ({"layers": [{"nodes": [[[SEP, 0]] * 10_000]}]}, "layer 0, node 0 must be a list"),
        ({"layers": [{"nodes": [], "ops": []}]}, "layer 0: unknown key 'ops'"),
        ({"genes": []}, "unknown key 'genes'"),
    ],
)
def test_a_wrong_value_is_refused(changes, says):
    with pytest.raises(InputError, match=re.escape(says)):
        Architecture.from_json(value(**changes))


@pytest.mark.parametrize("missing", ["format", "space", "reductions", "layers"])
def test_a_missing_key_is_refused_with_its_name(missing):
    wrong = value()
    del wrong[missing]
    with pytest.raises(InputError, match=missing):
        Architecture.from_json(wrong)


@pytest.mark.parametrize("wrong", [None, 1, "text", [], [value()], True])
def test_what_is_not_an_object_is_refused(wrong):
    with pytest.raises(InputError, match="JSON object"):
        Architecture.from_json(wrong)


@pytest.mark.parametrize("concat", [[2, 3, 4], [2, 2, 3, 4], [2, 3, 4, 5, 5], [2, 3, 4, 6], [0, 2, 3, 4], [], [True]])
def test_the_darts_space_concatenates_every_node_once(concat):
    wrong = value()
    wrong["layers"][2]["concat"] = concat
    with pytest.raises(InputError, match="layer 2, .*concat"):
        Architecture.from_json(wrong)
    right = value()
    right["layers"][2]["concat"] = [2, 3, 4, 5]
    assert Architecture.from_json(right) == Architecture.from_json(value())


@pytest.mark.parametrize("source", [True, 1.0, "1", None])
def test_the_constructor_refuses_inputs_that_are_not_whole_numbers(source):
    """What it let through could be saved but not loaded."""
    nodes = ((("sep_conv_3x3", 0), ("sep_conv_3x3", source)), *NODES[1:])
    with pytest.raises(InputError):
        Architecture((Cell(nodes),) * 3, (1, 2))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\x01\x02",
        b"\xff\xfe\xfa",
        b"not JSON",
        b'{"format": "dnas-architecture/1"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": "dnas-architecture/1", "layers": [' + b"[" * 900 + b"]" * 900 + b"]}",
        b"NaN",
        b'{"format": "dnas-architecture/1", "space": "darts", "reductions": [1e999], "layers": [{"nodes": []}]}',
        b"Genotype",
        b"Genotype(",
        b"Genotype(\xff)",
        b"Genotype(normal=" + b"[" * 100_000,
        b"Genotype(normal=" + b"-" * 100_000 + b"1)",
        b"Genotype(normal=[('\xf0\x9f\x98\x80', 1)], reduce=[])",
    ],
    ids=range(17),
)
def test_hostile_files_are_refused_with_their_name(tmp_path, content):
    with pytest.raises(InputError, match=r"architecture\.json"):
        Architecture.load(written(tmp_path, content))


def test_a_million_layers_are_refused_without_looking_at_them(tmp_path):
    with pytest.raises(InputError, match="got 1000000"):
        Architecture.load(written(tmp_path, json.dumps(value() | {"layers": [0] * 1_000_000})))
    with pytest.raises(InputError, match="1 to 1000 layers"):
        Architecture.from_json(value(depth=1001))
    assert len(Architecture.from_json(value(depth=1000))) == 1000


def test_a_huge_file_is_refused_by_its_size(tmp_path):
    with pytest.raises(InputError, match="larger than 16 MiB"):
        Architecture.load(written(tmp_path, b" " * (16 * 2**20 + 1)))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read architecture file"):
        Architecture.load(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot read architecture file"):
        Architecture.load(tmp_path)

"""What other packages and notebooks add: found by its name, and refused in one line where it cannot be used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cli_tools import invoke

import dnas
from dnas import plugins
from dnas.pipeline.extensions import KINDS, register_all, registered
from dnas.space.blocks import BlockKind
from dnas.space.darts import DARTS, Space
from dnas.space.primitives import PRIMITIVES, Conv, Norm, Primitive, ReLU
from dnas.space.registry import CHAINS, SPACES
from dnas.supernet.relaxation import RELAXATIONS, Relaxation, softmax


def plain(channels, stride):
    return ReLU(), Conv(channels, channels, (3, 3), (stride, stride)), Norm(channels)


def wide(inputs, outputs, kernel, stride):
    return Conv(inputs, outputs, (kernel, kernel), (stride, stride)), Norm(outputs)


def block(name, chain=wide):
    return BlockKind(name, chain, (ReLU(),), lambda inputs, outputs, stride: (), "#123456", "wide")


CONV = Primitive("conv_3x3", plain, "#123456", "conv")
OURS = Space("ours", nodes=2, inputs_per_node=2, primitives=("skip_connect", "conv_3x3"))


@pytest.fixture(autouse=True)
def forget():
    for kind in KINDS:
        kind.forget()
    yield
    for kind in KINDS:
        kind.forget()


@pytest.fixture
def give(monkeypatch):
    """Entry points of a group: names, and what they load or raise."""

    def give(group, **things):
        def entry(name, thing):
            def load():
                if isinstance(thing, Exception):
                    raise thing
                return thing

            return SimpleNamespace(
                name=name, value=f"theirs:{name.upper()}", load=load, dist=SimpleNamespace(name="theirs", version="2.1")
            )

        entries = [entry(name, thing) for name, thing in things.items()]
        monkeypatch.setattr(plugins, "entry_points", lambda group, of=group: entries if group == of else [])

    return give


def test_a_package_is_not_looked_at_for_what_is_ours(give):
    give("dnas.primitives", broken=ImportError("No module named 'theirs'"))
    assert PRIMITIVES["sep_conv_3x3"].name == "sep_conv_3x3" and "skip_connect" in PRIMITIVES
    with pytest.raises(dnas.InputError) as refused:
        list(PRIMITIVES)
    assert str(refused.value) == (
        "primitive 'broken' of theirs:BROKEN cannot be loaded (ImportError: No module named 'theirs'); repair or remove "
        "its package (theirs 2.1)"
    )


@pytest.mark.parametrize(
    ("group", "things", "words"),
    [
        ("dnas.primitives", {"sep_conv_3x3": CONV}, "primitive 'sep_conv_3x3' of theirs:SEP_CONV_3X3 has the same name as one of dnas; rename"),
        ("dnas.primitives", {"conv": CONV}, "must be a dnas.space.primitives.Primitive with the name 'conv', got Primitive("),
        ("dnas.primitives", {"conv_3x3": plain}, "must be a dnas.space.primitives.Primitive with the name 'conv_3x3'"),
        ("dnas.primitives", {"conv_3x3": Primitive("conv_3x3", plain, "red", "c")}, "its color must be #RRGGBB, got 'red'"),
        ("dnas.primitives", {"none3": Primitive("none3", lambda c, s: None, "#123456", "c")}, "chain(8, 1) must return a tuple of layers, got None"),
        ("dnas.primitives", {"one": Primitive("one", lambda c, s: (1 / (s - 2),), "#123456", "c")}, "chain(8, 1) must return a tuple of layers, got (-1.0,)"),
        ("dnas.blocks", {"max_pool_3x3": block("max_pool_3x3")}, "'max_pool_3x3' is a primitive"),
        ("dnas.blocks", {"wide": block("wide", lambda *widths: ())}, "chain(8, 8, 3, 1) must return a tuple of layers, got ()"),
        ("dnas.primitives", {"Conv": Primitive("Conv", plain, "#123456", "c")}, "give it a name of lowercase letters, digits and underscores"),
        ("dnas.spaces", {"ours": OURS}, "space 'ours' of theirs:OURS cannot be used: unknown primitive 'conv_3x3'"),
        ("dnas.relaxations", {"softmax": RELAXATIONS["softmax"]}, "has the same name as one of dnas"),
        ("dnas.methods", {"mine": object}, "must be a subclass of dnas.methods.protocol.Method with the name 'mine', got <class 'object'>"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(give, group, things, words):
    give(group, **things)
    (registry,) = (kind for kind in KINDS if kind.group == group)
    with pytest.raises(dnas.InputError) as refused:
        list(registry)
    assert words in str(refused.value) and "\n" not in str(refused.value)
    assert "theirs" in str(refused.value)


def test_two_packages_with_one_name_are_told_apart(monkeypatch):
    entries = [
        SimpleNamespace(
            name="conv_3x3", value=f"{name}:X", load=lambda: CONV, dist=SimpleNamespace(name=name, version="1")
        )
        for name in ("first", "second")
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == "dnas.primitives" else [])
    with pytest.raises(
        dnas.InputError, match="of second:X has the same name as one of first 1; rename its entry point"
    ):
        list(PRIMITIVES)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Space("free", 2, 2, ("skip_connect", "sep_conv_3x3")), "'free' is reserved"),
        (Space("ours", 0, 2, ("skip_connect", "sep_conv_3x3")), "a cell must have 1 to 32 nodes, got 0"),
        (Space("ours", 2, 3, ("skip_connect", "sep_conv_3x3")), "inputs_per_node must be 1 or 2"),
        (Space("ours", 2, 2, ("skip_connect",)), "an edge must have at least two primitives, without duplicates, got (skip_connect)"),
        (Space("ours", 2, 2, ("skip_connect", "none")), "'none' cannot be listed as a primitive"),
        (Space("ours", 2, 2, ("skip_connect", "nosuch")), "unknown primitive 'nosuch'; register it first"),
        (Space("ours", 1, 2, ("skip_connect", "sep_conv_3x3"), ((("skip_connect", "sep_conv_3x3"),) * 2,)), "per_edge must list the primitives of 2 edges"),
        (Space("ours", 1, 2, ("skip_connect", "sep_conv_3x3"), ((("skip_connect", "dil_conv_3x3"),) * 2,) * 2), "an edge has 'dil_conv_3x3', which is not among the primitives of the space"),
        (Space("My Space", 2, 2, ("skip_connect", "sep_conv_3x3")), "give it a name of lowercase letters"),
        (Space("darts", 2, 2, ("skip_connect", "sep_conv_3x3")), "has the name 'darts' of dnas; give it another name"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_is_refused(space, words):
    with pytest.raises(dnas.InputError) as refused:
        dnas.register(space)
    assert words in str(refused.value)
    assert "ours" not in SPACES


def test_a_notebook_registers_each_kind_and_another_process_gets_them(tmp_path):
    relaxation = Relaxation("twice", "twice the softmax", "none", lambda terms, share: 2 * softmax(terms))
    for thing in (CONV, OURS, relaxation):
        assert dnas.register(thing) is thing
    assert SPACES["ours"] is OURS and PRIMITIVES["conv_3x3"] is CONV and RELAXATIONS["twice"] is relaxation
    again = Primitive("conv_3x3", plain, "#654321", "conv")
    assert dnas.register(again) and PRIMITIVES["conv_3x3"] is again
    sent = registered()
    assert sent == (again, relaxation, OURS)
    for kind in KINDS:
        kind.forget()
    assert "ours" not in SPACES
    register_all(sent)  # a space after its primitives
    assert SPACES["ours"] is OURS


def test_a_list_tells_who_brings_what(give):
    give("dnas.primitives", conv_3x3=CONV)
    dnas.register(OURS)
    told = invoke("list", "--json").json
    assert told["primitives"]["conv_3x3"] == "theirs 2.1" and told["primitives"]["none"] == "dnas"
    assert told["spaces"]["ours"] == "this process" and told["spaces"][DARTS.name] == "dnas"
    assert invoke("list", "spaces").out.splitlines() == [
        "spaces:",
        f"  dnas: {', '.join(['darts', 's1', 's2', 's3', 's4', *(space.name for space in CHAINS)])}",
        "  this process: ours",
    ]
    refused = invoke("list", "spices")
    assert refused.code == 2 and "did you mean 'spaces'?" in refused.err


def test_a_relaxation_that_is_not_known_is_refused_and_taken_only_by_methods_that_mix_by_any():
    refused = invoke("search", "--method", "darts", "-o", "relaxation=softmx")
    assert refused.code == 2 and "unknown --option relaxation 'softmx'; did you mean 'softmax'?" in refused.err
    refused = invoke("search", "--method", "gdas", "-o", "relaxation=softmax")
    assert refused.code == 2 and "unknown --option relaxation of method gdas" in refused.err

"""Random limits, of every kind and in pairs, are kept by the file that is delivered: counted there, not in a plan."""

from __future__ import annotations

import math
from math import prod

import pytest
from faults.harness import invoke
from test_contract import table

from dnas.data.splits import DataInfo
from dnas.methods.registry import get_method
from dnas.network.network import build
from dnas.pipeline.model import Trained
from dnas.rng import numpy_stream
from dnas.space.limits import LIMITED, MACS, PARAMS, RAM, SIZE, Feasible
from dnas.supernet.mapping import SHARED
from dnas.testing.behaviour import CLASS_NAMES, SHAPE, random_limits
from dnas.testing.planted import plant
from dnas.testing.record import search

BY_HAND = "by hand"  # scores that no search made
METHODS = ("darts", "spos", "evolution", "random", BY_HAND)
LIMITS_EACH = 40


def delivered(name, seed):
    """What a planted search finds within random limits, and these."""
    mappings = get_method("darts" if name == BY_HAND else name).mappings
    mapping = mappings[seed % len(mappings)]
    feasible = random_limits(name, mapping, seed)
    if name != BY_HAND:
        planted = plant(mapping, seed)
        record = search(name, mapping, table(name, "SMALL"), seed=seed, planted=planted, feasible=feasible)
        return record.found.architecture, feasible
    space, layers = feasible.space, feasible.delivered.layers
    scores = numpy_stream(seed, "hand").normal(size=(layers, len(space.edges), len(space.primitives)))
    return feasible.best(scores, space.primitives), feasible


def counted(file):
    """Parameters, multiply-accumulates and bytes of an ONNX file."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(file)).graph
    dims = {each.name: tuple(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    # What batch norms have counted is no parameter.
    counts = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    sides = {
        each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim][2:]
        for each in (*graph.value_info, *graph.output)
    }
    macs = 0
    for node in graph.node:
        if node.op_type == "Conv":
            macs += prod(dims[node.input[1]]) * prod(sides[node.output[0]])
        elif node.op_type in ("Gemm", "MatMul"):
            macs += next(prod(dims[name]) for name in node.input[:2] if name in dims)
    return {PARAMS: sum(prod(d) for name, d in dims.items() if name not in counts), MACS: macs, SIZE: len(file)}


def check(name, seed):
    """Returns what the delivered file uses of each limit, as a share of it."""
    from dnas.deploy.onnx_file import onnx_bytes
    from dnas.deploy.protocol import Exported

    architecture, feasible = delivered(name, seed)
    shape = feasible.delivered.shape
    network = build(architecture, shape.channels, shape.classes, inputs=shape.image_channels).eval()
    info = DataInfo("x", CLASS_NAMES, shape.image_channels, shape.image_size, (0.0,), (1.0,), flip=False)
    trained = Trained(network, info, architecture, shape.channels, shape.stem, shape.final_norm)
    used = counted(onnx_bytes(Exported(trained, "network", "network", lambda: iter(()))))
    # Activations are in no file: those of its program.
    used |= feasible.delivered.costs(architecture, [RAM])
    costs = feasible.delivered.costs(architecture)
    assert used[MACS] == costs[MACS]
    assert used[PARAMS] <= costs[PARAMS] and used[SIZE] <= costs[SIZE]
    for limit, most in feasible.limits.items():
        assert used[limit] <= most, f"{name}, seed {seed}: {limit} is {used[limit]}, and {most} was allowed"


def extras():
    pytest.importorskip("onnx", reason="needs the extra dnas[export]")
    pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")


@pytest.mark.parametrize(("name", "seed"), [*((name, 1) for name in METHODS), ("darts", 2)])
def test_a_delivered_file_keeps_to_its_limits(name, seed):
    extras()
    check(name, seed)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", METHODS)
def test_delivered_files_keep_to_two_hundred_random_limits(name):
    """As many of each; every kind of limit occurs."""
    extras()
    for seed in range(1, LIMITS_EACH + 1):
        check(name, seed)


def least(kind):
    """The least of something that a network of `invoke` below can need."""
    from dataclasses import replace

    from dnas.space.limits import Delivered
    from dnas.space.registry import get_space

    shape = replace(SHAPE, channels=2, classes=10, final_norm=True)
    network = Delivered(get_space("darts"), 3, True, shape, tuple("0123456789"), "int8")
    return network.costs(Feasible(network, {kind: math.inf}).least(kind), [kind])[kind]


@pytest.mark.parametrize("kind", LIMITED)
def test_a_limit_below_the_least_is_refused_before_a_search_and_the_least_is_not(tmp_path, kind):
    given = ("search", "--layers", 3, "--mapping", "shared", "--method", "random", "--out", tmp_path / "run")
    refused = invoke(*given, f"--max-{kind}", least(kind) - 1)
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert f"allow {least(kind)}" in refused.err and not (tmp_path / "run").exists()


def test_the_methods_are_of_every_kind():
    assert {get_method(name).kind for name in METHODS if name != BY_HAND} == {"gradient", "sampling", "trials"}
    kinds = [frozenset(random_limits(name, SHARED, seed).limits) for name in METHODS for seed in range(1, 41)]
    assert {kind for each in kinds for kind in each} == set(LIMITED) and {len(each) for each in kinds} == {1, 2}

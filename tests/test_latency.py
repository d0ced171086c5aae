"""Latency as a sum of operations. Nothing here looks at a clock: times are made up."""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy as np
import pytest
from faults.harness import contents, invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import info
from test_limited_runs import IMAGES, TINY

import dnas
from dnas.disk import read_toml
from dnas.errors import InputError
from dnas.pipeline import latency as measuring
from dnas.pipeline import onnx_graph
from dnas.pipeline.config import parse, resolve
from dnas.space import latency
from dnas.space.darts import DARTS
from dnas.space.limits import LATENCY, Delivered, Feasible
from dnas.space.network_plan import Shape, size
from dnas.space.plan import plan
from dnas.space.sampling import sample

SHAPE = Shape(channels=4, classes=4, image_size=9, image_channels=1, final_norm=True)
BARE = Delivered(DARTS, 4, False, SHAPE, tuple("abcd"), "int8")


def timed(seed, shared=False, layers=4):
    """Networks whose operations take random times."""
    bare = Delivered(DARTS, layers, shared, SHAPE, tuple("abcd"), "int8")
    rng = np.random.default_rng(seed)
    keys = [latency.FIXED, *measuring._operations(bare)]
    times = {each: int(time) for each, time in zip(keys, rng.integers(0, 1_000, len(keys)), strict=True)}
    return Delivered(DARTS, layers, shared, SHAPE, tuple("abcd"), "int8", times)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_000), st.booleans())
def test_the_latency_of_a_network_is_the_sum_of_its_operations(seed, shared):
    delivered = timed(seed, shared)
    rng = np.random.default_rng(seed)
    costs = sorted(delivered.costs(sample(DARTS, rng, 4, shared=shared), [LATENCY])[LATENCY] for _ in range(8))
    feasible = Feasible(delivered, {LATENCY: costs[2]})
    for _ in range(10):
        architecture = sample(DARTS, rng, 4, shared=shared)
        # By the tables, and by the sum over the plan.
        assert feasible.allows(architecture) == (not feasible.excess(architecture))
    scores = rng.normal(size=(4, len(DARTS.edges), len(DARTS.primitives)))
    found = feasible.best(scores, DARTS.primitives)
    assert delivered.costs(found, [LATENCY])[LATENCY] <= costs[2]
    assert delivered.costs(feasible.least(LATENCY), [LATENCY])[LATENCY] <= costs[0]


def test_operations_have_the_sides_and_strides_that_they_are_built_with():
    """On 9×9 images: 9 pixels, 5 after the first reduction, 3 after the second; written down by hand."""
    architecture = sample(DARTS, np.random.default_rng(0), 4)
    assert architecture.reductions == (1, 2)
    network = plan(architecture, channels=4, classes=4, inputs=1)
    assert list(latency.sides(network, 9)) == [(9, 9), (9, 5), (5, 3), (3, 3)]
    keys = iter(latency.operations(architecture, network, 9))
    places = [(4, 1, 9, 9), (8, 2, 9, 5), (16, 2, 5, 3), (16, 1, 3, 3)]
    for cell, (channels, stride, outer, inner) in zip(architecture.layers, places, strict=True):
        for op, source in (slot for node in cell.nodes for slot in node):
            expected = f"{op} {channels} {stride} {outer}" if source < 2 else f"{op} {channels} 1 {inner}"
            assert next(keys) == expected


def test_the_line_is_found_that_networks_lie_on(monkeypatch):
    alone = {each: (float(n), 0.0) for n, each in enumerate(measuring._operations(BARE), 10)}

    def took(delivered, architecture):
        network = delivered.planned(architecture)
        total = sum(alone[each][0] for each in latency.operations(architecture, network, SHAPE.image_size))
        return measuring.Passes(1e-9 * (500 + 1.5 * total), 0, 0, 0)

    monkeypatch.setattr(measuring, "of_network", took)
    fit = measuring._fitted(BARE, alone)
    assert fit["constant"] == pytest.approx(500) and fit["factor"] == pytest.approx(1.5)
    assert fit["errors"] == pytest.approx([0] * measuring.TESTED, abs=1e-9)


def test_what_was_measured_is_measured_once(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(measuring, "_operation", lambda *what: asked.append(what) or (1_000.0, 0.1))
    monkeypatch.setattr(measuring, "_fitted", lambda *_: {"constant": 7.0, "factor": 2.0, "errors": [0.0]})
    first = measuring.measured(BARE)
    assert len(asked) == len(set(asked)) == len(first.times) - 1
    assert first.times[latency.FIXED] == 7 and set(first.times.values()) == {7, 2_000}
    assert measuring.covers(first.times, BARE) and not measuring.covers({}, BARE)
    count = len(asked)
    assert measuring.measured(BARE) == first and len(asked) == count
    (file,) = tmp_path.glob("dnas/latency-*.json")
    file.write_text("{")  # damaged: measured again
    assert measuring.measured(BARE) == first and len(asked) == 2 * count


@pytest.fixture
def table(monkeypatch):
    """A machine on which every operation takes a microsecond, and a convolution two."""

    def measured(delivered):
        operations = measuring._operations(delivered)
        times = {each: 2_000 if "conv" in each else 1_000 for each in operations}
        return measuring.Table({latency.FIXED: 10_000, **times}, {}, 1.0, [])

    monkeypatch.setattr(measuring, "measured", measured)


def test_a_run_keeps_to_a_latency_and_is_resumed_without_a_clock(table, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
    options = {**IMAGES, "train.images": 128}
    first = dnas.run(method="darts", max_latency="0.05ms", option=options, finals=0, out=tmp_path / "run", **TINY)
    # 4 layers of 8 operations, of which 8 may be convolutions.
    assert first["limits"]["latency"]["used"] <= 50_000
    assert first["latency"]["predicted_seconds"] == first["limits"]["latency"]["used"] / 1e9
    low, high = first["latency"]["measured_quartiles"]
    assert first["latency"]["least_seconds"] <= low <= first["latency"]["measured_seconds"] <= high
    config = parse(read_toml(tmp_path / "run" / "config.toml"))
    assert config.limits.latency == 5e-5 and config.limits.times[latency.FIXED] == 10_000
    ops = Counter(op for cell in first.architecture.layers for node in cell.nodes for op, _ in node)
    assert 10_000 + sum(n * (2_000 if "conv" in op else 1_000) for op, n in ops.items()) <= 50_000
    monkeypatch.setattr(measuring, "measured", lambda delivered: pytest.fail("measured again"))
    again = dnas.run(config=tmp_path / "run" / "config.toml", out=tmp_path / "again")
    assert again.architecture == first.architecture
    files = [contents(tmp_path / name) for name in ("run", "again")]
    assert {k: v for k, v in files[0].items() if k != "result.json"} == {k: v for k, v in files[1].items() if k != "result.json"}  # fmt: skip


def test_within_a_latency_the_default_run_searches_darts(table):
    assert resolve({"limits": {"latency": 0.01}}, info(), 50_000, "print")[0].space == "darts"


def test_a_latency_that_cannot_be_met_is_refused_in_a_line(table, tmp_path):
    outcome = invoke("search", "--layers", 4, "--max-latency", "0.02ms", "--out", tmp_path / "run")
    said = "--max-latency 0.02ms cannot be met: the least that a network of 4 layers and 2 channels needs is 0.042ms"
    assert outcome.code == 2 and said in outcome.err and len(outcome.err.splitlines()) == 1


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"--max-latency requires onnx; install it with: pip install 'dnas\[export\]'"):
        measuring.measured(BARE)


@pytest.mark.parametrize("stem", ["cifar", "tiny-imagenet"])
def test_the_graph_that_is_timed_is_the_network_that_is_planned(stem):
    onnx = pytest.importorskip("onnx", reason="needs the extra dnas[export]")
    ort = pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
    architecture = sample(DARTS, np.random.default_rng(1), 4)
    network = plan(architecture, channels=4, classes=5, inputs=3, stem=stem)
    model = onnx_graph.network_model(network, 16, 3, True)
    graph = onnx.load_from_string(model).graph
    kernels = [w for w in graph.initializer if len(w.dims) == 4]
    chains = [network.stem.first, network.stem.second]
    for cell in network.layers:
        chains += [*cell.preprocess, *(edge.chain for edge in cell.edges)]
    norms = sum(layer.params() for chain in chains for layer in chain if type(layer).__name__ == "Norm")
    norms += sum(2 * layer.outputs for chain in chains for layer in chain if type(layer).__name__ == "FactorizedReduce")
    linear = (network.features + 1) * 5
    assert sum(int(np.prod(w.dims)) for w in kernels) == size(network, 16).params - norms - linear
    (logits,) = ort.InferenceSession(model).run(None, {"images": np.ones((1, 3, 16, 16), np.float32)})
    assert logits.shape == (1, 5) and np.isfinite(logits).all()


def test_the_graph_that_is_timed_computes_what_the_exported_file_does():
    """The same kinds of computation, as often."""
    onnx = pytest.importorskip("onnx", reason="needs the extra dnas[export]")
    pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
    from dnas.data.splits import DataInfo
    from dnas.deploy.onnx_file import onnx_bytes
    from dnas.deploy.protocol import Exported
    from dnas.network.network import build
    from dnas.pipeline.model import Trained

    architecture = sample(DARTS, np.random.default_rng(2), 3)
    info = DataInfo("x", tuple("abcd"), 1, 16, (0.0,), (1.0,), flip=False)
    network = build(architecture, 4, 4, inputs=1).eval()
    written = onnx_bytes(Exported(Trained(network, info, architecture, 4, "cifar", False), "n", "n", lambda: iter(())))
    planned = plan(architecture, channels=4, classes=4, inputs=1)
    made = onnx_graph.network_model(planned, 16, 1, False)
    kinds = [Counter(node.op_type for node in onnx.load_from_string(each).graph.node) for each in (written, made)]
    for kind in ("Conv", "Concat", "Slice", "Gemm", "BatchNormalization"):
        assert kinds[0][kind] == kinds[1][kind], (kind, json.dumps(kinds))
    for kind in ("MaxPool", "AveragePool", "Relu"):
        # Two of one state are one in the file, as in the runtime.
        assert kinds[0][kind] <= kinds[1][kind], (kind, json.dumps(kinds))

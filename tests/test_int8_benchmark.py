"""`benchmarks/int8.py`: what is rounded and how, and that a training rounds in its last steps only."""

import fake_quantization as rounding
import int8 as benchmark
import numpy as np
import pytest
import torch

from dnas.data.splits import load_train
from dnas.deploy.onnx_int8 import OnnxInt8
from dnas.deploy.protocol import Exported
from dnas.pipeline.model import Trained
from dnas.training.trainer import Training

onnx = pytest.importorskip("onnx", reason="needs the extra dnas[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra dnas[export]")
pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
JOB = benchmark.Job("digits", None, "DARTS_V2", 1.0, 0)


def by_runtime(x, scale, zero, axis=0):
    """QuantizeLinear and DequantizeLinear of ONNX Runtime."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=axis),
    ]
    given = {"x": x, "scale": scale, "zero": zero}
    kinds = {"zero": TensorProto.INT8}
    inputs = [helper.make_tensor_value_info(k, kinds.get(k, TensorProto.FLOAT), v.shape) for k, v in given.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)]
    graph = helper.make_graph(nodes, "round", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


def test_known_values_are_rounded_to_the_nearest_level():
    x = torch.tensor([-1.0, 0.0, 0.4 / 100, 0.6 / 100, 1.55])  # 255 levels of 0.01
    assert torch.allclose(rounding.per_tensor(x), torch.tensor([-1.0, 0.0, 0.0, 0.01, 1.55]), atol=1e-6)
    weights = torch.tensor([[1.27, -0.004, 0.006], [0.0, 0.0, 0.0], [-12.7, 0.04, 0.06]])
    expected = torch.tensor([[1.27, 0.0, 0.01], [0.0, 0.0, 0.0], [-12.7, 0.0, 0.1]])
    assert torch.allclose(rounding.per_channel(weights), expected, atol=1e-6)


def equal(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_is_that_of_onnx_runtime(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 5, 5, generator=generator) + seed
    scale = (x.max().clamp_min(0) - x.min().clamp_max(0)) / 255
    zero = torch.round(-128 - x.min().clamp_max(0) / scale).to(torch.int8)
    expected = by_runtime(x.numpy(), scale.numpy(), zero.numpy())
    assert np.abs(rounding.per_tensor(x).numpy() - expected).max() < 1e-6
    weight = torch.randn(6, 3, 3, 3, generator=generator)
    scale = weight.abs().amax((1, 2, 3)) / 127
    expected = by_runtime(weight.numpy(), scale.numpy(), np.zeros(6, np.int8))
    assert np.abs(rounding.per_channel(weight).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("function", [rounding.per_channel, rounding.per_tensor])
def test_gradients_pass_unchanged(function):
    x = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    factor = torch.arange(108.0).view(4, 3, 3, 3)
    (function(x) * factor).sum().backward()
    assert torch.equal(x.grad, factor)


def test_it_makes_no_difference_whether_norms_are_folded_before():
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([1.0, -0.5, 4.0, -2.0, 0.25, 1.0]).view(6, 1, 1, 1)  # powers of two multiply exactly
    assert torch.equal(rounding.per_channel(factor * weight), factor * rounding.per_channel(weight))


def test_the_places_are_those_of_the_file_and_earlier_steps_are_those_of_a_plain_training(tmp_path):
    split, info = load_train("digits")
    train = split.subset(torch.arange(200))
    subject = benchmark.subject_of(JOB, train, info)
    aware = subject.training(train, 2)
    plain = Training(subject.built(), subject.settings, train, info, 0, "train", "cpu")
    for step in range(2):
        assert aware.step(step) == plain.step(step)
    assert equal(aware.network, plain.network)
    assert aware.step(2) != plain.step(2)
    assert not equal(aware.network, plain.network)
    trained: Trained = subject.trained(aware.network)
    exported = Exported(trained, "network", "network", lambda: benchmark.calibration(train, info, 32))
    OnnxInt8().write(exported, tmp_path)
    kinds = [node.op_type for node in onnx.load(tmp_path / OnnxInt8.files[0]).graph.node]
    # The images, and the results of layers that only pass levels on, have places of their own in the file.
    passing = 1 + kinds.count("MaxPool") + kinds.count("Slice")
    assert len(aware.sites.chosen) + passing == kinds.count("QuantizeLinear")

"""A planned network, or one of its chains, as an ONNX graph with random weights, for measuring its latency.

It is built within a second and without torch, while the export of a trained network takes half a minute. The
computations are those of the exported file: batch norms are part of the preceding convolutions.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from dnas.errors import InputError
from dnas.space.network_plan import NetworkPlan
from dnas.space.primitives import (
    AvgPool,
    Chain,
    Conv,
    FactorizedReduce,
    Identity,
    MaxPool,
    Norm,
    ReLU,
    Zero,
)

INPUT, OUTPUT = "images", "logits"
OPSET, IR = 18, 10
INSTALL = "pip install 'dnas[export]'"


def require_onnx() -> None:
    """Raise InputError if a package is missing."""
    for package in ("onnx", "onnxruntime"):
        try:
            import_module(package)
        except ImportError:
            raise InputError(f"--max-latency requires {package}; install it with: {INSTALL}") from None


class Graph:
    """Nodes and weights of a graph, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.rng = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(self, *shape: int) -> str:
        """Add random weights that preserve the scale of the activations, and return their name."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        return self.weight(self.rng.normal(0, fan**-0.5, shape).astype(np.float32))

    def model(self, inputs: dict[str, tuple[int, ...]], outputs: list[str]) -> bytes:
        from onnx import TensorProto, helper

        read = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "network", read, given, self.weights)
        whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        serialized: bytes = whole.SerializeToString()
        return serialized

    def chain(self, chain: Chain, tensor: str, rectified: bool = False) -> str:
        """Add a chain and return the name of its output. Args: rectified: The first ReLU is already applied."""
        for i, layer in enumerate(chain):
            match layer:
                case Norm():
                    pass  # part of the convolution
                case Identity():
                    tensor = self.add("Identity", tensor)
                case ReLU():
                    tensor = tensor if rectified and not i else self.add("Relu", tensor)
                case Conv():
                    tensor = self._convolution(layer, tensor)
                case MaxPool():
                    tensor = self.add("MaxPool", tensor, **_window(layer.stride))
                case AvgPool():
                    tensor = self.add("AveragePool", tensor, count_include_pad=0, **_window(layer.stride))
                case FactorizedReduce():
                    tensor = tensor if rectified and not i else self.add("Relu", tensor)
                    half = layer.outputs // 2
                    # The second grid counts from the end, so that both have the same size for odd sides.
                    grids = (self._grid(tensor), self._grid(tensor, -2))
                    parts = [Conv(layer.inputs, outputs) for outputs in (half, layer.outputs - half)]
                    halves = map(self._convolution, parts, grids)
                    joined = self.add("Concat", *halves, axis=1)
                    norm = (self.weight(np.ones(layer.outputs, np.float32)) for _ in range(4))
                    tensor = self.add("BatchNormalization", joined, *norm)
                case Zero():
                    tensor = self.add("Mul", self._grid(tensor, layer.stride), self.weight(np.float32(0)))
                case _:
                    raise InputError(
                        f"--max-latency has no measurement of {type(layer).__name__}; choose another space"
                    )
        return tensor

    def _convolution(self, layer: Conv, tensor: str) -> str:
        weight = self.normal(layer.outputs, layer.inputs // layer.groups, *layer.kernel)
        return self.add(
            "Conv", tensor, weight, self.normal(layer.outputs), kernel_shape=layer.kernel, strides=layer.stride,
            dilations=(layer.dilation,) * 2, group=layer.groups, pads=(*layer.padding, *layer.padding),
        )  # fmt: skip

    def _grid(self, tensor: str, stride: int = 2) -> str:
        """Take every `stride`-th pixel, starting at the first one, or at the last one for a negative stride."""
        if stride == 1:
            return tensor
        start, end = (0, 1 << 30) if stride > 0 else (-1, -(1 << 30))
        for axis in (2, 3):
            bounds = (self.weight(np.array([value], np.int64)) for value in (start, end, axis, stride))
            tensor = self.add("Slice", tensor, *bounds)
        return tensor


def _window(stride: int) -> dict[str, Any]:
    return {"kernel_shape": (3, 3), "strides": (stride, stride), "pads": (1, 1, 1, 1)}


def chain_model(chain: Chain, channels: int, side: int, copies: int) -> bytes:
    """Return copies of a chain, each with a separate input, so that the runtime cannot merge them."""
    graph = Graph()
    names = [f"{INPUT}{copy}" for copy in range(copies)]
    outputs = [graph.chain(chain or (Identity(),), name) for name in names]
    return graph.model(dict.fromkeys(names, (1, channels, side, side)), outputs)


def network_model(network: NetworkPlan, image_size: int, image_channels: int, final_norm: bool) -> bytes:
    """Return a whole network, from an image to its logits, for batch size 1."""
    graph = Graph()
    before = graph.chain(network.stem.first, INPUT)
    previous = graph.chain(network.stem.second, before) if network.stem.second else before
    for layer in network.layers:
        states = {
            state: graph.chain(chain, read)
            for state, (chain, read) in enumerate(zip(layer.preprocess, (before, previous), strict=True))
        }
        rectified: dict[int, str] = {}
        for edge in layer.edges:
            read, shares = states[edge.source], isinstance(edge.chain[0], ReLU | FactorizedReduce)
            if shares:
                if edge.source not in rectified:
                    rectified[edge.source] = graph.add("Relu", read)
                read = rectified[edge.source]
            out = graph.chain(edge.chain, read, rectified=shares)
            states[edge.target] = graph.add("Add", states[edge.target], out) if edge.target in states else out
        before, previous = previous, graph.add("Concat", *(states[state] for state in layer.concat), axis=1)
    if final_norm:
        norm = (graph.weight(np.ones(network.features, np.float32)) for _ in range(4))
        previous = graph.add("Relu", graph.add("BatchNormalization", previous, *norm))
    mean = graph.add("GlobalAveragePool", previous)
    rows = graph.add("Flatten", mean, axis=1)
    weight, bias = graph.normal(network.classes, network.features), graph.normal(network.classes)
    logits = graph.add("Gemm", rows, weight, bias, transB=1)
    return graph.model({INPUT: (1, image_channels, image_size, image_size)}, [logits])

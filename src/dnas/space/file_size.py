"""Upper bound on the size of the ONNX file of a planned network, as written by `dnas export RUN --format onnx`.

Because it is an upper bound, limits on the file size are kept. The size of the weights is exact: the exporter turns a
batch norm into the bias of the preceding convolution, except after a concatenation. Every weight and every
computation also has a name and attributes, for which the constants below are the largest observed sizes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dnas.space.network_plan import LayerPlan, NetworkPlan
from dnas.space.primitives import (
    Branches,
    Chain,
    Conv,
    FactorizedReduce,
    HardSwish,
    Mean,
    Norm,
    ReLU,
    ReLU6,
    SqueezeExcite,
    Strided,
)

FLOAT = 4
TENSOR = 68  # the name and shape of a stored tensor
CONV, RELU, ADD, CONCAT, SLICE, NORM, POOL = 212, 52, 68, 94, 90, 284, 210
HARD_SWISH, SQUEEZE = 60, 400  # SQUEEZE: mean, gate, product, and the longer names of its convolutions
SPLIT, SHUFFLE = 106, 340
FACTS = 500  # mean, standard deviation and resizing rule of images
REST = 1_100  # inputs, outputs, constants, and the operations after the last layer


def onnx_bytes(network: NetworkPlan, final_norm: bool = False, facts: int = 0) -> int:
    """Return an upper bound on the file size of a network, in bytes.

    Args:
        final_norm: As in `TrainSettings`.
        facts: Bytes of the metadata on images and classes.
    """
    stem = sum(map(chain_bytes, (network.stem.first, network.stem.second, network.head))) + 2 * RELU
    layers = sum(layer_bytes(layer) + sum(edge_bytes(edge.chain) for edge in layer.edges) for layer in network.layers)
    return stem + layers + end_bytes(network.features, network.classes, final_norm) + facts


def facts_bytes(classes: Sequence[str]) -> int:
    """Return the bytes of the metadata on images and classes."""
    return FACTS + len(json.dumps(list(classes)))


def end_bytes(features: int, classes: int, final_norm: bool) -> int:
    """Return the bytes of the part after the last layer."""
    norm = NORM + 4 * (TENSOR + FLOAT * features) if final_norm else 0
    return REST + norm + FLOAT * (features + 1) * classes


def layer_bytes(layer: LayerPlan) -> int:
    """Return the bytes of a layer without its edges."""
    return sum(map(chain_bytes, layer.preprocess)) + CONCAT + RELU


def edge_bytes(chain: Chain) -> int:
    """Return the bytes of an operation and of the addition of its output to a node."""
    return chain_bytes(chain) + ADD


def chain_bytes(chain: Chain) -> int:
    """Return the bytes of a chain of layers."""
    total = 0
    for layer in chain:
        match layer:
            case Conv():
                total += CONV + TENSOR + FLOAT * layer.params() + (TENSOR if layer.bias else 0)
            case Norm():
                total += TENSOR + FLOAT * layer.channels
            case FactorizedReduce():
                weights = layer.inputs * layer.outputs
                total += RELU + 4 * SLICE + 2 * (CONV + TENSOR) + CONCAT + FLOAT * weights
                total += NORM + 4 * (TENSOR + FLOAT * layer.outputs)
            case Branches():
                total += sum(chain_bytes(part) for part, _ in layer.parts) + layer.split * SPLIT + SHUFFLE
            case ReLU() | ReLU6():
                total += RELU
            case HardSwish():
                total += HARD_SWISH
            case SqueezeExcite():
                total += SQUEEZE + 2 * (CONV + 2 * TENSOR) + RELU + FLOAT * layer.params()
            case Strided() | Mean():
                total += POOL
    return total

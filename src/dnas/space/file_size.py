"""How large the ONNX file of a planned network can be, before it is written: `dnas export RUN --format onnx`.

A bound, so that a limit on it holds. Weights are exact, as the exporter stores them: a batch norm becomes the bias of
the convolution before it, except after a concatenation. Around every weight and every computation stand names and
attributes, of which the constants below are the most that were seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from dnas.space.plan import CellPlan, NetworkPlan
from dnas.space.primitives import Chain, Conv, FactorizedReduce, Norm, ReLU, Strided

FLOAT = 4
TENSOR = 68  # the name and shape of a stored tensor
CONV, RELU, ADD, CONCAT, SLICE, NORM, POOL = 212, 52, 68, 94, 90, 284, 210
FACTS = 500  # mean, deviation and rule of pictures
REST = 1_100  # inputs, outputs, constants, and what follows the last layer


def onnx_bytes(network: NetworkPlan, final_norm: bool = False, facts: int = 0) -> int:
    """The most bytes of a network's file.

    Args:
        final_norm: As of `TrainSettings`.
        facts: Bytes of what the file says of images and classes.
    """
    stem = sum(chain_bytes(chain) for chain in (network.stem.first, network.stem.second)) + 2 * RELU
    cells = sum(cell_bytes(cell) + sum(edge_bytes(edge.chain) for edge in cell.edges) for cell in network.cells)
    return stem + cells + end_bytes(network.features, network.classes, final_norm) + facts


def facts_bytes(classes: Sequence[str]) -> int:
    """What a file says of images and classes."""
    return FACTS + len(json.dumps(list(classes)))


def end_bytes(features: int, classes: int, final_norm: bool) -> int:
    """What follows the last layer."""
    norm = NORM + 4 * (TENSOR + FLOAT * features) if final_norm else 0
    return REST + norm + FLOAT * (features + 1) * classes


def cell_bytes(cell: CellPlan) -> int:
    """A layer without its edges."""
    return sum(map(chain_bytes, cell.preprocess)) + CONCAT + RELU


def edge_bytes(chain: Chain) -> int:
    """An operation, and the addition of its output to a node."""
    return chain_bytes(chain) + ADD


def chain_bytes(chain: Chain) -> int:
    """One layer after another."""
    total = 0
    for layer in chain:
        match layer:
            case Conv():
                total += CONV + TENSOR + FLOAT * layer.params()
            case Norm():
                total += TENSOR + FLOAT * layer.channels
            case FactorizedReduce():
                weights = layer.inputs * layer.outputs
                total += RELU + 4 * SLICE + 2 * (CONV + TENSOR) + CONCAT + FLOAT * weights
                total += NORM + 4 * (TENSOR + FLOAT * layer.outputs)
            case ReLU():
                total += RELU
            case Strided():
                total += POOL
    return total

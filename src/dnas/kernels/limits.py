"""Constants shared by C and Python, and the bounds of arrays in C; they are defined only here.

`native` passes `MACROS` to the compiler (-D) for every file. Callers of a kernel check sizes against these bounds
first, and leave larger ones to torch: the C code does not check.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from torch import Tensor

EPSILON = 1e-5  # of nn.BatchNorm2d
VECTOR = 64  # bytes of the longest vector
TAPS = 49  # of a depthwise kernel, 7×7
PAD = 6  # padding of a depthwise kernel in a discrete cell
PICTURES = 4096  # of a discrete cell
STAGES = 2  # [depthwise, pointwise] of a separable candidate
SEPARABLES = 8  # candidates of an edge in the search
STATES = 16  # of a cell in the search
CHANNELS = 64  # of an edge in the search, a power of two
GROUPS = 64  # K in the search
NUMBERS = 2**31 - 1  # of a tensor, so that all products of sizes fit into int in C, or into a long of the same size


class Kind(IntEnum):
    """Kinds of terms in a node of a discrete cell."""

    IDENTITY = 0
    MAXIMUM = 1
    AVERAGE = 2
    CONVOLUTION = 3
    NOTHING = 4


class Pool(IntEnum):
    """Outputs of pooling in the search: both pools, and the position of each maximum."""

    LARGEST = 0
    AVERAGE = 1
    PLACE = 2


MACROS: dict[str, str | int] = {
    "EPSILON": repr(EPSILON),
    "VECTOR": VECTOR,
    "TAPS": TAPS,
    "PAD": PAD,
    "STAGES": STAGES,
    "SEPARABLES": SEPARABLES,
    "STATES": STATES,
    "CHANNELS": CHANNELS,
    "GROUPS": GROUPS,
    **{f"KIND_{kind.name}": int(kind) for kind in Kind},
    **{f"POOL_{pool.name}": int(pool) for pool in Pool},
    "POOLED": len(Pool),
}


def depthwise(kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    """Return True if the C files support a depthwise convolution: an odd square kernel, the same steps in both axes."""
    square = len({*kernel}) == len({*stride}) == len({*dilation}) == 1
    return square and kernel[0] % 2 == 1 and kernel[0] ** 2 <= TAPS and stride[0] in (1, 2) and dilation[0] >= 1


def sized(tensors: Iterable[Tensor]) -> bool:
    """Return True if none of these tensors is empty or too large."""
    return all(0 < tensor.numel() <= NUMBERS for tensor in tensors)

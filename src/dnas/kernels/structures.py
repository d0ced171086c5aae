"""Structures passed to the C files, and the functions of these files."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from torch import Tensor

from dnas.kernels import limits, native

number, long, pointer = ctypes.c_int, ctypes.c_long, ctypes.c_void_p


class Separable(ctypes.Structure):
    """Arguments of a separable convolution, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("kernel", "dilation", "stages", "column")),
        *((name, pointer * limits.STAGES) for name in ("deep", "point", "kept", "moments")),
        *((name, pointer * limits.STAGES) for name in ("deep_gradient", "point_gradient")),
        ("work", pointer),
    )


class Source(ctypes.Structure):
    """Arguments of the operations that read one state, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "targets", "stride", "threads", "count")),
        ("operations", number),
        ("pools", number * 2),
        *((name, number) for name in ("identity", "x_pixel", "grad_pixel")),
        *((name, pointer) for name in ("x", "weights", "alive")),
        ("alive_scale", ctypes.c_double),
        *((name, pointer) for name in ("pool_moments", "pooled", "out")),
        ("add", number),
        *((name, pointer) for name in ("grad", "x_gradient")),
        ("fresh", number),
        ("weights_gradient", pointer),
        ("separables", ctypes.POINTER(Separable)),
    )


class Join(ctypes.Structure):
    """Arguments of the additions of a cell, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "sources", "reduced", "threads")),
        *((name, number) for name in ("state_height", "state_width", "fresh", "node_pixel", "grad_pixel")),
        *((name, number * limits.STATES) for name in ("out_pixel", "state_pixel")),
        *((name, pointer * limits.STATES) for name in ("outs", "states")),
        *((name, pointer) for name in ("bypass", "node", "grad")),
        ("states_gradient", pointer * limits.STATES),
        ("bypass_gradient", pointer),
    )


class Preprocess(ctypes.Structure):
    """Arguments of the preprocessing of one input of a cell, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("batch", "height", "width", "grids", "inputs", "outputs", "threads")),
        *((name, number) for name in ("x_height", "x_width")),
        *((name, pointer) for name in ("x", "weight", "y", "inverse", "grad", "x_gradient")),
        ("add", number),
        ("weight_gradient", pointer),
    )


class DiscretePicture(ctypes.Structure):
    """A feature map of a discrete cell, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("height", "width", "channels", "norm")),
        *(("data", pointer), ("pixel", long), ("gradient", pointer), ("gradient_pixel", long)),
        *(("start", pointer), ("start_pixel", long)),
    )


class DiscreteConvolution(ctypes.Structure):
    """A convolution of a discrete cell with its batch norm, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("input", "output", "target", "kernel", "dilation", "stride", "parts")),
        ("outputs", number * 2),
        *(("deep", pointer), ("point", pointer * 2), ("gamma", pointer), ("beta", pointer)),
        *((name, pointer) for name in ("running_mean", "running_variance", "batches")),
        *(("momentum", ctypes.c_double), ("epsilon", ctypes.c_double)),
        *((name, pointer) for name in ("factor", "z", "norm", "deep_gradient")),
        *(("point_gradient", pointer * 2), ("gamma_gradient", pointer), ("beta_gradient", pointer)),
    )


class DiscreteTerm(ctypes.Structure):
    """A summand of a node of a discrete cell, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("kind", "node", "source", "stride")),
        *(("factor", pointer), ("factor_gradient", pointer)),
    )


class DiscreteCell(ctypes.Structure):
    """Arguments of a discrete cell, as in the header of the kernels."""

    _fields_ = (
        *((name, number) for name in ("batch", "threads", "pictures", "convolutions", "terms")),
        *((name, pointer) for name in ("picture", "convolution", "term")),
    )


STRUCTURES: dict[str, tuple[type[ctypes.Structure], ...]] = {
    "source": (Source, Separable),
    "join": (Join,),
    "preprocess": (Preprocess,),
    "discrete": (DiscretePicture, DiscreteConvolution, DiscreteTerm, DiscreteCell),
}


def _sources(channels: int, partial: int) -> dict[str, tuple[tuple[str, int], ...]]:
    """Return the C files for cells with this many channels per edge, and their macros."""
    return {"source": (("C", channels),), "join": (("C", channels), ("K", partial)), "preprocess": ()}


@cache
def _functions(real: str, channels: int, partial: int) -> dict[str, Any] | None:
    """Return the C functions of these files, or None if they are not available."""
    functions = {}
    for name, macros in _sources(channels, partial).items():
        library = native.library(name, *STRUCTURES[name], REAL=real, **dict(macros))
        if library is None:
            return None
        for direction in ("forward", "backward"):
            functions[f"{name}_{direction}"] = getattr(library, f"{name}_{direction}")
    return functions


@cache
def available(real: str, widths: frozenset[tuple[int, int]]) -> bool:
    """Return True if the functions of all these widths are available."""
    files = {file for width in widths for file in _sources(*width).items()}
    with ThreadPoolExecutor() as pool:  # compile in parallel: the first use of a width takes seconds
        load = lambda name, macros: native.library(name, *STRUCTURES[name], REAL=real, **dict(macros))  # noqa: E731
        list(pool.map(load, *zip(*sorted(files, reverse=True), strict=True)))
    return all(_functions(real, *width) is not None for width in widths)


def call_kernel(width: tuple[int, int], like: Tensor, name: str, structure: ctypes.Structure, numbers: int) -> None:
    """Call a function of the files for a `width`: channels of an edge, and K.

    `numbers` are the inputs and outputs, for counting memory traffic.
    """
    functions = _functions(native.REALS[like.dtype], *width)
    assert functions is not None
    native.count(name, numbers * like.element_size())
    if functions[name](ctypes.byref(structure)):
        raise MemoryError(f"out of memory in {name}")

"""NAME: relu(x) times a weight of each channel, in C where there is a compiler (`name.c`) and in torch elsewhere.

Why it is here: the figure that it was measured to save, with shape and machine.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from dnas.kernels import limits, native


def by_torch(x: Tensor, weight: Tensor) -> Tensor:
    """The specification: x [B, C, H, W], weight [C] → [B, C, H, W]."""
    return x.relu() * weight[:, None, None]


def covers(x: Tensor, weight: Tensor) -> bool:
    """Whether all that the C file takes for granted holds; what does not is torch's."""
    same = x.dtype == weight.dtype and x.dtype in native.REALS and x.is_cpu and weight.is_cpu
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return same and last and weight.shape == x.shape[1:2] and limits.sized([x]) and not torch.is_grad_enabled()


def scaled(x: Tensor, weight: Tensor) -> Tensor:
    """As `by_torch`."""
    library = native.library("name", REAL=native.REALS[x.dtype]) if covers(x, weight) else None
    if library is None:
        return by_torch(x, weight)
    weight, out = weight.contiguous(), torch.empty_like(x)
    native.count("name_forward", 2 * x.numel() * x.element_size())
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (x, weight, out))
    pixels = ctypes.c_long(x.numel() // x.shape[1])
    if library.name_forward(*pointers, pixels, x.shape[1], native.threads(x.numel())):
        raise MemoryError("out of memory in name")
    return out

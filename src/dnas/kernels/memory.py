"""Tensors whose memory is used again and again.

What an allocator gives back to the system comes again as fresh pages, each of which costs a fault: a tenth of a
training step on native kernels (96 images, C=16: 0.69 → 0.62 s on one core). So large tensors of kernels lie in blocks
that are kept; a block is free once no tensor, view or saved copy on it is left.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

_free: list[mmap.mmap] = []
_lock = threading.Lock()
PAGE = 2**16
# A checker of memory sees the end of a tensor that the allocator gave, and not where in a block a tensor ends.
blocks = True


def lease(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor, not initialised, on the smallest free block that holds it and is not too large."""
    numbers = math.prod(shape)
    if not numbers or not blocks:
        return torch.empty(*shape, dtype=dtype)
    size = max(PAGE, -(-numbers * dtype.itemsize // PAGE) * PAGE)
    with _lock:
        block = min((b for b in _free if size <= len(b) <= 2 * size), key=len, default=None)
        if block is not None:
            _free.remove(block)
    if block is None:
        block = mmap.mmap(-1, size)
        with contextlib.suppress(AttributeError, OSError):  # 3 % of a step, where the system has it
            block.madvise(mmap.MADV_HUGEPAGE)
    # torch holds the view as long as a tensor lives on it.
    view = memoryview(block)
    weakref.finalize(view, _free.append, block).atexit = False
    return torch.frombuffer(view, dtype=dtype, count=numbers).view(*shape)


def give_back() -> None:
    """Return what is free to the system: the next stage of a run wants other sizes."""
    with _lock:
        _free.clear()

"""Precision under autocast: products in its precision, moments in single precision.

A variance is a difference of two moments, which half precision cannot resolve. Autocast also has no effect inside of an
`autograd.Function`, whose gradients must have one type: inputs are cast before, and nothing is cast inside.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast tensors of one device to the precision of autocast; unchanged if it is off."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    precision = torch.get_autocast_dtype(device)
    return tuple(tensor.to(precision) for tensor in tensors)


def exact(x: Tensor) -> Tensor:
    """Cast to single precision; unchanged if the precision is higher."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def as_stored(x: Tensor) -> AbstractContextManager[object]:
    """Compute within the block in the precision of the operands, on the device of `x`."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()

"""Under autocast: products in its precision, moments in single precision.

A variance is a difference of two moments, of which half precision leaves nothing. And autocast does not see into an
`autograd.Function`, whose gradients have to be of one type: what goes in is cast before, and inside nothing is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Tensors of one device in autocast's precision; where it is off, as they are."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    precision = torch.get_autocast_dtype(device)
    return tuple(tensor.to(precision) for tensor in tensors)


def exact(x: Tensor) -> Tensor:
    """In single precision, or as it is where it has more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def as_stored(x: Tensor) -> AbstractContextManager[object]:
    """What is computed within is in the precision of its operands, on the device of `x`."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()

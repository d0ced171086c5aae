"""Batch norms folded into the linear map before them, so that their input is never computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dnas.kernels.limits import EPSILON
from dnas.kernels.precision import as_stored, exact


def fold(matrix: Tensor, mean: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Fold the batch norm after a linear map into a linear map: BN(P h) = A h + b over the pixels h of a batch.

    Args:
        matrix: P [m, outputs, inputs].
        mean, gram: Σ h / N [m, inputs] and Σ h hᵀ / N [m, inputs, inputs] of the features of each map.

    Returns:
        A [m, outputs, inputs] and b [m, outputs]. P h itself is neither computed nor kept for the backward pass.
    """
    with as_stored(gram):
        covariance = gram - mean[:, :, None] * mean[:, None, :]
        # Rounding can make a variance of zero slightly negative.
        variance = ((matrix @ covariance) * matrix).sum(-1).clamp_min(0)
        folded = matrix * (variance + EPSILON).rsqrt()[:, :, None]
        return folded, -(folded @ mean[:, :, None])[:, :, 0]


def side_by_side(matrices: Tensor) -> Tensor:
    """Convert [m, outputs, inputs] to [m · inputs, m · outputs], block-diagonal, to multiply rows from the right."""
    m, outputs, inputs = matrices.shape
    return torch.diag_embed(matrices.permute(2, 1, 0)).permute(3, 0, 2, 1).reshape(m * inputs, m * outputs)


def odd_grid(x: Tensor) -> Tensor:
    """Return the pixels with odd coordinates of [B, H, W, C]; a row and column of zeros complete an odd size."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    return x[:, 1::2, 1::2]


def fold_reduction(relu: Tensor, even: Tensor, odd: Tensor, targets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the features of a factorized reduction, shared by all targets, and the folded map of each target.

    Args:
        relu: [B, H, W, c], the input of both strided grids.
        even, odd: Weights [targets · outputs / 2, c, 1, 1] of the convolutions on the grids.

    Returns:
        Pixels [B, H/2, W/2, 2c], A [targets, outputs, 2c] and b [targets, outputs].
    """
    pixels = torch.cat([relu[:, ::2, ::2], odd_grid(relu)], 3)
    flat = exact(pixels.flatten(0, 2))
    top, bottom = (grid.view(targets, -1, grid.shape[1]) for grid in (even, odd))
    matrix = torch.cat([F.pad(top, (0, top.shape[2])), F.pad(bottom, (bottom.shape[2], 0))], 1)
    with as_stored(flat):
        mean, gram = flat.mean(0), flat.t() @ flat / len(flat)
    return pixels, *fold(matrix, mean.expand(targets, -1), gram.expand(targets, -1, -1))

"""Ridge regression as the posterior of a linear model, in closed form: predictions, variances, draws, leave-one-out.

    y = m + w·(x - mean of x) + e,     w ~ N(0, σ²/λ · 1),     e ~ N(0, σ²)

With the singular value decomposition of the centered features, X = U·diag(s)·Vᵀ, all results follow from one
decomposition, for more or fewer examples than features (Hastie et al., The Elements of Statistical Learning, 2009,
§3.4.1):

    mean of w        V·diag(s / (s² + λ))·Uᵀ·y
    covariance of w  σ²/λ · (1 - V·diag(s² / (s² + λ))·Vᵀ)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
LEAST_VARIANCE = 1e-12  # lower bound, for targets that are predicted without error


@dataclass(frozen=True)
class Ridge:
    """Posterior of F weights after N examples.

    Attributes:
        weights: [F], posterior mean.
        centre: [F], mean of the features.
        height: m, mean of the targets.
        basis: [K, F], rows of Vᵀ, for K = min(N, F).
        known: [K], s² / (s² + λ): 0 if the examples do not determine a direction, 1 if they determine it fully.
        penalty: λ, the candidate with the best leave-one-out predictions.
        variance: σ², the mean squared error of these predictions.
        examples: N.
    """

    weights: Array
    centre: Array
    height: float
    basis: Array
    known: Array
    penalty: float
    variance: float
    examples: int

    def predicted(self, x: Array) -> tuple[Array, Array]:
        """Return the mean [M] and variance [M] of the predictions for features [M, F], without the target noise."""
        off = x - self.centre
        unknown = (off**2).sum(1) - ((off @ self.basis.T) ** 2) @ self.known
        mean = self.height + off @ self.weights
        return mean, self.variance * (np.maximum(unknown, 0) / self.penalty + 1 / self.examples)

    @property
    def errors(self) -> Array:
        """Return the standard error of each weight, [F]."""
        unknown = 1 - self.known @ self.basis**2
        return np.sqrt(self.variance / self.penalty * np.maximum(unknown, 0))

    def draws(self, rng: np.random.Generator, count: int) -> Array:
        """Draw weights [count, F] from the posterior: independent normals times the square root of the covariance."""
        normal = rng.standard_normal((count, len(self.weights)))
        # The square root of 1 - V·diag(d)·Vᵀ is 1 - V·diag(1 - √(1 - d))·Vᵀ.
        normal -= (normal @ self.basis.T * (1 - np.sqrt(1 - self.known))) @ self.basis
        drawn: Array = self.weights + np.sqrt(self.variance / self.penalty) * normal
        return drawn


def fit(x: Array, y: Array, penalties: Sequence[float]) -> Ridge:
    """Fit N > 2 examples x [N, F], y [N] with each penalty, and keep the one with the best leave-one-out predictions.

    The prediction of a left-out example does not require another fit: it follows from its leverage.
    """
    assert len(y) > 2
    centre, height, count = x.mean(0), float(y.mean()), len(y)
    u, s, basis = np.linalg.svd(x - centre, full_matrices=False)
    target = y - height
    best: tuple[float, float] | None = None
    for penalty in penalties:
        known = s**2 / (s**2 + penalty)
        # The mean is also estimated and contributes to each prediction.
        left_out = (target - u @ (known * (u.T @ target))) / (1 - u**2 @ known - 1 / count)
        error = float(np.mean(left_out**2))
        if best is None or error < best[0]:
            best = (error, penalty)
    assert best is not None
    error, penalty = best
    weights = basis.T @ (s / (s**2 + penalty) * (u.T @ target))
    known = s**2 / (s**2 + penalty)
    return Ridge(weights, centre, height, basis, known, penalty, max(error, LEAST_VARIANCE), count)

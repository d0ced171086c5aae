"""Ridge regression as the posterior of a linear model, in closed form: prediction, spread, draws, and leaving one out.

    y = m + w·(x - mean of x) + e,     w ~ N(0, σ²/λ · 1),     e ~ N(0, σ²)

With the singular values of the centred features, X = U·diag(s)·Vᵀ, everything follows from one decomposition, whether
there are more examples than features or fewer (Hastie et al., The Elements of Statistical Learning, 2009, §3.4.1):

    mean of w        V·diag(s / (s² + λ))·Uᵀ·y
    covariance of w  σ²/λ · (1 - V·diag(s² / (s² + λ))·Vᵀ)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
LEAST_VARIANCE = 1e-12  # of what is predicted without any error


@dataclass(frozen=True)
class Ridge:
    """The posterior of F weights after N examples.

    Attributes:
        weights: [F], their mean.
        centre: [F], the mean of the features.
        height: m, the mean of the targets.
        basis: [K, F], the rows of Vᵀ, for K = min(N, F).
        known: [K], s² / (s² + λ): 0 where the examples say nothing of a direction, 1 where they say all.
        penalty: λ, of those that were tried the one whose left-out predictions are best.
        variance: σ², the mean square of what they are off.
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
        """Features [M, F] → mean [M] and variance [M] of what the model expects, without the noise of a target."""
        off = x - self.centre
        unknown = (off**2).sum(1) - ((off @ self.basis.T) ** 2) @ self.known
        mean = self.height + off @ self.weights
        return mean, self.variance * (np.maximum(unknown, 0) / self.penalty + 1 / self.examples)

    @property
    def errors(self) -> Array:
        """[F], the standard error of each weight."""
        unknown = 1 - self.known @ self.basis**2
        return np.sqrt(self.variance / self.penalty * np.maximum(unknown, 0))

    def draws(self, rng: np.random.Generator, count: int) -> Array:
        """[count, F], weights from their posterior; as independent normals times the root of the covariance."""
        normal = rng.standard_normal((count, len(self.weights)))
        # The root of 1 - V·diag(d)·Vᵀ is 1 - V·diag(1 - √(1 - d))·Vᵀ.
        normal -= (normal @ self.basis.T * (1 - np.sqrt(1 - self.known))) @ self.basis
        drawn: Array = self.weights + np.sqrt(self.variance / self.penalty) * normal
        return drawn


def fit(x: Array, y: Array, penalties: Sequence[float]) -> Ridge:
    """Fit N > 2 examples x [N, F], y [N] with each penalty, and keep the one that predicts what is left out best.

    The prediction of an example that is left out takes no second fit: it follows from its leverage.
    """
    assert len(y) > 2
    centre, height, count = x.mean(0), float(y.mean()), len(y)
    u, s, basis = np.linalg.svd(x - centre, full_matrices=False)
    target = y - height
    best: tuple[float, float] | None = None
    for penalty in penalties:
        known = s**2 / (s**2 + penalty)
        # The mean is estimated, too, and has its part in each prediction.
        left_out = (target - u @ (known * (u.T @ target))) / (1 - u**2 @ known - 1 / count)
        error = float(np.mean(left_out**2))
        if best is None or error < best[0]:
            best = (error, penalty)
    assert best is not None
    error, penalty = best
    weights = basis.T @ (s / (s**2 + penalty) * (u.T @ target))
    known = s**2 / (s**2 + penalty)
    return Ridge(weights, centre, height, basis, known, penalty, max(error, LEAST_VARIANCE), count)

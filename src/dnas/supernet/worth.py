"""What is known of architectures before any is trained on the images at hand: an additive model of their worth.

The decoupled mapping supposes that the score of an architecture is a sum, in the log domain, of what an operation does
on an edge (alpha), what an edge does in a layer (beta) and what an operation does in a layer (gamma). Accuracies of
short trainings are explained by the same sums, by ridge regression; what was learnt so on some data sets is shipped as
a prior (`benchmarks/prior.py`), from which candidates for others are drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnas.errors import InputError, choices
from dnas.space.architecture import Architecture
from dnas.space.darts import Space, layer_kinds, reduction_layers
from dnas.space.registry import get_space
from dnas.supernet.derive import top_edges

FORMAT = "dnas-prior/1"
PRIORS = ("pictures",)  # shipped; the first is the default
NO_PRIOR = "none"
AUTO_PRIOR = "auto"  # the first of them, for trainings that it reaches
# How many times longer than those that a prior was made of a training may be. On CIFAR-10 the best that the shipped one
# proposed, made of trainings with 860 steps, is six points better than uniform ones after 800 steps, as good after
# 1,400, and one point worse after 4,600 (docs/outcome.md).
REACH = 2.0
LEAST_LAYERS, LEAST_TRAININGS = 5, 3
# Of the ridge regression; the one whose left-out predictions are best is taken.
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Factors:
    """One number for each factor of an architecture: alpha [edges, ops], beta [layers, edges], gamma [layers, ops]."""

    alpha: Array
    beta: Array
    gamma: Array

    @property
    def flat(self) -> Array:
        return np.concatenate([self.alpha.ravel(), self.beta.ravel(), self.gamma.ravel()])


@dataclass(frozen=True)
class Worth:
    """How much each factor adds to the log-odds of an architecture's accuracy, in units of their spread.

    Attributes:
        mean: As estimated.
        error: The standard error of each.
        explained: The share of the variance among architectures that is predicted when each is left out.
        steps: Of the trainings that it was made of.
    """

    space: Space
    mean: Factors
    error: Factors
    explained: float
    source: str = ""
    steps: int = 0

    @property
    def layers(self) -> int:
        return len(self.mean.gamma)

    def of(self, architecture: Architecture) -> float:
        """The worth of an architecture of any depth."""
        return float(counts(architecture, self.space, self.layers) @ self.mean.flat)

    def reaches(self, steps: int) -> bool:
        """Whether it says anything of trainings with so many steps. What learns fast is not what ends best."""
        return steps <= REACH * self.steps

    def best(self, layers: int, *, shared: bool = False, rng: np.random.Generator | None = None) -> Architecture:
        """The architecture of most worth.

        Args:
            shared: All normal layers have one cell, and both reductions another.
            rng: Each factor is drawn from its normal law, in place of its mean (Thompson sampling): what may be best.
        """
        factors = self.mean
        if rng is not None:
            factors = Factors(*(rng.normal(mean, error) for mean, error in _pairs(self.mean, self.error)))
        rows = _rows(layers, self.layers)
        beta, gamma = factors.beta[rows], factors.gamma[rows]
        if shared:
            kinds = np.array(layer_kinds(layers))
            beta, gamma = (np.stack([each[kinds == kind].mean(0) for kind in kinds]) for each in (beta, gamma))
        scores = factors.alpha[None] + beta[:, :, None] + gamma[:, None, :]
        origin = {"prior": "best" if rng is None else "drawn"}
        return top_edges(torch.from_numpy(scores), self.space.primitives, self.space, origin)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "space": self.space.name,
            "source": self.source,
            "explained": round(self.explained, 4),
            "steps": self.steps,
            "mean": _rounded(self.mean),
            "error": _rounded(self.error),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Worth:
        """Raises InputError for what `to_json` cannot have written."""
        if data.get("format") != FORMAT:
            raise InputError(f"this is no prior: its format is {data.get('format')!r}, not {FORMAT!r}")
        try:
            space = get_space(data["space"])
            edges, ops = len(space.edges), len(space.primitives)
            mean, error = (
                Factors(*(np.array(data[key][name], float) for name in ("alpha", "beta", "gamma")))
                for key in ("mean", "error")
            )
            layers = len(mean.gamma)
            if layers < LEAST_LAYERS:
                raise ValueError(f"it has {layers} layers; {LEAST_LAYERS} are the least with one in every stage")
            for each in (mean, error):
                if (each.alpha.shape, each.beta.shape, each.gamma.shape) != (
                    (edges, ops),
                    (layers, edges),
                    (layers, ops),
                ) or not np.isfinite(each.flat).all():
                    raise ValueError("its tables have not the space's shapes, or hold what is no number")
            return cls(space, mean, error, float(data["explained"]), str(data["source"]), int(data["steps"]))
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"this prior is not whole: {problem}") from None


def counts(architecture: Architecture, space: Space, layers: int) -> Array:
    """How often each factor occurs in an architecture, as `Factors.flat` orders them; its layers taken for so many."""
    edges, ops = list(space.edges), list(space.primitives)
    alpha = np.zeros((len(edges), len(ops)))
    beta, gamma = np.zeros((layers, len(edges))), np.zeros((layers, len(ops)))
    # So that an architecture of another depth has sums of the same size.
    rows = _rows(len(architecture), layers)
    share = 1 / np.maximum(1, np.bincount(rows, minlength=layers))
    for k, cell in zip(rows, architecture.layers, strict=True):
        for n, node in enumerate(cell.nodes):
            for op, source in node:
                e, o = edges.index((n, source)), ops.index(op)
                alpha[e, o] += share[k]
                beta[k, e] += share[k]
                gamma[k, o] += share[k]
    return Factors(alpha, beta, gamma).flat


def fit(
    architectures: Sequence[Architecture], accuracies: Mapping[str, Sequence[float | None]], space: Space, layers: int
) -> Worth:
    """Estimate the worth from accuracies of equally short trainings.

    Args:
        accuracies: For each data set those of all architectures, None where one was not trained on it. Their log-odds
            are brought to mean 0 and spread 1, so that data sets count alike, however hard they are.

    Raises:
        InputError: There are too few.
    """
    known = [(i, name) for name, values in accuracies.items() for i, value in enumerate(values) if value is not None]
    features = np.stack([counts(architecture, space, layers) for architecture in architectures])
    targets = {name: _standardised(values) for name, values in accuracies.items()}
    x = np.stack([features[i] for i, _ in known])
    y = np.array([targets[name][i] for i, name in known])
    if len(y) < LEAST_TRAININGS:
        raise InputError(f"{len(y)} trainings are too few for a prior, which needs {LEAST_TRAININGS}")
    x, y = x - x.mean(0), y - y.mean()
    best: tuple[float, float] | None = None
    for penalty in PENALTIES:
        hat = x @ np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T)
        # The mean is estimated, too, and has its part in each prediction.
        left_out = (y - hat @ y) / (1 - np.diag(hat) - 1 / len(y))
        error = float(np.mean(left_out**2))
        if best is None or error < best[0]:
            best = (error, penalty)
    assert best is not None
    inverse = np.linalg.inv(x.T @ x + best[1] * np.eye(x.shape[1]))
    weights, errors = inverse @ x.T @ y, np.sqrt(best[0] * np.diag(inverse))
    explained = 1 - best[0] / float(y.var())
    return Worth(space, _unflat(weights, space, layers), _unflat(errors, space, layers), explained)


def load_prior(name: str) -> Worth:
    """A shipped prior by its name, or one from a file. Raises InputError where there is neither."""
    if name == AUTO_PRIOR:
        name = PRIORS[0]
    if name in PRIORS:
        return Worth.from_json(json.loads(resources.files("dnas.supernet").joinpath(f"prior_{name}.json").read_text()))
    try:
        return Worth.from_json(json.loads(Path(name).read_text("utf-8")))
    except OSError:
        known = choices(name, (*PRIORS, AUTO_PRIOR, NO_PRIOR))
        raise InputError(f"--prior {name}: there is no such file, and no prior of that name{known}") from None
    except (ValueError, InputError) as problem:
        raise InputError(f"--prior {name}: {problem}") from None


def _standardised(values: Sequence[float | None]) -> list[float]:
    clipped = [math.nan if v is None else min(1 - 1e-4, max(1e-4, v)) for v in values]
    odds = np.log(np.array(clipped) / (1 - np.array(clipped)))
    return list((odds - np.nanmean(odds)) / max(1e-6, float(np.nanstd(odds))))


def _rows(layers: int, of: int) -> list[int]:
    """For each of so many layers the one of `of` layers that lies where it does: the same kind, stage and place."""
    known = places(of)
    rows = []
    for stage, place in places(layers):
        like = [k for k, (other, _) in enumerate(known) if other == stage]
        rows.append(like[min(len(like) - 1, int(place * len(like)))])
    return rows


def places(layers: int) -> list[tuple[int, float]]:
    """The stage of each layer (0, 2, 4; 1 and 3 are the reductions), and how far into it the layer lies: 0 to 1."""
    first, second = reduction_layers(layers)
    ends = [0, first, first + 1, second, second + 1, layers]
    places = []
    for k in range(layers):
        stage = max(s for s in range(5) if ends[s] <= k and ends[s] < ends[s + 1])
        places.append((stage, (k - ends[stage]) / (ends[stage + 1] - ends[stage])))
    return places


def _unflat(flat: Array, space: Space, layers: int) -> Factors:
    edges, ops = len(space.edges), len(space.primitives)
    alpha, beta, gamma = np.split(flat, [edges * ops, edges * ops + layers * edges])
    return Factors(alpha.reshape(edges, ops), beta.reshape(layers, edges), gamma.reshape(layers, ops))


def _pairs(mean: Factors, error: Factors) -> list[tuple[Array, Array]]:
    return [(mean.alpha, error.alpha), (mean.beta, error.beta), (mean.gamma, error.gamma)]


def _rounded(factors: Factors) -> dict[str, Any]:
    return {name: getattr(factors, name).round(4).tolist() for name in ("alpha", "beta", "gamma")}

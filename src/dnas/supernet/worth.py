"""Additive model of the accuracy of architectures: prior knowledge before any is trained on the given images.

The decoupled mapping assumes that the score of an architecture is, in the log domain, a sum of effects of an operation
on an edge (alpha), of an edge in a layer (beta) and of an operation in a layer (gamma). Ridge regression fits the same
sums to accuracies of short trainings. The result on some data sets is shipped as a prior (`benchmarks/prior.py`), from
which candidates for other data sets are drawn.
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
from dnas.space.architecture import Architecture, stack
from dnas.space.limits import Feasible
from dnas.space.protocol import SearchSpace, layer_kinds, reduction_layers
from dnas.space.registry import get_space
from dnas.supernet.derive import top_edges
from dnas.supernet.mapping import DECOUPLED, SHARED
from dnas.supernet.ridge import Array
from dnas.supernet.ridge import fit as regression

FORMAT = "dnas-prior/1"
PRIORS = ("pictures",)  # shipped; the first is the default
NO_PRIOR = "none"
AUTO_PRIOR = "auto"  # the first of them, for trainings within its reach
# A prior applies to trainings that are at most this many times longer than those that it was fitted to. On CIFAR-10 the
# best proposal of the shipped prior, which was fitted to trainings with 860 steps, is six percentage points better than
# uniform architectures after 800 steps, as good after 1,400, and one point worse after 4,600 (docs/outcome.md).
REACH = 2.0
LEAST_LAYERS, LEAST_TRAININGS = 5, 3
# Penalties of the ridge regression; the one with the best leave-one-out predictions is used.
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class Factors:
    """One number for each factor of an architecture: alpha [edges, ops], beta [layers, edges], gamma [layers, ops].

    For other mappings, see `shapes`.
    """

    alpha: Array
    beta: Array
    gamma: Array

    @property
    def flat(self) -> Array:
        return np.concatenate([self.alpha.ravel(), self.beta.ravel(), self.gamma.ravel()])


@dataclass(frozen=True)
class Worth:
    """Contribution of each factor to the log-odds of the accuracy of an architecture, in units of their standard
    deviation.

    Attributes:
        mean: Estimates.
        error: Standard errors.
        explained: The share of the variance among architectures explained by leave-one-out predictions.
        steps: Number of steps of the trainings that the model was fitted to.
    """

    space: SearchSpace
    mean: Factors
    error: Factors
    explained: float
    source: str = ""
    steps: int = 0

    @property
    def layers(self) -> int:
        return len(self.mean.gamma)

    def of(self, architecture: Architecture) -> float:
        """Return the predicted score of an architecture of any depth."""
        return float(counts(architecture, self.space, self.layers) @ self.mean.flat)

    def reaches(self, steps: int) -> bool:
        """Return True if the model applies to trainings with this many steps.

        Networks that learn fast are not those that are best after long trainings.
        """
        return steps <= REACH * self.steps

    def best(
        self,
        layers: int,
        *,
        shared: bool = False,
        rng: np.random.Generator | None = None,
        feasible: Feasible | None = None,
    ) -> Architecture:
        """Return the architecture with the highest predicted score.

        Args:
            shared: All normal layers are equal, and both reductions.
            rng: Draw each factor from its normal distribution instead of using the mean (Thompson sampling).
            feasible: Choose among these architectures only.
        """
        factors = self.mean
        if rng is not None:
            factors = Factors(*(rng.normal(mean, error) for mean, error in _pairs(self.mean, self.error)))
        rows = _rows(layers, self.layers)
        beta, gamma = factors.beta[rows], factors.gamma[rows]
        if shared:
            kinds = np.array(layer_kinds(layers))
            beta, gamma = (np.stack([each[kinds == kind].mean(0) for kind in kinds]) for each in (beta, gamma))
        origin = {"prior": "best" if rng is None else "drawn"}
        return strongest(Factors(factors.alpha, beta, gamma), self.space, layers, origin, feasible)

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
        """Return the model from the output of `to_json`. Raises InputError for anything else."""
        if data.get("format") != FORMAT:
            raise InputError(f"not a prior: format must be {FORMAT!r}, got {data.get('format')!r}")
        try:
            space = get_space(data["space"])
            edges, ops = len(space.edges), len(space.primitives)
            mean, error = (
                Factors(*(np.array(data[key][name], float) for name in ("alpha", "beta", "gamma")))
                for key in ("mean", "error")
            )
            layers = len(mean.gamma)
            if layers < LEAST_LAYERS:
                raise ValueError(f"layers must be at least {LEAST_LAYERS}, one in every stage, got {layers}")
            for each in (mean, error):
                if (each.alpha.shape, each.beta.shape, each.gamma.shape) != (
                    (edges, ops),
                    (layers, edges),
                    (layers, ops),
                ) or not np.isfinite(each.flat).all():
                    raise ValueError(
                        "its tables do not have the shapes of the space, or contain values that are not numbers"
                    )
            return cls(space, mean, error, float(data["explained"]), str(data["source"]), int(data["steps"]))
        except (KeyError, TypeError, ValueError) as problem:
            raise InputError(f"invalid prior: {problem}") from None


def counts(architecture: Architecture, space: SearchSpace, layers: int, mapping: str = DECOUPLED) -> Array:
    """Count how often each factor of a mapping occurs in an architecture: [F], in the order of `Factors.flat`.

    Args:
        layers: Number of layers of the factors; the layers of the architecture are mapped to these.
        mapping: If layers are shared, the factors of the pair are counted, each once.
    """
    ops = {op: o for o, op in enumerate(space.primitives)}
    alpha, beta, gamma = (np.zeros(shape) for shape in shapes(space, layers, mapping))
    if mapping == SHARED:
        reductions = architecture.reductions
        normal = next(k for k in range(len(architecture)) if k not in reductions)
        genes = [(0, 1.0, architecture.layers[normal]), (1, 1.0, architecture.layers[reductions[0]])]
    else:
        # The sums of an architecture must not depend on its depth.
        rows = _rows(len(architecture), layers)
        share = 1 / np.maximum(1, np.bincount(rows, minlength=layers))
        genes = [(k, share[k], layer) for k, layer in zip(rows, architecture.layers, strict=True)]
    # Without a three-way interaction, alpha has no rows.
    tables = [alpha] * layers if mapping == DECOUPLED else alpha
    for k, each, layer in genes:
        for n, node in enumerate(layer.nodes):
            for op, source in node:
                e, o = space.node_edges[n][0] + source, ops[op]
                tables[k][e, o] += each
                beta[k, e] += each
                gamma[k, o] += each
    return Factors(alpha, beta, gamma).flat


def shapes(space: SearchSpace, layers: int, mapping: str) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """Return the shapes of alpha, beta and gamma.

    Decoupled: [E, O], [L, E], [L, O], without an interaction of layer, edge and operation. Full: [L, E, O], [L, E],
    [L, O], with it. Shared: as full, for two rows, the normal layer and the reduction.

    Beta and gamma are sums of a full alpha, so they do not make the model more expressive. They affect the prior: an
    operation that is good on one edge is likely to be good on other edges.
    """
    edges, ops = len(space.edges), len(space.primitives)
    rows = 2 if mapping == SHARED else layers
    return (edges, ops) if mapping == DECOUPLED else (rows, edges, ops), (rows, edges), (rows, ops)


def factors_of(flat: Array, space: SearchSpace, layers: int, mapping: str = DECOUPLED) -> Factors:
    """Return the factors of a flat array [F]: the inverse of `Factors.flat`."""
    tables = shapes(space, layers, mapping)
    parts = np.split(flat, np.cumsum([math.prod(shape) for shape in tables])[:-1])
    return Factors(*(part.reshape(shape) for part, shape in zip(parts, tables, strict=True)))


def strongest(
    factors: Factors, space: SearchSpace, layers: int, origin: Mapping[str, Any], feasible: Feasible | None = None
) -> Architecture:
    """Return the architecture with the largest sum of factors, among the `feasible` ones if given.

    The factors are those of this number of layers, or of a pair.
    """
    scores = factors.alpha + factors.beta[:, :, None] + factors.gamma[:, None, :]
    if len(scores) > 2:
        return top_edges(torch.from_numpy(scores), space.primitives, space, origin, feasible)
    # The smallest network begins with a normal layer and a reduction.
    normal, reduction, _ = top_edges(
        torch.from_numpy(scores[layer_kinds(3)]), space.primitives, space, feasible=feasible
    ).layers
    return stack(normal, reduction, layers, origin=origin, space=space.name)


def fit(
    architectures: Sequence[Architecture],
    accuracies: Mapping[str, Sequence[float | None]],
    space: SearchSpace,
    layers: int,
) -> Worth:
    """Fit the model to accuracies of equally short trainings.

    Args:
        accuracies: The accuracies of all architectures on each data set, None if one was not trained on it. The
            log-odds are standardized per data set, so that all data sets have the same influence.

    Raises:
        InputError: There are too few trainings.
    """
    known = [(i, name) for name, values in accuracies.items() for i, value in enumerate(values) if value is not None]
    features = np.stack([counts(architecture, space, layers) for architecture in architectures])
    targets = {name: standardised(values) for name, values in accuracies.items()}
    x = np.stack([features[i] for i, _ in known])
    y = np.array([targets[name][i] for i, name in known])
    if len(y) < LEAST_TRAININGS:
        raise InputError(f"a prior requires at least {LEAST_TRAININGS} trainings, got {len(y)}")
    ridge = regression(x, y, PENALTIES)
    explained = 1 - ridge.variance / float(y.var())
    mean, errors = (factors_of(flat, space, layers) for flat in (ridge.weights, ridge.errors))
    return Worth(space, mean, errors, explained)


def load_prior(name: str) -> Worth:
    """Return a shipped prior by name, or a prior from a file. Raises InputError if neither exists."""
    if name == AUTO_PRIOR:
        name = PRIORS[0]
    if name in PRIORS:
        return Worth.from_json(json.loads(resources.files("dnas.supernet").joinpath(f"prior_{name}.json").read_text()))
    try:
        return Worth.from_json(json.loads(Path(name).read_text("utf-8")))
    except OSError:
        known = choices(name, (*PRIORS, AUTO_PRIOR, NO_PRIOR))
        raise InputError(f"unknown --prior {name!r}, which is neither a file nor a shipped prior{known}") from None
    except (ValueError, InputError) as problem:
        raise InputError(f"--prior {name!r}: {problem}") from None


def standardised(values: Sequence[float | None]) -> list[float]:
    """Return the standardized log-odds of accuracies (0 to 1): mean 0, standard deviation 1; NaN for None."""
    clipped = [math.nan if v is None else min(1 - 1e-4, max(1e-4, v)) for v in values]
    odds = np.log(np.array(clipped) / (1 - np.array(clipped)))
    return list((odds - np.nanmean(odds)) / max(1e-6, float(np.nanstd(odds))))


def _rows(layers: int, of: int) -> list[int]:
    """Map each of `layers` layers to the one of `of` layers with the same kind, stage and relative position."""
    known = places(of)
    rows = []
    for stage, place in places(layers):
        like = [k for k, (other, _) in enumerate(known) if other == stage]
        rows.append(like[min(len(like) - 1, int(place * len(like)))])
    return rows


def places(layers: int) -> list[tuple[int, float]]:
    """Return the stage of each layer (0, 2, 4; 1 and 3 are the reductions) and its relative position in it: 0 to 1."""
    first, second = reduction_layers(layers)
    ends = [0, first, first + 1, second, second + 1, layers]
    places = []
    for k in range(layers):
        stage = max(s for s in range(5) if ends[s] <= k and ends[s] < ends[s + 1])
        places.append((stage, (k - ends[stage]) / (ends[stage + 1] - ends[stage])))
    return places


def _pairs(mean: Factors, error: Factors) -> list[tuple[Array, Array]]:
    return [(mean.alpha, error.alpha), (mean.beta, error.beta), (mean.gamma, error.gamma)]


def _rounded(factors: Factors) -> dict[str, Any]:
    return {name: getattr(factors, name).round(4).tolist() for name in ("alpha", "beta", "gamma")}

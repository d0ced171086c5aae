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
from dnas.space.architecture import Architecture, stack
from dnas.space.darts import Space, layer_kinds, reduction_layers
from dnas.space.limits import Feasible
from dnas.space.registry import get_space
from dnas.supernet.derive import top_edges
from dnas.supernet.mapping import DECOUPLED, SHARED
from dnas.supernet.ridge import Array
from dnas.supernet.ridge import fit as regression

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


@dataclass(frozen=True)
class Factors:
    """One number for each factor of an architecture: alpha [edges, ops], beta [layers, edges], gamma [layers, ops].

    Those of other mappings have the shapes of `shapes`.
    """

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

    def best(
        self,
        layers: int,
        *,
        shared: bool = False,
        rng: np.random.Generator | None = None,
        feasible: Feasible | None = None,
    ) -> Architecture:
        """The architecture of most worth.

        Args:
            shared: All normal layers have one cell, and both reductions another.
            rng: Each factor is drawn from its normal law, in place of its mean (Thompson sampling): what may be best.
            feasible: Of these only.
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


def counts(architecture: Architecture, space: Space, layers: int, mapping: str = DECOUPLED) -> Array:
    """How often each factor of a mapping occurs in an architecture, as `Factors.flat` orders them.

    Args:
        layers: Those of the factors, for which the architecture's are taken.
        mapping: Where cells are shared, those of the pair of cells are counted, each once.
    """
    ops = {op: o for o, op in enumerate(space.primitives)}
    alpha, beta, gamma = (np.zeros(shape) for shape in shapes(space, layers, mapping))
    if mapping == SHARED:
        reductions = architecture.reductions
        normal = next(k for k in range(len(architecture)) if k not in reductions)
        genes = [(0, 1.0, architecture.layers[normal]), (1, 1.0, architecture.layers[reductions[0]])]
    else:
        # So that an architecture of another depth has sums of the same size.
        rows = _rows(len(architecture), layers)
        share = 1 / np.maximum(1, np.bincount(rows, minlength=layers))
        genes = [(k, share[k], cell) for k, cell in zip(rows, architecture.layers, strict=True)]
    # Without an interaction of all three, alpha has no rows.
    tables = [alpha] * layers if mapping == DECOUPLED else alpha
    for k, each, cell in genes:
        for n, node in enumerate(cell.nodes):
            for op, source in node:
                e, o = space.node_edges[n][0] + source, ops[op]
                tables[k][e, o] += each
                beta[k, e] += each
                gamma[k, o] += each
    return Factors(alpha, beta, gamma).flat


def shapes(space: Space, layers: int, mapping: str) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
    """Of alpha, beta and gamma: decoupled [E, O], [L, E], [L, O], without an interaction of layer, edge and operation;
    full [L, E, O], [L, E], [L, O], with it; shared the same for two rows, the normal cell and the reduction.

    Beta and gamma are sums of a full alpha, so they add nothing to what can be said. They add what is likely: an
    operation that is good on one edge is so on others, too.
    """
    edges, ops = len(space.edges), len(space.primitives)
    rows = 2 if mapping == SHARED else layers
    return (edges, ops) if mapping == DECOUPLED else (rows, edges, ops), (rows, edges), (rows, ops)


def factors_of(flat: Array, space: Space, layers: int, mapping: str = DECOUPLED) -> Factors:
    """The inverse of `Factors.flat`."""
    tables = shapes(space, layers, mapping)
    parts = np.split(flat, np.cumsum([math.prod(shape) for shape in tables])[:-1])
    return Factors(*(part.reshape(shape) for part, shape in zip(parts, tables, strict=True)))


def strongest(
    factors: Factors, space: Space, layers: int, origin: Mapping[str, Any], feasible: Feasible | None = None
) -> Architecture:
    """The architecture with the largest sum of factors, of the feasible ones where some are given: those of so many
    layers, or of a pair of cells."""
    scores = factors.alpha + factors.beta[:, :, None] + factors.gamma[:, None, :]
    if len(scores) > 2:
        return top_edges(torch.from_numpy(scores), space.primitives, space, origin, feasible)
    # The least network has a normal layer, and then a reduction.
    normal, reduction, _ = top_edges(
        torch.from_numpy(scores[layer_kinds(3)]), space.primitives, space, feasible=feasible
    ).layers
    return stack(normal, reduction, layers, origin=origin, space=space.name)


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
    targets = {name: standardised(values) for name, values in accuracies.items()}
    x = np.stack([features[i] for i, _ in known])
    y = np.array([targets[name][i] for i, name in known])
    if len(y) < LEAST_TRAININGS:
        raise InputError(f"{len(y)} trainings are too few for a prior, which needs {LEAST_TRAININGS}")
    ridge = regression(x, y, PENALTIES)
    explained = 1 - ridge.variance / float(y.var())
    mean, errors = (factors_of(flat, space, layers) for flat in (ridge.weights, ridge.errors))
    return Worth(space, mean, errors, explained)


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


def standardised(values: Sequence[float | None]) -> list[float]:
    """The log-odds of accuracies, 0 to 1, brought to mean 0 and spread 1; NaN where there is none."""
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


def _pairs(mean: Factors, error: Factors) -> list[tuple[Array, Array]]:
    return [(mean.alpha, error.alpha), (mean.beta, error.beta), (mean.gamma, error.gamma)]


def _rounded(factors: Factors) -> dict[str, Any]:
    return {name: getattr(factors, name).round(4).tolist() for name in ("alpha", "beta", "gamma")}

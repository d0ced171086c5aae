"""The method bananas with a predictor that learns quickly, and random architectures: for its tests."""

from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.darts import DARTS


def method(mapping=None, budget=40, **options):
    made = create("bananas", mapping, {"predictor_epochs": 30, **options}, DARTS)
    made.budget = budget
    return made


def architectures(count, seed=0, layers=4, shared=True):
    rng = numpy_stream(seed, "test")
    return [sampling.sample(DARTS, rng, layers, shared=shared) for _ in range(count)]

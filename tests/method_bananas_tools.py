"""What the tests of bananas share."""

from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.darts import DARTS

SIZE = 2801  # paths of an input: 1 + 7 + 7² + 7³ + 7⁴


def method(mapping=None, budget=40, **options):
    made = create("bananas", mapping, {"predictor_epochs": 30, **options}, DARTS)
    made.budget = budget
    return made


def architectures(count, seed=0, layers=4, shared=True):
    rng = numpy_stream(seed, "test")
    return [sampling.sample(DARTS, rng, layers, shared=shared) for _ in range(count)]

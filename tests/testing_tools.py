"""Methods that keep the contract, from which tests of `dnas.testing` make broken ones, and a registry that has them."""

import pytest

from dnas import testing
from dnas.methods import registry
from dnas.methods.protocol import Candidate, GradientMethod, SupernetMethod, TrialMethod
from dnas.rng import numpy_stream
from dnas.supernet.relaxation import expand, path, softmax

LAYERS = testing.LAYERS


class Plain(GradientMethod):
    """What every gradient method below starts from; it keeps the contract."""

    name = "tried"
    title = "Tried"
    paper = "none"
    default_mapping = "full"

    def mapping(self, layers, seed):
        return self.new_mapping(layers, seed, with_edges=False)

    def mixing(self, mapping, progress):
        return expand(softmax(mapping.terms()), None, mapping.layers)


class PlainSampling(SupernetMethod):
    """Uniform paths, of which at the end some are judged."""

    name = "tried"
    title = "Tried"
    paper = "none"
    default_mapping = "full"
    candidates = 4

    def draw(self, rng, layers):
        return self.uniform(rng, layers)

    def mixing(self, mapping, progress):
        return path(self.draw(numpy_stream(progress.seed, "path", progress.step), LAYERS), self.operations, self.space)

    def propose(self, history, layers, seed):
        count = 0 if history else self.candidates
        return [Candidate(self.draw(numpy_stream(seed, "candidate", i), layers)) for i in range(count)]


class PlainTrials(TrialMethod):
    """Uniform trials."""

    name = "tried"
    title = "Tried"
    paper = "none"

    def propose(self, history, layers, seed):
        rng = numpy_stream(seed, "candidate", len(history))
        return [Candidate(self.uniform(rng, layers))]


@pytest.fixture
def tried(monkeypatch):
    """Registers a class as the method `tried`."""

    def register(cls):
        monkeypatch.setitem(registry.METHODS._registered, "tried", cls)

    return register


def broken(base, **changes):
    """A method with something else in it, which a check should find."""
    return type("Broken", (base,), {"name": "tried", **changes})

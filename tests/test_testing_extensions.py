"""The contracts of primitives, spaces and relaxations: ours keep them, and each broken one is found by its clause."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import dnas
from dnas import testing
from dnas.pipeline.extensions import KINDS
from dnas.space.darts import DARTS, Space
from dnas.space.darts_cell import Cell
from dnas.space.primitives import PRIMITIVES, Conv, Layer, MaxPool, Norm, Primitive, ReLU
from dnas.space.registry import SPACES
from dnas.supernet.relaxation import RELAXATIONS, Relaxation, softmax, summed
from dnas.testing.relaxations import check_relaxation_closes, check_relaxation_weights


@pytest.fixture(autouse=True)
def forget():
    yield
    for kind in KINDS:
        kind.forget()


@pytest.mark.parametrize("name", list(PRIMITIVES))
def test_our_primitives_keep_the_contract(name):
    testing.check_primitive(name)


@dataclass(frozen=True)
class Given(Layer):
    """A layer by the module that it makes."""

    made: type[nn.Module]

    def module(self):
        return self.made()


class Swish(nn.Module):
    """Its backward pass needs its output, which nothing may overwrite; and it has a weight."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def reset_parameters(self):
        self.slope.fill_(1.0)

    def forward(self, x):
        return x.exp().clamp_max(9) * (self.slope * x).sigmoid()


class Unfilled(Swish):
    reset_parameters = None


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(2)


class Drawn(Swish):
    def reset_parameters(self):
        self.slope.fill_(float(np.random.random()))


class Remembers(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += self.training
        return x + self.calls


class Infinite(nn.Module):
    def forward(self, x):
        return x / 0


@dataclass(frozen=True)
class Slope(Given):
    def params(self):
        return 1


def conv(channels, stride):
    return Conv(channels, channels, (3, 3), (stride, stride))


@pytest.mark.parametrize(
    "chain",
    [
        lambda c, s: (Slope(Swish), conv(c, s)),
        lambda c, s: (conv(c, s), Slope(Swish)),
        lambda c, s: (conv(c, s), Slope(Swish), ReLU()),
        lambda c, s: (MaxPool(s), ReLU()),
        lambda c, s: (ReLU(),) if s == 1 else (ReLU(), conv(c, s)),
        lambda c, s: (ReLU(), Conv(c, 3 * c), Norm(3 * c), ReLU(), Conv(3 * c, 3 * c, (5, 5), (s, s), groups=3 * c), Norm(3 * c), ReLU(), Conv(3 * c, c), Norm(c)),
        lambda c, s: (ReLU(), Conv(c, c, (9, 9), (s, s), groups=c), Conv(c, c), Norm(c)),
        lambda c, s: (ReLU(), Conv(c, c, (3, 3), groups=c), Conv(c, c, (1, 1), (s, s)), Norm(c)),
        lambda c, s: (conv(c, s), Norm(c), Conv(c, c, (3, 3), groups=2), Norm(c)),
    ],
    ids=["first", "last", "before-relu", "pool-relu", "relu", "mobile", "large", "stride-in-point", "groups"],
)  # fmt: skip
def test_whatever_its_layers_the_supernet_and_the_kernels_do_what_the_network_does(chain):
    dnas.register(Primitive("tried", chain, "#123456", "t"))
    testing.check_primitive("tried")


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        (lambda c, s: (conv(c, 1),), "with stride 2 makes"),
        (lambda c, s: (Conv(c, 2 * c, (1, 1), (s, s)),), "with stride 1 makes"),
        (lambda c, s: (Given(Swish), conv(c, s)), "params of tried with stride 1 are counted as 576, and are 577"),
        (lambda c, s: (Given(InPlace), conv(c, s)), "changes its input"),
        (lambda c, s: (Slope(Drawn), conv(c, s)), "draws from the global random state of numpy"),
        (lambda c, s: (Given(Remembers), conv(c, s)), "keeps something outside of its state_dict"),
        (lambda c, s: (Given(Infinite), conv(c, s)), "not finite"),
        (lambda c, s: (Norm(c), conv(c, s), Given(nn.Softplus), Norm(c), Given(Dead)), "gets no gradient"),
    ],
)  # fmt: skip
def test_a_broken_primitive_is_found(chain, words):
    dnas.register(Primitive("tried", chain, "#123456", "t"))
    with pytest.raises((AssertionError, RuntimeError), match=words):
        testing.check_primitive("tried")


class Dead(nn.Module):
    def forward(self, x):
        return x.detach() + 0 * x


def test_a_module_that_cannot_be_filled_is_refused():
    dnas.register(Primitive("tried", lambda c, s: (Slope(Unfilled), conv(c, s)), "#123456", "t"))
    with pytest.raises(dnas.InputError, match="the module Unfilled has weights or buffers of its own; give it reset_"):
        testing.check_primitive("tried")


SMALL = Space("small", nodes=2, inputs_per_node=2, primitives=("skip_connect", "sep_conv_3x3", "max_pool_3x3"))
LONE = Space("lone", nodes=3, inputs_per_node=1, primitives=("skip_connect", "dil_conv_3x3"))


@pytest.mark.parametrize("space", [SMALL, LONE, *SPACES.values()], ids=lambda space: space.name)
def test_spaces_keep_the_contract(space):
    if space.name not in SPACES:
        dnas.register(space)
    testing.check_space(space.name, methods=("dnas",) if space is SMALL else ())


class Repeats(Space):
    def sample(self, rng, reduction):
        return Cell(tuple((node[0], (node[0][0], node[0][1])) for node in super().sample(rng, reduction).nodes))


class Mutes(Space):
    def objection(self, nodes, reduction=False):
        return None


class Miscounts(Space):
    def possible_layers(self, reduction=False):
        return super().possible_layers(reduction) - 1


class Stays(Space):
    def mutate(self, rng, cell, reduction):
        return cell


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Repeats, "a draw of small lies outside it: node 0, slot 1: input . is used twice"),
        (Mutes, "where it should name node 0"),
        (Miscounts, "small counts 242 layers, but enumerating neighbors gives 243"),
        (Stays, "is not one of its neighbors"),
    ],
)
def test_a_broken_space_is_found(kind, words):
    dnas.register(kind(SMALL.name, SMALL.nodes, SMALL.inputs_per_node, SMALL.primitives))
    with pytest.raises(AssertionError, match=words):
        testing.check_space("small", methods=())


@pytest.mark.parametrize("name", list(RELAXATIONS))
def test_our_relaxations_keep_the_contract(name):
    testing.check_relaxation(name, "decoupled")


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (lambda terms, share: -softmax(terms), "below 0"),
        (lambda terms, share: softmax([-summed(terms)]), "lowers the weight of an operation whose parameters rise"),
        (lambda terms, share: softmax(terms) * torch.rand(()), "global random state"),
        (lambda terms, share: softmax(terms)[..., :1], "gives weights of the shape"),
        (lambda terms, share: softmax(terms).detach() + 0 * summed(terms), "gets no gradient"),
    ],
)
def test_a_broken_relaxation_is_found(weights, words):
    dnas.register(Relaxation("tried", "tried", "none", weights))
    with pytest.raises(AssertionError, match=words):
        check_relaxation_weights("tried", "full")


def test_a_relaxation_that_cannot_close_is_found():
    dnas.register(Relaxation("tried", "tried", "none", lambda terms, share: softmax(terms).clamp_min(0.01)))
    with pytest.raises(AssertionError, match="gives weight to what an edge has not"):
        check_relaxation_closes("tried", "shared")


def test_the_names_that_darts_has_are_of_our_first_seven():
    assert replace(DARTS, name="again").primitives == tuple(PRIMITIVES)[:7]

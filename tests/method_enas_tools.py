"""Controllers of enas in float64, one of them so small that all it can write is listed: for tests of enas."""

from itertools import product

import torch

from dnas.methods.enas import ENAS, ENASOptions, sampling
from dnas.rng import torch_stream
from dnas.space.darts import DARTS, Space

CONVOLUTIONS = [3, 4, 5, 6]
# 2 inputs, of which an order is drawn, and 2 operations of 2: 8 equally long texts.
TOY = Space("darts", nodes=1, inputs_per_node=2, primitives=("skip_connect", "sep_conv_3x3"))


def controller(mapping="shared", layers=4, seed=0, scale=None, space=DARTS, **options):
    """A controller in float64, with parameters far from the initial ones where there is a `scale`."""
    made = ENAS(ENASOptions(**options), mapping, space).mapping(layers, seed).double()
    if scale is not None:
        generator = torch_stream(seed, "test")
        with torch.no_grad():
            for p in made.parameters():
                p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made


def forced(tokens):
    """What chooses given tokens, in place of a draw."""
    return lambda t, logits: tokens[:, t]


def sampled(made, count, seed=0):
    """What a controller writes when it draws."""
    return made(sampling(torch.Generator().manual_seed(seed)), count)


def texts():
    """Everything that a controller of one TOY cell can write."""
    inputs = [(a, b) for a in range(2) for b in range(2) if a != b]
    return torch.tensor([[*i, *o] for i in inputs for o in product(range(2), repeat=2)])


def toy(seed=0, scale=1.0, **options):
    """A controller of one TOY cell."""
    made = controller(space=TOY, seed=seed, scale=scale, hidden=8, **options)
    made.written_kinds = [False]
    return made

"""A search of 3 layers on 32 pictures of noise, step by step, and what it has learnt: for tests of searching/."""

import torch

from dnas.data.splits import DataInfo, Split
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.runtime.session import Session
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS, Space

COUNT = 32
CLASSES = 4
# Two nodes and three operations, where formulas are computed without the program.
SMALL = Space("free", 2, 2, ("max_pool_3x3", "skip_connect", "sep_conv_3x3"))


def pictures(classes=CLASSES, count=COUNT):
    split = Split(
        torch.randint(0, 256, (count, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8),
        torch.arange(count) % classes,
    )
    return split, DataInfo("digits", tuple(map(str, range(classes))), 1, 8, (0.5,), (0.29,), False)


def settings(**changes):
    values = {"layers": 3, "channels": 8, "epochs": 3, "warmup_epochs": 1, "batch_size": 8} | changes
    return GradientSettings(**values).resolved(COUNT, 4.1, 8)


def new_search(name="dnas", mapping=None, seed=0, options=None, classes=CLASSES, **changes):
    split, info = pictures(classes)
    method = create(name, mapping, {"partial_channels": 4, **(options or {})}, DARTS)
    return Search(method, settings(**changes), split, info, seed, "cpu")


def bits(search):
    """Everything that a search has learnt, copied."""
    tensors, state = search.capture()
    return {k: v.clone() for k, v in tensors.items()}, state


def same(one, two):
    """Whether two lists of tensors are equal to the bit."""
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def architecture_of(search):
    """The architecture parameters, copied."""
    return [p.detach().clone() for p in search.mapping.parameters()]


class Watched(Session):
    """Keeps the metrics of a search."""

    def __init__(self):
        super().__init__(None, {})
        self.metrics = []

    def metric(self, **values):
        self.metrics.append(values)

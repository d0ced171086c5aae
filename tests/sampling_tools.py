"""What tests of sampling methods share: pictures, tiny searches, sessions that stop and go on, what a step executes."""

import copy

import torch

from dnas.data.splits import DataInfo, Split
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.searching.search import Search
from dnas.settings import SupernetSettings
from dnas.space.darts import DARTS


def pictures(count=48, classes=4):
    """Noise with a class's own brightness, so that there is something to learn."""
    labels = torch.arange(count) % classes
    noise = torch.randint(0, 128, (count, 1, 8, 8), generator=torch_stream(0, "pictures"))
    images = (noise + 30 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Split(images, labels), DataInfo("digits", tuple(map(str, range(classes))), 1, 8, (0.5,), (0.29,), False)


def settings(count=48, **changes):
    values = {"layers": 3, "channels": 4, "epochs": 2, "batch_size": 8} | changes
    return SupernetSettings(**values).resolved(count, 0.0, 8)


def new_search(name, options, mapping=None, seed=0, **changes):
    split, info = pictures()
    return Search(create(name, mapping, options, DARTS), settings(**changes), split, info, seed, "cpu")


class Watched(Session):
    """Remembers what was shown after each step, and what was captured after one of them."""

    def __init__(self, capture_at=None, resume_from=None):
        super().__init__(None, {})
        self.capture_at, self.resume_from = capture_at, resume_from
        self.shown, self.checkpoint = {}, None

    def start(self, stage, title, steps):
        super().start(stage, title, steps)
        return self.resume_from

    def step_done(self, step, shown, capture):
        self.shown[step] = dict(shown)
        if step == self.capture_at:
            tensors, loop = capture()
            copied = {name: tensor.clone() for name, tensor in tensors.items()}
            self.checkpoint = Checkpoint(1, copied, {"step": step, "loop": copy.deepcopy(loop)})


def run(name, options, mapping=None, seed=0, session=None, **changes):
    split, info = pictures()
    method = create(name, mapping, options, DARTS)
    session = session or Watched()
    return search_supernet(method, settings(**changes), split, info, seed=seed, session=session)


def path_of(method, step, layers=4, seed=0, draw=0):
    """[L, E, O] of bool: what a step executes."""
    return method.mixing(method.mapping(layers, seed), Progress(step=step, seed=seed, draw=draw)).active


def chi_squared(counts):
    """Pearson's statistic against the uniform law."""
    counts = torch.as_tensor(counts, dtype=torch.float64)
    expected = counts.sum() / counts.numel()
    return float((counts - expected).square().sum() / expected)


# 0.9999 quantiles of the law of chi squared, by degrees of freedom.
QUANTILE = {1: 15.1, 2: 18.4, 5: 25.7, 6: 27.9, 9: 33.7, 48: 93.2}

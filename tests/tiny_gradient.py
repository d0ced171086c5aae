"""What tests of gradient methods share: a search of 3 layers on 16 random pictures, whole or in two parts."""

import json

import torch

from dnas.data.splits import DataInfo, Split
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.searching.search import Search
from dnas.searching.watch import epoch_metrics
from dnas.space.darts import DARTS

COUNT = 16
INFO = DataInfo("digits", tuple("0123"), 1, 8, (0.5,), (0.29,), False)
SPLIT = Split(
    torch.randint(0, 256, (COUNT, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8),
    torch.arange(COUNT) % 4,
)
KEPT = ("update", "architecture_beta1")  # of what the method's paper sets


def tiny(name, mapping=None, options=None, **changes):
    """A method, and resolved settings of its own kind."""
    method = create(name, mapping, options or {}, DARTS)
    paper = method.paper_settings("cifar10")["search"]
    values = {"layers": 3, "channels": 8, "epochs": 2, "warmup_epochs": 0, "batch_size": 8, "watch_images": 0}
    values |= {"architecture_learning_rate": 0.1} | {key: paper[key] for key in KEPT if key in paper} | changes
    return method, method.Settings(**values).resolved(COUNT, 1.0, 8)


def new_search(name, mapping=None, options=None, seed=0, **changes):
    return Search(*tiny(name, mapping, options, **changes), SPLIT, INFO, seed, "cpu")


def found(name, mapping=None, options=None, seed=0, **changes):
    """What a whole search gives, with its parameters and cost as numbers."""
    result = search_supernet(
        *tiny(name, mapping, options, **changes), SPLIT, INFO, seed=seed, session=Session(None, {})
    )
    parameters = {key: value.tolist() for key, value in result.parameters.items()}
    return result.architecture, dict(result.architecture.origin), parameters, result.cost


def run_on(search, first, last):
    """Steps [first, last), as the loop does them; ends where the method ends it."""
    steps = search.settings.steps_per_epoch
    for step in range(first, last):
        if search.stopped is None:
            search.step(step)
            if (step + 1) % steps == 0:
                epoch_metrics(search, step)
                search.stopped = search.method.after_epoch(search, search.progress(step, draw=1))


def assert_goes_on_to_the_same_bits(name, mapping=None, options=None, stop=None, **changes):
    """Captured in the middle, through JSON, and restored elsewhere, a search ends as one that was not. Returns it."""
    whole, part, other = (new_search(name, mapping, options, **changes) for _ in range(3))
    end = whole.settings.epochs * whole.settings.steps_per_epoch
    middle = end // 2 if stop is None else stop
    run_on(whole, 0, end)
    run_on(part, 0, middle)
    tensors, state = part.capture()
    tensors, state = {key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(state))
    other.step(0)  # restoring must overwrite whatever is there
    other.restore(Checkpoint(middle, tensors, {"loop": state}))
    run_on(other, middle, end)
    (expected, expected_state), (got, got_state) = whole.capture(), other.capture()
    assert expected.keys() == got.keys()
    assert [key for key in expected if not torch.equal(expected[key], got[key])] == []
    assert expected_state == got_state
    return whole

"""What tests of drawn relaxations share: tiny searches, and what a supernet executes."""

import dataclasses

import torch

import dnas.supernet.source_block as source_block
from dnas.data.splits import DataInfo, Split
from dnas.kernels import discrete
from dnas.kernels.discrete_layout import INPUTS
from dnas.kernels.limits import Kind
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.runtime.checkpoint import Checkpoint
from dnas.runtime.session import Session
from dnas.searching.loop import search_supernet
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS
from dnas.space.protocol import reduction_layers

COUNT = 24
INFO = DataInfo("digits", tuple("0123"), 1, 8, (0.5,), (0.29,), False)
SPLIT = Split(
    torch.randint(0, 256, (COUNT, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8),
    torch.arange(COUNT) % 4,
)
# What a method's paper sets of these is kept.
KEPT = ("update", "order", "nesterov", "architecture_weight_decay")


def tiny(name, mapping=None, options=None, **changes):
    """A method and the settings of a search of 3 layers, as its paper updates."""
    method = create(name, mapping, options or {}, DARTS)
    paper = method.paper_settings("cifar10")["search"]
    values = {"layers": 3, "channels": 8, "epochs": 2, "warmup_epochs": 0, "batch_size": 12, "watch_images": 0}
    values |= {"architecture_learning_rate": 0.1} | {k: paper[k] for k in KEPT if k in paper} | changes
    return method, GradientSettings(**values).resolved(COUNT, 4.1, INFO.image_size)


def new_search(name, mapping=None, options=None, seed=0, **changes):
    method, settings = tiny(name, mapping, options, **changes)
    return Search(method, settings, SPLIT, INFO, seed, "cpu")


def found(name, mapping=None, options=None, seed=0, **changes):
    """The architecture of a whole tiny search, and the parameters behind it as numbers."""
    method, settings = tiny(name, mapping, options, **changes)
    result = search_supernet(method, settings, SPLIT, INFO, seed=seed, session=Session(None, {}))
    return result.architecture, {k: v.tolist() for k, v in result.parameters.items()}


def assert_goes_on_to_the_same_bits(name, mapping=None):
    """A search that is captured in the middle and restored elsewhere ends as one that was not."""
    whole, part, other = (new_search(name, mapping) for _ in range(3))
    end = whole.settings.epochs * whole.settings.steps_per_epoch
    middle = end // 2
    for step in range(end):
        whole.step(step)
    for step in range(middle):
        part.step(step)
    tensors, state = part.capture()
    other.step(0)
    other.restore(Checkpoint(middle, {k: v.clone() for k, v in tensors.items()}, {"loop": state}))
    for step in range(middle, end):
        other.step(step)
    expected, got = whole.capture()[0], other.capture()[0]
    assert expected.keys() == got.keys()
    assert [k for k in expected if not torch.equal(expected[k], got[k])] == []


def by_layer(table, mapping_name, layers=3):
    """The gradients [L, …] of all layers, added up as the alpha of a mapping sees them."""
    if mapping_name == "full":
        return table
    if mapping_name == "decoupled":
        return table.sum(0, keepdim=True)
    reductions = reduction_layers(layers)
    of = [[k for k in range(layers) if (k in reductions) == bool(kind)] for kind in (0, 1)]
    return torch.stack([table[rows].sum(0) for rows in of])


def drawn(method, mapping, progress, draws=1000):
    """[draws, L, E, O], operations of the mixing weights of many steps."""
    with torch.no_grad():
        steps = (dataclasses.replace(progress, step=step) for step in range(draws))
        return torch.stack([method.mixing(mapping, step).operations for step in steps])


class Executed:
    """Counts what supernets execute, operation by operation, by torch or by native kernels, while it is in place."""

    def __init__(self, monkeypatch):
        self.channels = self.reductions = self.pools = 0

        def spy(owner, name, count):
            original = getattr(owner, name)

            def spied(*args):
                count(*args)
                return original(*args)

            monkeypatch.setattr(owner, name, spied)

        spy(source_block, "depthwise_statistics", self._convolution)
        spy(source_block, "fold_reduction", self._reduction)
        for pool in (torch.nn.MaxPool2d, torch.nn.AvgPool2d):
            spy(pool, "forward", self._pool)
        spy(discrete, "run", self._program)

    def _convolution(self, u, kernels, *rest):
        self.channels += len(kernels)

    def _reduction(self, relu, even, odd, targets):
        self.reductions += targets

    def _pool(self, *args):
        self.pools += 1

    def _program(self, program, *inputs):
        # The preprocessing reads the inputs of the layer.
        operations = [c for c in program.convolutions if c.input >= INPUTS]
        self.channels += sum(c.deep.out_channels // c.share[1] for c in operations if c.deep is not None)
        self.reductions += sum(c.deep is None and len(c.points) == 2 for c in operations)
        self.pools += len({(t.source, t.kind) for t in program.terms if t.kind in (Kind.MAXIMUM, Kind.AVERAGE)})

    def counts(self):
        return self.channels, self.reductions, self.pools


def wanted(search, active):
    """The counts of one pass in which exactly `active` [L, E, O] is executed, by the names of operations."""
    names = search.method.operations
    stages = {"sep_conv_3x3": 2, "sep_conv_5x5": 2, "dil_conv_3x3": 1, "dil_conv_5x5": 1}
    channels = reductions = pools = 0
    for k, cell in enumerate(search.supernet.cells):
        chosen = {(e, names[o]) for e in range(14) for o in range(len(names)) if active[k, e, o]}
        sources = [source for _, source in DARTS.edges]
        channels += sum(stages.get(name, 0) * cell.active for _, name in chosen)
        reductions += sum(name == "skip_connect" and cell.reduction and sources[e] < 2 for e, name in chosen)
        # A pool has no weights: it runs once for all edges that leave a state.
        pools += len({(sources[e], name) for e, name in chosen if "pool" in name})
    return channels, reductions, pools


def assert_executes_only_what_is_active(monkeypatch, name, mapping, options=None):
    """In both steps, and no other operation's weights have a gradient. Returns the share that was executed."""
    search = new_search(name, mapping, options)
    names = search.method.operations
    counter = Executed(monkeypatch)
    share = []
    for draw in (0, 1):
        mixing = search.method.mixing(search.mapping, search.progress(1, draw))
        assert mixing.active.dtype == torch.bool and mixing.active.device.type == "cpu"
        assert torch.equal(mixing.active, mixing.operations.detach() != 0)
        before = counter.counts()
        loss = (search.architecture_loss if draw else search.weight_loss)(search.batch(1, draw), 1)
        assert tuple(b - a for a, b in zip(before, counter.counts(), strict=True)) == wanted(search, mixing.active)
        grads = dict(zip(search.weights, torch.autograd.grad(loss, search.weights, allow_unused=True), strict=True))
        reached = 0
        for k, cell in enumerate(search.supernet.cells):
            for block, leaving in zip(cell.sources, cell.leaving, strict=True):
                for op, chain in block.apart.items():
                    for t, e in enumerate(leaving):
                        for weight in chain.parameters():
                            gradient = grads[weight]
                            part = None if gradient is None else gradient.reshape(len(leaving), -1)[t]
                            if part is not None and part.any():
                                assert mixing.active[k, e, names.index(op)]
                                reached += 1
        assert reached > 0
        share.append(float(mixing.active.float().mean()))
    return share

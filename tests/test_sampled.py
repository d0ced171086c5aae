"""A supernet's executed operations on native kernels against the same supernet in torch, in float64."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparse_tools import assert_goes_on_to_the_same_bits

from dnas.kernels import discrete, native
from dnas.kernels.draws import Draws
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.darts import DARTS, S1, S2, S3, S4
from dnas.space.protocol import reduction_layers
from dnas.supernet.build import build_supernet
from dnas.supernet.relaxation import MixingWeights, path
from dnas.training.guard import first_bad_layer

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler on this machine")

SPACES = {space.name: space for space in (DARTS, S1, S2, S3, S4)}
NAMES = ("none", *DARTS.primitives)


def new_supernet(space=DARTS, names=DARTS.primitives, layers=3, channels=8, partial=1, recompute=False):
    shape = {"layers": layers, "channels": channels, "partial": partial, "classes": 4, "inputs": 2}
    return build_supernet(space, names, **shape, recompute=recompute).double()


def images_of(size, batch=3):
    return torch.randn(batch, 2, *size, generator=torch_stream(0, "images"), dtype=torch.float64)


def weighted(active, seed=0):
    """Mixing weights in which each executed operation has a weight of its own, and some are negative."""
    generator = torch_stream(seed, "mixture")
    operations, edges, bypass = (
        torch.empty(shape, dtype=torch.float64).uniform_(-1.5, 1.5, generator=generator).requires_grad_()
        for shape in (active.shape, active.shape[:2], active.shape[:2])
    )
    return MixingWeights(operations, edges, bypass, active)


def path_of(space, names, layers, seed):
    return path(sampling.sample(space, numpy_stream(seed, "test"), layers), names, space).active


def one_per_edge(layers, seed, count=1, names=NAMES):
    """[L, E, O], so many operations on every edge, as a Gumbel-softmax draws them."""
    rng, active = numpy_stream(seed, "test"), torch.zeros(layers, 14, len(names), dtype=torch.bool)
    for at in np.ndindex(layers, 14):
        active[at][torch.from_numpy(rng.choice(len(names), count, replace=False))] = True
    return active


class Native:
    """Counts the layers that native kernels compute, while it is in place."""

    def __init__(self, patch):
        self.layers = 0
        patch.setattr(discrete, "run", self._spied(discrete.run))

    def _spied(self, original):
        def run(*arguments):
            out = original(*arguments)
            self.layers += out is not None
            return out

        return run


def results(network, images, mixing, draws=None, frozen=False):
    """Logits, then the gradients of the mixing weights and, unless these are `frozen`, of all weights."""
    weights = list(network.parameters())
    for weight in weights:
        weight.requires_grad_(not frozen)
    logits = network(images, mixing, draws)
    wanted = [x for x in (mixing.operations, mixing.edges, mixing.bypass) if x.requires_grad]
    wanted += [] if frozen else weights
    loss = F.cross_entropy(logits, torch.arange(len(images)) % 4)
    return [logits.detach(), *torch.autograd.grad(loss, wanted, allow_unused=True)]


def assert_equal(found, expected):
    assert [x is None for x in found] == [x is None for x in expected]
    for a, b in zip(found, expected, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def assert_equals_torch(network, images, mixing, covered, draws=None, frozen=False):
    """In logits, all gradients and buffers; `covered` layers are computed by native kernels."""
    state = {name: x.clone() for name, x in network.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        counted = Native(patch)
        found = results(network, images, mixing, draws, frozen)
    assert counted.layers == covered
    ours = [x.clone() for x in network.buffers()]
    network.load_state_dict(state)
    with native.only_torch():
        expected = results(network, images, mixing, draws, frozen)
    assert_equal(found, expected)
    assert_equal(ours, list(network.buffers()))


def covered_layers(active, space, names):
    """Layers in which every node has an operation that is not a zero, and no operation is noise."""
    count = 0
    for layer in active:
        chosen = [(space.edges[e][0], names[o]) for e, o in layer.nonzero().tolist()]
        nodes = {node for node, name in chosen if name != "none"}
        count += len(nodes) == space.nodes and all(name != "noise" for _, name in chosen)
    return count


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(SPACES)), seed=st.integers(0, 10**6), layers=st.integers(3, 5),
    half=st.integers(1, 9), partial=st.sampled_from([1, 1, 2, 4]), size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
)  # fmt: skip
@example(name="darts", seed=0, layers=4, half=5, partial=1, size=(9, 6))  # each kind of operation occurs
@example(name="darts", seed=1, layers=3, half=8, partial=2, size=(8, 8))
def test_a_sampled_path_equals_torch(name, seed, layers, half, partial, size):
    """In any space, at any width and size, with the reduction layers; partial channels are left to torch."""
    space = SPACES[name]
    active = path_of(space, space.primitives, layers, seed)
    network = new_supernet(space, space.primitives, layers, 2 * half * partial, partial)
    covered = covered_layers(active, space, space.primitives) if partial == 1 else 0
    draws = Draws(0.0, seed, (0,)) if "noise" in space.primitives else None
    assert_equals_torch(network, images_of(size), weighted(active, seed), covered, draws)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 3), frozen=st.booleans())
@example(seed=0, count=1, frozen=True)
@example(seed=1, count=2, frozen=False)
def test_operations_on_every_edge_equal_torch(seed, count, frozen):
    """As GDAS and DATA draw them, zeros among them; an architecture step wants no gradients of weights."""
    active = one_per_edge(3, seed, count)
    network, covered = new_supernet(names=NAMES), covered_layers(active, DARTS, NAMES)
    assert_equals_torch(network, images_of((6, 5)), weighted(active, seed), covered, frozen=frozen)


@pytest.mark.parametrize("name", NAMES)
def test_each_operation_alone_equals_torch(name):
    """On all edges, with one weight for all of them."""
    active = torch.zeros(3, 14, len(NAMES), dtype=torch.bool)
    active[:, :, NAMES.index(name)] = True
    network = new_supernet(names=NAMES, channels=6)
    assert_equals_torch(network, images_of((7, 8)), weighted(active), 0 if name == "none" else 3)


def test_a_node_without_operations_is_left_to_torch():
    active = path_of(DARTS, DARTS.primitives, 3, 0)
    active[0, :2] = False
    assert_equals_torch(new_supernet(), images_of((6, 6)), weighted(active), 2)


def test_a_state_that_nobody_reads_is_not_preprocessed():
    """Its weights get no gradient at all, as in torch: the optimizer must not let them decay."""
    active = one_per_edge(3, 3, names=DARTS.primitives)
    active[1, [e for e, (_, source) in enumerate(DARTS.edges) if source == 1]] = False
    network = new_supernet()
    assert_equals_torch(network, images_of((6, 6)), weighted(active), 3)
    found = dict(zip(network.parameters(), results(network, images_of((6, 6)), weighted(active))[4:], strict=True))
    gradients = [found[weight] for weight in network.cells[1].preprocess[1].parameters()]
    assert gradients and all(gradient is None for gradient in gradients)


def test_weights_of_zeros_and_ones_have_no_gradient():
    """A path of SPOS, whose mixing weights are constants; what is not executed has no gradient."""
    mixing = path(sampling.sample(DARTS, numpy_stream(0, "test"), 4), DARTS.primitives, DARTS).to(images_of((1, 1)))
    assert_equals_torch(new_supernet(layers=4), images_of((8, 8)), mixing, 4)


def test_other_weights_and_dense_steps_may_follow():
    """The same weights are moved by paths and by dense steps, and each step sees what the last one left."""
    ends = {}
    for backend in ("native", "torch"):
        network = new_supernet()
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        ends[backend] = []
        for step in range(4):
            mixing = weighted(path_of(DARTS, DARTS.primitives, 3, step), step)
            if step % 2:
                mixing = MixingWeights(mixing.operations, mixing.edges, mixing.bypass)
            optimizer.zero_grad()
            with contextlib.nullcontext() if backend == "native" else native.only_torch():
                loss = F.cross_entropy(network(images_of((6, 6)), mixing), torch.tensor([0, 1, 2]))
                loss.backward()
            optimizer.step()
            ends[backend].append(loss.detach())
        with torch.no_grad(), contextlib.nullcontext() if backend == "native" else native.only_torch():
            dense = weighted(torch.ones(3, 14, 7, dtype=torch.bool))
            ends[backend] += [network(images_of((6, 6)), dense), *network.parameters(), *network.buffers()]
    assert_equal(*ends.values())


@pytest.mark.parametrize("name", ["gdas", "data"])
def test_a_search_that_was_interrupted_goes_on_to_the_same_bits(monkeypatch, name):
    counted = Native(monkeypatch)
    assert_goes_on_to_the_same_bits(name)
    assert counted.layers > 0


def test_recomputing_changes_no_bit():
    active = one_per_edge(3, 0, names=DARTS.primitives)
    found = [results(new_supernet(recompute=again), images_of((6, 6)), weighted(active, 1)) for again in (False, True)]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)


def test_a_validation_without_gradients_has_the_same_bits(monkeypatch):
    network, mixing = new_supernet(), weighted(path_of(DARTS, DARTS.primitives, 3, 0))
    counted = Native(monkeypatch)
    with torch.no_grad():
        without = network(images_of((6, 6)), mixing)
    assert counted.layers == 3
    assert torch.equal(without, network(images_of((6, 6)), mixing))


def test_threads_change_no_result_and_their_order_no_bit(monkeypatch):
    monkeypatch.setattr(native, "threads", lambda numbers: torch.get_num_threads())  # however small the work
    network, mixing = new_supernet(), weighted(one_per_edge(3, 0, names=DARTS.primitives))
    found, before = {}, torch.get_num_threads()
    try:
        for threads in (1, 2, 2, 5):
            torch.set_num_threads(threads)
            found.setdefault(threads, []).append(results(network, images_of((6, 6)), mixing))
    finally:
        torch.set_num_threads(before)
    for threads in (2, 5):
        assert_equal(found[threads][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(*found[2], strict=True) if a is not None)


@pytest.mark.parametrize("why", ["torch", "hook", "dropout", "autocast"])
def test_torch_computes_what_native_kernels_do_not(monkeypatch, why):
    network, mixing = new_supernet().float(), weighted(path_of(DARTS, DARTS.primitives, 3, 0))
    mixing, images = mixing.to(torch.zeros(())), images_of((6, 6)).float()
    draws = Draws(0.2, 0, (0,)) if why == "dropout" else None
    if why == "hook":
        network.cells[1].sources[0].register_forward_hook(lambda *_: None)
    counted = Native(monkeypatch)
    alone = native.only_torch() if why == "torch" else contextlib.nullcontext()
    with alone, torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"):
        network(images, mixing, draws)
    assert counted.layers == (2 if why == "hook" else 0)


def test_the_first_bad_layer_of_a_path_is_found_inside_of_a_layer():
    network, images = new_supernet(), images_of((6, 6))
    mixing = weighted(path_of(DARTS, DARTS.primitives, 3, 0))
    with torch.no_grad():
        next(network.cells[reduction_layers(3)[0]].preprocess[1].parameters())[:] = torch.nan
    bad = first_bad_layer(network, images, lambda: network(images, mixing))
    assert bad == f"layer cells.{reduction_layers(3)[0]}.preprocess.1"


def test_numbers_that_are_none_are_not_hidden():
    """A NaN in an image reaches the logits: no maximum or ReLU loses it."""
    images = images_of((6, 6))
    images[0, 0, 2, 3] = torch.nan
    for name in DARTS.primitives:
        active = torch.zeros(3, 14, 7, dtype=torch.bool)
        active[:, :, DARTS.primitives.index(name)] = True
        assert new_supernet()(images, weighted(active)).isnan().all(), name

"""Kernels stay in their memory: any shape that C has room for equals torch's form, and torch computes all others.

Also run under sanitizers of memory, by `benchmarks/sanitize.py`.
"""

import copy
import ctypes
import re
from importlib import resources

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_discrete import cell_of, close, inputs_of, results

from dnas.errors import RunError
from dnas.kernels import cells, depthwise, discrete, limits, native, structures
from dnas.network.modules import build_layer
from dnas.rng import numpy_stream, torch_stream
from dnas.settings import CIFAR_STEM, TINY_IMAGENET_STEM
from dnas.space.darts import DARTS
from dnas.space.darts_cell import Cell
from dnas.space.darts_plan import STEMS
from dnas.space.primitives import PRIMITIVES, Conv, Norm, Primitive, ReLU
from dnas.supernet.build import build_supernet
from dnas.supernet.relaxation import MixingWeights

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler on this machine")

KERNELS, DILATIONS = st.sampled_from([3, 5, 7, 9, 11, 13]), st.integers(1, 4)
THREADS = st.integers(1, 5)


def normal(*shape, stream="test"):
    return torch.randn(shape, generator=torch_stream(0, stream, *shape), dtype=torch.float64)


def primitive(kernels, dilation=1):
    """A separable candidate with a stage for each kernel, known while the block lasts, and its name."""

    def chain(channels, stride):
        layers = []
        for n, kernel in enumerate(kernels):
            step = (1, 1) if n else (stride, stride)
            deep = Conv(channels, channels, (kernel, kernel), step, dilation, groups=channels)
            layers += [ReLU(), deep, Conv(channels, channels), Norm(channels)]
        return tuple(layers)

    name = f"drawn_{'_'.join(map(str, kernels))}_{dilation}"
    return Primitive(name, chain, "#000000", name)


@pytest.fixture
def known():
    with pytest.MonkeyPatch.context() as patch:

        def add(*primitives):
            for each in primitives:
                patch.setitem(PRIMITIVES._registered, each.name, each)
            return [each.name for each in primitives]

        yield add


# --- depthwise.c -------------------------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    kernel=st.just(1) | KERNELS,
    dilation=DILATIONS,
    stride=st.integers(1, 3),
    threads=THREADS,
    layout=st.sampled_from(["contiguous", "channels last", "every other"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=60)
def test_depthwise_weight_gradients(shape, kernel, dilation, stride, threads, layout, dtype):
    batch, channels, height, width = shape
    x = normal(batch, channels, height, 2 * width)[..., ::2] if layout == "every other" else normal(*shape)
    x = x.to(dtype, memory_format=torch.channels_last if layout == "channels last" else torch.preserve_format)
    weight = normal(channels, 1, kernel, kernel).to(dtype).requires_grad_()
    padding = dilation * (kernel // 2)
    expected = F.conv2d(x, weight, None, stride, padding, dilation, channels)
    grad = normal(*expected.shape, stream="grad").to(dtype)
    (right,) = torch.autograd.grad(expected, weight, grad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "threads", lambda numbers: threads)
        patch.setattr(native, "calls", {})
        (got,) = torch.autograd.grad(depthwise(x, weight, stride, dilation), weight, grad)
        # A stride that is the dilation, too, leaves one grid of pixels.
        covered = kernel <= 7 and (stride <= 2 or stride == dilation)
        assert bool(native.calls) == covered
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    torch.testing.assert_close(got, right, rtol=tolerance, atol=tolerance)


def test_what_is_too_large_to_be_counted_is_left_to_torch(monkeypatch):
    x, weight = normal(2, 3, 5, 5), normal(3, 1, 3, 3).requires_grad_()
    grad = normal(2, 3, 5, 5, stream="grad")
    (right,) = torch.autograd.grad(depthwise(x, weight), weight, grad)
    monkeypatch.setattr(native, "calls", {})
    monkeypatch.setattr(limits, "NUMBERS", x.numel() - 1)
    (got,) = torch.autograd.grad(depthwise(x, weight), weight, grad)
    close(got, right)
    assert not native.calls


@pytest.mark.parametrize(
    "layer",
    [
        Conv(6, 6, (4, 4), groups=6),
        Conv(6, 6, (3, 3), groups=6, padded=False),
        Conv(6, 6, (3, 3), (1, 2), groups=6),
        Conv(6, 6, (3, 5), groups=6),
    ],
    ids=["even", "not padded", "two strides", "not square"],
)
def test_depthwise_layers_of_other_kinds_are_torchs(layer):
    module = build_layer(layer).double()
    x = normal(2, 6, 7, 8).requires_grad_()
    got = module(x)
    assert got.shape[2:] == layer.out_size(7, 8)
    plain = F.conv2d(x, module.weight, None, layer.stride, layer.padding, layer.dilation, 6)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (x, module.weight)) for y in (got, plain)), strict=True):
        close(a, b)


# --- discrete.c --------------------------------------------------------------------------------------------

PLAIN = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", "none"]


def gene_of(names, nodes, seed):
    """Each node reads one or two states, by any of these operations."""
    rng = numpy_stream(seed, "test")
    chosen = []
    for node in range(nodes):
        sources = rng.choice(node + 2, min(node + 2, int(rng.integers(1, 3))), replace=False)
        chosen.append(tuple((str(rng.choice(names)), int(s)) for s in sorted(sources)))
    return Cell(tuple(chosen))


def fits(kernels, dilation):
    return all(k <= 7 and dilation * (k // 2) <= limits.PAD for k in kernels)


def same_results(cell, inputs, paths=None):
    got, expected = (results(cell, inputs, paths, native_kernels) for native_kernels in (True, False))
    for a, b in zip([got[0], *got[1], *got[2]], [expected[0], *expected[1], *expected[2]], strict=True):
        close(a, b)


@given(
    drawn=st.lists(st.tuples(st.lists(KERNELS, min_size=1, max_size=3), DILATIONS), min_size=1, max_size=3),
    nodes=st.integers(1, 3),
    width=st.integers(2, 20),
    kind=st.sampled_from([(False, False), (True, False), (False, True)]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    batch=st.integers(2, 4),
    threads=THREADS,
    seed=st.integers(0, 2**20),
)
@settings(deadline=None, max_examples=40)
@example([([9, 9], 1)], 1, 4, (False, False), (5, 5), 2, 1, 0)
@example([([13, 13], 1)], 1, 4, (False, False), (5, 5), 2, 1, 0)
def test_cells_of_any_kernels_and_sizes(drawn, nodes, width, kind, size, batch, threads, seed):
    candidates = [primitive(kernels, dilation) for kernels, dilation in drawn]
    with pytest.MonkeyPatch.context() as patch:
        for each in candidates:
            patch.setitem(PRIMITIVES._registered, each.name, each)
        patch.setattr(native, "threads", lambda numbers: threads)
        gene = gene_of([each.name for each in candidates] + PLAIN[: seed % 5], nodes, seed)
        cell = cell_of(gene, 5, 3, width, *kind, seed)
        names = {name for node in gene.nodes for name, _ in node}
        covered = all(fits(*which) for which, each in zip(drawn, candidates, strict=True) if each.name in names)
        assert (cell.program is not None) == covered
        same_results(cell, inputs_of(5, 3, *size, kind[1], batch))


@pytest.mark.parametrize(("kernels", "dilation"), [([9, 9], 1), ([13, 13], 1), ([7], 3), ([5], 4), ([3, 9], 1)])
def test_kernels_without_room_are_torchs(known, kernels, dilation):
    (name,) = known(primitive(kernels, dilation))
    cell = cell_of(Cell((((name, 0), (name, 1)),)), 5, 3, 4)
    assert cell.program is None
    same_results(cell, inputs_of(5, 3, 6, 7, False))


def changed(what):
    """A cell with something that C would take for granted and that is not so, and what it is called with."""
    cell = cell_of(Cell(((("sep_conv_3x3", 0), ("sep_conv_5x5", 1)),)), 4, 4, 4)
    before, previous = inputs_of(4, 4, 5, 5, False)
    paths = torch.ones(2, 3)
    norm = cell.operations[0][3]
    if what == "variance in single precision":
        norm.running_var = norm.running_var.float()
    elif what == "number of batches in other integers":
        norm.num_batches_tracked = norm.num_batches_tracked.int()
    elif what == "weights that do not lie together":
        weight = cell.operations[0][2].weight
        weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)
    elif what == "fewer images in one input":
        previous = previous[:2]
    elif what == "few paths":
        paths = paths[:1]
    elif what == "paths of other images":
        paths = paths[:, :2]
    elif what == "one input in single precision":
        previous = previous.float()
    elif what == "a smaller weight":
        cell.operations[1][1].weight = torch.nn.Parameter(torch.ones(4, 1, 3, 3).double())
    elif what == "a batch norm of fewer channels":
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, name).data = getattr(norm, name).data[:2].clone()
    return cell, (before, previous, paths)


def attempted(cell, arguments):
    try:
        return cell(*arguments)
    except (RuntimeError, IndexError) as error:
        return str(error)


@pytest.mark.parametrize(
    "what",
    [
        "variance in single precision", "number of batches in other integers", "weights that do not lie together",
        "fewer images in one input", "few paths", "paths of other images", "one input in single precision",
        "a smaller weight", "a batch norm of fewer channels",
    ],
)  # fmt: skip
def test_what_c_takes_for_granted_of_a_cell_is_looked_at(what, monkeypatch):
    """Torch then computes it, or refuses it, as if there were no kernels."""
    cell, arguments = changed(what)
    modules = copy.deepcopy(cell)
    modules.program = None
    with monkeypatch.context() as patch:
        patch.setattr(discrete, "_Call", None)  # whoever calls C fails
        got = attempted(cell, arguments)
    expected = attempted(modules, arguments)
    if isinstance(expected, str):
        assert got == expected
    else:
        close(got, expected)


def test_a_cell_that_is_too_large_is_torchs(monkeypatch):
    cell, arguments = changed("nothing")
    expected = cell(*arguments)
    for name in ("NUMBERS", "PICTURES"):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, 3)
            patch.setattr(discrete, "_Call", None)
            close(copy.deepcopy(cell)(*arguments), expected)


# --- source.c, join.c, preprocess.c, pools.h -----------------------------------------------------------------


def supernet_of(names, channels=4, partial=2, seed=0, stem=CIFAR_STEM):
    shape = {"layers": 3, "channels": channels, "classes": 3, "partial": partial, "stem": stem}
    return build_supernet(DARTS, tuple(names), seed=seed, **shape).double()


def mixing_of(names, seed=0, dtype=torch.float64):
    draw = lambda *shape: torch.randn(shape, generator=torch_stream(seed, "mixing", *shape)).to(dtype).requires_grad_()
    return MixingWeights(draw(3, 14, len(names)), draw(3, 14), draw(3, 14))


def computed(supernet, mixing, images):
    """Whether the kernels ran, and the loss with all its gradients."""
    with pytest.MonkeyPatch.context() as patch:
        ran, original = [], cells.run
        patch.setattr(cells, "run", lambda *arguments: ran.append(1) or original(*arguments))
        logits = supernet(images, mixing)
        loss = F.cross_entropy(logits, torch.arange(len(images)) % 3)
        wanted = [mixing.operations, mixing.bypass, *supernet.parameters()]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return bool(ran), [loss, *(torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads, strict=True))]


def same_backends(supernet, mixing, images):
    """Whether the kernels ran; the results are torch's."""
    ran, got = computed(supernet, mixing, images)
    with native.only_torch():
        _, expected = computed(supernet, mixing, images)
    for a, b in zip(got, expected, strict=True):
        # A norm over two nearly equal pixels multiplies rounding errors by up to 1 / √ε = 316, and several follow.
        assert (a - b).abs().max() < 1e-6 * max(1.0, b.abs().max())
    return ran


@given(
    drawn=st.lists(st.tuples(KERNELS, st.integers(1, 3), st.integers(1, 3)), max_size=3, unique=True),
    plain=st.lists(st.sampled_from(PLAIN[:3]), min_size=1, max_size=3, unique=True),
    width=st.sampled_from([(2, 1), (2, 3), (4, 2)]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    batch=st.integers(2, 3),
    threads=THREADS,
    seed=st.integers(0, 2**20),
    stem=st.sampled_from(list(STEMS)),
)
@settings(deadline=None, max_examples=20)
@example([(13, 1, 2)], ["skip_connect"], (2, 1), (5, 4), 2, 1, 0, CIFAR_STEM)
@example([(3, 1, 1)], ["skip_connect"], (2, 2), (9, 6), 2, 1, 0, TINY_IMAGENET_STEM)
def test_supernets_of_any_kernels_and_sizes(drawn, plain, width, size, batch, threads, seed, stem):
    candidates = [primitive([kernel] * stages, dilation) for kernel, dilation, stages in drawn]
    with pytest.MonkeyPatch.context() as patch:
        for each in candidates:
            patch.setitem(PRIMITIVES._registered, each.name, each)
        patch.setattr(native, "threads", lambda numbers: threads)
        names = [*plain, *(each.name for each in candidates)]
        active, partial = width
        supernet = supernet_of(names, active * partial, partial, seed, stem)
        ran = same_backends(supernet, mixing_of(names, seed), normal(batch, 3, *size))
        assert ran == all(kernel <= 7 and stages <= limits.STAGES for kernel, _, stages in drawn)


def test_candidates_without_room_are_torchs(known):
    images = normal(3, 3, 5, 5)
    unlike = known(primitive([3, 5]))
    three = known(primitive([3, 3, 3]))
    wide = known(primitive([9]))
    many = known(*(primitive([3], dilation) for dilation in range(1, limits.SEPARABLES + 2)))
    for names in (unlike, three, wide, many):
        assert not same_backends(supernet_of(names), mixing_of(names), images)
    assert same_backends(supernet_of(many[:-1]), mixing_of(many[:-1]), images)
    again = Primitive("pool_again", PRIMITIVES["max_pool_3x3"].chain, "#000000", "")
    pools = [*known(again), "max_pool_3x3"]
    assert not same_backends(supernet_of(pools), mixing_of(pools), images)


@pytest.mark.parametrize(("name", "most"), [("CHANNELS", 1), ("GROUPS", 1), ("STATES", 4), ("NUMBERS", 500)])
def test_a_supernet_that_is_too_large_is_torchs(monkeypatch, name, most):
    names = ["sep_conv_3x3"]
    assert same_backends(supernet_of(names), mixing_of(names), normal(2, 3, 5, 5))
    monkeypatch.setattr(limits, name, most)
    assert not same_backends(supernet_of(names), mixing_of(names), normal(2, 3, 5, 5))


def test_mixing_weights_are_those_of_the_supernet():
    names = ["sep_conv_3x3", "skip_connect"]
    supernet = supernet_of(names)
    stem, mixing = normal(2, 5, 5, 12), mixing_of(names)
    psi, bypass = mixing.psi, mixing.bypass
    assert cells.covers(supernet.layout(), (stem, stem), psi, bypass)
    assert not cells.covers(supernet.layout(), (stem, stem), psi.float(), bypass)
    assert not cells.covers(supernet.layout(), (stem, stem), psi, bypass.float())
    assert not cells.covers(supernet.layout(), (stem, stem), psi[:, :13], bypass)
    assert not cells.covers(supernet.layout(), (stem, stem), psi[:, :, :1], bypass)
    assert not cells.covers(supernet.layout(), (stem, stem), psi[:2], bypass)
    assert not cells.covers(supernet.layout(), (stem, stem), psi, bypass[:, :13])
    for other in (stem[..., :11], stem[:, :0], stem[:1], stem[:, :3], stem.float(), stem[0]):
        assert not cells.covers(supernet.layout(), (other, stem), psi, bypass)
        assert not cells.covers(supernet.layout(), (stem, other), psi, bypass)
    assert not cells.covers(supernet.float().layout(), (stem, stem), psi, bypass)


def test_weights_that_were_replaced_are_the_ones_that_count():
    """`load_state_dict(assign=True)` puts new parameters in the place of those that the kernels had seen."""
    names, images = ["sep_conv_3x3", "skip_connect"], normal(2, 3, 5, 5)
    supernet, mixing = supernet_of(names), mixing_of(names)
    assert same_backends(supernet, mixing, images)
    supernet.load_state_dict({k: v.clone() for k, v in supernet_of(names, seed=1).state_dict().items()}, assign=True)
    assert same_backends(supernet, mixing, images)
    deep = supernet.cells[0].sources[0].apart["sep_conv_3x3"][1]
    deep.weight.data = deep.weight.data[:, :, :2, :2].clone()
    stem = normal(2, 5, 5, 12)
    assert not cells.covers(supernet.layout(), (stem, stem), mixing.psi, mixing.bypass)


# --- single precision: twice as many numbers in a vector -------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 2), (5, 4), (6, 9)])
def test_single_precision(size):
    """What it gives is tested in double precision; here, that it stays in its memory and agrees in the loss."""
    cell = cell_of(gene_of([*PLAIN, "sep_conv_5x5", "dil_conv_3x3"], 3, sum(size)), 5, 3, 7).float()
    inputs = [x.detach().float().requires_grad_() for x in inputs_of(5, 3, *size, False)]
    outputs = [results(cell, inputs, None, native_kernels) for native_kernels in (True, False)]
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=1e-3, atol=1e-2)
    names = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_5x5", "dil_conv_3x3"]
    supernet, mixing = supernet_of(names).float(), mixing_of(names, dtype=torch.float32)
    ran, got = computed(supernet, mixing, normal(3, 3, *size).float())
    with native.only_torch():
        _, expected = computed(supernet, mixing, normal(3, 3, *size).float())
    assert ran
    torch.testing.assert_close(got[0], expected[0], rtol=1e-2, atol=1e-2)


# --- what C and Python agree on ----------------------------------------------------------------------------


def test_bounds_stand_in_python_only():
    for file in resources.files("dnas.kernels").iterdir():
        if file.name.endswith((".c", ".h")):
            code = re.sub(r"/\*.*?\*/", "", file.read_text("utf-8"), flags=re.S)
            own = set(re.findall(r"#define (\w+)", code)) | {
                name
                for enum in re.findall(r"enum \{([^}]*)\}", code)
                for name in re.findall(r"(\w+)\s*(?:=|,|$)", enum)
            }
            assert not own & limits.MACROS.keys(), file.name


@pytest.mark.parametrize("source", ["discrete", "source", "join", "preprocess"])
def test_structures_of_another_size_are_refused(source):
    right = structures.STRUCTURES[source]
    widths = {"source": {"C": 2}, "join": {"C": 2, "K": 1}}.get(source, {})
    assert native.library(source, *right, REAL="double", **widths) is not None

    class Longer(right[-1]):
        _fields_ = (("more", ctypes.c_long),)

    for wrong in ((*right[:-1], Longer), right[:-1], (*right, right[0])):
        if wrong:
            with pytest.raises(RunError, match=rf"internal error.*{source}\.c.*--backend torch"):
                native.library(source, *wrong, REAL="double", **widths)

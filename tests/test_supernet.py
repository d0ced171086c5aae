import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import PlainSupernet, copy_weights, weight_pairs

import dnas.supernet.source_block as source_block
from dnas.errors import InputError
from dnas.kernels import cells, native
from dnas.kernels.draws import Draws
from dnas.pipeline.presets import SHRINKS
from dnas.rng import torch_stream
from dnas.space.darts import DARTS
from dnas.space.darts_plan import STEMS
from dnas.space.registry import SPACES
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import MixingWeights, edge_softmax, expand, sigmoid, softmax

WITH_NONE = ("none", *DARTS.primitives)


def images(count=4, size=8, inputs=3):
    return torch.randn(count, inputs, size, size, generator=torch_stream(1, "test"), dtype=torch.float64)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item()


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("partial", [1, 2, 4])
@pytest.mark.parametrize("names", [DARTS.primitives, WITH_NONE], ids=["7", "with_none"])
def test_equals_the_plain_per_edge_network_in_output_and_all_gradients(mapping, partial, names):
    layers = 4  # a normal layer, a reduction, a reduction after a reduction, a layer after it
    supernet = build_supernet(DARTS, names, layers=layers, channels=8, classes=5, partial=partial).double()
    plain = PlainSupernet(names, layers=layers, channels=8, classes=5, partial=partial).double()
    copy_weights(supernet, plain)
    parameters = MAPPINGS[mapping](layers, 14, len(names), scale=1.0).double()
    relax = softmax if names is WITH_NONE else sigmoid
    x, y = images(), torch.tensor([0, 1, 2, 3])

    def mixing():
        return expand(relax(parameters.terms()), edge_softmax(parameters.edge_logits(), DARTS), layers)

    assert_equal_to_plain(supernet, plain, mixing, list(parameters.parameters()), x, y)


def losses_and_gradients(network, mixing, x, y, wanted):
    logits = network(x, mixing)
    grads = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), wanted, allow_unused=True)
    return logits.detach(), [torch.zeros_like(w) if g is None else g for g, w in zip(grads, wanted, strict=True)]


def assert_equal_to_plain(supernet, plain, mixing_of, parameters, x, y):
    """Logits and the gradients of all weights and of `parameters`, to 1e-9 of the largest."""
    weights, plain_weights = list(supernet.parameters()), list(plain.parameters())
    logits, grads = losses_and_gradients(supernet, mixing_of(), x, y, [*parameters, *weights])
    expected, plain_grads = losses_and_gradients(plain, mixing_of(), x, y, [*parameters, *plain_weights])
    assert relative(logits, expected) < 1e-9
    count = len(parameters)
    for a, b in zip(grads[:count], plain_grads[:count], strict=True):
        assert relative(a, b) < 1e-9
    fast, slow = (
        dict(zip(weights, grads[count:], strict=True)),
        dict(zip(plain_weights, plain_grads[count:], strict=True)),
    )
    scale = max(g.abs().max() for g in slow.values())
    for weight, where, plain_weight in weight_pairs(supernet, plain):
        assert (fast[weight][where] - slow[plain_weight]).abs().max() < 1e-9 * scale
    return fast


@pytest.mark.parametrize("backend", ["auto", "torch"])
@given(
    seed=st.integers(0, 2**31),
    layers=st.integers(3, 4),
    channels=st.sampled_from([2, 4, 6]),
    partial=st.sampled_from([1, 2, 3, 4]),
    batch=st.integers(2, 3),
    size=st.integers(5, 12),
    stem=st.sampled_from(list(STEMS)),
    names=st.lists(st.sampled_from(WITH_NONE), min_size=1, max_size=8, unique=True),
    recompute=st.booleans(),
)
@settings(deadline=None, max_examples=12)
def test_any_shape_equals_the_plain_network(
    backend, seed, layers, channels, partial, batch, size, stem, names, recompute
):
    native.choose(backend)
    try:
        channels = channels * partial
        shape = {
            "layers": layers,
            "channels": channels,
            "classes": 3,
            "partial": partial,
            "stem": stem,
            "recompute": recompute,
            "seed": seed,
        }
        supernet = build_supernet(DARTS, tuple(names), **shape).double()
        plain = PlainSupernet(names, layers=layers, channels=channels, classes=3, partial=partial, stem=stem).double()
        copy_weights(supernet, plain)
        generator = torch_stream(seed, "test")
        draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        operations, edges, bypass = draw(layers, 14, len(names)), draw(layers, 14), draw(layers, 14)
        side = (size - 1) * SHRINKS[stem] + 1  # the first cell sees `size` pixels
        x = draw(batch, 3, side, side).detach()
        y = torch.arange(batch) % 3
        mixing = MixingWeights(operations, edges, bypass)
        # With K = 1 nothing passes by, and nothing reads the bypass weights.
        assert_equal_to_plain(supernet, plain, lambda: mixing, [operations, edges, bypass], x, y)
    finally:
        native.choose("auto")


def arguments(channels, dtype, layers=3):
    """A stem's output and mixing weights."""
    stem = torch.zeros(4, 8, 8, 3 * channels, dtype=dtype)
    return [(stem, stem), *(torch.zeros(shape, dtype=dtype) for shape in ((layers, 14, 7), (layers, 14)))]


@pytest.mark.skipif(not native.available(), reason="no C compiler on this machine")
def test_native_cells_are_in_use_where_they_cover_and_only_there():
    for names, channels, partial, dtype, covered in (
        (DARTS.primitives, 8, 4, torch.float32, True),
        (DARTS.primitives, 8, 4, torch.float64, True),
        (DARTS.primitives, 16, 1, torch.float32, True),
        (DARTS.primitives, 24, 4, torch.float32, False),  # 6 channels an edge
        (DARTS.primitives, 8, 4, torch.float16, False),
    ):
        supernet = build_supernet(DARTS, names, layers=3, channels=channels, classes=3, partial=partial).to(dtype)
        assert cells.covers(supernet.layout(), *arguments(channels, dtype)) == covered
    native.choose("torch")
    try:
        supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3)
        assert not cells.covers(supernet.layout(), *arguments(8, torch.float32))
    finally:
        native.choose("auto")


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("names", [("sep_conv_3x3",), ("dil_conv_5x5",), ("max_pool_3x3",), ("avg_pool_3x3",)])
def test_what_is_not_a_number_is_not_hidden(backend, names):
    """With K = 1 and one operation everything passes through it; what it swallowed, no guard would see."""
    supernet = build_supernet(DARTS, names, layers=3, channels=4, classes=3, partial=1).double()
    native.choose(backend)
    try:
        for where in ("preprocess.1.chain.1.weight", f"sources.1.apart.{names[0]}.1.weight"):
            bad = copy.deepcopy(supernet)
            if where not in (parts := dict(bad.cells[0].named_parameters())):
                continue
            with torch.no_grad():
                parts[where].view(-1)[0] = torch.nan
            assert not bad(images(), expand(torch.ones(3, 14, 1).double(), None, 3)).isfinite().all()
    finally:
        native.choose("auto")


def test_both_backends_drop_the_same_identities():
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=2).double()
    operations = torch.rand(3, 14, 7, generator=torch_stream(0, "test")).double().requires_grad_()
    y = torch.tensor([0, 1, 2, 0])
    found = []
    for backend in ("auto", "torch"):
        native.choose(backend)
        try:
            logits = supernet(images(), expand(operations, None, 3), Draws(0.4, 3, (1, 0)))
            loss = torch.nn.functional.cross_entropy(logits, y)
            found.append((logits, *torch.autograd.grad(loss, [operations, *supernet.parameters()])))
        finally:
            native.choose("auto")
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < 1e-9 * max(1.0, b.abs().max())


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_both_backends_compute_every_space(space):
    """S4's noise was left out by the native cells."""
    operations = space.primitives
    supernet = build_supernet(space, operations, layers=3, channels=8, classes=3, partial=2).double()
    generator = torch_stream(11, "test")
    mixing = MixingWeights(
        *(torch.rand(*shape, generator=generator).double() for shape in ((3, 14, len(operations)), (3, 14), (3, 14)))
    )
    draws, x = Draws(0.0, 0, (1,)), images()
    outs = []
    for backend in ("auto", "torch"):
        native.choose(backend)
        try:
            outs.append(supernet(x, mixing, draws))
        finally:
            native.choose("auto")
    torch.testing.assert_close(*outs, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not native.available(), reason="no C compiler on this machine")
def test_threads_change_no_result_and_their_order_no_bit(monkeypatch):
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    operations = torch.rand(3, 14, 7, generator=torch_stream(0, "test")).double().requires_grad_()
    x, y = images(count=7), torch.arange(7) % 3
    found = {}
    for threads in (1, 3, 16):
        monkeypatch.setattr(native, "threads", lambda numbers: threads)
        for run in range(3):
            wanted = [operations, *supernet.parameters()]
            found[threads, run] = losses_and_gradients(supernet, expand(operations, None, 3), x, y, wanted)[1]
    for threads in (1, 3, 16):
        for run in (1, 2):
            assert all(torch.equal(a, b) for a, b in zip(found[threads, 0], found[threads, run], strict=True))
        for a, b in zip(found[threads, 0], found[1, 0], strict=True):
            assert (a - b).abs().max() <= 1e-9 * max(1.0, b.abs().max())


def test_sparse_weights_execute_only_what_is_active(monkeypatch):
    """Equal to the plain network with zeros; the other operations are not run, and nothing of theirs has a gradient."""
    layers, names = 4, list(WITH_NONE)
    supernet = build_supernet(DARTS, WITH_NONE, layers=layers, channels=8, classes=3, partial=2).double()
    plain = PlainSupernet(names, layers=layers, channels=8, classes=3, partial=2).double()
    copy_weights(supernet, plain)
    generator = torch_stream(5, "test")
    active = torch.rand(layers, 14, 8, generator=generator) < 0.3
    active[0] = False  # a layer of nothing but bypassed channels
    active[1] = torch.nn.functional.one_hot(torch.randint(8, (14,), generator=generator), 8).bool()
    active[2, 0] = True
    values = torch.randn(layers, 14, 8, generator=generator, dtype=torch.float64).requires_grad_()
    run = []
    original = source_block.depthwise_statistics
    monkeypatch.setattr(
        source_block,
        "depthwise_statistics",
        lambda u, w, *rest: (run.append(len(w)), original(u, w, *rest))[1],
    )
    ones = torch.ones(layers, 14).double()
    x, y = images(), torch.tensor([0, 1, 2, 0])
    mixing = lambda: MixingWeights(values * active, ones, ones, active)
    grads = assert_equal_to_plain(supernet, plain, mixing, [values], x, y)
    widths = [cell.active for cell in supernet.cells]
    stages = {"sep_conv_3x3": 2, "sep_conv_5x5": 2, "dil_conv_3x3": 1, "dil_conv_5x5": 1}
    wanted = sum(
        int(active[k, :, names.index(name)].sum()) * count * widths[k]
        for k in range(layers)
        for name, count in stages.items()
    )
    assert sum(run) == wanted
    for k, cell in enumerate(supernet.cells):
        for block, leaving in zip(cell.sources, cell.leaving, strict=True):
            for name, chain in block.apart.items():
                for t, e in enumerate(leaving):
                    for weight in chain.parameters():
                        part = grads[weight].reshape(len(leaving), -1)[t]
                        assert active[k, e, names.index(name)] or not part.any()


@pytest.mark.parametrize("names", [DARTS.primitives, WITH_NONE], ids=["7", "with_none"])
def test_parts_say_which_edges_share_of_a_weight_is_executed(names):
    """What moves by a gradient step is what `parts` says, or all or nothing of what it leaves out."""
    supernet = build_supernet(DARTS, names, layers=4, channels=8, classes=3, partial=2).double()
    active = torch.rand(4, 14, len(names), generator=torch_stream(3, "test")) < 0.3
    active[:, :2, -1] = True  # a whole weight: of both inputs' edges to node 0
    ones = torch.ones(4, 14).double()
    loss = supernet(images(), MixingWeights(active.double(), ones, ones, active)).square().sum()
    weights = list(supernet.parameters())
    grads = dict(zip(weights, torch.autograd.grad(loss, weights, allow_unused=True), strict=True))
    parts = supernet.parts(active)
    seen = 0
    for k, cell in enumerate(supernet.cells):
        for block, leaving in zip(cell.sources, cell.leaving, strict=True):
            for name, chain in block.apart.items():
                executed = active[k, leaving, names.index(name)].tolist()
                for weight in chain.parameters():
                    if any(executed) and not all(executed):
                        assert parts[weight] == executed
                        moved = [bool(part.any()) for part in grads[weight].chunk(len(leaving))]
                        assert moved == executed
                        seen += 1
                    else:
                        assert weight not in parts and (grads[weight] is not None) == any(executed)
    assert seen == len(parts) > 20


def test_inactive_weights_get_no_gradient_even_where_they_are_not_zero():
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3).double()
    operations = torch.rand(3, 14, 7).double().requires_grad_()
    active = torch.rand(3, 14, 7, generator=torch_stream(0, "test")) < 0.5
    loss = supernet(images(), expand(operations, None, 3, active=active)).square().sum()
    (grad,) = torch.autograd.grad(loss, [operations])
    assert not grad[~active].any()
    assert (grad[active] != 0).float().mean() > 0.9


def test_one_hot_weights_make_it_the_single_operation():
    """With weight 1 on one operation per edge and 0 elsewhere, changing another operation's weights does nothing."""
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=2).double()
    operations = torch.zeros(3, 14, 7, dtype=torch.float64)
    operations[:, :, 3] = 1
    mixing = expand(operations, None, 3)
    before = supernet(images(), mixing)
    with torch.no_grad():
        for cell in supernet.cells:
            for block in cell.sources:
                block.apart["dil_conv_5x5"][1].weight.add_(1.0)
    assert torch.equal(before, supernet(images(), mixing))
    with torch.no_grad():
        supernet.cells[0].sources[0].apart["sep_conv_3x3"][1].weight.add_(1.0)
    assert not torch.equal(before, supernet(images(), mixing))


def test_bypass_weight_of_its_own():
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    plain = PlainSupernet(DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    copy_weights(supernet, plain)
    operations, edges = torch.rand(3, 14, 7).double(), torch.rand(3, 14).double()
    own, same = (MixingWeights(operations, edges, bypass) for bypass in (torch.ones(3, 14).double(), edges))
    assert relative(supernet(images(), own), plain(images(), own)) < 1e-9
    assert relative(supernet(images(), own), plain(images(), same)) > 1e-3


def test_skip_dropout_is_off_at_zero_and_keeps_the_mean():
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    mixing = expand(torch.full((3, 14, 7), 0.2).double(), None, 3)
    off = supernet(images(), mixing)
    zero = supernet(images(), mixing, Draws(0.0, 0, (0,)))
    assert relative(zero, off) < 1e-12
    first = supernet(images(), mixing, Draws(0.5, 0, (1,)))
    again = supernet(images(), mixing, Draws(0.5, 0, (1,)))
    other = supernet(images(), mixing, Draws(0.5, 0, (2,)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    mask = Draws(0.2, 0, (3,)).factors(torch.zeros(64, 16, 16, 4), 4)
    assert set(mask.unique().tolist()) == {0.0, 1.25}
    assert abs(mask.mean() - 1) < 0.01


def test_skip_dropout_touches_identities_only():
    """With no weight on the skip, dropping it changes nothing; a reduction's strided skip is not an identity."""
    supernet = build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, partial=4).double()
    operations = torch.rand(3, 14, 7).double()
    operations[:, :, 2] = 0
    mixing = expand(operations, None, 3)
    dropped = supernet(images(), mixing, Draws(0.5, 0, (1,)))
    assert relative(dropped, supernet(images(), mixing)) < 1e-12


@pytest.mark.parametrize(("channels", "partial"), [(6, 4), (4, 4), (8, 3), (0, 1), (3, 1), (8, 0)])
def test_widths_that_do_not_fit_are_refused(channels, partial):
    with pytest.raises(InputError, match="channels"):
        build_supernet(DARTS, DARTS.primitives, layers=3, channels=channels, classes=3, partial=partial)


def test_too_few_layers_are_refused():
    with pytest.raises(InputError, match="layers must be at least 3, got 2"):
        build_supernet(DARTS, DARTS.primitives, layers=2, channels=8, classes=3)


def test_weights_come_from_the_seed_and_leave_the_global_state_alone():
    state = torch.get_rng_state()
    one, same, other = (
        build_supernet(DARTS, DARTS.primitives, layers=3, channels=8, classes=3, seed=s).state_dict() for s in (0, 0, 1)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])

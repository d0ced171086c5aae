"""A cell on native kernels against the same cell's modules in float64: any operations, widths, sizes and drop-path."""

import copy

import pytest
import torch
import torch.nn.functional as F

from dnas.kernels import discrete, native
from dnas.kernels.memory import lease
from dnas.network.modules import construct
from dnas.network.network import NetworkLayer, build, drop_path
from dnas.rng import numpy_stream, torch_stream
from dnas.space.darts_cell import Cell
from dnas.space.darts_plan import cell_plan
from dnas.space.published import load_published
from dnas.training.updates import gradients_of

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler on this machine")

OPERATIONS = [
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3",
    "dil_conv_5x5", "none",
]  # fmt: skip


def random_gene(seed, nodes=4):
    """Up to three edges a node, from anywhere before it; some nodes are read, some are not in the output."""
    rng = numpy_stream(seed, "test")
    chosen = []
    for node in range(nodes):
        sources = rng.choice(node + 2, min(node + 2, int(rng.integers(1, 4))), replace=False)
        chosen.append(tuple((str(rng.choice(OPERATIONS)), int(s)) for s in sorted(sources)))
    concat = tuple(sorted({5, *(int(s) for s in 2 + rng.choice(nodes, int(rng.integers(1, nodes + 1))))}))
    return Cell(tuple(chosen), concat)


def cell_of(gene, before, previous, width, reduction=False, shrunk=False, seed=0):
    generator = torch_stream(seed, "init")
    cell = construct(lambda: NetworkLayer(cell_plan(gene, before, previous, width, reduction, shrunk)), generator)
    for norm in cell.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.uniform_(-1.5, 1.5, generator=generator)  # a negative scale turns a maximum around
            norm.bias.data.uniform_(-1, 1, generator=generator)
    return cell.double().train()


def inputs_of(before, previous, height, width, shrunk, batch=3):
    generator = torch_stream(0, "images")
    sizes = [(before, 2 * height - 1, 2 * width) if shrunk else (before, height, width), (previous, height, width)]
    return [torch.randn(batch, *s, generator=generator, dtype=torch.float64).requires_grad_() for s in sizes]


def results(cell, inputs, paths, native_kernels):
    """Output, gradients of inputs and parameters, and buffers."""
    cell = copy.deepcopy(cell)
    if not native_kernels:
        cell.program = None
    out = cell(*inputs, paths)
    weights = torch.randn(out.shape, generator=torch_stream(0, "grad"), dtype=torch.float64)
    return out, gradients_of((out * weights).sum(), [*inputs, *cell.parameters()]), cell.buffers()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("width", "reduction", "shrunk", "size"), [
    (2, False, False, (5, 7)), (16, True, False, (8, 6)), (10, False, True, (4, 4)), (1, False, False, (6, 3)),
    (18, True, True, (5, 4)),
])  # fmt: skip
def test_a_cell_equals_its_modules(monkeypatch, seed, width, reduction, shrunk, size):
    cell = cell_of(random_gene(seed), 6, 3, width, reduction, shrunk, seed)
    inputs = inputs_of(6, 3, *size, shrunk)
    paths = drop_path_factors(len(cell.ends)) if seed % 2 else None
    ran = []
    original = discrete.run
    monkeypatch.setattr(discrete, "run", lambda *a: ran.append(original(*a)) or ran[-1])
    got, expected = (results(cell, inputs, paths, native_kernels) for native_kernels in (True, False))
    assert len(ran) == 1 and ran[0] is not None
    close(got[0], expected[0])
    for part in (1, 2):
        for a, b in zip(got[part], expected[part], strict=True):
            close(a, b)


def drop_path_factors(edges, batch=3):
    return torch.bernoulli(torch.full((edges, batch), 0.7), generator=torch_stream(0, "drop-path")) / 0.7


@pytest.mark.parametrize("channels", [36, 50])
def test_other_widths_and_threads(monkeypatch, channels):
    """More threads than images, and sums that do not depend on which thread is first."""
    monkeypatch.setattr(native, "threads", lambda numbers: torch.get_num_threads())  # however small the work
    cell = cell_of(load_published("DARTS_V2").layers[0], 2 * channels, channels, channels)
    inputs = inputs_of(2 * channels, channels, 4, 3, False)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, again = (results(cell, inputs, None, True) for _ in range(2))
        torch.set_num_threads(5)
        many = results(cell, inputs, None, True)
    finally:
        torch.set_num_threads(threads)
    expected = results(cell, inputs, None, False)
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    for got in (first, many):
        for a, b in zip([got[0], *got[1]], [expected[0], *expected[1]], strict=True):
            close(a, b)


def network_pair(name="DARTS_V2", dtype=torch.float64):
    network = build(load_published(name, 5), 4, 3, auxiliary=True, seed=1).to(dtype).train()
    modules = copy.deepcopy(network)
    for cell in modules.cells:
        cell.program = None
    return network, modules


def loss_of(network, images, paths=None):
    logits, auxiliary = network(images, paths)
    labels = torch.arange(len(images)) % 3
    return F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)


@pytest.mark.parametrize("name", ["DARTS_V2", "PC_DARTS_cifar", "AmoebaNet-A", "NASNet-A"])
def test_a_network_equals_its_modules(name):
    """NASNet's 7×1 convolutions have no kernel: its cells run as modules beside cells that do not."""
    network, modules = network_pair(name)
    images = torch.randn(4, 3, 9, 9, generator=torch_stream(0, "images"), dtype=torch.float64)
    paths = drop_path(network, 4, 0.3, torch_stream(0, "drop-path"))
    losses = [loss_of(each, images, paths) for each in (network, modules)]
    close(*losses)
    grads = [gradients_of(v, list(each.parameters())) for v, each in zip(losses, (network, modules), strict=True)]
    for a, b in zip(*grads, strict=True):
        close(a, b)
    for a, b in zip(network.buffers(), modules.buffers(), strict=True):
        close(a, b)


def test_single_precision_agrees_in_the_loss():
    network, modules = network_pair(dtype=torch.float32)
    images = torch.randn(8, 3, 16, 16, generator=torch_stream(0, "images"))
    torch.testing.assert_close(loss_of(network, images), loss_of(modules, images), rtol=1e-5, atol=0)


def test_a_variance_survives_a_mean_a_thousand_times_as_large():
    """Once the running mean is near, from which distances are taken: E z² - (E z)² has no digit left in float32."""
    cell = cell_of(load_published("DARTS_V2").layers[0], 4, 4, 8)
    convolution, norm = cell.preprocess[0][1], cell.preprocess[0][2]
    inputs = [1000 + x.detach() for x in inputs_of(4, 4, 6, 6, False)]
    z = convolution(inputs[0])
    norm.momentum = 1.0
    single = cell.float()
    for _ in range(2):
        single(*(x.float() for x in inputs), None)
    torch.testing.assert_close(norm.running_mean.double(), z.mean((0, 2, 3)), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_var.double(), z.var((0, 2, 3)), rtol=2e-3, atol=0)


def test_a_value_that_is_not_a_number_is_not_lost():
    """Or the trainer would not see it: a ReLU by comparison alone would make a zero of it."""
    cell = cell_of(load_published("DARTS_V2").layers[0], 4, 4, 4)
    inputs = inputs_of(4, 4, 6, 6, False)
    cell.preprocess[0][2].running_mean.fill_(float("nan"))  # which training does not read
    assert cell(*inputs, None).isfinite().all()
    inputs[0].data[0, 0, 0, 0] = float("nan")
    assert cell(*inputs, None).isnan().any()
    inputs[0].data[0, 0, 0, 0] = float("inf")
    assert not cell(*inputs, None).isfinite().all()


def test_kernels_step_back_where_they_do_not_belong(monkeypatch):
    """Evaluation, no gradients, hooks inside, half precision: modules run."""
    cell = cell_of(load_published("DARTS_V2").layers[0], 4, 4, 4)
    inputs = inputs_of(4, 4, 6, 6, False)
    expected = results(cell, inputs, None, False)[0]
    monkeypatch.setattr(discrete, "_Call", None)  # whoever calls it fails
    with pytest.raises(TypeError):
        cell(*inputs, None)
    with torch.no_grad():
        close(copy.deepcopy(cell)(*inputs, None), expected)
    assert copy.deepcopy(cell).eval()(*inputs, None).isfinite().all()
    assert copy.deepcopy(cell).bfloat16()(*(x.bfloat16() for x in inputs), None).isfinite().all()
    seen = []
    cell.operations[0][1].register_forward_hook(lambda *a: seen.append(1))
    cell(*inputs, None)
    assert seen


def test_passes_do_not_disturb_each_other():
    """What a backward pass needs is its own forward pass's, however many came since, and is given up afterwards."""
    cell = cell_of(load_published("DARTS_V2").layers[0], 4, 4, 4)
    inputs = inputs_of(4, 4, 6, 6, False)
    wanted = list(cell.parameters())
    earlier, later = (cell(*inputs, None).square().sum() for _ in range(2))
    again = torch.autograd.grad(earlier, wanted, retain_graph=True)
    for loss in (later, earlier):
        for a, b in zip(torch.autograd.grad(loss, wanted), again, strict=True):
            close(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(earlier, wanted)


def test_leased_memory_goes_back_when_nothing_lies_on_it(monkeypatch):
    monkeypatch.setattr("dnas.kernels.memory.blocks", True)
    monkeypatch.setattr("dnas.kernels.memory._free", [])  # nor what other tests left
    shape = (3, 40_000)
    first = lease(shape, torch.float32)
    view, place = first[1], first.data_ptr()
    first.zero_()
    del first
    other = lease(shape, torch.float32)  # the view still lives
    assert other.data_ptr() != place and other.fill_(1).sum() == 120_000 and (view == 0).all()
    del view
    assert lease((2,), torch.float64).data_ptr() != place  # much too large for it
    assert lease((2, 50_000), torch.float32).data_ptr() == place

"""The discrete network: its paths, drop-path, the auxiliary head, sizes of images and its seed."""

import copy

import pytest
import torch

from dnas.errors import InputError
from dnas.network.modules import WholeConv2d, even_and_odd
from dnas.network.network import build, drop_path, macs, params
from dnas.rng import numpy_stream, torch_stream
from dnas.space import sampling
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.darts_plan import STEMS
from dnas.space.published import load_published, published


def images(count=2, size=8, inputs=3):
    return torch.randn(count, inputs, size, size, generator=torch_stream(0, "test"))


def sampled(layers=3, seed=0):
    return sampling.sample(DARTS, numpy_stream(seed, "test"), layers)


# One of each operation, strided and not, and two identities in the normal cell.
NORMAL = [
    ("skip_connect", 0), ("sep_conv_3x3", 1), ("max_pool_3x3", 0), ("skip_connect", 2),
    ("dil_conv_5x5", 1), ("avg_pool_3x3", 2), ("sep_conv_5x5", 3), ("dil_conv_3x3", 4),
]  # fmt: skip


def mixed(layers=5):
    return Architecture.from_darts(NORMAL, NORMAL, layers)


def reached(architecture, k, state):
    """Whether any edge of layer k reads a state."""
    return any(source == state for node in architecture.layers[k].nodes for _, source in node)


@pytest.mark.parametrize("name", ["DARTS_V2", "PC_DARTS_cifar", "P-DARTS", "FairDARTS_a", "NASNet-A"])
def test_every_parameter_has_a_gradient_that_is_not_zero(name):
    """Except where nothing reads it: DARTS builds the preprocessing of an input that no edge takes."""
    architecture = load_published(name, 4)
    network = build(architecture, 8, 3, auxiliary=True).train()
    logits, auxiliary = network(images(8, 16))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8) % 3)
    (loss + torch.nn.functional.cross_entropy(auxiliary, torch.arange(8) % 3)).backward()
    for key, p in network.named_parameters():
        parts = key.split(".")
        if parts[0] == "cells" and parts[2] == "preprocess" and not reached(architecture, int(parts[1]), int(parts[3])):
            continue
        assert p.grad is not None and p.grad.abs().max() > 0, key


# --- drop-path ------------------------------------------------------------------------------------------------


def test_drop_path_keeps_the_mean_and_draws_apart_for_edges_layers_and_images():
    network = build(mixed(6), 4, 3)
    factors = drop_path(network, 500, 0.25, torch_stream(0, "drop-path", 1))
    assert factors.shape == (6, 8, 500)
    assert {round(v, 5) for v in factors.unique().tolist()} == {0.0, 1.33333}
    assert abs(factors.mean() - 1) < 0.02
    for dim in range(3):
        assert (factors.float().std(dim) > 0).any()
    again = drop_path(network, 500, 0.25, torch_stream(0, "drop-path", 1))
    assert torch.equal(factors, again)
    assert not torch.equal(factors, drop_path(network, 500, 0.25, torch_stream(0, "drop-path", 2)))
    assert (drop_path(network, 4, 0.0, torch_stream(0, "drop-path", 1)) == 1).all()


def test_factors_of_one_are_no_drop_path():
    network = build(mixed(), 8, 3).eval()
    assert torch.equal(network(images()), network(images(), torch.ones(5, 8, 2)))


@pytest.mark.parametrize("reduction", [False, True])
def test_each_factor_scales_its_own_path_and_identities_are_never_dropped(reduction):
    """One at a time, on a cell whose edges reach the output once each: a node's inputs are the two cell inputs."""
    genes = [(op, i % 2) for i, (op, _) in enumerate(NORMAL)]
    genes = [genes[i : i + 2] if i % 4 else genes[i : i + 2][::-1] for i in range(0, 8, 2)]
    flat = [(op, s) for node in genes for (op, _), s in zip(node, (0, 1), strict=True)]
    architecture = Architecture.from_darts(flat, flat, 3)
    network = build(architecture, 8, 3).eval()
    cell = network.cells[1 if reduction else 0]
    before, previous = images(2, 8, 24), images(2, 8, 24 if not reduction else 32)
    states = [cell.preprocess[0](before), cell.preprocess[1](previous)]
    outputs = [op(states[e % 2]) for e, op in enumerate(cell.operations)]
    whole = cell(before, previous, None)
    ops = [op for node in architecture.layers[0].nodes for op, _ in node]
    assert ops.count("skip_connect") == 2
    width = outputs[0].shape[1]
    for e, op in enumerate(ops):
        paths = torch.ones(8, 2)
        paths[e] = torch.tensor([0.0, 3.0])
        change = cell(before, previous, paths) - whole
        node = e // 2
        others = torch.cat([change[:, : node * width], change[:, (node + 1) * width :]], 1)
        assert others.abs().max() == 0
        own = change[:, node * width : (node + 1) * width]
        if op == "skip_connect" and not reduction:
            assert own.abs().max() == 0
        else:
            expected = outputs[e] * torch.tensor([-1.0, 2.0])[:, None, None, None]
            assert expected.abs().max() > 0
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_with_all_paths_dropped_only_identities_remain():
    network = build(mixed(), 8, 3).eval()
    cell = network.cells[0]
    before, previous = images(2, 8, 24), images(2, 8, 24)
    out = cell(before, previous, torch.zeros(8, 2))
    nodes = out.split(8, 1)
    first = cell.preprocess[0](before)
    torch.testing.assert_close(nodes[0], first)  # skip from state 0
    torch.testing.assert_close(nodes[1], first)  # skip from node 0
    assert nodes[2].abs().max() == 0 and nodes[3].abs().max() == 0


# --- auxiliary head -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", STEMS)
def test_the_auxiliary_head_speaks_only_while_training(stem):
    size = {"cifar": 16, "halving": 24, "tiny-imagenet": 24, "imagenet": 56}[stem]
    network = build(mixed(), 8, 5, stem=stem, auxiliary=True)
    logits, auxiliary = network.train()(images(2, size))
    assert logits.shape == auxiliary.shape == (2, 5)
    assert network.eval()(images(2, size)).shape == (2, 5)
    plain = build(mixed(), 8, 5, stem=stem)
    assert plain.train()(images(2, size)).shape == (2, 5)
    head = sum(p.numel() for p in network.auxiliary.parameters())
    assert head > 0 and params(network) == params(plain) == sum(p.numel() for p in network.parameters()) - head


def test_the_auxiliary_head_reads_the_second_reduction():
    network = build(mixed(6), 8, 5, auxiliary=True).train()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for p in twin.cells[5].parameters():
            p.add_(1.0)
    assert torch.equal(network(images(4, 16))[1], twin(images(4, 16))[1])
    with torch.no_grad():
        for p in twin.cells[4].parameters():
            p.add_(torch.randn(p.shape, generator=torch_stream(0, "other")))
    assert not torch.equal(network(images(4, 16))[1], twin(images(4, 16))[1])


# --- images and seeds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 9, 13, 15, 28, 31])
@pytest.mark.parametrize("name", ["DARTS_V2", "AmoebaNet-A"])
def test_odd_sizes_and_grey_images_work(name, size):
    network = build(load_published(name, 3), 4, 3, inputs=1, auxiliary=True)
    logits, auxiliary = network.train()(images(2, size, 1))
    assert logits.shape == auxiliary.shape == (2, 3)
    assert logits.isfinite().all() and auxiliary.isfinite().all()
    assert macs(network, (1, size, size)) > 0 and network.training


def test_evaluation_treats_every_image_on_its_own():
    network = build(mixed(), 8, 3).eval()
    together = network(images(4, 9))
    alone = torch.cat([network(image[None]) for image in images(4, 9)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_weights_are_a_function_of_the_seed_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    one, again, other = (build(mixed(3), 4, 3, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    shifted = build(mixed(3), 4, 3, seed=0).state_dict()
    assert all(torch.equal(one[k], again[k]) and torch.equal(one[k], shifted[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_initial_weights_follow_torchs_own_law():
    """Uniform in ± 1 / √fan-in."""
    network = build(load_published("DARTS_V1", 4), 16, 100)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            assert module.weight.abs().max() <= bound
            if module.weight.numel() > 2000:
                assert module.weight.abs().max() > 0.99 * bound
                assert abs(module.weight.std() * 3**0.5 / bound - 1) < 0.05
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_every_layer_of_a_global_architecture_is_its_own():
    architecture = sampled(6)
    assert len(set(architecture.layers)) == 6
    network = build(architecture, 4, 3)
    for k, (cell, gene) in enumerate(zip(network.cells, architecture.layers, strict=True)):
        assert cell.ends == [(source, 2 + n) for n, node in enumerate(gene.nodes) for _, source in node]
        reduction = k in architecture.reductions
        identities = [op == "skip_connect" and not (reduction and s < 2) for node in gene.nodes for op, s in node]
        assert cell.droppable == [not identity for identity in identities]


def test_widths_double_and_sizes_halve_at_reductions():
    network = build(mixed(6), 4, 3).eval()
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(images(1, 16))
    assert shapes == [(16, 16, 16), (16, 16, 16), (32, 8, 8), (32, 8, 8), (64, 4, 4), (64, 4, 4)]


@pytest.mark.parametrize("options", [{"channels": 7}, {"channels": 0}, {"num_classes": 1}, {"stem": "mnist"}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(InputError, match=next(iter(options)).replace("num_", "")):
        build(mixed(3), **{"channels": 8, "num_classes": 3, **options})


def test_none_adds_nothing_in_a_published_network():
    """SNAS_aggressive and BANANAS keep `none`: their paths are zeros of the right size."""
    for name in ("SNAS_aggressive", "BANANAS"):
        assert "none" in str(published()[name])
        assert build(load_published(name, 3), 4, 3).eval()(images()).isfinite().all()


# --- layers that are written anew -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 2)])
def test_even_and_odd_pixels_with_their_gradients(size):
    x = torch.randn(2, 3, *size, generator=torch_stream(0, "test"), dtype=torch.float64).requires_grad_()
    even, odd = even_and_odd(x)
    padded = torch.nn.functional.pad(x, (0, size[1] % 2, 0, size[0] % 2))
    assert torch.equal(even, x[:, :, ::2, ::2]) and torch.equal(odd, padded[:, :, 1::2, 1::2])
    assert torch.autograd.gradcheck(even_and_odd, (x,))


@pytest.mark.parametrize("size", [(2, 2), (3, 2)])
def test_a_convolution_over_the_whole_picture_is_one(size):
    layer = WholeConv2d(3, 5, 2, bias=False).double()
    x = torch.randn(4, 3, *size, generator=torch_stream(0, "test"), dtype=torch.float64).requires_grad_()
    expected = torch.nn.functional.conv2d(x, layer.weight)
    weights = torch.randn(expected.shape, generator=torch_stream(0, "grad"), dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected)
    for a, b in zip(*(torch.autograd.grad(y, (x, layer.weight), weights) for y in (layer(x), expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_everything_in_the_network_has_channels_last():
    """Or half of it would run at half the speed; in the backward pass, too."""
    network = build(load_published("DARTS_V2", 6), 4, 3, auxiliary=True).to(memory_format=torch.channels_last).train()
    for cell in network.cells:
        cell.program = None  # modules, not kernels
    strays = []

    def look(name, t):
        if t.shape[2] > 1 and t.stride(1) != 1:
            strays.append(name)

    def watch(name):
        def hook(module, inputs, output):
            look(name, output)
            output.register_hook(lambda grad: look(f"gradient of {name}", grad))

        return hook

    for name, part in network.named_modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(watch(name))
    logits, auxiliary = network(images(4, 16).contiguous(memory_format=torch.channels_last))
    (logits.square().sum() + auxiliary.square().sum()).backward()
    assert strays == []


def test_the_norm_at_the_end_gives_the_classifier_features_of_mean_0_and_variance_1():
    """Whatever the scale of the last layer, and without parameters of its own."""
    plain, normed = (build(sampled(), 4, 10, final_norm=norm, seed=1) for norm in (False, True))
    assert params(plain) == params(normed)
    given = images(count=32, size=16)
    seen = []
    for network in (plain, normed):
        network.cells[-1].register_forward_hook(lambda module, arguments, out: 1000 * out + 500)
        network.classifier.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach()))
        network.train()(given)
    assert seen[0].abs().max() > 400  # without it, what the hook makes of a cell's output
    # The mean over the pixels of what has mean 0 and variance 1 over images and pixels.
    assert seen[1].mean(0).abs().max() < 1e-3 and (seen[1].var(0, unbiased=False) <= 1 + 1e-3).all()


def test_a_network_trains_under_autocast():
    """As on a GPU, where a training computes in bfloat16."""
    network = build(load_published("DARTS_V2", 6), 4, 3, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(torch.randn(2, 3, 16, 16)).square().mean()
    loss.backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and bool(g.isfinite().all()) for g in gradients)

"""Chains of blocks: their layers against plain modules, the supernet against its definition, limits by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faults.harness import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contract import METHODS, table
from test_cost import held
from torch import nn

from dnas.errors import InputError
from dnas.kernels.draws import Draws
from dnas.methods.registry import create
from dnas.network import modules
from dnas.network.network import build, drop_path, macs, params
from dnas.pipeline.model import load_trained
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.blocks import BLOCKS, SKIP
from dnas.space.chain import (
    FBNET,
    MOBILE,
    MOBILE_SE,
    MOBILE_V3,
    MOBILE_V3_LARGE,
    RESNET,
    RESNET_D,
    SHUFFLE,
    SPOS,
    Block,
)
from dnas.space.controls import random_of_size
from dnas.space.cost import memory
from dnas.space.darts import S1
from dnas.space.limits import Delivered, Feasible
from dnas.space.network_plan import Shape, size
from dnas.space.plan import plan
from dnas.space.published import candidates
from dnas.space.sampling import sample
from dnas.supernet.build import build_supernet
from dnas.supernet.mapping import MAPPINGS
from dnas.supernet.relaxation import MixingWeights, path
from dnas.testing.spaces import check_space_searched

SPACES = (MOBILE, MOBILE_SE, MOBILE_V3, MOBILE_V3_LARGE, FBNET, RESNET, RESNET_D, SHUFFLE, SPOS)
# In spaces with other kinds of the same block, a method of each kind of search.
SEARCHES = [
    *((space, name) for space in (MOBILE, RESNET_D, SHUFFLE) for name in METHODS),
    *(
        (space, name)
        for space in (MOBILE_SE, MOBILE_V3, MOBILE_V3_LARGE, FBNET)
        for name in ("dnas", "pc-darts", "spos", "evolution")
    ),
]
by_space = pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)


def chain(space, *blocks):
    """An architecture of blocks (kind, kernel), with reductions where DARTS has them."""
    layers = len(blocks)
    chosen = tuple(Block(kind, space.kernels.index(kernel)) for kind, kernel in blocks)
    return Architecture(chosen, (layers // 3, 2 * layers // 3), space.name)


class Inverted(nn.Module):
    """The inverted residual of MobileNetV2, written as in its paper (table 1)."""

    def __init__(self, inputs, outputs, kernel, stride, expansion):
        super().__init__()
        inner = inputs * expansion
        self.expand = None if expansion == 1 else nn.Conv2d(inputs, inner, 1, bias=False)
        self.expand_norm = None if expansion == 1 else nn.BatchNorm2d(inner)
        self.deep = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.deep_norm = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, outputs, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = x
        if self.expand is not None:
            y = F.relu6(self.expand_norm(self.expand(y)))
        y = F.relu6(self.deep_norm(self.deep(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


@pytest.mark.parametrize("expansion", [1, 3, 6])
@pytest.mark.parametrize("kernel", MOBILE.kernels)
@pytest.mark.parametrize("training", [True, False])
def test_a_mobile_layer_is_an_inverted_residual(expansion, kernel, training):
    """In layer 0, with a residual, and in layer 1, which halves the resolution."""
    network = build(chain(MOBILE, *[(f"mbconv{expansion}", kernel)] * 3), 8, 5).double().train(training)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.constant_(norm.weight, 20.0)  # so that activations exceed 6
    for layer, (outputs, stride) in zip(network.cells, ((8, 1), (16, 2)), strict=False):
        plain = Inverted(8, outputs, kernel, stride, expansion).double().train(training)
        assert len(plain.state_dict()) == len(layer.state_dict())
        plain.load_state_dict(dict(zip(plain.state_dict(), layer.state_dict().values(), strict=True)))
        torch.testing.assert_close(layer(x, x, None), plain(x), rtol=0, atol=1e-12)


def test_a_mobile_layer_is_that_of_torchvision():
    mobilenet = pytest.importorskip("torchvision.models.mobilenetv2", reason="needs the extra dnas[networks]")
    network = build(chain(MOBILE, *[("mbconv6", 3)] * 3), 8, 5).double().eval()
    x = torch.randn(2, 8, 8, 8, dtype=torch.float64)
    for layer, (outputs, stride) in zip(network.cells, ((8, 1), (16, 2)), strict=False):
        theirs = mobilenet.InvertedResidual(8, outputs, stride, 6).double().eval()
        theirs.load_state_dict(dict(zip(theirs.state_dict(), layer.state_dict().values(), strict=True)))
        torch.testing.assert_close(layer(x, x, None), theirs(x), rtol=0, atol=1e-9)


def test_a_basic_block_is_two_convolutions_around_a_shortcut():
    network = build(chain(RESNET, *[("basic", 3)] * 3), 4, 5).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    for layer in itertools.islice(network.cells, 2):
        (_, one, norm, _, two, last), shortcut = layer.operations
        expected = last(two(F.relu(norm(one(F.relu(x)))))) + shortcut(x)
        torch.testing.assert_close(layer(x, x, None), expected, rtol=0, atol=1e-12)
    assert isinstance(network.cells[0].operations[1][0], nn.Identity) and network.cells[1].operations[1][0].stride == (
        2,
        2,
    )


def test_the_shortcut_of_resnet_d_averages_before_it_skips_pixels():
    network = build(chain(RESNET_D, *[("basic_d", 3)] * 3), 4, 5).double().eval()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    inside = torch.ones(1, 1, 3, 3, dtype=torch.float64)
    kept, halved = (layer.operations[1] for layer in itertools.islice(network.cells, 2))
    assert torch.equal(kept(x), x)
    count = F.conv2d(torch.ones(1, 1, 7, 7, dtype=torch.float64), inside, padding=1)
    means = F.conv2d(x, inside.expand(4, 1, 3, 3), padding=1, groups=4) / count
    _, mix, norm = halved
    expected = norm(torch.einsum("oi,biyx->boyx", mix.weight[:, :, 0, 0], means[:, :, ::2, ::2]))
    torch.testing.assert_close(halved(x), expected, rtol=0, atol=1e-12)
    wider = BLOCKS["basic_d"].around(4, 8, 1)
    assert wider == BLOCKS["basic"].around(4, 8, 1) and BLOCKS["basic_d"].chain(4, 8, 3, 2) == BLOCKS["basic"].chain(
        4, 8, 3, 2
    )


def test_the_size_of_a_chain_by_hand():
    """Stem 3 → 8; layer 0 skips; layer 1 (6×, 5×5) 8 → 16; layer 2 (1×, 3×3) 16 → 32; head 32 → 128; 10 classes."""
    planned = size(plan(chain(MOBILE, (SKIP, 3), ("mbconv6", 5), ("mbconv1", 3)), channels=8, classes=10), 8)
    stem = 27 * 8 + 16
    first = 8 * 48 + 96 + 25 * 48 + 96 + 48 * 16 + 32
    second = 9 * 16 + 32 + 16 * 32 + 64
    head = 32 * 128 + 256 + 129 * 10
    assert planned.params == stem + first + second + head
    at_8, at_4, at_2 = 64, 16, 4
    convolutions = 27 * 8 * at_8 + 8 * 48 * at_8 + (25 * 48 + 48 * 16) * at_4 + (9 * 16 + 16 * 32) * at_2
    assert planned.macs == convolutions + 32 * 128 * at_2 + 128 * 10


@by_space
@given(seed=st.integers(0, 1000), stem=st.sampled_from(("cifar", "halving", "tiny-imagenet", "imagenet")))
@settings(max_examples=10, deadline=None)
def test_a_network_has_the_planned_size_and_learns(space, seed, stem):
    architecture = sample(space, np.random.default_rng(seed), 3 + seed % 4)
    network = build(architecture, 8, 3, stem=stem, final_norm=bool(seed % 2), auxiliary=True)
    planned = size(plan(architecture, channels=8, classes=3, stem=stem), 32)
    assert sum(p.numel() for p in network.parameters()) == planned.params_with_auxiliary
    assert macs(network, (3, 32, 32)) == planned.macs
    logits, auxiliary = network(torch.randn(4, 3, 32, 32), drop_path(network, 4, 0.3, torch.Generator().manual_seed(0)))
    (logits.sum() + auxiliary.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_drop_path_leaves_out_blocks_with_a_shortcut_alone():
    """Without one, nothing would reach the output."""
    network = build(chain(MOBILE, *[("mbconv3", 3)] * 3), 8, 3).eval()
    first, second, _ = network.cells
    x, paths = torch.randn(2, 8, 8, 8), torch.zeros(2, 2)
    assert torch.equal(first(x, x, paths), x)
    assert torch.equal(second(x, x, paths), second(x, x, None)) and second(x, x, None).abs().max() > 0


class Nothing(nn.BatchNorm2d):
    """In an exported network, batch norms are part of the convolutions."""

    def forward(self, input):
        return input


@by_space
@pytest.mark.parametrize("seed", range(3))
def test_memory_is_what_torch_holds(space, seed, monkeypatch):
    # In an exported file, the halves of a tensor are copies; in torch, they are views that keep the whole.
    monkeypatch.setattr(modules, "halves", lambda x, groups: [half.clone() for half in x.chunk(2, 1)])
    architecture = sample(space, np.random.default_rng(seed), 4)
    layout = plan(architecture, channels=8, classes=10, stem="cifar")
    network = build(architecture, 8, 10, stem="cifar").eval()
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, Nothing(child.num_features))
    counted = memory(layout, 32, 1)
    assert counted.step.startswith("layer")  # while the image is held, torch holds it, too
    network.stem[0] = nn.Conv2d(1, 8, 3, padding=1, bias=False)
    assert held(network, torch.zeros(1, 1, 32, 32)) == pytest.approx(counted.bytes("float32"), rel=0.1)


# --- supernet -----------------------------------------------------------------------------------------------


@by_space
@pytest.mark.parametrize("partial", [1, 2])
def test_a_layer_of_the_supernet_is_its_definition(space, partial):
    """Σ psi B(x) over all blocks, of the first 1/K of the channels; the others bypass them, and all are shuffled."""
    supernet = build_supernet(space, space.primitives, layers=3, channels=8, classes=3, partial=partial).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64, generator=generator)
    psi = torch.rand(len(space.edges), len(space.primitives), dtype=torch.float64, generator=generator)
    bypass = torch.rand(len(space.edges), dtype=torch.float64, generator=generator)
    for layer, reduces in zip(supernet.layers, (False, True), strict=False):
        active, outputs = 8 // partial, (16 if reduces else 8) // partial
        part, total = x[:, :active], 0.0
        for e in range(len(space.edges)):
            for o, name in enumerate(space.primitives):
                if name not in space.choices(reduces, e):
                    continue
                if name == SKIP:
                    y = part
                else:
                    key = f"{name}_{space.kernels[e]}"
                    passes = (
                        part if not reduces and space not in (SHUFFLE, SPOS) else 0.0
                    )  # shuffled blocks do this within
                    y = layer.blocks[key](part) + (layer.shortcuts[key](part) if key in layer.shortcuts else passes)
                total = total + psi[e, o] * y
        closed = psi.clone()
        for e in range(len(space.edges)):
            for o, name in enumerate(space.primitives):
                closed[e, o] *= name in space.choices(reduces, e)
        assert total.shape[1] == outputs
        if partial > 1:
            rest = x[:, active:]
            rest = F.max_pool2d(rest, 2).repeat(1, 2, 1, 1) if reduces else rest
            joined = torch.cat([total, bypass.sum() * rest], 1)
            total = joined.unflatten(1, (partial, -1)).transpose(1, 2).flatten(1, 2)
        torch.testing.assert_close(layer(x, closed, bypass), total, rtol=0, atol=1e-10)


@by_space
def test_one_path_executes_its_blocks_alone(space):
    architecture = sample(space, np.random.default_rng(1), 4)
    supernet = build_supernet(space, space.primitives, layers=4, channels=8, classes=3, partial=1)
    x = torch.randn(4, 3, 8, 8)
    weights = path(architecture, space.primitives, space)
    sparse = supernet(x, weights)
    torch.testing.assert_close(sparse, supernet(x, MixingWeights(weights.operations, weights.edges, weights.bypass)))
    sparse.sum().backward()
    moved = {(each.layer, each.edges[0], each.operation) for each in supernet.owned() if each.weight.grad is not None}
    kept = {(k, e, o) for k, e, o in weights.active.nonzero().tolist() if space.primitives[o] != SKIP}
    assert moved == kept and not supernet.parts(weights.active)


def test_the_dropout_of_skips_is_unbiased_and_a_function_of_its_counters():
    supernet = build_supernet(RESNET, RESNET.primitives, layers=3, channels=8, classes=3, partial=1)
    layer, x = supernet.layers[0], torch.ones(4, 8, 8, 8)
    psi = torch.zeros(2, 3)
    psi[0, RESNET.primitives.index(SKIP)] = 1.0
    executed = psi > 0
    dropped = layer(x, psi, torch.ones(2), Draws(0.5, 0, (3,)), executed)
    assert set(dropped.unique().tolist()) == {0.0, 2.0} and dropped.mean() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(dropped, layer(x, psi, torch.ones(2), Draws(0.5, 0, (3,)), executed))
    assert not torch.equal(dropped, layer(x, psi, torch.ones(2), Draws(0.5, 0, (4,)), executed))


def test_mappings_factor_kernels_and_kinds():
    """Three kernels and four kinds, six layers: K·T + L·K + L·T under decoupled."""
    counts = {name: kind(6, 3, 4).count() for name, kind in MAPPINGS.items()}
    assert counts == {"shared": 2 * 12 + 2 * 3, "full": 6 * 12 + 6 * 3, "decoupled": 12 + 6 * 3 + 6 * 4}
    assert (len(MOBILE.edges), len(MOBILE.primitives)) == (3, 4)


# --- searches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("space", "name"), SEARCHES, ids=lambda each: each if isinstance(each, str) else each.name)
def test_every_method_searches_chains(space, name):
    """Under each of its mappings; and resumes bit for bit."""
    check_space_searched(space, name, table(name, "SMALL"))


def test_a_method_with_one_cell_for_all_layers_is_refused_where_they_have_nothing_in_common():
    with pytest.raises(InputError, match="--method pnas has one cell for both kinds of layers.* in the s1 space"):
        create("pnas", None, {}, S1)


@pytest.mark.parametrize("name", ["dnas", "fair-darts"])
def test_a_threshold_is_refused_where_it_cannot_act(name):
    with pytest.raises(InputError, match="derivation=threshold does not apply to --space mobile"):
        create(name, None, {"derivation": "threshold"}, MOBILE)
    create(name, None, {"derivation": "threshold"}, S1)


@pytest.mark.parametrize("mapping", ["shared", "full"])
def test_a_controller_chooses_among_the_operations_of_an_edge(mapping):
    method = create("nasnet", mapping, {}, S1)
    for candidate in method.propose([], 4, 0):
        assert candidate.architecture.in_space and candidate.architecture.space == "s1"


def test_a_whole_run_in_a_space_of_chains(tmp_path):
    """Search, finals, training and baseline within a limit."""
    run = tmp_path / "run"
    given = ("--layers", 4, "--epochs", 1, "--batch-size", 64, "-o", "search.images=128", "-o", "search.epochs=1")
    outcome = invoke("run", "--space", "mobile", "--finals", 2, "--max-params", "20k", "--out", run, *given)
    assert outcome.code == 0, outcome.err
    assert Architecture.load(run / "architecture.json").space == "mobile"
    trained = load_trained(run / "model.safetensors")
    assert params(trained.network) <= 20_000
    refused = invoke("run", "--space", "mobile", "--max-latency", "5ms", "--out", tmp_path / "other")
    assert (
        refused.code == 2
        and "--max-latency only applies to darts, s1, s2, s3, s4, not to --space mobile" in refused.err
    )


def test_known_networks_have_one_block_per_resolution_or_one_per_layer():
    block, skip = Block("basic", 0), Block(SKIP, 0)
    few, every = candidates(RESNET, 6)
    assert few == ("ResNet of 3 blocks", Architecture((block, skip, block, skip, block, skip), (2, 4), "resnet"))
    assert every == ("ResNet of 6 blocks", Architecture((block,) * 6, (2, 4), "resnet"))
    assert [name for name, _ in candidates(MOBILE, 3)] == ["MobileNetV2 of 3 blocks"]


@pytest.mark.parametrize("seed", range(3))
def test_the_random_network_of_the_size_of_a_stacked_one_is_another(seed):
    """No other pair of blocks has the size of this ResNet."""
    like = chain(RESNET, *[("basic", 3)] * 6)
    count = lambda architecture: size(plan(architecture, channels=8, classes=10), 32).params
    other = random_of_size(like, count, seed)
    assert other.layers != like.layers and abs(count(other) / count(like) - 1) <= 0.05
    assert layer_pair(other) is None


# --- limits and files -----------------------------------------------------------------------------------------


@by_space
@given(
    seed=st.integers(0, 10_000),
    names=st.sets(st.sampled_from(("params", "macs", "size", "ram")), min_size=1, max_size=3),
    quantile=st.floats(0.0, 0.9),
)
@settings(max_examples=8, deadline=None)
def test_the_best_chain_within_limits_is_that_of_brute_force(space, seed, names, quantile):
    """All chains of three layers."""
    shape = Shape(channels=4, classes=3, image_size=16, image_channels=1, stem="cifar")
    found = Delivered(space, 3, False, shape, ("a", "b", "c"), "int8")
    blocks = [[Block(name, e) for e in range(len(space.edges)) for name in space.choices(kind, e)] for kind in (0, 1)]
    rng = np.random.default_rng(seed)
    every = [Architecture(each, (1, 2), space.name) for each in itertools.product(blocks[0], blocks[1], blocks[1])]
    few = [every[i] for i in rng.permutation(len(every))[:60].tolist()]
    costs = {each: found.costs(each, names) for each in few}
    limits = {name: int(np.quantile([row[name] for row in costs.values()], quantile)) for name in names}
    scores = rng.random((3, len(space.edges), len(space.primitives)))
    feasible = Feasible(found, limits)
    best = feasible.best(scores, space.primitives)
    inside = [each for each, row in costs.items() if all(row[name] <= most for name, most in limits.items())]
    assert [each for each in few if feasible.allows(each)] == inside

    def worth(architecture):
        places = ((block.place, space.primitives.index(block.kind)) for block in architecture.layers)
        return sum(scores[k, e, o] for k, (e, o) in enumerate(places))

    if best is None:
        assert not inside
        return
    assert not feasible.excess(best)
    # Whatever has a higher sum exceeds a limit.
    better = [each for each in every if worth(each) > worth(best) + 1e-9]
    assert all(feasible.excess(each) for each in better)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"block": "mbconv6"}, 'layer 1 must be an object {"block": …, "kernel": …}'),
        ({"block": "mbconv6", "kernel": 4}, "layer 1: block must be a text and kernel one of 3, 5, 7"),
        ({"block": "mbconv6", "kernel": True}, "layer 1: block must be a text and kernel one of 3, 5, 7"),
        ({"block": "mbconv2", "kernel": 3}, "layer 1, unknown block 'mbconv2'; choose from mbconv1"),
        ({"block": "basic", "kernel": 3}, "layer 1, node 0, slot 0: operation 'basic' is not in the 'mobile' space"),
        ({"block": SKIP, "kernel": 3}, "layer 1, node 0, slot 0: input 0 of a reduction must use mbconv1 or"),
        ({"nodes": [[["mbconv6", 0]]]}, "layer 1 must be an object"),
    ],
)
def test_what_is_no_chain_is_refused(layer, message):
    value = chain(MOBILE, *[("mbconv6", 3)] * 3).to_json()
    assert Architecture.from_json(value).layers[1] == Block("mbconv6", 0)
    value["layers"][1] = layer
    with pytest.raises(InputError) as raised:
        Architecture.from_json(value)
    assert message in str(raised.value)

"""Published chains with their own widths: their sizes, and their outputs against a plain network, torchvision and timm."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faults.harness import invoke
from torch import nn

from dnas.api.building import build as build_by_name
from dnas.drawing.svg import svg
from dnas.errors import InputError
from dnas.network.network import build, macs, params
from dnas.pipeline.model import load_trained
from dnas.space.architecture import Architecture, at_depth
from dnas.space.blocks import BLOCKS, SKIP
from dnas.space.chain import RESNET, Block
from dnas.space.controls import random_of_size, shuffled
from dnas.space.cost import memory
from dnas.space.layout import Layout
from dnas.space.network_plan import Size, size
from dnas.space.plan import plan
from dnas.space.published import PUBLISHED, load_published, networks
from dnas.space.sampling import sample

NAMES = list(networks())
# Parameters and multiply-accumulates for 1000 classes at 224 pixels. Parameters: torchvision's documentation for
# MobileNetV2 and MnasNet-B1 (mnasnet1_0), timm's for MnasNet-A1 (semnasnet_100), FBNet-C (fbnetc_100) and
# Single-Path NAS (spnasnet_100), pytorchcv's for ProxylessNAS. Multiply-accumulates: torch's counter on those of
# torchvision and timm; for ProxylessNAS by ours, of which the papers of later networks print 465M (GPU) and 320M.
SIZES = {
    "MobileNetV2": (3_504_872, 300_774_272),
    "ProxylessNAS-GPU": (7_119_848, 465_260_160),
    "ProxylessNAS-CPU": (4_361_648, 439_243_864),
    "ProxylessNAS-Mobile": (4_080_512, 320_427_584),
    "ProxylessNAS-Mobile-1.4": (6_857_568, 580_883_408),
    "MnasNet-B1": (4_383_312, 314_415_872),
    "MnasNet-A1": (3_887_038, 311_579_072),
    "FBNet-C": (5_572_200, 384_960_160),
    "Single-Path-NAS": (4_421_616, 333_467_072),
    "MobileNetV3-Large": (5_483_032, 216_589_760),
    "SPOS": (3_559_464, 322_918_720),
}
# The same networks in other packages.
OTHERS = {
    "torchvision": {
        "MobileNetV2": "mobilenet_v2",
        "MnasNet-B1": "mnasnet1_0",
        "MobileNetV3-Large": "mobilenet_v3_large",
    },
    "timm": {
        "MobileNetV2": "mobilenetv2_100",
        "MnasNet-B1": "mnasnet_100",
        "MnasNet-A1": "semnasnet_100",
        "FBNet-C": "fbnetc_100",
        "Single-Path-NAS": "spnasnet_100",
    },
}


def planned(architecture: Architecture, channels: int = 0) -> Size:
    assert architecture.layout is not None
    return size(plan(architecture, channels=channels or architecture.layout.stem, classes=1000, stem="halving"), 224)


def moved(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64 with statistics and weights of norms that are not those of a new one."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.uniform_(-0.3, 0.3, generator=generator)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 2.0, generator=generator)
            module.eps = 1e-5
    return network.double().eval()


def agree(ours: nn.Module, theirs: nn.Module, side: int = 40) -> None:
    """Both networks have the same logits once theirs has our weights, which are listed in the same order."""
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = list(moved(ours).state_dict().values())
    theirs = moved(theirs, 1)
    with torch.no_grad():
        for value, there in zip(values, theirs.state_dict().values(), strict=True):
            assert value.numel() == there.numel()
            there.copy_(value.view(there.shape))
        one, other = ours(images), theirs(images)
    assert one.abs().max() > 1e-2
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# --- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_a_published_network(name: str) -> None:
    entry, counted = networks()[name], planned(load_published(name))
    assert (counted.params, counted.macs) == SIZES[name] == (entry["params"], entry["macs"])


def test_printed_digits() -> None:
    """MobileNetV2: the documentation of torchvision has 0.301 billion; MnasNet-A1: its authors print 3.9M and 312M."""
    one, two = (planned(load_published(name)) for name in ("MobileNetV2", "MnasNet-A1"))
    assert f"{one.macs / 1e9:.3f}" == "0.301"
    assert f"{planned(load_published('SPOS')).macs / 1e6:.0f}" == "323"  # the authors' repository
    assert (f"{two.params / 1e6:.1f}", f"{two.macs / 1e6:.0f}") == ("3.9", "312")


@pytest.mark.parametrize("name", ["MobileNetV2", "MnasNet-A1", "FBNet-C", "MobileNetV3-Large", "SPOS"])
def test_a_built_network_has_the_planned_size(name: str) -> None:
    network = build_by_name(name, num_classes=1000)
    assert (params(network), macs(network, (3, 224, 224))) == SIZES[name]


def test_channels_multiply_all_widths() -> None:
    """MobileNetV2 ×0.5 has the size of timm's mobilenetv2_050; the widths of 44 channels are rounded by hand."""
    architecture = load_published("MobileNetV2")
    half = planned(architecture, 16)
    assert (half.params, half.macs) == (1_968_680, 97_131_840)
    layout = architecture.layout
    assert layout is not None and layout.at(32) is layout
    assert layout.at(44).widths[:4] == (24, 32, 32, 48)  # 22, 33, 33, 44
    assert layout.at(44).last == 1760 and layout.at(16).last == 1280


# --- outputs --------------------------------------------------------------------------------------------------


class Gates(nn.Module):
    """Squeeze-and-excitation as in its paper (equations 2 to 4), with linear layers written as 1×1 convolutions."""

    def __init__(self, channels: int, hidden: int, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(2).mean(2)
        s = torch.relu(z @ self.down.weight.flatten(1).T + self.down.bias)
        y = (s @ self.up.weight.flatten(1).T + self.up.bias)[:, :, None, None]
        return x * ((y + 3).clamp(0, 6) / 6 if self.hard else 1 / (1 + torch.exp(-y)))


class Plain(nn.Module):
    """A network of inverted residuals, layer by layer, from the table of its stages."""

    def __init__(self, entry: dict, classes: int) -> None:
        super().__init__()
        self.act = torch.relu if entry["activation"] == "relu" else F.hardswish if "hidden" in entry else F.relu6
        width = entry["stem"]
        self.stem, self.stem_norm = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.ModuleList()
        for kind, kernel, stride, outputs, repeats in entry["stages"]:
            for step in range(repeats):
                if kind != SKIP:
                    self.blocks.append(PlainBlock(kind, kernel, stride if step == 0 else 1, width, outputs, self.act))
                width = outputs
        self.last, self.last_norm = nn.Conv2d(width, entry["last"], 1, bias=False), nn.BatchNorm2d(entry["last"])
        self.hidden = nn.Linear(entry["last"], entry["hidden"]) if "hidden" in entry else None
        self.classifier = nn.Linear(entry.get("hidden", entry["last"]), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        x = self.act(self.last_norm(self.last(x))).mean((2, 3))
        logits: torch.Tensor = self.classifier(x if self.hidden is None else self.act(self.hidden(x)))
        return logits


class PlainBlock(nn.Module):
    def __init__(self, kind, kernel, stride, inputs, outputs, act) -> None:
        super().__init__()
        expansion = float(re.match(r"[mf]bconv([0-9]_?[0-9]?)", kind)[1].strip("_").replace("_", "."))
        self.act = {"hs": F.hardswish, "re": torch.relu}.get(kind[-2:], act)
        inner = round(expansion * inputs)
        if expansion > 1 or kind == "fbconv1":
            self.wide, self.wide_norm = nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.deep = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)
        self.deep_norm = nn.BatchNorm2d(inner)
        if kind.endswith("_se"):
            self.gates = Gates(inner, inputs // 4)
        elif "_se_" in kind:
            self.gates = Gates(inner, {72: 24, 120: 32}.get(inner, inner // 4), hard=True)
        self.narrow, self.narrow_norm = nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.act(self.wide_norm(self.wide(x))) if hasattr(self, "wide") else x
        y = self.act(self.deep_norm(self.deep(y)))
        y = self.narrow_norm(self.narrow(self.gates(y) if hasattr(self, "gates") else y))
        return x + y if self.residual else y


@pytest.mark.parametrize("name", [name for name in NAMES if networks()[name]["space"] != "spos"])
def test_a_published_network_is_the_plain_one(name: str) -> None:
    agree(build_by_name(name, num_classes=7), Plain(dict(networks()[name]), 7))


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in OTHERS.items() for name in names], ids=str
)
def test_a_published_network_is_that_of_another_package(package: str, name: str) -> None:
    """Theirs have a dropout before the classifier, which does nothing here, and some another eps in their norms."""
    models = pytest.importorskip(package, reason="needs torchvision or timm", exc_type=ImportError)
    other = OTHERS[package][name]
    theirs = getattr(models.models, other)() if package == "torchvision" else models.create_model(other)
    assert (
        sum(p.numel() for p in theirs.parameters()) == SIZES[name][0] and macs(theirs, (3, 224, 224)) == SIZES[name][1]
    )
    agree(build_by_name(name, num_classes=1000), theirs, 64)


@pytest.mark.parametrize("kind", ["mbconv3_hs", "mbconv6_hs", "mbconv3_se_hs", "mbconv6_se_hs"])
def test_a_block_with_h_swish_is_that_of_mobilenetv3(kind: str) -> None:
    from dnas.network.modules import build_chain

    theirs = pytest.importorskip("torchvision.models.mobilenetv3", reason="needs torchvision", exc_type=ImportError)
    generator = torch.Generator().manual_seed(0)
    for inputs, outputs, kernel, stride in ((24, 24, 3, 1), (40, 80, 5, 2)):
        settings = theirs.InvertedResidualConfig(
            inputs, kernel, int(kind[6]) * inputs, outputs, "_se" in kind, "HS", stride, 1, 1.0
        )
        other = moved(theirs.InvertedResidual(settings, nn.BatchNorm2d))
        ours = build_chain(BLOCKS[kind].chain(inputs, outputs, kernel, stride)).double().eval()
        ours.load_state_dict(dict(zip(ours.state_dict(), other.state_dict().values(), strict=True)))
        x = 4 * torch.randn(2, inputs, 9, 9, dtype=torch.float64, generator=generator)
        y = ours(x) + (x if stride == 1 else 0)
        torch.testing.assert_close(y, other(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("hard", "groups"), [(False, 1), (True, 1), (True, 3)])
def test_gates_by_hand(hard: bool, groups: int) -> None:
    """Copies side by side do not see each other."""
    from dnas.network.modules import DISCRETE, build_layer
    from dnas.space.primitives import SqueezeExcite

    layer = SqueezeExcite(4, 2, hard)
    module = build_layer(layer, DISCRETE, groups).double()
    assert sum(p.numel() for p in module.parameters()) == groups * layer.params() == groups * (2 * 4 * 2 + 4 + 2)
    x = torch.randn(2, groups * 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = module(x)
    down, up = module.reduce, module.expand
    for g in range(groups):
        part = x[:, 4 * g : 4 * g + 4]
        z = part.sum((2, 3)) / 15
        hidden = (z @ down.weight[2 * g : 2 * g + 2, :, 0, 0].T + down.bias[2 * g : 2 * g + 2]).clamp(min=0)
        gate = hidden @ up.weight[4 * g : 4 * g + 4, :, 0, 0].T + up.bias[4 * g : 4 * g + 4]
        gate = ((gate + 3).clamp(0, 6) / 6) if hard else 1 / (1 + torch.exp(-gate))
        torch.testing.assert_close(y[:, 4 * g : 4 * g + 4], part * gate[:, :, None, None], rtol=0, atol=1e-12)


# --- layouts --------------------------------------------------------------------------------------------------


def small(**changes: object) -> dict:
    """An architecture file with a layout."""
    layout = {"stem": 8, "widths": [8, 16, 24], "last": 40, "activation": "relu", **changes}
    layers = [{"block": SKIP, "kernel": 3}, {"block": "mbconv3", "kernel": 5}, {"block": "mbconv6", "kernel": 3}]
    value = {"format": "dnas-architecture/1", "space": "mobile", "reductions": [1], "layers": layers}
    return {**value, "layout": {key: each for key, each in layout.items() if each is not None}, "origin": {}}


def test_a_layout_by_hand() -> None:
    """Stem 3 → 8; skip; 8 → 16 (3×, 5×5, stride 2); 16 → 24 (6×, 3×3); 24 → 40; 5 classes; at 16 pixels."""
    counted = size(plan(Architecture.from_json(small()), channels=8, classes=5, stem="halving"), 16)
    first = 8 * 24 + 48 + 25 * 24 + 48 + 24 * 16 + 32
    second = 16 * 96 + 192 + 9 * 96 + 192 + 96 * 24 + 48
    assert counted.params == 27 * 8 + 16 + first + second + 24 * 40 + 80 + 41 * 5
    at_8, at_4 = 64, 16
    deep = (25 * 24 + 24 * 16 + 16 * 96 + 9 * 96 + 96 * 24 + 24 * 40) * at_4
    assert counted.macs == (27 * 8 + 8 * 24) * at_8 + deep + 40 * 5
    chain = plan(Architecture.from_json(small()), channels=8, classes=5).layers[2].edges[0].chain
    assert "ReLU6()" not in map(str, chain) and "ReLU()" in map(str, chain)


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_survives_its_file(name: str, tmp_path) -> None:
    architecture = load_published(name)
    architecture.save(tmp_path / "architecture.json")
    again = Architecture.load(tmp_path / "architecture.json")
    assert again == architecture and again.layout == architecture.layout and again.in_space
    assert hash(again) == hash(architecture)
    plain = Architecture(architecture.layers, architecture.reductions, architecture.space)
    if SKIP not in {layer.kind for layer in architecture.layers}:
        assert plain != architecture and "layout" not in plain.to_json()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [8, 16]}, "the layout has 2 widths, but there are 3 layers"),
        ({"widths": [8, 16, 15]}, "widths[2] of the layout must be even and at least 2, got 15"),
        ({"stem": 0}, "stem of the layout must be even and at least 2, got 0"),
        ({"stem": 6}, "layer 0 is a skip, so it cannot change 6 channels to 8 or halve the resolution"),
        ({"last": -1}, "last of the layout must be at least 0, got -1"),
        ({"hidden": -8}, "hidden of the layout must be at least 0, got -8"),
        ({"last": True}, "stem, widths, last and hidden of a layout must be integers"),
        ({"widths": "many"}, "stem, widths, last and hidden of a layout must be integers"),
        ({"widths": None}, "layout must be an object of stem and widths, and possibly last, activation and hidden"),
        ({"depth": 3}, "layout must be an object of stem and widths, and possibly last, activation and hidden"),
        ({"activation": "swish"}, "unknown activation 'swish' of the layout; choose from relu, relu6"),
        ({"activation": 6}, "activation of a layout must be a text, got 6"),
    ],
)
def test_what_is_no_layout_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError) as raised:
        Architecture.from_json(small(**changes))
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_layouts_are_for_chains_whose_parts_they_have() -> None:
    blocks = tuple(Block("basic", 0) for _ in range(3))
    assert Architecture(blocks, (1,), RESNET.name, layout=Layout(8, (8, 12, 20)))
    with pytest.raises(InputError, match="last=40 does not apply to the 'resnet' space"):
        Architecture(blocks, (1,), RESNET.name, layout=Layout(8, (8, 12, 20), 40))
    with pytest.raises(InputError, match="activation='relu' only applies to blocks with ReLU6"):
        Architecture(blocks, (1,), RESNET.name, layout=Layout(8, (8, 12, 20), activation="relu"))
    darts = load_published("DARTS_V2", 3)
    with pytest.raises(InputError, match="a layout only applies to spaces of chains, not to the 'darts' space"):
        Architecture(darts.layers, darts.reductions, layout=Layout(8, (8, 8, 8)))


def test_another_depth_is_refused() -> None:
    assert len(load_published("MobileNetV2", 17)) == 17
    for call in (lambda: load_published("MobileNetV2", 8), lambda: at_depth(load_published("FBNet-C"), 5)):
        with pytest.raises(InputError, match="which have their own widths; remove --layers"):
            call()


@pytest.mark.parametrize("name", ["MnasNet-A1", "ProxylessNAS-GPU"])
def test_controls_keep_the_layout(name: str) -> None:
    like = load_published(name)
    count = lambda architecture: planned(architecture).params
    other = random_of_size(like, count, 0)
    assert other.layout == like.layout and other.layers != like.layers and other.reductions == like.reductions
    assert abs(count(other) / count(like) - 1) <= 0.05
    mixed = shuffled(like, 0)
    assert mixed.layout == like.layout and sorted(map(str, mixed.layers)) == sorted(map(str, like.layers))


def test_a_drawing_names_the_channels() -> None:
    text = svg(load_published("ProxylessNAS-GPU"), title="GPU")
    assert ">layer 0 · 1 · 24 channels<" in text and ">layers 17–21 · 1/16 · 256–432 channels<" in text
    assert "width ×" not in text


def test_memory_counts_the_gates() -> None:
    """The largest tensors of a block with gates are those of one without."""
    with_gates, without = (
        memory(plan(Architecture((Block(kind, 0),) * 3, (), "mobile-se"), channels=8, classes=3), 16, 3)
        for kind in ("mbconv6_se", "mbconv6")
    )
    assert with_gates.numbers == without.numbers == (8 + 2 * 48) * 16**2


@pytest.mark.parametrize("space", ["mobile-se", "mobile-v3", "mobile-v3-large", "spos"])
def test_the_bound_of_a_file_holds(space: str) -> None:
    pytest.importorskip("onnx", reason="needs the extra dnas[export]")
    pytest.importorskip("onnxscript", reason="needs the extra dnas[export]")
    from dnas.data.splits import DataInfo
    from dnas.deploy.onnx_file import onnx_bytes
    from dnas.deploy.protocol import Exported
    from dnas.pipeline.model import Trained
    from dnas.space import file_size
    from dnas.space.registry import get_space

    info = DataInfo("x", ("a", "b"), 3, 32, (0.0,) * 3, (1.0,) * 3, flip=False)
    architecture = sample(get_space(space), np.random.default_rng(0), 4)
    if space == "mobile-v3-large":
        layers = tuple(Block(kind, 0) for kind in ("mbconv2_5_hs", "mbconv3_se_re", "mbconv6_se_hs"))
        architecture = Architecture(layers, (1,), space, layout=Layout(8, (8, 16, 24), last=40, hidden=96))
    elif space == "spos":
        layers = tuple(Block(kind, 0) for kind in ("spos", "spos_xception", "spos"))
        architecture = Architecture(layers, (0, 1), space, layout=Layout(8, (24, 56, 56), last=96))
    trained = Trained(build(architecture, 8, 2).eval(), info, architecture, 8, "cifar", False)
    used = len(onnx_bytes(Exported(trained, "network", "network", lambda: iter(()))))
    bound = file_size.onnx_bytes(plan(architecture, channels=8, classes=2), False, file_size.facts_bytes(info.classes))
    assert 0.85 * bound < used <= bound


# --- commands -------------------------------------------------------------------------------------------------


def test_published_networks_are_listed_and_shown() -> None:
    listed = json.loads(invoke("list", "architectures", "--json").out)["architectures"]
    assert list(listed) == list(PUBLISHED) and set(NAMES) <= set(listed)
    shown = json.loads(invoke("show", "MobileNetV2", "--json").out)
    assert (shown["params"], shown["macs"]) == SIZES["MobileNetV2"]
    assert (shown["channels"], shown["classes"], shown["image_size"], shown["stem"]) == (32, 1000, 224, "halving")
    refused = invoke("show", "MobileNetV2", "--stem", "imagenet")
    assert refused.code == 2 and "--stem imagenet has three convolutions" in refused.err
    refused = invoke("show", "MobileNetV2", "--layers", 8)
    assert refused.code == 2 and "remove --layers" in refused.err


def test_a_layout_is_trained_and_comes_back(tmp_path) -> None:
    """With its own width and stem rather than those of the preset; and again from the run."""
    file, run = tmp_path / "small.json", tmp_path / "run"
    file.write_text(json.dumps(small()))
    short = ("--option", "train.images=64", "--epochs", 1, "--batch-size", 32)
    done = invoke("train", file, "--data", "digits", "--out", run, "--baseline", *short)
    assert done.code == 0, done.err
    trained = load_trained(run)
    assert (trained.channels, trained.stem) == (8, "halving")
    shown = json.loads(invoke("show", run, "--json").out)
    assert (shown["channels"], shown["classes"], shown["stem"]) == (8, 10, "halving")
    other = tmp_path / "other"
    done = invoke("train", run, "--channels", 16, "-o", "train.stem=cifar", "--out", other, *short)
    assert done.code == 0, done.err
    again = load_trained(other)
    assert (again.channels, again.stem) == (16, "cifar") and params(again.network) > params(trained.network)
    refused = invoke("train", file, "--data", "digits", "-o", "train.stem=imagenet", "--out", tmp_path / "no", *short)
    assert refused.code == 2 and len(refused.err.strip().splitlines()) == 1
    assert "has three convolutions" in refused.err


def test_a_study_refuses_networks_without_its_width(tmp_path) -> None:
    refused = invoke("compare", "--methods", "random", "--architectures", "FBNet-C", "--out", tmp_path / "study")
    assert refused.code == 2 and len(refused.err.strip().splitlines()) == 1
    assert "--architectures 'FBNet-C' has its own widths" in refused.err and "dnas train FBNet-C" in refused.err

"""The Python source of a network is that network: same answers, same gradients, same names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from dnas.data.splits import DataInfo
from dnas.deploy.protocol import Exported
from dnas.deploy.python_code import write_code
from dnas.network.handmade import HANDMADE, build_handmade, get_handmade
from dnas.network.network import build
from dnas.pipeline.model import Trained
from dnas.space.architecture import Architecture
from dnas.space.chain import Block, ChainSpace
from dnas.space.darts_cell import Cell
from dnas.space.darts_plan import STEMS
from dnas.space.layout import Layout
from dnas.space.primitives import PRIMITIVES
from dnas.space.published import load_published, published
from dnas.space.registry import CHAINS
from dnas.space.sampling import sample

INFO = DataInfo("x", ("a", "b", "c"), 3, 17, (0.5,) * 3, (0.5,) * 3, flip=False)
SMALL = [name for name, network in HANDMADE.items() if network.has_width]


def written(trained: Trained, folder: Path) -> ModuleType:
    """The module that is written for a network whose norms have seen something."""
    generator = torch.Generator().manual_seed(0)
    for norm in trained.network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5, generator=generator)  # type: ignore[union-attr]
            norm.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
    write_code(Exported(trained, "net", "network", lambda: iter(())), folder)
    spec = importlib.util.spec_from_file_location("written", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of(architecture: Architecture, stem: str = "cifar", norm: bool = False) -> Trained:
    return Trained(build(architecture, 4, 3, stem=stem, final_norm=norm).eval(), INFO, architecture, 4, stem, norm)


def same(trained: Trained, folder: Path) -> nn.Module:
    """The network as its source gives it, once its answers are found to be the same."""
    net: nn.Module = written(trained, folder).load()
    assert not net.training
    images = torch.randn(3, 3, 17, 17, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(images), trained.network(images), rtol=1e-5, atol=1e-5)
    return net


@pytest.mark.parametrize("number", range(len(published())), ids=list(published()))
def test_every_published_genotype_under_the_stems(number: int, tmp_path: Path) -> None:
    """With an odd side, at which grids of odd pixels are one short."""
    name, stem = list(published())[number], list(STEMS)[number % len(STEMS)]
    trained = of(load_published(name, 3 + number % 2), stem, bool(number % 3))
    net = same(trained, tmp_path)
    assert net.state_dict().keys() == trained.network.state_dict().keys()


@pytest.mark.parametrize("stem", list(STEMS))
@pytest.mark.parametrize("space", CHAINS, ids=lambda space: space.name)
def test_chains(space: ChainSpace, stem: str, tmp_path: Path) -> None:
    """Without skips, which are rare in draws, and with one."""
    drawn = sample(space, np.random.default_rng(len(stem)), 4)
    skipping = Architecture((Block("skip_connect", 0), *drawn.layers[1:]), drawn.reductions, space.name)
    for number, architecture in enumerate((drawn, skipping)):
        trained = of(architecture, stem, bool(number))
        (tmp_path / str(number)).mkdir()
        net = same(trained, tmp_path / str(number))
        assert net.state_dict().keys() == trained.network.state_dict().keys()


def test_a_classifier_with_a_hidden_layer(tmp_path: Path) -> None:
    layers = tuple(Block(kind, 0) for kind in ("mbconv2_5_hs", "mbconv3_se_re", "mbconv6_se_hs"))
    layout = Layout(8, (8, 16, 24), last=40, hidden=24)
    trained = of(Architecture(layers, (1,), "mobile-v3-large", layout=layout), "halving")
    net = same(trained, tmp_path)
    assert net.state_dict().keys() == trained.network.state_dict().keys()
    text = (tmp_path / "model.py").read_text()
    assert "nn.AdaptiveAvgPool2d(1), nn.Conv2d(40, 24, 1, bias=True), nn.Hardswish()" in text


def test_branches_of_unequal_width(tmp_path: Path) -> None:
    layers = (Block("spos", 0), Block("spos_xception", 0), Block("spos", 1))
    same(of(Architecture(layers, (0, 1), "spos", layout=Layout(4, (16, 40, 40))), "halving"), tmp_path)
    text = (tmp_path / "model.py").read_text()
    assert all(f"turns={turns}," in text for turns in (4, 8, 20))


def test_every_operation_with_both_strides(tmp_path: Path) -> None:
    names = [name for name in PRIMITIVES if name != "noise"]
    nodes = tuple(((name, 0), (name, 1)) for name in names)
    same(of(Architecture((Cell(nodes),) * 3, (1,), "free")), tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_networks_made_by_hand(name: str, tmp_path: Path) -> None:
    same(Trained(build_handmade(name, 3, 3, 32, seed=0).eval(), INFO, get_handmade(name)), tmp_path)


@pytest.mark.parametrize("name", sorted(set(HANDMADE) - set(SMALL)))
def test_networks_of_torchvision(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision", exc_type=ImportError)
    same(Trained(build_handmade(name, 3, 3, 32, seed=0).eval(), INFO, get_handmade(name)), tmp_path)


def test_it_trains_as_the_network_does(tmp_path: Path) -> None:
    """Gradients of all weights and running statistics, in training mode."""
    trained = of(load_published("DARTS_V1", 3))
    net = same(trained, tmp_path).train()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    labels = torch.tensor([0, 1, 2, 0])
    for network in (net, trained.network.train()):
        nn.functional.cross_entropy(network(images), labels).backward()
    ours, theirs = dict(net.named_parameters()), dict(trained.network.named_parameters())
    for name, parameter in ours.items():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-5, msg=name)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, trained.network.get_buffer(name), msg=name)


def test_it_reads_as_the_architecture_does(tmp_path: Path) -> None:
    written(of(load_published("DARTS_V2", 4)), tmp_path)
    text = (tmp_path / "model.py").read_text("utf-8")
    assert "dnas." not in text.replace("dnas 0", "") and "json" not in text
    assert "sep_conv_3x3(channels, 2),  # " not in text  # DARTS_V2 reduces by pools and skips alone
    assert "nn.MaxPool2d(3, 2, 1),  # 0: max_pool_3x3 from state 0 to 2" in text
    assert "Layer1(12, 16, 8)," in text and "Layers 0, 3: keeps the resolution" in text
    compile(text, "model.py", "exec")
    assert max(map(len, text.splitlines())) <= 120

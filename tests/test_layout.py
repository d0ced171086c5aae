"""The hidden layer of a classifier that a layout of a chain can have: its size and its outputs by hand."""

from __future__ import annotations

import pytest
import torch

from dnas.errors import InputError
from dnas.network.network import build, macs, params
from dnas.space.architecture import Architecture
from dnas.space.chain import Block
from dnas.space.layout import Layout
from dnas.space.network_plan import size
from dnas.space.plan import plan


def test_a_hidden_layer_by_hand() -> None:
    """It reads the mean over pixels, so it costs the same at any size: 40 → 24 with biases, h-swish, 24 → 5."""
    layers = tuple(Block(kind, 0) for kind in ("mbconv2_5_hs", "mbconv3_re", "mbconv6_hs"))
    with_, without = (
        Architecture(layers, (1,), "mobile-v3-large", layout=Layout(8, (8, 16, 24), last=40, hidden=hidden))
        for hidden in (24, 0)
    )
    for side in (16, 32):
        more, less = (size(plan(each, channels=8, classes=5, stem="halving"), side) for each in (with_, without))
        assert more.params - less.params == 41 * 24 + 25 * 5 - 41 * 5
        assert more.macs - less.macs == 40 * 24 + 24 * 5 - 40 * 5
    network = build(with_, 8, 5, stem="halving").double().eval()
    assert (params(network), macs(network, (3, 32, 32))) == (more.params, more.macs)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = network.stem(x)
    for layer in network.cells:
        y = layer(y, y, None)
    conv, norm, act, _, hidden, _ = network.head
    pooled = act(norm(conv(y))).mean((2, 3)) @ hidden.weight[:, :, 0, 0].T + hidden.bias
    expected = network.classifier(pooled * (pooled + 3).clamp(0, 6) / 6)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)
    assert with_.layout is not None and with_.layout.at(16).hidden == 48 and with_.layout.at(4).hidden == 24
    with pytest.raises(InputError, match="hidden=24 does not apply to the 'resnet' space"):
        Architecture((Block("basic", 0),) * 3, (1,), "resnet", layout=Layout(8, (8, 16, 24), hidden=24))

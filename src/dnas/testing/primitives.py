"""The contract of a primitive: counted costs match built modules, and its supernet form matches its network form."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dnas.kernels import native
from dnas.network.modules import DISCRETE, SEARCH, LayerChain, NormStyle, build_chain, construct
from dnas.network.network import Network, build, drop_path
from dnas.rng import torch_stream
from dnas.space.architecture import Architecture
from dnas.space.darts_cell import Cell
from dnas.space.network_plan import size
from dnas.space.plan import plan
from dnas.space.primitives import PRIMITIVES, AvgPool, Chain, MaxPool, Noise, Zero, chain_cost
from dnas.supernet.source_block import SourceBlock
from dnas.testing.behaviour import global_state

CHANNELS, BATCH, CLASSES = 8, 4, 3
SIZES = (8, 7)  # image sizes in pixels, including an odd one
TARGETS = 3  # nodes that receive a state of the supernet
COMPANIONS = ("sep_conv_3x3", "dil_conv_3x3")  # one of them shares an edge with it
CLOSE = 1e-4


def check_primitive(name: str) -> None:
    """Check the whole contract of a primitive, registered or from another package."""
    assert name in PRIMITIVES, f"{name!r} is no primitive; register it, or give its package an entry point for it"
    for check in CHECKS_OF_A_PRIMITIVE:
        check(name)


def check_primitive_sizes(name: str) -> None:
    """Check that it keeps the channels, that stride 2 halves the size (rounded up), and that its costs are correct."""
    for stride, side, module, chain in _built(name):
        x = _images(side)
        before = x.clone()
        y = module(x)
        there, wanted = tuple(y.shape), (BATCH, CHANNELS, -(-side // stride), -(-side // stride))
        assert there == wanted, f"{name} with stride {stride} makes {there} of {tuple(x.shape)}, and not {wanted}"
        assert torch.equal(x, before), f"{name} with stride {stride} changes its input, which others read too"
        counted, counted_side = chain_cost(chain, side)
        assert counted_side == wanted[2], f"out_size of {name} with stride {stride} gives {counted_side} of {side}"
        params, macs = sum(p.numel() for p in module.parameters()), _macs(module, x[:1])
        for what, said, found in (("params", counted.params, params), ("macs", counted.macs, macs)):
            assert said == found, f"{what} of {name} with stride {stride} are counted as {said}, and are {found}"


def check_primitive_learns(name: str) -> None:
    """Check that each weight and, if the output depends on it, the input get gradients, and that all are finite."""
    for stride, side, module, chain in _built(name):
        x = _images(side).requires_grad_()
        y = module(x)
        assert y.isfinite().all(), f"{name} with stride {stride} makes numbers that are not finite"
        (y * _images(y.shape[2], seed=1)).sum().backward() if y.requires_grad else None
        for key, weight in (("its input", x), *module.named_parameters()):
            gradient = weight.grad
            if weight is x and isinstance(chain[0], Zero | Noise):
                continue
            assert gradient is not None and gradient.any(), f"{key} of {name} with stride {stride} gets no gradient"
            assert gradient.isfinite().all(), f"the gradient of {key} of {name} with stride {stride} is not finite"


def check_primitive_state(name: str) -> None:
    """Check that initial weights only depend on the seed, and that a saved state gives the same outputs."""
    for stride, side, _, chain in _built(name):
        made = []
        for state in (1, 2):
            with global_state(state, name):
                made.append(_construct(chain))
        one, two = made
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, two.state_dict()[key]), (
                f"fresh {key} of {name} depends on the global random state"
            )
        one.train()(_images(side))
        other = _construct(chain, seed=1)
        other.load_state_dict(one.state_dict())
        ours, theirs = (each.eval()(_images(side)) for each in (one, other))
        assert torch.equal(ours, theirs), f"{name} with stride {stride} keeps something outside of its state_dict"


def check_primitive_in_supernet(name: str) -> None:
    """Check that outputs and gradients in the supernet equal those of its network form.

    There it is weighted and shares an edge with another operation, and either all targets are executed or one.
    """
    operations = (next(each for each in COMPANIONS if each != name), name)
    for stride, side, _, chain in _built(name):
        if isinstance(chain[0], Noise):
            continue  # both draw random numbers independently
        block = construct(
            lambda stride=stride: SourceBlock(CHANNELS, TARGETS, stride, operations),  # type: ignore[misc]
            torch_stream(0, "init"),
        )
        assert isinstance(block, SourceBlock)
        weights = torch.rand(TARGETS, 2, generator=torch_stream(0, "test"))
        for active in (None, [[t == 0, t > 0] for t in range(TARGETS)]):
            executed = weights if active is None else weights * torch.tensor(active)
            ours, theirs = _images(side).requires_grad_(), _images(side).requires_grad_()
            mixed = [
                out.permute(0, 3, 1, 2)
                for out in block(ours.permute(0, 2, 3, 1).contiguous(), weights, None, active)
                if out is not None
            ]
            plain = [
                torch.stack(
                    [executed[t, o] * _plain(block, each, t, o, stride)(theirs) for o, each in enumerate(operations)]
                ).sum(0)
                for t in range(TARGETS)
            ]
            slopes = [torch.autograd.grad(_bent(y), x)[0] for y, x in ((mixed, ours), (plain, theirs))]
            for what, one, two in (
                ("outputs", torch.stack(mixed), torch.stack(plain)),
                ("gradients", slopes[0], slopes[1]),
            ):
                apart = float((one - two).detach().abs().max())
                assert apart < CLOSE, (
                    f"{what} of {name} with stride {stride} differ by {apart:.2g} between the supernet and the network"
                )


def check_primitive_in_network(name: str) -> None:
    """Check that its network has the planned size, and trains alike with native kernels and torch, with drop path."""
    architecture = Architecture((_cell(name), _cell(name)), (1,), "free")
    planned = size(plan(architecture, channels=CHANNELS, classes=CLASSES), SIZES[0])
    found = []
    for only_torch in (False, True):
        network = build(architecture, CHANNELS, CLASSES)
        assert planned.params == sum(p.numel() for p in network.parameters()), f"a network of {name} is not as planned"
        with native.only_torch() if only_torch else contextlib.nullcontext():
            found.append(_step(network))
    if any(isinstance(layer, Noise) for layer in PRIMITIVES[name].chain(CHANNELS, 1)):
        return
    for one, two in zip(*found, strict=True):
        apart = float((one - two).abs().max())
        assert apart < CLOSE * max(1.0, float(two.abs().max())), (
            f"a network of {name} differs by {apart:.2g} between native kernels and torch"
        )


CHECKS_OF_A_PRIMITIVE = (
    check_primitive_sizes,
    check_primitive_learns,
    check_primitive_state,
    check_primitive_in_supernet,
    check_primitive_in_network,
)


def _built(name: str) -> Iterator[tuple[int, int, LayerChain, Chain]]:
    """Yield (stride, image size in pixels, module in training mode, its chain)."""
    for stride in (1, 2):
        chain = PRIMITIVES[name].chain(CHANNELS, stride)
        for side in SIZES:
            yield stride, side, _construct(chain), chain


def _construct(chain: Chain, seed: int = 0, norms: NormStyle = DISCRETE) -> LayerChain:
    module = construct(lambda: build_chain(chain, norms), torch_stream(seed, "init"))
    assert isinstance(module, LayerChain)
    return module


def _images(side: int, seed: int = 0) -> Tensor:
    """Return images [BATCH, CHANNELS, side, side]."""
    return torch.randn(BATCH, CHANNELS, side, side, generator=torch_stream(seed, "test-pictures"))


def _bent(outputs: list[Tensor]) -> Tensor:
    """Return a scalar whose gradient differs at each element."""
    return torch.stack(outputs).sin().mean()


def _macs(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(x)
    module.train()
    return int(counter.get_total_flops()) // 2


def _plain(block: SourceBlock, name: str, target: int, column: int, stride: int) -> nn.Module:
    """Return the network form of an operation, with the weights in the supernet for a target."""
    chain = PRIMITIVES[name].chain(CHANNELS, stride)
    if chain and isinstance(chain[0], MaxPool | AvgPool) and len(chain) == 1:
        return nn.Sequential(build_chain(chain), SEARCH.build(CHANNELS))  # as in DARTS searches with pooling
    plain = _construct(chain, norms=SEARCH)
    of_target = [
        weight if len(targets) == 1 else weight.chunk(len(targets))[target - targets.start]
        for weight, targets, of in block.owned()
        if of == column and target in targets
    ]
    with torch.no_grad():
        for parameter, weight in zip(plain.parameters(), of_target, strict=True):
            parameter.copy_(weight)
    return plain


def _cell(name: str) -> Cell:
    """Return a cell of two nodes: the operation on both inputs, and on one input and the first node."""
    return Cell((((name, 0), (name, 1)), ((name, 0), ("skip_connect", 2))))


def _step(network: Network) -> list[Tensor]:
    """Return the logits of a batch in training mode, with drop path, and all gradients of their sum of squares."""
    images = torch.randn(BATCH, 3, SIZES[0], SIZES[0], generator=torch_stream(0, "test-pictures"))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    paths = drop_path(network, BATCH, 0.2, torch_stream(0, "test-paths"))
    logits = network.train()(images.contiguous(memory_format=torch.channels_last), paths)
    logits.square().sum().backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return [logits.detach(), *gradients]

"""What tests of methods share: parameters far from their start, closed forms to compare with, derived edges."""

import torch

from dnas.data.splits import DataInfo, Split
from dnas.methods.protocol import Progress
from dnas.methods.registry import create
from dnas.rng import torch_stream
from dnas.searching.search import Search
from dnas.settings import GradientSettings
from dnas.space.darts import DARTS

# Edges of each node, written out, so that a change of the space cannot hide in here.
NODES = ((0, 2), (2, 5), (5, 9), (9, 14))
ALWAYS = Progress()


def parameters(method, layers, seed, scale):
    """Architecture parameters of a standard deviation far above the initial one, in float64."""
    mapping = method.mapping(layers, seed).double()
    generator = torch_stream(seed, "test")
    with torch.no_grad():
        for p in mapping.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return mapping


def with_gradient(method, mapping, seed=0, progress=ALWAYS):
    """psi, a random G = dL/dpsi, and the gradients of L = <G, psi> by name."""
    psi = method.mixing(mapping, progress).psi
    g = torch.randn(psi.shape, generator=torch_stream(seed, "cotangent"), dtype=torch.float64)
    named = dict(mapping.named_parameters())
    grads = torch.autograd.grad((g * psi).sum(), list(named.values()))
    return psi.detach(), g, dict(zip(named, grads, strict=True))


def kept(architecture):
    """For each layer {edge: operation}."""
    edge = {(n, s): e for e, (n, s) in enumerate((n, s) for n in range(4) for s in range(n + 2))}
    return [
        {edge[n, source]: op for n, node in enumerate(cell.nodes) for op, source in node}
        for cell in architecture.layers
    ]


# --- which part of a search an option changes ---------------------------------------------------------------

LAYERS = 4
INFO = DataInfo("random", ("a", "b", "c"), 1, 8, (0.5,), (0.25,), False)
SPLIT = Split(
    torch.randint(0, 256, (8, 1, 8, 8), generator=torch_stream(0, "pictures"), dtype=torch.uint8), torch.arange(8) % 3
)


def outcome(name, options, mapping_name=None):
    """What a search with these options would see, part by part."""
    method = create(name, mapping_name, options, DARTS)
    shape = GradientSettings(layers=LAYERS, channels=8, epochs=4, batch_size=4).resolved(8, 1.0, 8)
    search = Search(method, shape, SPLIT, INFO, 0, "cpu")
    initial = torch.cat([p.detach().flatten() for p in search.mapping.parameters()])
    mapping = parameters(method, LAYERS, 0, 1.5)
    mixing = method.mixing(mapping, ALWAYS).detach()
    penalty = method.penalty(mapping, ALWAYS)
    search.mapping.load_state_dict(mapping.state_dict())
    with torch.no_grad():
        logits = search.logits(search.batch(0, 0), 0, relaxed=False)
    return {
        "initial": initial.tolist(),
        "operations": mixing.operations.tolist(),
        "edges": mixing.edges.tolist(),
        "bypass": mixing.bypass.tolist(),
        "penalty": None if penalty is None else penalty.item(),
        "skip_dropout": [method.skip_dropout(Progress(e, 4, 1)) for e in range(4)],
        "derived": method.derive(mapping, ALWAYS),
        "logits": logits.tolist(),
    }


def changed_parts(name, around, option, value):
    """The parts of `outcome` that differ once an option has another value; the same options give the same outcome."""
    before, again, after = outcome(name, around), outcome(name, around), outcome(name, {**around, option: value})
    assert before == again
    return {part for part in before if before[part] != after[part]}

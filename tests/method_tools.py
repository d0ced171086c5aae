"""What tests of methods share: parameters far from their start, closed forms to compare with, derived edges."""

import torch

from dnas.methods import Progress
from dnas.streams import torch_stream

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

"""The path that a step of spos takes, as a network of its own in plain torch: for tests of spos."""

import torch
from method_tools import NODES
from plain import PlainSupernet, copy_weights

from dnas.methods.registry import create
from dnas.rng import numpy_stream
from dnas.space import sampling
from dnas.space.darts import DARTS


def method(mapping="shared", space=DARTS, **options):
    return create("spos", mapping, options, space)


def sampled(count, layers=4, shared=True, seed=0):
    rng = numpy_stream(seed, "test")
    return [sampling.sample(DARTS, rng, layers, shared=shared) for _ in range(count)]


def standalone(search):
    """A network in plain torch with the search's weights, the architecture of step 0, and the weights of its path."""
    active = search.method.mixing(search.mapping, search.progress(0)).active
    shape = {"layers": len(active), "channels": search.settings.channels, "classes": 4, "inputs": 1}
    plain = PlainSupernet(DARTS.primitives, partial=1, **shape)
    copy_weights(search.supernet, plain)
    architecture = [dict(layer.nonzero().tolist()) for layer in active]
    modules = [plain.stem, plain.classifier]
    for cell, chosen in zip(plain.cells, architecture, strict=True):
        modules += [cell.preprocess0, cell.preprocess1, *(cell.edges[e].operations[o] for e, o in chosen.items())]
    return plain, architecture, [p for module in modules for p in module.parameters()]


def network(plain, architecture, images):
    """The discrete network: no mixing weights, and only what it consists of. `architecture`: of each layer {edge: op}."""
    before = previous = plain.stem(images)
    for cell, chosen in zip(plain.cells, architecture, strict=True):
        states = [cell.preprocess0(before), cell.preprocess1(previous)]
        for first, last in NODES:
            inputs = [(e, chosen[e]) for e in range(first, last) if e in chosen]
            states.append(sum(cell.edges[e].operations[o](states[e - first]) for e, o in inputs))
        before, previous = previous, torch.cat(states[2:], 1)
    return plain.classifier(plain.pool(previous).flatten(1))

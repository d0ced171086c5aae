"""Sampling, mutation and neighbors of whole architectures of a space."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

import numpy as np

from dnas.space.architecture import Architecture
from dnas.space.protocol import LayerChoice, SearchSpace, reduction_layers


def sample(space: SearchSpace, rng: np.random.Generator, layers: int, *, shared: bool = False) -> Architecture:
    """Draw a uniform architecture: each layer separately or, if they are `shared`, all normal layers alike and all
    reductions alike."""
    reductions = reduction_layers(layers)
    genes = [space.sample(rng, k in reductions) for k in ([0, reductions[0]] if shared else range(layers))]
    if shared:
        genes = [genes[k in reductions] for k in range(layers)]
    return Architecture(tuple(genes), reductions, space.name, {"sampled": "uniform"})


def neighbours(space: SearchSpace, architecture: Architecture) -> list[Architecture]:
    """Return all architectures that differ in one operation or one input of one slot."""
    return [
        _with_gene(architecture, (k,), gene)
        for k, layer in enumerate(architecture.layers)
        for gene in space.neighbours(layer, k in architecture.reductions)
    ]


def mutate(
    space: SearchSpace, rng: np.random.Generator, architecture: Architecture, *, shared: bool = False, most: int = 1
) -> Architecture:
    """Mutate one slot (`Space.mutate`) of a uniformly drawn layer.

    If layers are `shared`, draw a kind of layer, and mutate the same slot in all layers of that kind.

    Args:
        most: Maximum number of mutations. The number is drawn uniformly, and two mutations may affect the same slot.
    """
    for _ in range(1 if most == 1 else 1 + int(rng.integers(most))):
        architecture = _mutated_once(space, rng, architecture, shared)
    return architecture


def _mutated_once(
    space: SearchSpace, rng: np.random.Generator, architecture: Architecture, shared: bool
) -> Architecture:
    kinds = [tuple(k for k in range(len(architecture)) if k not in architecture.reductions), architecture.reductions]
    same = kinds[int(rng.integers(2))] if shared else (int(rng.integers(len(architecture))),)
    gene = space.mutate(rng, architecture.layers[same[0]], same[0] in architecture.reductions)
    return _with_gene(architecture, same, gene)


def _with_gene(architecture: Architecture, same: tuple[int, ...], gene: LayerChoice) -> Architecture:
    """Return the architecture with another choice in these layers."""
    layers = tuple(gene if k in same else layer for k, layer in enumerate(architecture.layers))
    return Architecture(layers, architecture.reductions, architecture.space)


def unseen(
    architectures: Iterable[Architecture],
    known: Iterable[Architecture],
    key: Callable[[Architecture], Hashable] = lambda architecture: architecture,
    patience: int = 50,
) -> Iterator[Architecture]:
    """Yield architectures whose keys differ from each other and from those of known architectures.

    Stops after `patience` known architectures in a row, since a small space or limits may leave no others.
    """
    seen, in_a_row = set(map(key, known)), 0
    for architecture in architectures:
        if (found := key(architecture)) not in seen:
            seen.add(found)
            in_a_row = 0
            yield architecture
        elif (in_a_row := in_a_row + 1) == patience:
            return

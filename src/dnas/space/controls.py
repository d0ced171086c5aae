"""What a searched architecture is compared with: random ones of its size, and its own layers shuffled."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from dnas.errors import InputError
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture, cell_pair
from dnas.space.darts import DARTS
from dnas.space.registry import SPACES
from dnas.space.sampling import mutate, sample

SIZE_TOLERANCE = 0.05
BEYOND = 1.01  # how far from the size that is wanted one of this size counts that is beyond limits


def random_of_size(
    like: Architecture,
    count: Callable[[Architecture], int],
    seed: int,
    allowed: Callable[[Architecture], bool] = lambda architecture: True,
) -> Architecture:
    """A random architecture with as many parameters as `like`, ±5 %: the control of a search.

    Uniform architectures are drawn until one fits. Where the searched one is far from the usual size, which
    no uniform draw may ever meet, single slots of the nearest draw are redrawn as long as that does not lead
    away from the size. Where `like` is a stack of one pair of cells, so is what is drawn: what a search could find.

    Args:
        count: The parameters of an architecture's network.
        allowed: Whether an architecture keeps to the limits.

    Raises:
        InputError: No architecture of the space has that size.
    """
    wanted = count(like)
    rng = numpy_stream(seed, "sample")
    space = SPACES.get(like.space, DARTS)
    shared = cell_pair(like) is not None

    def distance(architecture: Architecture) -> float:
        apart = abs(count(architecture) - wanted) / wanted
        # One that is beyond the limits is no control; on the way to one it may be of use.
        return apart if apart > SIZE_TOLERANCE or allowed(architecture) else SIZE_TOLERANCE * BEYOND

    draws = [sample(space, rng, len(like), shared=shared)]
    while distance(draws[-1]) > SIZE_TOLERANCE and len(draws) < 200:
        draws.append(sample(space, rng, len(like), shared=shared))
    best = min(draws, key=distance)
    for _ in range(5_000):
        if distance(best) <= SIZE_TOLERANCE:
            return Architecture(best.layers, best.reductions, best.space, {"sampled": "random, of the same size"})
        candidate = mutate(space, rng, best, shared=shared)
        if distance(candidate) <= distance(best):
            best = candidate
    raise InputError(
        f"no random architecture with {wanted:,} parameters ±5 % was found in the {space.name} space; "
        "--no-baseline does without"
    )


def shuffled(architecture: Architecture, seed: int) -> Architecture:
    """The same layers in another order: those between two reductions change places, reductions stay.

    If which layer has which cell matters, as a search over the whole network supposes, this loses accuracy; the size
    differs only as far as the first cells of a stage, whose inputs have other widths, do.
    """
    rng = numpy_stream(seed, "shuffle")
    layers = list(architecture.layers)
    for before, after in pairwise([-1, *architecture.reductions, len(layers)]):
        stage = slice(before + 1, after)
        order = layers[stage]
        # The order as it was would control nothing.
        while len(set(order)) > 1 and order == layers[stage]:
            order = [order[i] for i in rng.permutation(len(order))]
        layers[stage] = order
    return Architecture(tuple(layers), architecture.reductions, architecture.space, {"shuffled": seed})

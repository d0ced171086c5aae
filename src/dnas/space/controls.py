"""Controls for a searched architecture: random architectures of its size, and its own layers shuffled."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import numpy as np

from dnas.errors import InputError
from dnas.rng import numpy_stream
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.darts import DARTS
from dnas.space.protocol import SearchSpace
from dnas.space.registry import SPACES
from dnas.space.sampling import mutate, sample

SIZE_TOLERANCE = 0.05
BEYOND = 1.01  # distance from the wanted size assigned to an architecture that violates the limits


def random_of_size(
    like: Architecture,
    count: Callable[[Architecture], int],
    seed: int,
    allowed: Callable[[Architecture], bool] = lambda architecture: True,
) -> Architecture:
    """Draw a random architecture with as many parameters as `like` (±5%): the random baseline of a search.

    Uniform architectures are drawn until one has the right size. If the size of `like` is so unusual that uniform
    draws do not reach it, single slots of the nearest draw are redrawn as long as this does not lead away from the
    size. If `like` stacks one pair of layers, the random architecture does as well, as it must be a possible result
    of the search, unless there is no other pair of this size. It always differs from `like`.

    Args:
        count: Returns the number of parameters of the network of an architecture.
        allowed: Returns True if an architecture is within the limits.

    Raises:
        InputError: No architecture of the space has that size.
    """
    wanted = count(like)
    space = SPACES.get(like.space, DARTS)

    @cache
    def distance(architecture: Architecture) -> float:
        apart = abs(count(architecture) - wanted) / wanted
        # One that violates the limits, or `like` itself, is not a valid control, but can be a step towards one.
        valid = allowed(architecture) and architecture.layers != like.layers
        return apart if apart > SIZE_TOLERANCE or valid else SIZE_TOLERANCE * BEYOND

    # In a small space, no other pair may have this size.
    for shared in (True, False) if layer_pair(like) is not None else (False,):
        rng = numpy_stream(seed, "sample")
        if like.layout is None:
            draw = partial(sample, space, rng, len(like), shared=shared)
            best = _closest(draw, partial(mutate, space, rng, shared=shared), distance)
        else:
            best = _closest(partial(_laid_out, space, rng, like), partial(_redrawn, space, rng), distance)
        if distance(best) <= SIZE_TOLERANCE:
            return replace(best, origin={"sampled": "random, of the same size"})
    raise InputError(
        f"no random architecture within 5% of {wanted:,} parameters found in the {space.name!r} space; "
        "skip the baseline with --no-baseline"
    )


def _laid_out(
    space: SearchSpace, rng: np.random.Generator, like: Architecture, only: Collection[int] | None = None
) -> Architecture:
    """Redraw the layers of an architecture with its own widths, or `only` some of them."""
    assert like.layout is not None
    layers = list(like.layers)
    for k, (before, after) in enumerate(zip(like.layout.befores, like.layout.widths, strict=True)):
        if only is None or k in only:
            # What cannot halve the resolution cannot change the width either.
            layers[k] = space.sample(rng, k in like.reductions or before != after)
    return replace(like, layers=tuple(layers))


def _redrawn(space: SearchSpace, rng: np.random.Generator, architecture: Architecture) -> Architecture:
    """Redraw one layer of an architecture with its own widths."""
    return _laid_out(space, rng, architecture, {int(rng.integers(len(architecture)))})


def _closest(
    draw: Callable[[], Architecture],
    change: Callable[[Architecture], Architecture],
    distance: Callable[[Architecture], float],
) -> Architecture:
    """Return the first of many draws, and of changes of the closest, within the tolerance, or else the closest."""
    draws = [draw()]
    while distance(draws[-1]) > SIZE_TOLERANCE and len(draws) < 200:
        draws.append(draw())
    best = min(draws, key=distance)
    for _ in range(5_000):
        if distance(best) <= SIZE_TOLERANCE:
            break
        candidate = change(best)
        if distance(candidate) <= distance(best):
            best = candidate
    return best


def shuffled(architecture: Architecture, seed: int) -> Architecture:
    """Return the architecture with the layers of each stage shuffled; reductions keep their place.

    If the position of a layer matters, as a search over the whole network assumes, this loses accuracy. The number of
    parameters changes only through the first layers of a stage, whose inputs have other widths.
    """
    rng = numpy_stream(seed, "shuffle")
    layers = list(architecture.layers)
    for before, after in pairwise([-1, *architecture.reductions, len(layers)]):
        stage = slice(before + 1, after)
        order = layers[stage]
        # The original order is not a control.
        while len(set(order)) > 1 and order == layers[stage]:
            order = [order[i] for i in rng.permutation(len(order))]
        layers[stage] = order
    return replace(architecture, layers=tuple(layers), origin={"shuffled": seed})

"""Who takes part in the finals: what the search found, what was good on other images, and what nobody searched for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from dnas.errors import InputError
from dnas.pipeline.config import Config
from dnas.rng import numpy_stream
from dnas.runtime.names import FOUND, PRIOR, RANDOM, SECOND
from dnas.space.architecture import Architecture
from dnas.space.darts import DARTS
from dnas.space.published import load_published
from dnas.space.registry import get_space
from dnas.space.sampling import sample
from dnas.supernet.mapping import SHARED
from dnas.supernet.worth import Worth

# Stacked cells of the literature that take part: the one of the method that all others follow, and a light one.
PUBLISHED = ("DARTS_V2", "PC_DARTS_cifar")


def entrants(
    config: Config, found: Architecture, others: Sequence[Architecture], prior: Worth | None
) -> list[tuple[str, Architecture]]:
    """`config.finals` different architectures, each with its origin; what was found first.

    Half of them are of the prior: the best by its means, and the best under draws. Random ones are uniform. All are as
    deep as what was found, and where cells are shared there, so they are here.
    """
    rng = numpy_stream(config.seed, "finals")
    space, shared = get_space(config.space), config.mapping == SHARED
    named = [(FOUND, found)]
    if prior is not None:
        draws = [None, *[rng] * (config.finals // 2 - 1)]
        named += [(PRIOR, prior.best(len(found), shared=shared, rng=draw)) for draw in draws]
    second = [(SECOND, architecture) for architecture in others]
    stacked = [(name, load_published(name, len(found))) for name in PUBLISHED] if config.space == DARTS.name else []
    named += [each for pair in zip_longest(second, stacked) for each in pair if each is not None]
    known: dict[object, tuple[str, Architecture]] = {}
    for name, architecture in named:
        known.setdefault(architecture.layers, (name, architecture))
    for _ in range(100 * config.finals):
        if len(known) >= config.finals:
            return list(known.values())[: config.finals]
        architecture = sample(space, rng, len(found), shared=shared)
        known.setdefault(architecture.layers, (RANDOM, architecture))
    raise InputError(f"--finals {config.finals}: the {config.space} space has not so many architectures; give fewer")

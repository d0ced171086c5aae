"""Candidates of the finals: the searched network, networks that were good on other images, and unsearched ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from dnas.errors import InputError
from dnas.pipeline.config import Config
from dnas.rng import numpy_stream
from dnas.runtime.names import FOUND, PRIOR, RANDOM, SECOND
from dnas.space.architecture import Architecture
from dnas.space.limits import Feasible
from dnas.space.published import candidates
from dnas.space.registry import get_space
from dnas.space.sampling import sample
from dnas.supernet.mapping import SHARED
from dnas.supernet.worth import Worth

# Random ones for each that is wanted: some may be equal, in a small space.
DRAWS = 20
FEASIBLE_DRAWS = 4  # where there are limits, since these take longer


def entrants(
    config: Config,
    found: Architecture,
    others: Sequence[Architecture],
    prior: Worth | None,
    feasible: Feasible | None = None,
) -> list[tuple[str, Architecture]]:
    """Return `config.finals` different architectures, each with its origin; the searched one is first.

    Half of them are from the prior, if there is one: the best by its means, and the best under draws. The others are in
    turn second choices, uniform random ones, and published ones. All are as deep as the searched one, have shared cells
    if it has, and are feasible.
    """
    rng = numpy_stream(config.seed, "finals")
    space, shared = get_space(config.space), config.mapping == SHARED
    named = [(FOUND, found)]
    if prior is not None:
        draws = [None, *[rng] * (config.finals // 2 - 1)]
        named += [(PRIOR, prior.best(len(found), shared=shared, rng=draw, feasible=feasible)) for draw in draws]
    second = [(SECOND, architecture) for architecture in others]

    def draw_one() -> Architecture:
        return sample(space, rng, len(found), shared=shared)

    if feasible is None:
        random = [draw_one() for _ in range(DRAWS * config.finals)]
    else:
        random = [feasible.drawn(draw_one) for _ in range(FEASIBLE_DRAWS * config.finals)]
    drawn = [(RANDOM, architecture) for architecture in random]
    stacked = candidates(space, len(found))
    if feasible is not None:
        stacked = [(name, architecture) for name, architecture in stacked if feasible.allows(architecture)]
    named += [each for turn in zip_longest(second, drawn, stacked) for each in turn if each is not None]
    known: dict[object, tuple[str, Architecture]] = {}
    for name, architecture in named:
        known.setdefault(architecture.layers, (name, architecture))
    if len(known) >= config.finals:
        return list(known.values())[: config.finals]
    raise InputError(
        f"--finals {config.finals}: the {config.space} space has fewer architectures; use a smaller number"
    )

"""Candidates of the finals: the searched network, networks that were good on other images, and unsearched ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from dnas.errors import InputError
from dnas.pipeline import spaces
from dnas.pipeline.config import Config
from dnas.pipeline.model import Subject
from dnas.rng import numpy_stream
from dnas.runtime.names import FOUND, PRIOR, RANDOM, SECOND
from dnas.space.architecture import Architecture, layer_pair
from dnas.space.limits import Feasible
from dnas.space.published import candidates
from dnas.space.registry import get_space
from dnas.space.sampling import sample
from dnas.supernet.mapping import SHARED
from dnas.supernet.worth import Worth

# Random ones for each that is wanted: some may be equal, in a small space.
DRAWS = 20
FEASIBLE_DRAWS = 4  # where there are limits, since these take longer


@dataclass(frozen=True)
class Candidate:
    """A network that a run may train, its origin, and the configuration of a run in its space alone."""

    origin: str
    subject: Subject
    config: Config


def of_spaces(
    config: Config,
    found: Architecture,
    others: Sequence[Architecture],
    prior: Worth | None,
    feasible: Mapping[str, Feasible | None],
) -> list[Candidate]:
    """Return the candidates of the finals, those of the searched space first.

    In a run in several spaces, each has some of the places. There the known network of a space comes before second
    choices and random ones, as one of the few that it has.

    Args:
        found, others: The first and the second choices of the search.
        prior: For one of the spaces.
        feasible: The architectures of each space that are within the limits.
    """
    owns = spaces.configs(config)
    entering = []
    for name, own in owns.items():
        if len(owns) > 1:
            own = own.model_copy(update={"finals": spaces.places(config)[name]})
        theirs = prior if prior is not None and prior.space.name == name else None
        first = found if name == next(iter(owns)) else None
        named = entrants(
            own, first, others if first else (), theirs, feasible[name], layers=len(found), known_first=len(owns) > 1
        )
        entering += [Candidate(origin, architecture, owns[name]) for origin, architecture in named]
    return entering


def entrants(
    config: Config,
    found: Architecture | None,
    others: Sequence[Architecture],
    prior: Worth | None,
    feasible: Feasible | None = None,
    *,
    layers: int = 0,
    known_first: bool = False,
) -> list[tuple[str, Architecture]]:
    """Return `config.finals` different architectures of a space, each with its origin; the searched one is first.

    Half of them are from the prior, if there is one: the best by its means, and the best under draws. The others are in
    turn second choices, uniform random ones, and published ones; with `known_first`, published ones begin. All are as
    deep as the searched one, or as `layers` without one, have shared layers if it has, and are feasible.
    """
    rng = numpy_stream(config.seed, "finals")
    space, shared = get_space(config.space), config.mapping == SHARED
    layers = layers if found is None else len(found)
    named: list[tuple[str, Architecture]] = [] if found is None else [(FOUND, found)]
    if prior is not None:
        draws = [None, *[rng] * (config.finals // 2 - 1)]
        named += [(PRIOR, prior.best(layers, shared=shared, rng=draw, feasible=feasible)) for draw in draws]
    second = [(SECOND, architecture) for architecture in others]

    def draw_one() -> Architecture:
        return sample(space, rng, layers, shared=shared)

    if feasible is None:
        random = [draw_one() for _ in range(DRAWS * config.finals)]
    else:
        random = [feasible.drawn(draw_one) for _ in range(FEASIBLE_DRAWS * config.finals)]
    drawn = [(RANDOM, architecture) for architecture in random]
    stacked = candidates(space, layers)
    if shared:
        stacked = [(name, architecture) for name, architecture in stacked if layer_pair(architecture) is not None]
    if feasible is not None:
        stacked = [(name, architecture) for name, architecture in stacked if feasible.allows(architecture)]
    turns = (stacked, drawn, second) if known_first else (second, drawn, stacked)
    named += [each for turn in zip_longest(*turns) for each in turn if each is not None]
    known: dict[object, tuple[str, Architecture]] = {}
    for name, architecture in named:
        known.setdefault(architecture.layers, (name, architecture))
    if len(known) >= config.finals:
        return list(known.values())[: config.finals]
    raise InputError(
        f"--finals {config.finals}: the {config.space} space has fewer architectures; use a smaller number"
    )

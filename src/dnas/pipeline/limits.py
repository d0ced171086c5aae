"""Limits of a run: the network they apply to, a width that fits them, and errors for limits that cannot be met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from dnas.data.splits import DataInfo
from dnas.errors import InputError, SettingError
from dnas.options import flag_of
from dnas.pipeline import latency
from dnas.rng import numpy_stream
from dnas.settings import CIFAR_STEM, MIN_LAYERS, LimitSettings, NetworkTrainSettings, SearchSettings, TrainSettings
from dnas.space.architecture import Architecture
from dnas.space.limits import LATENCY, MACS, PARAMS, RAM, SIZE, Delivered, Feasible
from dnas.space.network_plan import Shape
from dnas.space.registry import SPACES, get_space
from dnas.space.sampling import sample
from dnas.supernet.mapping import SHARED

# The planned width lets this share of a number of random networks be within the limits, so that a search has a choice.
CHOICE, DRAWS = 0.5, 16
NARROWEST = 2


class Config(Protocol):
    """The settings of a run on which limits depend."""

    @property
    def command(self) -> str: ...
    @property
    def space(self) -> str: ...
    @property
    def mapping(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def limits(self) -> LimitSettings | None: ...
    @property
    def search(self) -> SearchSettings | None: ...
    @property
    def train(self) -> NetworkTrainSettings | None: ...


def check_limits(limits: LimitSettings, command: str, space: str) -> None:
    """Raise InputError for limits that are invalid regardless of the images."""
    if limits.latency and not get_space(space).timed:
        timed = ", ".join(name for name, each in SPACES.items() if each.timed)
        raise InputError(f"--max-latency only applies to {timed}, not to --space {space}; use --max-macs")
    if command == "train":
        raise InputError("limits cannot be used with `dnas train`, which trains a given network; remove them")
    if limits.several and command != "run":
        flag = flag_of(f"limits.{limits.several[0]}")
        raise InputError(f"{flag} can have several values only with `dnas run`; give one")
    if len(limits.several) > 1:
        several = " and ".join(flag_of(f"limits.{name}") for name in limits.several)
        raise InputError(f"{several} have several values; only one of the limits can")
    if limits.precision != LimitSettings().precision and not limits.ram:
        raise InputError(f"--ram-precision {limits.precision} only applies to --max-ram; add that or remove it")


def within_limits(
    config: Config, train: TrainSettings, info: DataInfo, *, planned: bool
) -> tuple[TrainSettings, LimitSettings]:
    """Return the training with a width that fits the limits, and the limits with the network that they apply to.

    Args:
        train: The training of the delivered network, even if the run only searches.
        planned: True if the width may be reduced: to the largest at which half of random architectures are within the
            limits or, if there is none, at which one architecture is.

    Raises:
        SettingError: No architecture can meet the limits.
    """
    assert config.limits is not None and config.search is not None
    limits = config.limits
    layers = limits.layers or train.layers or config.search.layers
    if limits.channels:
        train, planned = train.model_copy(update={"channels": limits.channels}), False

    def at(channels: int) -> Feasible:
        within = _feasible(config, train.model_copy(update={"channels": channels}), layers, limits, info)
        if limits.latency and not latency.covers(limits.times, within.delivered):
            timed = replace(within.delivered, times=latency.measured(within.delivered).times)
            within = Feasible(timed, within.limits)
        return within

    widths = range(train.channels, NARROWEST - 1, -2) if planned else [train.channels]
    found = None
    for width in widths:
        within = at(width)
        if not _some(within):
            continue
        found = found or within
        if not planned or _typical(within, config) >= CHOICE:
            found = within
            break
    if found is None:
        raise _refusal(at(widths[-1]), limits)
    delivered = found.delivered
    train = train.model_copy(update={"channels": delivered.shape.channels})
    kept: dict[str, Any] = {"times": dict(delivered.times)}
    if config.command == "search":
        kept |= {"layers": layers, "channels": train.channels, "stem": train.stem, "final_norm": train.final_norm}
    return train, limits.model_copy(update=kept)


def feasible(config: Config, info: DataInfo) -> Feasible | None:
    """Return the architectures within the limits of resolved settings, or None without limits."""
    limits = config.limits
    if limits is None or not limits.given or config.search is None:
        return None
    train = config.train
    if train is None:
        train = TrainSettings(channels=limits.channels, stem=limits.stem or CIFAR_STEM, final_norm=limits.final_norm)
    assert isinstance(train, TrainSettings)
    return _feasible(config, train, limits.layers or train.layers or config.search.layers, limits, info)


def kept(within: Feasible, architecture: Architecture) -> dict[str, dict[str, int]]:
    """Return, for each limit, its maximum and the cost of the delivered network."""
    costs = within.delivered.costs(architecture, within.limits)
    return {name: {"limit": most, "used": costs[name]} for name, most in within.limits.items()}


def sentence(within: Feasible, *, space: bool = False) -> str:
    """Describe the limits, and the depth and width of the networks that they apply to, and their space on request."""
    limits = ", ".join(f"{flag_of('limits.' + name)} {_text(name, most)}" for name, most in within.limits.items())
    delivered = within.delivered
    of_space = f" in {within.space.name}" if space else ""
    shape = f"{delivered.layers} layers and {delivered.shape.channels} channels"
    return f"limits: {limits}, for networks of {shape}{of_space}"


def _text(name: str, most: int) -> str:
    """Return a limit as typed on the command line."""
    return f"{math.ceil(most / 100) / 10_000:g}ms" if name == LATENCY else str(most)


def _feasible(config: Config, train: TrainSettings, layers: int, limits: LimitSettings, info: DataInfo) -> Feasible:
    shape = Shape(
        channels=train.channels,
        classes=len(info.classes),
        image_size=info.image_size,
        image_channels=info.channels,
        stem=train.stem,
        final_norm=train.final_norm,
    )
    space = get_space(config.space)
    delivered = Delivered(space, layers, config.mapping == SHARED, shape, info.classes, limits.precision, limits.times)
    return Feasible(delivered, limits.given)


def _some(within: Feasible) -> bool:
    """Return True if any architecture is within the limits."""
    return _best(within) is not None


def _best(within: Feasible) -> Architecture | None:
    space = within.space
    return within.best(np.zeros((within.delivered.layers, len(space.edges), len(space.primitives))), space.primitives)


def _typical(within: Feasible, config: Config) -> float:
    """Return the share of random architectures within the limits."""
    rng, delivered = numpy_stream(config.seed, "limits"), within.delivered
    draws = (sample(within.space, rng, delivered.layers, shared=delivered.shared) for _ in range(DRAWS))
    return sum(within.allows(each) for each in draws) / DRAWS


def _refusal(within: Feasible, limits: LimitSettings) -> SettingError:
    """Return the error for limits that cannot be met, with the minimum that is possible."""
    delivered, given = within.delivered, limits.given
    alone = [name for name, most in given.items() if not _some(Feasible(delivered, {name: most}))]
    name = alone[0] if alone else list(given)[-1]
    others: Mapping[str, Any] = {} if alone else {each: most for each, most in given.items() if each != name}
    least = Feasible(delivered, {**others, name: given[name]}).least(name)
    assert least is not None, "without its limit the others can be met"
    used = delivered.costs(least, [name])[name]
    flags = [f"{flag_of('limits.' + each)} {_text(each, most)}" for each, most in others.items()]
    beside = f" within {' and '.join(flags)}" if flags else ""
    shape = f"{delivered.layers} layers and {delivered.shape.channels} channels"
    fewer = ", or give fewer --layers" if delivered.layers > MIN_LAYERS else ""
    what = {
        PARAMS: "parameters",
        MACS: "multiply-accumulates",
        SIZE: "bytes in its ONNX file",
        RAM: f"bytes of {limits.precision} activations",
        LATENCY: "by the measured operations of this machine",
    }[name]
    key = f"limits.{name}"
    return SettingError(
        key,
        flag_of(key),
        f" {_text(name, given[name])} cannot be met{beside}: the least that a network of {shape} needs is "
        f"{_text(name, used)} {what}; allow {_text(name, used)}{fewer}",
    )

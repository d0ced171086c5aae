"""Runs in several spaces (`--space auto`): the part of each in the finals, and how far the winner is ahead of others.

In each space, a run has the configuration of a run in this space alone, except for the places in the finals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from typing_extensions import Self

from dnas.data.splits import DataInfo
from dnas.errors import InputError, SettingError
from dnas.pipeline import limits
from dnas.searching import finals
from dnas.settings import TrainSettings
from dnas.space.network_plan import check_channels
from dnas.space.registry import AUTO, get_space, spaces_of

PLACES = 2  # of each space in the finals, by default: its known network, and one that was found or drawn


class Config(limits.Config, Protocol):
    """The settings of a run on which its spaces depend."""

    @property
    def widths(self) -> dict[str, int]: ...
    @property
    def finals(self) -> int: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


ConfigType = TypeVar("ConfigType", bound=Config)


def names(config: Config) -> list[str]:
    """Return the names of the spaces of a run; the first is searched. Raises InputError for an unknown space."""
    return [get_space(name).name for name in config.widths] or [space.name for space in spaces_of(config.space)]


def check(config: Config) -> None:
    """Raise InputError for settings that cannot be used with the spaces of a run."""
    if config.space != AUTO:
        if config.widths:
            raise InputError(f"widths only applies to space = 'auto', not to {config.space!r}; remove it")
        return
    those = names(config)
    one = f"give one space, such as --space {those[0]}"
    if config.command != "run":
        raise InputError(f"--space auto does not apply to `dnas {config.command}`, which has no finals; {one}")
    if not config.finals:
        raise InputError(
            f"--space auto requires finals, in which the spaces meet; add --finals {PLACES * len(those)}, or {one}"
        )
    if config.finals < len(those):
        raise InputError(
            f"--finals {config.finals} has too few places for the {len(those)} spaces of --space auto "
            f"({', '.join(those)}); use at least {len(those)}, or {one}"
        )
    if config.limits is not None and config.limits.several:
        raise InputError(f"several values of a limit cannot be used with --space auto; give one value, or {one}")
    if config.limits is not None and config.limits.latency:
        raise InputError("--max-latency cannot be used with --space auto; use --max-macs, or give one space")
    for name, width in config.widths.items():
        check_channels(width, f"widths.{name}")


def chosen(config: Config, train: Mapping[str, Any], preset: Mapping[str, int]) -> dict[str, Any]:
    """Return the initial channels of the networks of each space; the training of the run has those of the first.

    Args:
        train: The training settings of the user. Channels among them are those of all spaces.
        preset: The channels that the preset has for each space.
    """
    widths = config.widths or {name: train.get("channels", channels) for name, channels in preset.items()}
    return {"widths": widths, "train": {**train, "channels": next(iter(widths.values()))}}


def configs(config: ConfigType) -> dict[str, ConfigType]:
    """Return the configuration of the candidates of each space, by its name; the first space is searched.

    Resolved settings have the channels of each.
    """
    if config.space != AUTO:
        return {config.space: config}
    return {name: _alone(config, name) for name in names(config)}


def searched(config: ConfigType) -> ConfigType:
    """Return the configuration of the search of a run."""
    return next(iter(configs(config).values()))


def of_network(config: ConfigType, space: str) -> ConfigType:
    """Return the configuration of a run for a network of one of its spaces."""
    return configs(config).get(space) or searched(config)


def _alone(config: ConfigType, name: str) -> ConfigType:
    update: dict[str, Any] = {"space": name, "widths": {}}
    if isinstance(config.train, TrainSettings) and name in config.widths:
        update["train"] = config.train.model_copy(update={"channels": config.widths[name]})
    return config.model_copy(update=update)


def within_limits(config: ConfigType, info: DataInfo, *, planned: bool) -> ConfigType:
    """Return a run in several spaces with a width of each within the limits. Spaces that cannot meet them are left out.

    Args:
        planned: As in `limits.within_limits`.

    Raises:
        SettingError: The searched space cannot meet the limits.
    """
    widths: dict[str, int] = {}
    for name, own in configs(config).items():
        assert isinstance(own.train, TrainSettings)
        try:
            train, _ = limits.within_limits(own, own.train, info, planned=planned)
        except SettingError:
            if not widths:
                raise
            continue
        widths[name] = train.channels
    assert config.train is not None
    training = config.train.model_copy(update={"channels": next(iter(widths.values()))})
    return config.model_copy(update={"widths": widths, "train": training})


def sentence(config: Config) -> str:
    """Describe the spaces of a run in several."""
    first, *others = names(config)
    left_out = [space.name for space in spaces_of(AUTO) if space.name not in config.widths]
    text = f"search space {first}; the finals compare it with {' and '.join(others) or 'no other'}"
    return f"{text} ({', '.join(left_out)} cannot meet the limits)" if left_out and config.limits is not None else text


def places(config: Config) -> dict[str, int]:
    """Return the number of candidates of each space in the finals: equal numbers, and one more for the first ones."""
    those = names(config)
    return {name: (config.finals + len(those) - 1 - k) // len(those) for k, name in enumerate(those)}


def margins(
    spaces: Sequence[str], scores: Sequence[Sequence[float | None]], winner: int, images: int
) -> list[dict[str, Any]]:
    """Return how far the winner of the finals was ahead of the best candidate of each other space.

    They are compared in the last round in which a candidate of that space took part, by their accuracies on so many
    `images`. The standard error of the difference is that of two independent samples; on the same images it is smaller.
    An `accuracy` is None if all trainings of the space diverged.

    Args:
        spaces, scores: The space of each candidate, and its accuracies by round.
    """
    found = []
    programme = finals.rounds(len(spaces))
    for space in dict.fromkeys(spaces):
        if space == spaces[winner]:
            continue
        theirs = [own for name, own in zip(spaces, scores, strict=True) if name == space]
        last = max(map(len, theirs)) - 1
        best = max((own[last] for own in theirs if len(own) > last), key=lambda score: -1.0 if score is None else score)
        ours = scores[winner][last]
        assert ours is not None
        row: dict[str, Any] = {"space": space, "share": programme[last].share, "accuracy": best, "winner": ours}
        if best is not None:
            error = math.sqrt((ours * (1 - ours) + best * (1 - best)) / images)
            row |= {"ahead": ours - best, "standard_error": error}
        found.append(row)
    return found

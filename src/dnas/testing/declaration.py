"""Checks of the declarations of a method: name, mappings, options, schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch

from dnas.data.splits import DataInfo
from dnas.errors import InputError
from dnas.methods.protocol import (
    GradientMethod,
    MethodOptions,
    Progress,
    SupernetMethod,
    TrialMethod,
)
from dnas.methods.registry import create, get_method
from dnas.methods.relaxed import RelaxedOptions
from dnas.pipeline.presets import preset_settings
from dnas.settings import TrainSettings
from dnas.space.darts import DARTS
from dnas.supernet.mapping import MAPPINGS
from dnas.testing.planted import plant
from dnas.testing.record import REAL, SMALL, Acts, Options, bits, random_mapping, search

# Data sets for which the paper of a method may have settings, with their training images and image size in pixels.
_DATA_SETS = (("digits", 1_437, 8), ("cifar10", 50_000, 32), ("cifar100", 50_000, 32), ("tiny-imagenet", 100_000, 64))


# --- clauses on a method as a whole -----------------------------------------------------------------------------


def check_declaration(name: str) -> None:
    """Check that the declarations of a method are complete and correct, and the settings of its paper valid."""
    method = get_method(name)
    kinds = (GradientMethod, SupernetMethod, TrialMethod)
    kind = next((cls.kind for cls in kinds if issubclass(method, cls)), None)
    assert vars(method).get("name") == name, f"{method.__name__}.name must be {name!r}, the name it is registered by"
    for attribute in ("title", "paper"):
        text = getattr(method, attribute, None)
        assert text and isinstance(text, str), f"{method.__name__}.{attribute} must be a text for `dnas methods`"
    assert kind is not None, f"{method.__name__} must derive from {', '.join(cls.__name__ for cls in kinds)}"
    assert method.kind == kind, f"{method.__name__}.kind must stay {kind!r}, as in its base class"
    assert method.mappings and set(method.mappings) <= set(MAPPINGS), (
        f"{method.__name__}.mappings must be some of {', '.join(MAPPINGS)}"
    )
    assert getattr(method, "default_mapping", None) in method.mappings, (
        f"{method.__name__}.default_mapping must be one of its mappings, {', '.join(method.mappings)}"
    )
    assert issubclass(method.Options, MethodOptions), f"{method.__name__}.Options must derive from MethodOptions"
    check_described(name, method.Options)
    for mapping in method.mappings:
        for source, count, pixels in _DATA_SETS:
            info = DataInfo(source, ("0", "1"), 3, pixels, (0.5,) * 3, (0.5,) * 3, True)
            for preset in ("quick", "paper"):
                preset_values = preset_settings(preset, create(name, mapping, {}, DARTS), info, count)
                try:
                    method.Settings(**preset_values["search"]).resolved(count, 1.0, pixels)
                    TrainSettings(**preset_values["train"]).resolved(count, pixels)
                except ValueError as error:
                    raise AssertionError(
                        f"paper_settings({source!r}) of {name} under --mapping {mapping} are invalid: {error}"
                    ) from error


def check_described(name: str, options: type[MethodOptions]) -> None:
    """Check that each option has a default and a description."""
    for option, field in options.model_fields.items():
        assert not field.is_required(), f"option {option} of {name} needs a default: {name} works without options"
        assert field.description, f"option {option} of {name} needs a description"


def check_mappings(name: str) -> None:
    """Check that an unsupported mapping raises an error that names it."""
    method = get_method(name)
    for mapping in {*MAPPINGS, "no-such-mapping"} - set(method.mappings):
        try:
            create(name, mapping, {}, DARTS)
        except InputError as error:
            assert mapping in str(error), f"the error of {name} for --mapping {mapping} must name it: {error}"
        else:
            raise AssertionError(
                f"{name} does not declare --mapping {mapping} but accepts it: call super().__init__ first"
            )


def check_options(name: str, options: Options | None = None, acts: Acts | None = None) -> None:
    """Check that unknown options and wrong types raise errors that name them, and that each option takes effect.

    Args:
        acts: For each option of the method: other options to set, and a value that changes the search. Options of the
            classes in dnas may be omitted.
    """
    method = get_method(name)
    check_values_refused(name, method.Options, lambda given: create(name, None, given, DARTS))
    acts = {**_inherited_acts(method.Options), **(acts or {})}
    require_acts(name, method.Options, acts)
    for option, (around, value) in acts.items():
        check_option_acts(name, option, value, {**(options or {}), **around})


def check_option_acts(name: str, option: str, value: Any, options: Options | None = None) -> None:
    """Check that another value of an option changes the search, and that its schedules still reach their ends."""
    method = get_method(name)
    without = dict(options or {})
    default = without.get(option, method.Options.model_fields[option].default)
    assert value != default, f"acts of {name} must name another value of {option} than {default!r}, the current one"
    check_schedules(name, None, {**without, option: value})
    for size, planted in ((SMALL, plant(method.default_mapping, 0)), (REAL, None)):
        one, two = (
            search(name, None, given, size=size, planted=planted) for given in (without, {**without, option: value})
        )
        if one.differences(two):
            return
    raise AssertionError(
        f"option {option}={value!r} of {name} does not affect a search with {without}; use the option, raise an error "
        "in __init__ if it has no effect, or set other options with it"
    )


def require_acts(name: str, options: type[MethodOptions], acts: Acts) -> None:
    """Raise AssertionError unless `acts` (see `check_options`) contains exactly these options."""
    missing, unknown = set(options.model_fields) - set(acts), set(acts) - set(options.model_fields)
    assert not missing, (
        f"give a value that takes effect for {', '.join(sorted(missing))} of {name}: acts={{NAME: ({{}}, VALUE)}}"
    )
    assert not unknown, f"{name} has no option {', '.join(sorted(unknown))}, which acts names"


def check_values_refused(
    name: str, options: type[MethodOptions], make: Callable[[dict[str, Any]], object], prefix: str = ""
) -> None:
    """Check that unknown options, wrong types and values out of bounds raise errors that name the option.

    Args:
        make: Creates the method or part with options.
        prefix: The prefix of option names on the command line.
    """
    given: list[tuple[str, Any]] = [("no_such_option", 1)]
    for option, field in options.model_fields.items():
        values: tuple[Any, ...] = ("no such value", 0.5, 7, True, None, [], {}, math.nan, math.inf)
        wrong = [value for value in values if not _fits(value, field.annotation)]
        given += [(option, value) for value in [*wrong, *_out_of_bounds(field.metadata)]]
    for option, value in given:
        try:
            make({option: value})
        except InputError as error:
            assert re.search(rf"--option {re.escape(prefix + option)}\b", str(error)), (
                f"{name} refuses {option}={value!r} without naming --option {prefix}{option}: {error}"
            )
        else:
            raise AssertionError(
                f"{name} accepts {option}={value!r}; leave the model_config of its options as it is (strict, nothing "
                "extra, no infinities) and give the option its type and bounds"
            )


def _fits(value: Any, annotation: Any) -> bool:
    """Return True if a value has a type, without using pydantic."""
    origin = get_origin(annotation)
    if origin is Literal:
        return any(value == known and type(value) is type(known) for known in get_args(annotation))
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(annotation))
    if annotation is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is (origin or annotation)


def _out_of_bounds(metadata: Sequence[Any]) -> list[float]:
    """Return values just outside the bounds of a pydantic field."""
    found = []
    for constraint in metadata:
        for kind, beyond in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
            if isinstance(bound := getattr(constraint, kind, None), int | float):
                found.append(bound + beyond)
    return found


def _inherited_acts(options: type[MethodOptions]) -> dict[str, tuple[Options, Any]]:
    """Return non-default values for the options of the option classes in dnas."""
    fields = options.model_fields
    found: dict[str, tuple[Options, Any]] = {}
    if "partial_channels" in fields:
        found["partial_channels"] = ({}, 1 if fields["partial_channels"].default == 2 else 2)
    if "with_none" in fields:
        found["with_none"] = ({}, not fields["with_none"].default)
    if "initial_scale" in fields:
        found["initial_scale"] = ({}, 0.5)
    if issubclass(options, RelaxedOptions):
        found["relaxation"] = ({}, "sigmoid")
    return found


def check_schedules(name: str, mapping: str | None = None, options: Options | None = None) -> None:
    """Check that schedules reach the same final values for all numbers of epochs and warm-up epochs.

    In the last epoch, mixing weights, penalty, skip dropout, scores and derivation must be the same functions of the
    parameters.
    """
    own = {key: value for key, value in (options or {}).items() if not key.startswith("search.")}
    lengths = ((1, 0), (2, 0), (2, 1), (5, 0), (5, 1), (9, 2))
    for draw in (0, 1):
        ends = []
        for epochs, warmup in lengths:
            method = create(name, mapping, own, DARTS)
            if not isinstance(method, SupernetMethod):
                return
            learnt = random_mapping(method, 0.5, 0)
            ends.append(_functions(method, learnt, Progress(epochs - 1, epochs, warmup, step=7, draw=draw)))
        for (epochs, warmup), end in zip(lengths, ends, strict=True):
            differing = [what for what in end if end[what] != ends[0][what]]
            assert not differing, (
                f"{name} ends {epochs} epochs, {warmup} of them warm-up, with other {', '.join(differing)} than 1 "
                "epoch; let schedules be functions of progress.share, which is 1 in the last epoch"
            )


def _functions(method: SupernetMethod, mapping: Any, progress: Progress) -> dict[str, Any]:
    with torch.no_grad():
        mixing = method.mixing(mapping, progress)
        found: dict[str, Any] = {
            "mixing weights": bits({"o": mixing.operations, "e": mixing.edges, "b": mixing.bypass}),
            "active operations": None if mixing.active is None else mixing.active.tolist(),
            "skip dropout": method.skip_dropout(progress),
            "derived architecture": method.derive(mapping, progress),
        }
        if isinstance(method, GradientMethod):
            penalty = method.penalty(mapping, progress)
            found["penalty"] = None if penalty is None else penalty.item()
            found["scores"] = bits({"scores": method.scores(mapping, progress)})
    return found

"""Shared code of the functions: keyword arguments become settings, and the choice of a progress reporter."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dnas.data.sources.objects import place_of
from dnas.data.sources.protocol import IN_MEMORY, Place
from dnas.errors import InputError, calling
from dnas.options import Command, ExecutionOptions, names
from dnas.pipeline.overrides import nested, typed
from dnas.pipeline.run import start
from dnas.pipeline.subjects import Named
from dnas.reporter import Logged, Reporter, reporter
from dnas.runtime.execution import Execution, execution


@dataclass(frozen=True)
class Started:
    """Arguments of a call that are not settings.

    Attributes:
        place: The place of images in memory; None if a setting names the images.
    """

    execution: Execution
    reporter: Reporter
    place: Place | None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Started:
        """Read them from the arguments of a function, by name. Raises InputError."""
        # First, since time_limit counts from here.
        now = execution(**{name: given[name] for name in names(ExecutionOptions)})
        shown = given["reporter"]
        if given["progress"]:
            if shown is not None:
                raise InputError("progress=True cannot be used with reporter; remove one")
            shown = reporter(quiet=False)
        data = given.get("data")
        place = None if data is None or isinstance(data, str | os.PathLike) else place_of(data)
        return cls(replace(now, on_epoch=given.get("on_epoch")), Logged(shown), place)


OWN = (*names(ExecutionOptions), "on_epoch", "progress", "reporter")


def begin(command: Command, given: Mapping[str, Any], subject: Named | None = None) -> dict[str, Any]:
    """Execute a run with the arguments of a function, and return the content of result.json.

    Raises InputError, RunError and Interrupted.
    """
    started = Started.of(given)
    named = given if started.place is None else {**given, "data": IN_MEMORY}
    options = {name: plain(value) for name, value in named.items() if name not in OWN}
    if command == "run" and options["baseline"]:
        del options["baseline"]  # the default, so that a configuration file takes precedence
    out = options.pop("out")
    with calling(typed(command, options)):
        settings, architecture = nested(command, options), None
        if subject is not None:
            settings, architecture = subject.beneath(settings), subject.architecture
        return start(
            settings,
            out=out,
            architecture=architecture,
            given=started.place,
            reporter=started.reporter,
            execution=started.execution,
        )


def plain(value: Any) -> Any:
    """Return an argument in the form of the command line."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return [f"{name}={each}" for name, each in value.items()]
    return value

"""The parts by name: each file of this folder, and what else was given."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from dnas.errors import InputError, SettingError, unknown
from dnas.methods.protocol import GradientMethod, Method
from dnas.parts.protocol import Part
from dnas.settings import GradientSettings, SearchSettings
from dnas.validation import checked

SETTING = "with_parts"  # the setting that names parts
OPTIONS = "with_options"  # the table of their options


def _built_in() -> dict[str, type[Part]]:
    """The parts of this folder: in each file, the classes that it defines and that have a name."""
    found = {}
    for module in pkgutil.iter_modules(sys.modules[__package__].__path__):
        path = f"{__package__}.{module.name}"
        for _, value in inspect.getmembers(import_module(path), inspect.isclass):
            if value.__module__ == path and issubclass(value, Part) and "name" in vars(value):
                found[value.name] = value
    return found


@cache
def registry() -> Mapping[str, type[Part]]:
    """Every part by name: those of dnas, then those of installed packages."""
    parts = _built_in()
    for entry in entry_points(group="dnas.parts"):
        if entry.name in parts:
            raise InputError(f"part {entry.name!r} of {entry.value} has the name of another; rename its entry point")
        parts[entry.name] = entry.load()
    return parts


def list_parts() -> list[str]:
    """The names of all parts."""
    return list(registry())


def get_part(name: str) -> type[Part]:
    """The class of a part. Raises InputError listing the names."""
    if name not in registry():
        raise unknown(SETTING, "--with", name, registry())
    return registry()[name]


def create(names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Part, ...]:
    """The parts of these names, in this order, with checked options by name.

    Raises:
        InputError: A part that is not known, named twice, or with an option that it has not; options of one that does
            not take part.
    """
    options = options or {}
    for number, name in enumerate(names):
        get_part(name)
        if name in names[:number]:
            raise SettingError(SETTING, "--with", f" names {name} twice; leave one out")
    for name in options:
        if name not in names:
            get_part(name)
            raise SettingError(f"{OPTIONS}.{name}", f"--option {name}.…", f" has no use without --with {name}")
    parts = []
    for name in names:
        part = get_part(name)
        key = f"{OPTIONS}.{name}"
        parts.append(
            part(checked(part.Options, options.get(name, {}), key, f" of part {name}", "`dnas methods --parts`"))
        )
    return tuple(parts)


def check(parts: Sequence[Part], method: Method, settings: SearchSettings | None) -> None:
    """Raises InputError for a part that could not act with this method and these settings."""
    deriving = [part.name for part in parts if part.derives]
    if len(deriving) > 1:
        raise SettingError(SETTING, "--with", f" names {' and '.join(deriving)}, which both derive; leave one out")
    for part in parts:
        if not isinstance(method, GradientMethod):
            names = f"a method that follows gradients, which --method {method.name} does not"
            raise SettingError(SETTING, "--with", f" {part.name} needs {names}; choose another, or leave it out")
        assert isinstance(settings, GradientSettings)
        part.check(method, settings)

"""The methods by name: each file of this folder, and what else was given."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Mapping as Dict
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from dnas.errors import InputError, unknown
from dnas.methods.protocol import Method
from dnas.space.darts import Space
from dnas.validation import checked


def _built_in() -> dict[str, type[Method]]:
    """The methods of this folder: in each file, the classes that it defines and that have a name."""
    found = {}
    for module in pkgutil.iter_modules(sys.modules[__package__].__path__):
        path = f"{__package__}.{module.name}"
        for _, value in inspect.getmembers(import_module(path), inspect.isclass):
            if value.__module__ == path and issubclass(value, Method) and "name" in vars(value):
                found[value.name] = value
    return found


@cache
def registry() -> Dict[str, type[Method]]:
    """Every method by name: those of dnas, then those of installed packages."""
    methods = _built_in()
    for entry in entry_points(group="dnas.methods"):
        if entry.name in methods:
            raise InputError(f"method {entry.name!r} of {entry.value} has the name of another; rename its entry point")
        methods[entry.name] = entry.load()
    return methods


def list_methods() -> list[str]:
    """The names of all methods."""
    return list(registry())


def get_method(name: str) -> type[Method]:
    """The class of a method. Raises InputError listing the names."""
    if name not in registry():
        raise unknown("method", "--method", name, registry(), "`dnas methods`")
    return registry()[name]


def create(name: str, mapping: str | None, options: Dict[str, Any], space: Space) -> Method:
    """A method with checked options. Raises InputError naming the method, the option and its choices."""
    method = get_method(name)
    own = checked(method.Options, options, "options", f" of method {name}", f"`dnas methods {name}`")
    return method(own, mapping or method.default_mapping, space)

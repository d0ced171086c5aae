"""What is found by itself: the classes of a folder's files, one file each, and those that installed packages give."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from dnas.errors import InputError

_Kind = TypeVar("_Kind")


def discovered(package: str, kind: type[_Kind], word: str) -> dict[str, type[_Kind]]:
    """Subclasses of a kind by their `name`: those that each file of a package defines, then those of entry points.

    Args:
        package: Such as dnas.methods; entry points are of the group with the same name.
        word: What one of them is called, for messages.

    Raises:
        InputError: An entry point has the name of another.
    """
    found = {}
    for module in pkgutil.iter_modules(sys.modules[package].__path__):
        path = f"{package}.{module.name}"
        for _, value in inspect.getmembers(import_module(path), inspect.isclass):
            if value.__module__ == path and issubclass(value, kind) and "name" in vars(value):
                found[vars(value)["name"]] = value
    return found | from_packages(package, found, word)


def from_packages(group: str, taken: Iterable[str], word: str) -> dict[str, Any]:
    """What installed packages give by entry points of a group, by name.

    Args:
        taken: Names that are taken.
        word: What one of them is called, for messages.

    Raises:
        InputError: An entry point has the name of another.
    """
    taken, found = set(taken), {}
    for entry in entry_points(group=group):
        if entry.name in taken:
            raise InputError(f"{word} {entry.name!r} of {entry.value} has the name of another; rename its entry point")
        taken.add(entry.name)
        found[entry.name] = entry.load()
    return found

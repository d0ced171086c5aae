"""The methods by name: each file of this folder, those of installed packages, and what a program registers."""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from functools import cache
from typing import Any, TypeVar

from dnas.errors import InputError, SettingError, shown, unknown
from dnas.methods.protocol import Method
from dnas.plugins import discovered
from dnas.space.darts import Space
from dnas.validation import checked

_Kind = TypeVar("_Kind", bound=type[Method])
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")  # as part of the names of run folders
_registered: dict[str, type[Method]] = {}


@cache
def registry() -> dict[str, type[Method]]:
    """Every method by name: those of dnas, of installed packages, and then registered ones."""
    assert __package__
    return discovered(__package__, Method, "method")


def register(method: _Kind) -> _Kind:
    """Make a method known by its name in this process, as one of a notebook or a script; also as a decorator.

    A class that is defined again takes the place of its former self. A process that resumes a run of it has to register
    it, too; what others are to use belongs in a package with an entry point (docs/add-a-method.md).

    Args:
        method: A subclass of `Method` with a name of its own.

    Returns:
        The class.

    Raises:
        InputError: It is none, has no name, or has the name of another method.
    """
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise InputError(f"register takes a class of method, such as a subclass of GradientMethod, got {shown(method)}")
    name = vars(method).get("name")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise InputError(
            f"{method.__name__} has the name {name!r}; give it a name of small letters, digits and hyphens"
        )
    known = registry().get(name)
    if known is not None and (_path(known) != _path(method) or name not in _registered):
        raise InputError(f"{method.__name__} has the name {name!r} of {_path(known)}; give it another name")
    _registered[name] = registry()[name] = method
    return method


def registered() -> tuple[type[Method], ...]:
    """What this process has registered, for processes that it begins."""
    return tuple(_registered.values())


def _path(method: type[Method]) -> str:
    return f"{method.__module__}.{method.__qualname__}"


def list_methods() -> list[str]:
    """The names of all methods."""
    return list(registry())


def get_method(name: str) -> type[Method]:
    """The class of a method. Raises InputError listing the names."""
    method, *with_parts = name.split("+")
    if with_parts and method in registry():
        # As rows of a study are called.
        remedy = f"use {method}, and --with {','.join(with_parts)}"
        raise SettingError("method", "--method", f" {name} has parts, which are not named here; {remedy}")
    if name not in registry():
        raise unknown("method", "--method", name, registry(), "`dnas methods`")
    return registry()[name]


def create(name: str, mapping: str | None, options: Dict[str, Any], space: Space) -> Method:
    """A method with checked options. Raises InputError naming the method, the option and its choices."""
    method = get_method(name)
    own = checked(method.Options, options, "options", f" of method {name}", f"`dnas methods {name}`")
    return method(own, mapping or method.default_mapping, space)

"""The methods by name: those of this folder (one per file), of installed packages, and registered ones."""

from __future__ import annotations

from collections.abc import Mapping as Dict
from typing import Any

from dnas.errors import SettingError, unknown
from dnas.methods.protocol import Method
from dnas.plugins import Registry, classes_of
from dnas.space.protocol import SearchSpace
from dnas.validation import checked

METHODS = Registry[type[Method]](
    "dnas.methods", Method, "method", lambda: classes_of("dnas.methods", Method), classes=True
)


def list_methods() -> list[str]:
    """Return the names of all methods."""
    return list(METHODS)


def get_method(name: str) -> type[Method]:
    """Return the class of the method `name`. Raises SettingError, an InputError, for an unknown name."""
    method, *with_parts = name.split("+")
    if with_parts and method in METHODS:
        # The form of names in tables of a study.
        remedy = f"use {method} and --with {','.join(with_parts)}"
        raise SettingError("method", "--method", f" {name} must not contain parts; {remedy}")
    if name not in METHODS:
        raise unknown("method", "--method", name, METHODS, "`dnas methods`")
    return METHODS[name]


def create(name: str, mapping: str | None, options: Dict[str, Any], space: SearchSpace) -> Method:
    """Return a method with checked options. Raises InputError with the method, the option and its choices."""
    method = get_method(name)
    own = checked(method.Options, options, "options", f" of method {name}", f"`dnas methods {name}`")
    return method(own, mapping or method.default_mapping, space)

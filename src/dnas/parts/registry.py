"""The parts by name: those of this folder (one per file), of installed packages, and registered ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dnas.errors import SettingError, unknown
from dnas.methods.protocol import GradientMethod, Method
from dnas.parts.protocol import Part
from dnas.plugins import Registry, classes_of
from dnas.settings import GradientSettings, SearchSettings
from dnas.validation import checked

SETTING = "with_parts"  # the setting that names parts
OPTIONS = "with_options"  # the table of their options


PARTS = Registry[type[Part]]("dnas.parts", Part, "part", lambda: classes_of("dnas.parts", Part), classes=True)


def list_parts() -> list[str]:
    """Return the names of all parts."""
    return list(PARTS)


def get_part(name: str) -> type[Part]:
    """Return the class of a part. Raises InputError for an unknown name."""
    if name not in PARTS:
        raise unknown(SETTING, "--with", name, PARTS)
    return PARTS[name]


def create(names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> tuple[Part, ...]:
    """Return the parts with these names, in this order, with checked options by name.

    Raises:
        InputError: A part is unknown, named twice, or has an unknown option; or there are options of another part.
    """
    options = options or {}
    for number, name in enumerate(names):
        get_part(name)
        if name in names[:number]:
            raise SettingError(SETTING, "--with", f" contains {name!r} twice; remove one")
    for name in options:
        if name not in names:
            get_part(name)
            raise SettingError(f"{OPTIONS}.{name}", f"--option {name}.…", f" only applies to --with {name}")
    parts = []
    for name in names:
        part = get_part(name)
        key = f"{OPTIONS}.{name}"
        parts.append(
            part(checked(part.Options, options.get(name, {}), key, f" of part {name}", "`dnas methods --parts`"))
        )
    return tuple(parts)


def check(parts: Sequence[Part], method: Method, settings: SearchSettings | None) -> None:
    """Raise InputError for a part that would have no effect with this method and these settings."""
    deriving = [part.name for part in parts if part.derives]
    if len(deriving) > 1:
        raise SettingError(SETTING, "--with", f" {' and '.join(deriving)} both derive the architecture; remove one")
    for part in parts:
        if not isinstance(method, GradientMethod):
            names = f"a differentiable method, which {method.name} is not"
            raise SettingError(SETTING, "--with", f" {part.name} requires {names}; choose another method or remove it")
        assert isinstance(settings, GradientSettings)
        if settings.update not in part.updates:
            remedy = f"use -o search.update={part.updates[0]}, or remove it"
            raise SettingError(
                SETTING, "--with", f" {part.name} cannot be used with search.update={settings.update}; {remedy}"
            )
        part.check(method, settings)

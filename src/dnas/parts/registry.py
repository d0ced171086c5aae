"""The parts by name: each file of this folder, and what else was given."""

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
    """The names of all parts."""
    return list(PARTS)


def get_part(name: str) -> type[Part]:
    """The class of a part. Raises InputError listing the names."""
    if name not in PARTS:
        raise unknown(SETTING, "--with", name, PARTS)
    return PARTS[name]


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
        if settings.update not in part.updates:
            remedy = f"choose -o search.update={part.updates[0]}, or leave it out"
            raise SettingError(
                SETTING, "--with", f" {part.name} cannot be used with search.update={settings.update}; {remedy}"
            )
        part.check(method, settings)

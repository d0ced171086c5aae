"""Validation of settings: errors of pydantic become messages with the name of the setting that users know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dnas.errors import LISTED, SettingError, did_you_mean, unknown
from dnas.options import flag_of

_Checked = TypeVar("_Checked", bound=BaseModel)
# The types of pydantic's errors, and what a value must be instead; {…} is from the context of the error.
_MUST = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "multiple_of": "a multiple of {multiple_of}",
}
_SHOWN = 60


def checked(
    cls: type[_Checked],
    values: Mapping[str, Any],
    section: str = "",
    whose: str = "",
    listed_by: str = "`dnas methods NAME`",
) -> _Checked:
    """Return a model of these values.

    Args:
        section: The dotted name of the section that the model describes, e.g. "search"; "" for a whole file.
        whose: Text after the name of an unknown setting, e.g. " of method darts".
        listed_by: The command that lists the known settings.

    Raises:
        SettingError: For the first wrong value.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    parts = [str(part) for part in first["loc"]]
    owner, depth = _owner(cls, parts)
    path = [section, *parts[: depth + 1]] if section else parts[: depth + 1]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        prefix = "".join(f"{part}." for part in path[:-1] if section != "options").removeprefix("with_options.")
        known = list(owner.model_fields)
        hint = did_you_mean(path[-1], known, prefix)
        if not hint:
            hint = f"; choose from {', '.join(known)}" if len(known) <= LISTED else f"; list all with {listed_by}"
        before = "unknown " if section.startswith(("options", "with_options.")) else "unknown setting "
        raise SettingError(key, flag_of(key, own=False), f"{whose}{hint}", before)
    raise _objection(key, first["type"], first["input"], first.get("ctx", {}))


def _owner(cls: type[BaseModel], parts: list[str]) -> tuple[type[BaseModel], int]:
    """Return the model with the field of an error, and the position of its name in the location of the error."""
    depth = 0
    while depth + 1 < len(parts):
        inner = cls.model_fields[parts[depth]].annotation if parts[depth] in cls.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        cls, depth = inner, depth + 1
    return cls, depth


def _objection(key: str, kind: str, value: Any, context: Mapping[str, Any]) -> SettingError:
    """Return the error for a value. `kind` and `context` are the type and the context of pydantic's error."""
    name = flag_of(key)
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
    if kind in ("literal_error", "enum"):
        names = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        if isinstance(value, str):
            return unknown(key, name, value, names)
        return SettingError(key, name, f" must be one of {', '.join(names)}, got {shown}")
    if kind in ("value_error", "assertion_error"):
        # The message of a validator, ours or that of the author of a method.
        text = " ".join(str(context.get("error", "")).split())
        return SettingError(key, name, f" {text}" if text.startswith("must ") else f" cannot be {shown}: {text}")
    if kind == "missing":
        return SettingError(key, name, " is missing")
    must = _MUST.get(re.sub(r"(_attributes)?_(type|parsing|parsing_size|from_float)$", "", kind))
    if must is None:
        return SettingError(key, name, f" cannot be {shown}")
    bounds = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in context.items()}
    return SettingError(key, name, f" must be {must.format(**bounds)}, got {shown}")

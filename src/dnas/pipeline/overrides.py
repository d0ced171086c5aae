"""Conversion of flat options to nested settings, which take precedence over those of a configuration file.

The command line imports this module at startup, so pydantic, numpy and torch are imported only where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dnas.disk import read_toml
from dnas.errors import InputError, SettingError, choices
from dnas.options import (
    LIMIT_OPTIONS,
    SECTIONS,
    Command,
    common_first,
    flag,
    flag_of,
    places,
)


def typed(command: Command, given: Mapping[str, Any]) -> dict[str, str]:
    """Return what the user typed for each setting, by its dotted name, as `dnas.errors.calling` takes it.

    Args:
        given: Flat options, as in `nested`.
    """
    given = {key: value for key, value in given.items() if value is not None}
    found = {}
    if "config" in given:
        found = in_file(read_settings(given["config"]), given["config"])
    for option in common_first(given):
        found |= {key: flag(option) for key in places(command, option)}
    for text in given.get("option", []):
        name = text.partition("=")[0]
        key = name if name.startswith(("search.", "train.")) else f"with_options.{name}" if "." in name else ""
        found[key or f"options.{name}"] = name if key == name else f"--option {name}"
    return found


def in_file(settings: Mapping[str, Any], file: str | Path) -> dict[str, str]:
    """Return the name of each setting of a file in messages, by its dotted name: "search.epochs in 'config.toml'"."""

    def keys(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            yield f"{prefix}{key}"
            if isinstance(value, Mapping):
                yield from keys(value, f"{prefix}{key}.")

    return {key: f"{key} in {str(file)!r}" for key in keys(settings, "")}


def nested(command: Command, given: dict[str, Any], beside: Sequence[str] = ()) -> dict[str, Any]:
    """Return flat options (those that are not None), over a configuration file, as nested settings.

    Args:
        beside: Further parts in addition to those of `--with`.

    Raises InputError for an option that cannot be used with the command or is malformed.
    """
    given = {k: v for k, v in given.items() if v is not None}
    settings: dict[str, Any] = read_settings(given.pop("config")) if "config" in given else {}
    theirs = str(settings.get("handmade", ""))
    if settings.get("command", command) != command:
        # The search and train settings of a file of another command still apply.
        for key in (
            "architecture",
            "handmade",
            "from_run",
            "baseline",
            "baseline_steps",
            "finals",
            "finals_steps",
            "prior",
            "answers",
            "widths",
        ):
            settings.pop(key, None)
    if given.keys() & LIMIT_OPTIONS:
        settings.pop("answers", None)  # the plan of the run that wrote the file
    if given.get("space", "auto") != "auto" or given.keys() & {"channels", "train_channels"}:
        settings.pop("widths", None)  # of a run in several spaces
    beneath = settings.pop("train", {})
    if beneath:
        from dnas.pipeline.config import train_settings  # imports torch, which is not needed for help

        # So do those of a file for another kind of network, except for settings that only apply to that kind.
        ours = given.get("handmade", "")
        lost = train_settings(theirs).model_fields.keys() - train_settings(ours).model_fields.keys()
        beneath = {name: value for name, value in beneath.items() if name not in lost}
    settings["command"] = command
    if given.get("image_size") == 0:
        # The value 0 for the size of the data is only allowed in a file.
        raise SettingError("data.image_size", "--image-size", " must be at least 8, got 0; leave it out for automatic")
    options = given.pop("option", [])
    for option, value in common_first(given).items():
        for key in places(command, option):
            section, _, name = key.rpartition(".")
            if section:
                settings[section] = {**settings.get(section, {}), name: value}
                given.pop(option, None)
    if "data" in settings:
        paths = settings["data"].keys() & {"source", "data_dir", "root"}
        folders = {key: _absolute(settings["data"][key]) for key in paths}
        settings["data"] = {**settings["data"], **folders}
    if isinstance(given.get("with_parts"), str):
        given["with_parts"] = [name.strip() for name in given["with_parts"].split(",") if name.strip()]
    if "with_parts" in given and "with_options" in settings:
        # Options in the file of parts that are not used now.
        taken, of_file = {*given["with_parts"], *beside}, settings["with_options"]
        settings["with_options"] = {name: of_file[name] for name in of_file if name in taken}
    if "prior" in given:
        given["prior"] = _absolute(given["prior"])
    device = given.pop("device", settings.get("device", "auto"))
    from dnas.pipeline.machine import resolve_device

    settings["device"] = resolve_device(device)
    sections = SECTIONS[command]
    add_options(settings, options, [*sections, "options", "with_options"] if "search" in sections else sections)
    if beneath:
        from dnas.settings import train_over

        if settings.get("train", {}).keys() & {"epochs", "steps"}:
            # The plan of the run that wrote the file is for another budget.
            settings.pop("finals_steps", None)
            settings.pop("baseline_steps", None)
        settings["train"] = train_over(settings.get("train", {}), beneath)
    if command == "train":
        settings.pop("method", None)
        settings.pop("mapping", None)
        settings.pop("space", None)
        settings.pop("options", None)
        settings.pop("with_parts", None)
        settings.pop("with_options", None)
    for section in {"search", "train"} - set(sections):
        settings.pop(section, None)
    if command == "train":
        settings.pop("limits", None)
    return settings | given


def add_options(settings: dict[str, Any], texts: Sequence[str], sections: Sequence[str]) -> None:
    """Add NAME=VALUE texts to the settings: SECTION.NAME, PART.NAME, or the plain NAME of a method option.

    Plain names belong to the section "options", those of parts to "with_options". Raises InputError for a text of
    another form, or for a section that is not among `sections`.
    """
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--option {text!r} must be NAME=VALUE")
        section, key = name.split(".", 1) if "." in name else ("options", name)
        if "with_options" in sections and section in _parts():
            of_parts = settings.get("with_options", {})
            part = {**of_parts.get(section, {}), key: _value(value)}
            settings["with_options"] = {**of_parts, section: part}
            continue
        if section not in sections or name.startswith("options."):
            if name != (flag := flag_of(name)) and section not in ("search", "train", "options"):
                raise InputError(f"--option {name} cannot be used; use {flag}")
            if section not in ("search", "train", "options"):
                named = [f"{s}.{key}" for s in sections if s not in ("options", "with_options")]
                named += [f"{part}.{key}" for part in _parts() if "with_options" in sections]
                raise InputError(f"unknown setting {name}{choices(name, named)}")
            kinds = [_KINDS.get(s, f"{s}.NAME") for s in sections]
            raise InputError(f"--option {name} cannot be used with this command; use {' or '.join(kinds)}")
        settings[section] = {**settings.get(section, {}), key: _value(value)}


_KINDS = {"options": "NAME of a method's option", "with_options": "PART.NAME"}


def _parts() -> list[str]:
    from dnas.parts.registry import list_parts

    return list_parts()


def _value(text: str) -> Any:
    """Parse the text of an option as TOML; a bare word is a string."""
    match text:
        case "true" | "True":
            return True
        case "false" | "False":
            return False
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _absolute(value: Any) -> Any:
    """Return the absolute path of a folder or file, so that a run can be resumed from any folder.

    Known names take precedence.
    """
    from dnas.data.sources.registry import names as known_names
    from dnas.data.sources.tree import is_dir, is_file
    from dnas.supernet.worth import AUTO_PRIOR, NO_PRIOR, PRIORS

    if not isinstance(value, str) or not value or value in (*known_names(), *PRIORS, AUTO_PRIOR, NO_PRIOR):
        return value
    if is_dir(Path(value)) or is_file(Path(value)):
        return str(Path(value).absolute())
    return value


def read_settings(path: str | Path) -> dict[str, Any]:
    """Return a configuration file as nested values, without the facts recorded by a run (environment, fingerprint).

    Raises InputError that names the file.
    """
    values = read_toml(Path(path))
    for section in ("data", "search", "options", "with_options", "train", "limits"):
        if not isinstance(values.get(section, {}), dict):
            raise InputError(f"{section} in {str(path)!r} must be a table: [{section}]")
    if values.pop("environment", None) is not None and "format" in values:  # not a file written by the user
        values = as_before(values)
    values.pop("origin", None)
    for found in ("fingerprint", "train_images"):
        values.get("data", {}).pop(found, None)
    return values


def as_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the config.toml of a run the settings of behavior that was fixed in the version that wrote it."""
    from dnas.settings import CROP

    drawing = {name: {"stratified": False, **values[name]} for name in ("search", "train") if name in values}
    return {**values, **drawing, "data": {"resize": CROP, **values.get("data", {})}}


def given_options(*groups: Any) -> dict[str, Any]:
    """Return the options of several groups as one dict."""
    return {k: v for group in groups for k, v in asdict(group).items()}

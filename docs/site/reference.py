"""The tables of docs/settings.md and docs/command-line.md, from the settings and options themselves.

    python docs/site/reference.py    # rewrite the tables of docs/settings.md

The web site fills in both pages when it is built (`hooks.py`). In a page, a comment such as `<!-- settings: train -->`
starts a generated block and `<!-- end -->` ends it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

from dnas.cli import entry
from dnas.data.splits import DataInfo
from dnas.methods.registry import create
from dnas.options import DURATION, MANY, SEVERAL_BYTES, SEVERAL_DURATION, SEVERAL_MANY
from dnas.pipeline.config import FINALISTS, Config
from dnas.pipeline.presets import QUICK_SPACE, preset_settings
from dnas.settings import (
    AUTO_RESIZE,
    DataSettings,
    GradientSettings,
    LimitSettings,
    NetworkTrainSettings,
    SearchSettings,
    Settings,
    SupernetSettings,
    TrainSettings,
    TrialSettings,
    WidthTrainSettings,
)
from dnas.space.darts import DARTS
from dnas.space.registry import get_space

PAGE = Path(__file__).parents[1] / "settings.md"
BLOCK = re.compile(r"(?s)<!-- (settings|options): ([\w-]+) -->\n(.*?)<!-- end -->")
SECTIONS: dict[str, tuple[type[Settings], type[Settings] | None]] = {
    "run": (Config, None),
    "search": (SearchSettings, None),
    "search-supernet": (SupernetSettings, SearchSettings),
    "search-gradient": (GradientSettings, SupernetSettings),
    "search-trials": (TrialSettings, SearchSettings),
    "train": (NetworkTrainSettings, None),
    "train-architecture": (TrainSettings, NetworkTrainSettings),
    "train-width": (WidthTrainSettings, NetworkTrainSettings),
    "limits": (LimitSettings, None),
    "data": (DataSettings, None),
}
# Written by the program, or set in another way than by the name of a setting.
NO_SETTING: dict[type[Settings], frozenset[str]] = {
    Config: frozenset(
        [
            "format",
            "command",
            "architecture",
            "handmade",
            "data",
            "origin",
            "search",
            "options",
            "with_options",
            "train",
            "environment",
            "limits",
            "answers",
        ]
    ),
    DataSettings: frozenset({"train_images", "fingerprint"}),
    LimitSettings: frozenset({"times"}),
}
# What one is counted in. Every number has an entry; an empty one is a number without a unit.
UNITS = {
    "architecture_beta1": "",
    "latency": "s",
    "architecture_beta2": "",
    "architecture_learning_rate": "",
    "architecture_weight_decay": "",
    "auxiliary_weight": "",
    "average": "share of steps",
    "baseline_steps": "steps",
    "batch_size": "images",
    "budget": "seconds",
    "channels": "channels",
    "clip_norm": "",
    "color": "",
    "cutout": "pixels",
    "decay": "per epoch",
    "drop_path": "probability",
    "epochs": "epochs",
    "finals": "networks",
    "finals_steps": "steps",
    "half_size": "share of steps",
    "image_size": "pixels",
    "images": "images",
    "label_smoothing": "share",
    "layers": "layers",
    "learning_rate": "",
    "learning_rate_cycles": "cycles",
    "learning_rate_min": "",
    "macs": "MACs",
    "momentum": "",
    "muon_learning_rate": "",
    "muon_weight_decay": "",
    "pad": "pixels",
    "params": "parameters",
    "parts": "splits",
    "processes": "processes",
    "ram": "bytes",
    "rotation": "degrees",
    "seconds": "seconds",
    "seed": "",
    "size": "bytes",
    "steps": "steps",
    "train_share": "share of images",
    "trials": "networks",
    "warmup": "share of steps",
    "warmup_epochs": "epochs",
    "watch_images": "images",
    "weight_decay": "",
    "width": "factor",
    "widths": "channels",
    "workers": "processes",
}
# Where a page says more about a setting.
MORE = {
    "stratified": "data.md#unbalanced-classes",
    "class_weights": "data.md#unbalanced-classes",
    "flip": "data.md#mirrored-images",
    "from_run": "networks.md#more-training-and-other-classes",
    "source": "data.md",
    "resize": "data.md#squares",
    "memory": "data.md",
}


def setting_names(cls: type[Settings], base: type[Settings] | None = None) -> list[str]:
    """Return the names of the settings that a class adds to its base."""
    without = NO_SETTING.get(cls, frozenset()) | (frozenset(base.model_fields) if base else frozenset())
    return [name for name in cls.model_fields if name not in without]


def shown(value: Any) -> str:
    """Return a value as a table shows it."""
    return "none" if value in ("", [], {}) else str(value)


def presets(cls: type[Settings]) -> dict[str, dict[str, Any]]:
    """Return the values that two presets set: quick for digits, and paper for CIFAR-10.

    Methods: `dnas`, and `random` for the settings of multi-trial methods.
    """
    if cls is Config:
        return {"quick": {"finals": FINALISTS, "space": QUICK_SPACE}, "paper": {"preset": "paper"}}
    if cls is LimitSettings:
        return {"quick": {}, "paper": {}}
    if cls is DataSettings:
        return {name: {"resize": AUTO_RESIZE} for name in ("quick", "paper")}
    section = "search" if issubclass(cls, SearchSettings) else "train"
    name = "random" if cls is TrialSettings else "dnas"
    quick, paper = (create(name, None, {}, space) for space in (get_space(QUICK_SPACE), DARTS))
    small, large = DataInfo("digits", (), 1, 8, (), (), flip=False), DataInfo("cifar10", (), 3, 32, (), (), flip=True)
    return {
        "quick": preset_settings("quick", quick, small, 1_437, finals=True)[section],
        "paper": preset_settings("paper", paper, large, 50_000)[section],
    }


def unit(name: str, field: FieldInfo) -> str:
    """Return what a setting is counted in. Raises KeyError for a number without an entry in `UNITS`."""
    kinds = {field.annotation, *get_args(field.annotation)}
    if field.annotation is not bool and kinds & {int, float}:
        return UNITS[name]
    return UNITS.get(name, "")


def settings_table(section: str) -> str:
    """Return a Markdown table of the settings of a section, one row per setting."""
    cls, base = SECTIONS[section]
    chosen = presets(cls)
    lines = ["| setting | default | `quick` | `paper` | unit | meaning |", "|---|---|---|---|---|---|"]
    for name in setting_names(cls, base):
        field = cls.model_fields[name]
        default = field.get_default(call_default_factory=True)
        values = [shown(chosen[preset].get(name, default)) for preset in ("quick", "paper")]
        values = ["" if value == shown(default) else value for value in values]
        more = f" ([more]({MORE[name]}))" if name in MORE else ""
        row = (f"`{name}`", shown(default), *values, unit(name, field), f"{field.description}{more}")
        lines.append(f"| {' | '.join(row)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


# --- the command line ------------------------------------------------------------------------------------------------


def commands() -> list[str]:
    """Return the names of the commands, in the order of `dnas --help`."""
    names = [name for name in entry.app if not name.startswith("-")]
    return sorted(names, key=lambda name: (entry.app[name].sort_key or 0, name))


def arguments(command: str) -> Iterator[Any]:
    """Yield the arguments of a command that its help lists."""
    for argument in entry.app[command].assemble_argument_collection(parse_docstring=True):
        if argument.show:
            yield argument


def meaning(argument: Any) -> tuple[str, str]:
    """Return the default and the meaning of an argument, as the help has them."""
    text = " ".join((argument.parameter.help or "").split())
    found = re.search(r" ?\[default: ([^\]]*)\]", text)
    default = found[1] if found else ""
    if not found and argument.field_info.default not in (None, False, argument.field_info.empty, ""):
        default = str(argument.field_info.default)
    return default, text.replace(found[0], "") if found else text


def kind(argument: Any) -> str:
    """Return the kind of value that an argument takes."""
    if argument.hint is bool or bool in get_args(argument.hint):
        return "flag"
    converter = argument.parameter.converter
    if converter in (DURATION.converter, SEVERAL_DURATION.converter):
        return "time"
    many = (MANY.converter, SEVERAL_MANY.converter, SEVERAL_BYTES.converter)
    if converter in many or int in (argument.hint, *get_args(argument.hint)):
        return "whole number"
    return "number" if float in (argument.hint, *get_args(argument.hint)) else "text"


def option_name(argument: Any) -> str:
    """Return the names of an option, without the negative ones that the program does not offer."""
    names = [name for name in argument.names if name == argument.names[0] or not re.match("--(no|empty)-", name)]
    return ", ".join(f"`{name}`" for name in names)


def cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def options_table(group: str) -> str:
    """Return a table of the options of a group, each with the commands that take it. "own": those of one command."""
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for command in commands():
        for argument in arguments(command):
            title = argument.parameter.group[0].name if argument.parameter.group else ""
            title = title.split(" ")[0].lower()
            known = title in ("data", "search", "training", "limits", "run", "execution", "cluster", "output")
            if (title if known else "own") == group:
                rows[(option_name(argument), kind(argument), *meaning(argument))].append(command)
    if group == "own":
        rows = dict(sorted(rows.items(), key=lambda row: commands().index(row[1][0])))
    lines = ["| option | value | default | meaning | commands |", "|---|---|---|---|---|"]
    for (name, value, default, text), taking in rows.items():
        took = ", ".join(f"`{command}`" for command in taking)
        lines.append(f"| {name} | {value} | {cell(default) or '–'} | {cell(text)} | {took} |")
    return "\n".join(lines) + "\n"


def summaries(_: str) -> str:
    """Return a table of the commands."""
    lines = ["| command | what it does |", "|---|---|"]
    for command in commands():
        text = (entry.app[command].help or "").strip().split("\n\n")[0]
        lines.append(f"| `dnas {command}` | {cell(' '.join(text.split()))} |")
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """Return a page with its generated blocks brought up to date."""
    made: dict[str, Callable[[str], str]] = {"settings": settings_table, "options": options_table}

    def block(found: re.Match[str]) -> str:
        write = summaries if found[2] == "commands" else made[found[1]]
        return f"<!-- {found[1]}: {found[2]} -->\n\n{write(found[2])}\n<!-- end -->"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text("utf-8")), "utf-8")

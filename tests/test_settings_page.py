"""docs/settings.md against the classes of settings: every row is a setting, with its default and a meaning."""

import re
from pathlib import Path

import pytest

from dnas import methods
from dnas.pipeline.config import Config
from dnas.runtime import waiting
from dnas.settings import (
    DataSettings,
    GradientSettings,
    LimitSettings,
    TrainSettings,
    TrialSettings,
    WidthTrainSettings,
)

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
SECTIONS = {
    "The run": (Config,),
    "[search]": (GradientSettings, TrialSettings),
    "[train]": (TrainSettings, WidthTrainSettings),
    "[limits]": (LimitSettings,),
    "[data]": (DataSettings,),
}
# Written by the program, or given in another way than by a setting's name.
NO_SETTING = {
    Config: {
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
    },
    DataSettings: {"train_images", "fingerprint"},
}


def rows(section: str) -> dict[str, tuple[str, str]]:
    """name → (default, meaning) of a section's tables; a link in brackets at the end is no part of the meaning."""
    (text,) = re.findall(rf"(?ms)^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"))
    found = re.findall(r"(?m)^\| `(\w+)` \| (.*?) \| (.*) \|$", text)
    assert len({name for name, _, _ in found}) == len(found)
    return {name: (default, re.sub(r" \(\[[^\]]*\]\([^)]*\)\)$", "", meaning)) for name, default, meaning in found}


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ")))


def says_nothing(name: str, meaning: str) -> bool:
    """Whether a meaning has no word but those of the name, or cannot be read without it."""
    told = words(meaning) - words(name) - {"the", "a", "an", "of", "is", "s"}
    first = meaning.split(": ", 1)[-1] if re.match(r"A\d+: ", meaning) else meaning
    return not told or re.match(r"(of|at|in|for|with|by)\b", first) is not None


@pytest.mark.parametrize("section", SECTIONS)
def test_rows_are_the_settings_of_a_section(section):
    fields = {
        name: field
        for cls in SECTIONS[section]
        for name, field in cls.model_fields.items()
        if name not in NO_SETTING.get(cls, ())
    }
    page = rows(section)
    assert set(page) == set(fields)
    for name, (default, meaning) in page.items():
        own = fields[name].get_default(call_default_factory=True)
        assert default == ("none" if own in ("", []) else str(own)), name
        # One text in the page, in a report and in the code.
        assert meaning == fields[name].description, name


@pytest.mark.parametrize("section", SECTIONS)
def test_a_meaning_is_more_than_the_name(section):
    assert [name for name, (_, meaning) in rows(section).items() if says_nothing(name, meaning)] == []


@pytest.mark.parametrize("name", methods.list_methods())
def test_a_methods_options_and_settings_have_a_meaning(name):
    method = methods.get_method(name)
    for cls in (method.Options, method.Settings):
        for option, field in cls.model_fields.items():
            assert field.description and not says_nothing(option, field.description), option


@pytest.mark.parametrize(
    ("name", "meaning"),
    [("batch_size", "batch size"), ("stem", "stem"), ("data_dir", "data dir"), ("momentum", "of the weights' SGD")],
)
def test_a_name_for_a_meaning_is_noticed(name, meaning):
    assert says_nothing(name, meaning)


def test_environment_variables_that_are_read_are_documented():
    code = "".join(path.read_text("utf-8") for path in sorted((PAGE.parents[1] / "src").rglob("*.py")))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", code))
    # torchrun gives these to its processes.
    read -= {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
    read |= set(waiting.VARIABLES)
    (table,) = re.findall(r"(?ms)^## Environment\n(.*?)\n\n(?=\S)", PAGE.read_text("utf-8") + "\n\nx")
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", table)) == read and len(read) > 5

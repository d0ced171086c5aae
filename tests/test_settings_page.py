"""The reference of settings and options: docs/settings.md is what the code generates, and every row has a meaning."""

import re
import sys
from pathlib import Path

import pytest

from dnas import methods
from dnas.data.splits import DataInfo
from dnas.pipeline.config import resolve, sections, train_settings
from dnas.runtime import waiting
from dnas.settings import TrialSettings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "settings.md"


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    return reference


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ").replace("-", " ")))


def says_nothing(name: str, meaning: str) -> bool:
    """Whether a meaning has no word but those of the name, or cannot be read without it."""
    told = words(meaning) - words(name) - {"the", "a", "an", "of", "is", "s"}
    first = meaning.split(": ", 1)[-1] if re.match(r"A\d+: ", meaning) else meaning
    return not told or re.match(r"(of|at|in|for|with|by)\b", first) is not None


def test_the_page_is_what_the_code_generates(reference):
    """Else: python docs/site/reference.py"""
    assert reference.filled(PAGE.read_text("utf-8")) == PAGE.read_text("utf-8")
    assert reference.filled("<!-- settings: data -->\nold\n<!-- end -->").count("\n| `") > 5


def test_every_setting_is_in_a_table_of_the_page(reference):
    text = PAGE.read_text("utf-8")
    used = re.findall(r"<!-- settings: ([\w-]+) -->", text)
    assert sorted(used) == sorted(reference.SECTIONS)
    for cls, _ in reference.SECTIONS.values():
        for name in reference.setting_names(cls):
            assert f"| `{name}` | " in text, name
    # Nothing that a run can be given is missing, whatever its method.
    known = {name for cls, _ in reference.SECTIONS.values() for name in cls.model_fields}
    for name in methods.list_methods():
        assert {*sections(methods.get_method(name))["search"].model_fields} <= known
    assert {*train_settings("resnet8").model_fields, *train_settings("").model_fields} <= known


@pytest.mark.parametrize(("preset", "source", "count"), [("quick", "digits", 1_437), ("paper", "cifar10", 50_000)])
def test_the_values_of_presets_are_those_of_a_run(reference, preset, source, count):
    """What `resolve` makes of them, which config.toml of a run has, unless they stand for an automatic value."""
    side, channels = (8, 1) if source == "digits" else (32, 3)
    info = DataInfo(source, tuple("0123456789"), channels, side, (0.5,) * channels, (0.5,) * channels, flip=False)
    config, _ = resolve({"command": "run", "preset": preset}, info, count, "")
    for section, run in (("search-gradient", config.search), ("train", config.train), ("run", config)):
        for name, value in reference.presets(reference.SECTIONS[section][0])[preset].items():
            if value not in (0, -1, -2, "auto"):
                assert getattr(run, name) == value, name
    assert reference.presets(TrialSettings)["quick"]["trials"] == 16


def test_a_row_has_the_default_and_the_value_of_each_preset():
    assert "| `epochs` | 600 | 25 | | epochs |" in PAGE.read_text("utf-8")
    assert "| `trials` | 100 | 16 |" in PAGE.read_text("utf-8")


def test_every_number_has_a_unit(reference):
    for cls, base in reference.SECTIONS.values():
        for name in reference.setting_names(cls, base):
            reference.unit(name, cls.model_fields[name])
    used = {name for cls, _ in reference.SECTIONS.values() for name in cls.model_fields}
    assert set(reference.UNITS) <= used and set(reference.MORE) <= used


def test_a_meaning_is_more_than_the_name(reference):
    nothing = [
        name
        for cls, base in reference.SECTIONS.values()
        for name in reference.setting_names(cls, base)
        if says_nothing(name, cls.model_fields[name].description or "")
    ]
    assert nothing == []


@pytest.mark.parametrize("name", methods.list_methods())
def test_a_methods_options_and_settings_have_a_meaning(name):
    method = methods.get_method(name)
    for cls in (method.Options, method.Settings):
        for option, field in cls.model_fields.items():
            assert field.description and not says_nothing(option, field.description), option


def test_every_option_and_argument_of_a_command_has_a_meaning(reference):
    found = {(command, argument.names[0]): argument for command in reference.commands() for argument in reference.arguments(command)}  # fmt: skip
    assert len(found) > 200 and ("resume", "RUN") in found and ("run", "--budget") in found
    # "Of everything that is drawn.": this one is read with its name.
    nothing = [key for key, argument in found.items() if not words(reference.meaning(argument)[1]) - words(key[1])]
    assert nothing == []


def test_the_reference_has_every_option_of_every_command(reference):
    page = reference.filled((ROOT / "docs" / "command-line.md").read_text("utf-8"))
    for command in reference.commands():
        assert f"| `dnas {command}` | " in page
        for argument in reference.arguments(command):
            rows = [line for line in page.splitlines() if line.startswith(f"| `{argument.names[0]}`")]
            assert [row for row in rows if f"`{command}`" in row.split(" | ")[-1]], (command, argument.names)
    assert "--empty-" not in page and "| `--no-baseline` | flag |" in page and "| `--budget` | time |" in page


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("batch_size", "batch size"),
        ("stem", "stem"),
        ("data_dir", "data dir"),
        ("momentum", "of the weights' SGD"),
    ],
)
def test_a_name_for_a_meaning_is_noticed(name, meaning):
    assert says_nothing(name, meaning)


def test_environment_variables_that_are_read_are_documented():
    code = "".join(path.read_text("utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"(\w+)\"", code))
    # torchrun gives these to its processes.
    read -= {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
    read |= set(waiting.VARIABLES)
    (table,) = re.findall(r"(?ms)^## Environment\n(.*?)\n\n(?=\S)", PAGE.read_text("utf-8") + "\n\nx")
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", table)) == read and len(read) > 5

"""The texts keep clear of the habits that tests/plain_english.toml lists."""

import re
from pathlib import Path

import pytest

from dnas.disk import read_toml

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "plain_english.toml"


def habits() -> list[dict[str, str]]:
    return read_toml(LIST)["habit"]


def texts() -> list[Path]:
    listed = read_toml(LIST)
    found = {path for pattern in listed["texts"] for path in ROOT.glob(pattern)}
    left_out = {path for pattern in listed["except"] for path in ROOT.glob(pattern)}
    return sorted(found - left_out)


def prose(text: str) -> str:
    """A page without code, generated tables, addresses of links and what the program prints; its lines keep their numbers."""

    def blank(found: re.Match[str]) -> str:
        return "\n" * found[0].count("\n")

    text = re.sub(r"(?s)<!-- (?:settings|options): .*?<!-- end -->", blank, text)
    text = re.sub(r"(?ms)^```.*?^```$", blank, text)
    text = re.sub(r"(?m)(?<=\n\n)((?: {4}.*\n|\n(?= {4}))+)", blank, text)
    text = re.sub(r"`[^`]*`", lambda found: "`…`" + blank(found), text)
    return re.sub(r"\]\([^)]*\)", "]", text)


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_text_is_plain_english(path):
    found = []
    text = prose(path.read_text("utf-8"))
    for habit in habits():
        for match in re.finditer(habit["pattern"].replace(" ", r"\s"), text, re.I):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r}; write {habit['write']}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("habit", habits(), ids=lambda habit: habit["bad"][:30])
def test_a_habit_is_noticed(habit):
    assert re.search(habit["pattern"], habit["bad"], re.I) and habit["write"]


def test_code_and_program_output_are_not_searched():
    text = "Prose.\n\n    output goes on\n\n    and on, a 95 % interval\n\n`goes on`, [text](page.html)\n```\ngoes on\n```\nEnd goes on\n"
    assert [m.start() for m in re.finditer("on", prose(text))] == [prose(text).rindex("on")]
    assert prose(text).count("\n") == text.count("\n")
